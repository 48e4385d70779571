/* Penalties are added to the sums of a block before it moves, or its norm is taken: rules and clipping know nothing of
 * them.  The norms of columns span blocks, so they are bounded in a phase of their own, when all has moved. */
#include "penalties.h"

#include "dispatch.h"
#include "moves.h"

#include <math.h>

double bp_penalise(const bp_run *run, const bp_param *p, int64_t at, int64_t n, char *G) {
    double l2 = p->l2 + (p->decay > 0 ? run->move.l2 : 0);
    if (p->l1 == 0 && l2 == 0) return 0;
    const char *w = run->theta + (size_t)at * run->plan->size;
    return bp_active->penalise[run->plan->dtype](G, w, n, p->l1, l2, run->sum[1]);
}

double bp_penalise_block(const bp_run *run, const bp_block *block, char *G, int64_t ld) {
    const bp_plan *plan = run->plan;
    double sum = 0;
    for (int i = block->param; i < block->end && block->whole; i++) {
        const bp_param *p = &plan->params[i];
        sum += bp_penalise(run, p, p->offset, p->rows * p->cols, G + (size_t)(p->offset - block->at) * plan->size);
    }
    for (int64_t r = 0; r < block->rows && !block->whole; r++)
        sum += bp_penalise(run, &plan->params[block->param], block->at + r * block->ld, block->width,
                           G + (size_t)(r * ld) * plan->size);
    return sum;
}

static double *penalties_of(const bp_run *run) { return (double *)(void *)(run->arena + run->plan->penalties); }

bp_status bp_note_penalty(bp_run *run, int64_t task, double penalty) {
    penalties_of(run)[task] = penalty;
    return bp_moves(run) && !isfinite(penalty) ? BP_E_NONFINITE_PARAM : BP_OK;
}

void bp_collect_penalties(bp_run *run, int64_t n) {
    const bp_plan *plan = run->plan;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) /* what moves in a product's registers has none */
        if (i >= plan->n_blocks || plan->blocks[i].home != BP_HOME_FUSED) sum += penalties_of(run)[i];
    run->penalty = sum;
    run->sum[0] += sum * run->sum[1];
}

bp_status bp_do_norm(bp_run *run, int64_t task) {
    const bp_plan *plan = run->plan;
    const bp_param *p = plan->params;
    for (int64_t n; task >= (n = bp_norm_tasks(plan, p)); p++) task -= n;
    int64_t first = task * BP_NORM_COLS, cols = min64(p->cols - first, BP_NORM_COLS);
    char *w = run->theta + (size_t)(p->offset + first) * plan->size;
    int spoilt = bp_active->bound[plan->dtype](w, p->rows, cols, p->cols, p->max_norm);
    for (int64_t r = 0; r < p->rows && run->opt.average; r++) bp_average(run, p->offset + r * p->cols + first, cols);
    return spoilt ? BP_E_NONFINITE_PARAM : BP_OK;
}

bp_status bp_bound_row(bp_run *run, const bp_param *p, int64_t row) {
    const bp_plan *plan = run->plan;
    char *w = run->theta + (size_t)(p->offset + row * p->cols) * plan->size;
    double norm = sqrt(bp_active->squares[plan->dtype](w, p->cols));
    if (!isfinite(norm)) return BP_E_NONFINITE_PARAM;
    if (norm > p->max_norm) bp_active->clip[plan->dtype](w, p->cols, p->max_norm / norm, INFINITY);
    return BP_OK;
}

double bp_penalty(bp_dtype dtype, const void *w, int64_t n, double l1, double l2) {
    return bp_active->penalise[dtype](NULL, w, n, l1, l2, 0);
}

/* Moves: a rule changes a block of theta, given its gradient.  This is the one place where training changes weights,
 * except that blocks whose home is a product's registers are moved by `step` of the operation, as rule sgd would. */
#include "moves.h"

#include "dispatch.h"

#include <float.h>

/* n elements from `at` on, all of parameters with the factors of p. */
static int move(bp_run *run, const bp_param *p, int64_t at, int64_t n, char *G) {
    const bp_move *m = &run->move;
    bp_move clipped;
    size_t first = (size_t)at * run->plan->size;
    void *state[BP_MAX_STATES];
    for (int i = 0; i < BP_MAX_STATES; i++) state[i] = run->opt.state[i] ? (char *)run->opt.state[i] + first : NULL;
    if (m->clip_value > 0 || m->scale < FLT_MIN) {
        bp_active->clip[run->plan->dtype](G, n, m->scale, m->clip_value > 0 ? m->clip_value : INFINITY);
        clipped = *m;
        clipped.scale = 1;
        m = &clipped;
    }
    return run->kernel(m, m->lr * p->rate, m->weight_decay * p->decay, n, G, run->theta + first, state);
}

bp_status bp_move_run(bp_run *run, const bp_param *p, int64_t at, int64_t n, char *G) {
    return move(run, p, at, n, G) ? BP_E_NONFINITE_PARAM : BP_OK;
}

/* A block of several parameters, each with factors of its own. */
static int move_each(bp_run *run, const bp_block *block, char *G) {
    int spoilt = 0;
    for (int i = block->param; i < block->end; i++) {
        const bp_param *p = &run->plan->params[i];
        spoilt |= move(run, p, p->offset, p->rows * p->cols, G + (size_t)(p->offset - block->at) * run->plan->size);
    }
    return spoilt;
}

bp_status bp_move_block(bp_run *run, const bp_block *block, char *G, int64_t ld) {
    const bp_param *p = &run->plan->params[block->param];
    int spoilt = 0, one = block->one_rate && (block->one_decay || run->move.weight_decay == 0);
    if (!one) return move_each(run, block, G) ? BP_E_NONFINITE_PARAM : BP_OK;
    int flat = block->rows == 1 || (block->width == block->ld && ld == block->ld); /* one run of memory */
    int64_t rows = flat ? 1 : block->rows, n = flat ? block->rows * block->width : block->width;
    for (int64_t r = 0; r < rows; r++)
        spoilt |= move(run, p, block->at + r * block->ld, n, G + (size_t)(r * ld) * run->plan->size);
    return spoilt ? BP_E_NONFINITE_PARAM : BP_OK;
}

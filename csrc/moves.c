/* Moves: a rule changes a block of theta, given its gradient.  This is the one place where training changes weights,
 * except that blocks whose home is a product's registers are moved by `step` of the operation, as rule sgd would. */
#include "moves.h"

enum { AVERAGED = 1 << 16 }; /* elements of tables that a task averages */

void bp_average(bp_run *run, int64_t at, int64_t n) {
    size_t first = (size_t)at * run->plan->size;
    bp_dtype dtype = run->plan->dtype;
    const bp_move *m = &run->move;
    char *theta = run->theta + first, *average = (char *)run->opt.average + first;
    if (run->opt.rule->leads)
        bp_active->lead[dtype](m->share, m->number[0], n, theta, average, (char *)run->opt.state[0] + first);
    else bp_active->average[dtype](m->ema, n, theta, average);
}

/* A block of several parameters, each with factors of its own. */
static int move_each(bp_run *run, const bp_block *block, char *G) {
    int spoilt = 0;
    for (int i = block->param; i < block->end; i++) {
        const bp_param *p = &run->plan->params[i];
        char *sums = G + (size_t)(p->offset - block->at) * run->plan->size;
        spoilt |= bp_move_run(run, p, p->offset, p->rows * p->cols, sums);
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
        spoilt |= bp_move_run(run, p, block->at + r * block->ld, n, G + (size_t)(r * ld) * run->plan->size);
    return spoilt ? BP_E_NONFINITE_PARAM : BP_OK;
}

void bp_run_follow_average(bp_run *run, int64_t first, int64_t n) {
    bp_fpenv caller = bp_fpenv_flush();
    run->move.share = 0;
    bp_average(run, first, n);
    bp_fpenv_restore(caller);
}

int64_t bp_average_tasks(const bp_run *run) {
    const bp_plan *plan = run->plan;
    int64_t tasks = 0;
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_param *p = &plan->params[plan->tables[i].param];
        tasks += tiles_of(p->rows * p->cols, AVERAGED);
    }
    return tasks;
}

double bp_average_flops(const bp_run *run) { /* theta is read, the average read and written */
    int touched = run->opt.rule->leads ? 5 : 3; /* where the rule leads, the lead is read and written, too */
    return touched * BP_FLOPS_A_MOVED_BYTE * (double)run->plan->size * (double)(bp_average_tasks(run) * AVERAGED);
}

void bp_average_part(bp_run *run, int64_t task) {
    const bp_param *p = NULL;
    for (int i = 0; i < run->plan->n_tables; i++) {
        p = &run->plan->params[run->plan->tables[i].param];
        int64_t tasks = tiles_of(p->rows * p->cols, AVERAGED);
        if (task < tasks) break;
        task -= tasks;
    }
    bp_average(run, p->offset + task * AVERAGED, min64(AVERAGED, p->rows * p->cols - task * AVERAGED));
}

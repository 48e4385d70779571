/* Sums: the gradient of each block comes to its home; without a boundary it moves from there at once. */
#ifndef BP_SUMS_H
#define BP_SUMS_H

#include "run.h"

/* Whether blocks move as soon as they are summed: what has begun must then be done. */
static inline int bp_sums_move(const bp_run *run) {
    return bp_moves(run) && bp_is_last_chunk(run) && !(run->plan->flags & BP_DO_BOUNDARY);
}
/* Tasks of BP_SUMS and BP_MOVES: blocks, then rows of tables. */
int64_t bp_sum_tasks(const bp_run *run);
/* The first task of a share, of `shares` of the work of tasks from..end-1. */
int64_t bp_first_sum(const bp_run *run, int64_t from, int64_t end, int64_t share, int64_t shares);
/* Flops of the tasks before one in this phase: AHEAD, SUMS or MOVES. */
double bp_flops_before(const bp_run *run, int64_t task);
/* The first task of a round of this phase, of as many flops as the others. */
int64_t bp_first_of_round(const bp_run *run, int64_t round);
bp_status bp_do_sum(bp_run *run, int64_t task, int thread);
/* A task of BP_AHEAD, of plan->n_waiting. */
void bp_sum_ahead(bp_run *run, int64_t task);
/* A block whose home is a product's registers. */
bp_status bp_do_fused(bp_run *run, const bp_block *block);
/* The chunk's part of an early block, in a stage of backward. */
void bp_sum_early(bp_run *run, const bp_block *block);
/* The rows of a chunk are done: the rows of tables that it names are listed, and have their places in the logs. */
void bp_begin_tables(bp_run *run);

/* One thread, when all sums are in their homes: the hook adds what it has, and the norm is clipped. */
bp_status bp_cross_boundary(bp_run *run);
/* What bp_do_sum left to do, behind the boundary. */
bp_status bp_do_move(bp_run *run, int64_t task, int thread);

#endif

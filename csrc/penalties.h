/* Penalties: l1 |w| + l2 w^2 / 2 of weights joins the cost and its gradient; and bounds of norms, behind the moves. */
#ifndef BP_PENALTIES_H
#define BP_PENALTIES_H

#include "run.h"

/* Whether the sums of this task get penalties: the last chunk's, in a plan that has them. */
static inline int bp_penalises(const bp_run *run) {
    return run->plan->flags & BP_DO_PENALTY && bp_is_last_chunk(run);
}
/* Penalties of theta[at : at + n] of one parameter; their gradient, times the sum of weights, joins the sums G. */
double bp_penalise(const bp_run *run, const bp_param *p, int64_t at, int64_t n, char *G);
/* Of a block, whose rows of sums are ld apart. */
double bp_penalise_block(const bp_run *run, const bp_block *block, char *G, int64_t ld);
/* A task of BP_SUMS notes its penalties; BP_E_NONFINITE_PARAM where theta moves and they are not finite. */
bp_status bp_note_penalty(bp_run *run, int64_t task, double penalty);
/* One thread, when n tasks have noted theirs: they join the batch's loss, in the order of the tasks. */
void bp_collect_penalties(bp_run *run, int64_t n);

/* A task of BP_NORMS: some columns of a parameter. */
bp_status bp_do_norm(bp_run *run, int64_t task);
/* The same for a row of a table, once it has moved. */
bp_status bp_bound_row(bp_run *run, const bp_param *p, int64_t row);

#endif

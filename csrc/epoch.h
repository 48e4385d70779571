/* The walk. */
#ifndef BP_EPOCH_H
#define BP_EPOCH_H

#include "run.h"

void bp_set_batch(bp_run *run); /* the batch at run->at begins, or begins anew */
/* Whole steps end at the deadline, but not before `fewest_steps`. */
void bp_run_until(bp_run *run, int n_threads, int fewest_steps, double deadline);

#endif

/* The pace: a slice on one thread or on all. */
#ifndef BP_PACE_H
#define BP_PACE_H

#include "run.h"

/* As bp_epoch, without a safety copy. */
bp_status bp_slice(bp_run *run, int n_threads, double seconds, int64_t max_steps);

#endif

/* Passes: segments between checkpoints, and replicas of the operations that backward computes again. */
#ifndef BP_CHECKPOINT_H
#define BP_CHECKPOINT_H

#include "plan.h"

void bp_find_segments(bp_plan *plan);
bp_status bp_add_replicas(bp_plan *plan);

#endif

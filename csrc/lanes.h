/* Lanes: small networks of one plan are trained side by side, each in a lane of the vectors, with the bits that each
 * has alone. */
#ifndef BP_LANES_H
#define BP_LANES_H

#include "lane_step.h"

/* Dense layers in a row, from the plan's first buffer to the buffer `end`, each with a function after it or none; how
 * many, or 0 where it is not so. */
int bp_lane_chain(const bp_plan *plan, int end, bp_lane_layer layers[BP_LANE_LAYERS]);
/* How many runs like this one a group takes, at most, and how many it must have to be worth it; most 0: they go on
 * alone.  Between slices. */
typedef struct {
    int least, most;
} bp_lane_range;
bp_lane_range bp_lanes_of(const bp_run *run);
/* Whether two of them may be in one group. */
int bp_lanes_alike(const bp_run *a, const bp_run *b);
/* A group of n runs that are alike, at most as many as it takes; NULL where there is no memory. */
bp_lanes *bp_lanes_new(bp_run *const *runs, int n);
void bp_lanes_free(bp_lanes *g);
/* Whole steps of all of them, to the deadline or the epoch's end; the next epoch is begun run by run.  Returns those, a
 * bit each, whose steps were thrown away, since a loss or a parameter was not finite: their runs are as they were, and
 * the group goes no further.  The others' are as after a slice. */
uint32_t bp_lanes_slice(bp_lanes *g, double deadline);

#endif

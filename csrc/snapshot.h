/* The safety copy of a run. */
#ifndef BP_SNAPSHOT_H
#define BP_SNAPSHOT_H

#include "run.h"

/* Due at the start of a slice, unless the last is young beside what a copy costs; the slice's first tasks make it. */
bp_status bp_take_snapshot(bp_run *run, int fresh);
/* Theta, state and position go back to where it was taken, some of them in each call, which takes a few milliseconds;
 * whether there is more to do. */
int bp_restore_some(bp_run *run);
int64_t bp_save_tasks(const bp_run *run);
void bp_save_part(bp_run *run, int64_t task);
/* Row `row` of the live arrays of table i to entry `entry` of the log, or back. */
void bp_copy_row(bp_run *run, int i, int64_t row, int64_t entry, int restore);
/* Whether the next batch may not find room in the logs: then the safety copy is due. */
int bp_logs_full(const bp_run *run);

#endif

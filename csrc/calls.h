/* Calls: what the tasks of a small step come down to, listed once. */
#ifndef BP_CALLS_H
#define BP_CALLS_H

#include "run.h"

/* Before the first step of a slice; they are listed anew once call_rows is set to 0. */
void bp_list_calls(bp_run *run);
static inline int bp_has_calls(const bp_run *run) {
    return run->call_rows == run->rows && run->rows == run->batch_rows;
}
/* The batch is the one at run->at: operands that lie in the user's arrays are there. */
void bp_follow_batch(bp_run *run);
bp_status bp_do_calls(bp_run *run, int64_t task, int thread);

#endif

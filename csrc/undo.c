/* A long update comes in rounds, between which a slice may end.  Where its moves make the sums, too, to end it would
 * take long: until the last round, what a block was before it moved is kept, and is put back where the run goes no
 * further.  Only plain gradient descent moves so, which has no state. */
#include "undo.h"

#include <string.h>

static void copy(bp_run *run, const bp_block *block, int back) {
    const bp_plan *plan = run->plan;
    size_t at = (size_t)block->at * plan->size, ld = (size_t)block->ld * plan->size;
    char *theta = run->theta + at, *kept = run->arena + plan->undo + at;
    for (int64_t r = 0; r < block->rows; r++, theta += ld, kept += ld)
        memcpy(back ? theta : kept, back ? kept : theta, (size_t)block->width * plan->size);
}

void bp_keep_block(bp_run *run, const bp_block *block) { copy(run, block, 0); }

void bp_put_back(bp_run *run, int64_t n) {
    for (int64_t i = 0; i < n; i++) copy(run, &run->plan->blocks[i], 1);
}

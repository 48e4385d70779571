/* Taking back a step that is half made. */
#ifndef BP_UNDO_H
#define BP_UNDO_H

#include "run.h"

/* Before a block moves, in any round but the last. */
void bp_keep_block(bp_run *run, const bp_block *block);
/* The first n blocks, those of the rounds that are done, are as they were. */
void bp_put_back(bp_run *run, int64_t n);

#endif

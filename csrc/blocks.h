/* Pass: blocks of theta and the homes of their gradients. */
#ifndef BP_BLOCKS_H
#define BP_BLOCKS_H

#include "plan.h"

bp_status bp_cut_blocks(bp_plan *plan);
/* Whether an operation's first gradient may be applied as it is summed, whatever the rule; not where a batch may have
 * several chunks, for one that happens to have a single chunk is as the others. */
int bp_takes_step(const bp_plan *plan, const bp_op *op);

#endif

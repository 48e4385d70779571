/* What is asked of the catalogue beyond bp.h. */
#ifndef BP_OPS_H
#define BP_OPS_H

#include "plan.h"

const bp_loss_type *bp_loss_find(const char *name);
/* The name that a loss of `width` columns may be fused with: "softmax", "logistic" and the like, or "". */
const char *bp_op_function(const bp_plan *plan, const bp_op *op, int64_t width);

#endif

/* Which kernels run. */
#ifndef BP_DISPATCH_H
#define BP_DISPATCH_H

#include "kernels/kernels.h"

extern const bp_kernels *bp_active; /* the portable ones until bp_isa_use */
const bp_kernels *bp_kernels_of(int i); /* those that this machine can run, best first; NULL past the end */

#endif

/* Pass: the arena. */
#ifndef BP_MEMORY_H
#define BP_MEMORY_H

#include "plan.h"

bp_status bp_lay_out(bp_plan *plan);

#endif

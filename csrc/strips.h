/* Pass: parameters that all their products read in strips; see bp_plan_pack. */
#ifndef BP_STRIPS_H
#define BP_STRIPS_H

#include "plan.h"

void bp_find_strips(bp_plan *plan);

#endif

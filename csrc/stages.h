/* Passes: what products do besides, and the stages of rows. */
#ifndef BP_STAGES_H
#define BP_STAGES_H

#include "plan.h"

void bp_fuse_products(bp_plan *plan);
bp_status bp_cut_stages(bp_plan *plan);
/* Flops of a tile without what runs on grids, about; passes_back: to the inputs, and to the parameters. */
double bp_tile_flops(const bp_plan *plan, int passes_back);
/* A product whose weights are many, or would be packed for tile after tile, runs on a grid of cells; so do the
 * elementwise items after it. */
int bp_is_grid(const bp_plan *plan, const bp_item *item);

#endif

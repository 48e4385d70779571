/* Rows: tasks of a stage. */
#ifndef BP_ROWS_H
#define BP_ROWS_H

#include "run.h"

bp_tile bp_tile_of(const bp_run *run, int64_t tile, int64_t height, int thread);
/* Rows of the epoch from number `first` on, of port i, in the run's order and mixed as it says. */
void bp_gather_rows(const bp_run *run, int i, int64_t first, int64_t rows, char *to);
bp_status bp_do_item(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell);
/* What a loss is called with on a tile; and the call, whose sums go where the tile's are. */
bp_loss_call bp_loss_operands(const bp_run *run, int number, const bp_tile *t);
bp_status bp_do_loss(bp_run *run, int number, const bp_tile *t, bp_loss_call *call);
int64_t bp_stage_tasks(const bp_run *run, const bp_stage *stage);
bp_status bp_do_stage_task(bp_run *run, const bp_stage *stage, int64_t task, int thread);
/* Of plans that are of the batch.  Behind a stage, by one thread: what its tiles left for an operation. */
bp_status bp_join_tiles(bp_run *run);
/* When a step is made: the state of operations of the batch moves. */
void bp_track_batch(bp_run *run);

#endif

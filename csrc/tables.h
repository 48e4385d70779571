/* Pass: tables; and the rows of them that a batch names. */
#ifndef BP_TABLES_H
#define BP_TABLES_H

#include "plan.h"

bp_status bp_find_tables(bp_plan *plan);

/* Of one table, in a run: slots in use now, and before this chunk. */
typedef struct {
    int64_t touched, before;
} bp_slots;

/* A batch begins; a chunk of so many rows has its gradients: its calls are listed. */
void bp_tables_begin(const bp_plan *plan, bp_slots *slots);
void bp_tables_collect(const bp_plan *plan, char *arena, bp_slots *slots, int64_t rows);
/* G (cols,), with what it loses unless that is NULL, = the chunk's gradient of a slot's row; added, where the slot was
 * in use before this chunk. */
void bp_table_gradient(const bp_plan *plan, int table, char *arena, const bp_slots *slots, int64_t slot, int64_t rows,
                       void *G, void *lost);

#endif

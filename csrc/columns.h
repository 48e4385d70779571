/* The columns that the sparse rows of a chunk name. */
#ifndef BP_COLUMNS_H
#define BP_COLUMNS_H

#include "run.h"

/* A batch begins: no columns are listed. */
void bp_columns_begin(bp_run *run);
/* One thread, when the rows of a chunk have their gradients: lists the columns and entries of all operations that go
 * by_column.  Room is made where there is too little; then BP_E_NOMEM, or BP_E_LIMIT, may come. */
bp_status bp_list_columns(bp_run *run);

#endif

/* The passes of bp_plan_compile and what they have in common; private to the files that compile a plan. */
#ifndef BP_COMPILE_H
#define BP_COMPILE_H

#include "plan.h"

enum {
    GRID_COLS = 240,      /* whole panels of every instruction set: 48 or 24 columns */
    MIN_BLOCKS = 8,       /* of a matrix worth splitting */
    WIDE_BYTES = 2 << 10  /* a row of weights: beyond, a product packs them (NEAR_BYTES in gemm.inc) */
};

static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* The operation that writes a buffer, or NULL. */
static inline bp_op *bp_maker_of(const bp_plan *plan, int buffer) {
    int maker = buffer < 0 || buffer >= plan->n_buffers ? -1 : plan->buffers[buffer].maker;
    return maker < 0 ? NULL : &plan->ops[maker];
}

static inline int bp_is_table(const bp_plan *plan, int param) {
    return plan->params[param].flags & BP_PARAM_TABLE && !(plan->params[param].flags & BP_PARAM_FROZEN);
}

static inline double bp_flops_of(const bp_plan *plan, const bp_op *op) {
    return op->type->flops ? op->type->flops(plan, op) : (double)plan->buffers[op->out].cols;
}

static inline int bp_is_wide(const bp_plan *plan, const bp_param *p) {
    return p->cols * (int64_t)plan->size > WIDE_BYTES;
}

/* Room for one more element; the array grows by doubling at powers of two. */
void *bp_grow(void *array, int n, size_t size);
int bp_wants_backward(const bp_plan *plan, const bp_op *op);
/* A product whose weights are many, or would be packed for tile after tile, runs on a grid of cells; so do the
 * elementwise items after it. */
int bp_is_grid(const bp_plan *plan, const bp_item *item);
/* Whether plain SGD can be made with an operation's first gradient, in one go; not where a batch may have several
 * chunks, for one that happens to have a single chunk is as the others. */
int bp_takes_step(const bp_plan *plan, const bp_op *op);

/* The passes, in their order. */
bp_status bp_find_tables(bp_plan *plan);     /* tables.c: parameters that are read by whole numbers alone */
void bp_find_segments(bp_plan *plan);        /* checkpoint.c: cuts the operations */
void bp_fuse_products(bp_plan *plan);        /* stages.c: functions that products take along */
bp_status bp_copy_operations(bp_plan *plan); /* checkpoint.c: those that the way back computes again */
bp_status bp_cut_stages(bp_plan *plan);      /* stages.c: phase 1 */
bp_status bp_cut_blocks(bp_plan *plan);      /* blocks.c: phase 2 */
bp_status bp_lay_out(bp_plan *plan);         /* memory.c: the arena */

#endif

/* Cuts phase 2 into blocks of the parameters. */
#include "compile.h"

#include <math.h>
#include <stdlib.h>

enum {
    BLOCK_BYTES = 16 << 10, /* of a gradient block: it waits in L1 for its update */
    BLOCK_ROWS = 64,        /* at least, so that what a product packs is used often enough */
    BLOCK_COST = 256,       /* of a block itself, in elements */
    WIDE_ROWS = 256,        /* of a wide one, at once */
    STEP_ROWS = 1024,       /* of one whose step may be made with the gradient, which then needs no room */
    BUSY = 8,               /* uses of a number in an example: from here on blocks are cut for all threads */
    BUSY_ROWS = 16
};

/* How often an example uses each number of a parameter, by the flops of its operations: once in a dense layer, at every
 * position of a convolution or a sequence. */
static double uses_of(const bp_plan *plan, const bp_param *p) {
    double uses = 1;
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        double numbers = 0;
        for (int j = 0; j < op->n_params; j++)
            numbers += (double)plan->params[op->param[j]].rows * (double)plan->params[op->param[j]].cols;
        uses = fmax(uses, bp_flops_of(plan, op) / (2 * numbers));
    }
    return uses;
}

int bp_takes_step(const bp_plan *plan, const bp_op *op) {
    return op->type->step[plan->dtype] && op->native && plan->rows <= plan->chunk_rows &&
           op->positions * plan->chunk_rows <= BP_STEP_ROWS;
}

/* Whether plain SGD can be made with a parameter's gradient: one operation makes that, in one go. */
static int has_step(const bp_plan *plan, const bp_param *p) {
    if (plan->shards || p->first_use < 0 || p->first_use != p->last_use) return 0;
    const bp_use *use = &plan->uses[p->first_use];
    return !use->slot && bp_takes_step(plan, &plan->ops[use->op]);
}

/* A parameter is cut into cells: whole rows where a row is short; of a wide one columns as well, and taller, so that
 * what the product packs is used by many rows. */
static void block_shape(const bp_plan *plan, const bp_param *p, int64_t *rows, int64_t *cols) {
    int64_t size = (int64_t)plan->size;
    if (!plan->shards && bp_is_wide(plan, p)) {
        *cols = min64(p->cols, GRID_COLS);
        *rows = has_step(plan, p) ? STEP_ROWS : WIDE_ROWS;
        while (*rows > WIDE_ROWS && ceil_div(p->rows, *rows) * ceil_div(p->cols, *cols) < 2 * MIN_BLOCKS) *rows /= 2;
        *rows = min64(p->rows, *rows);
        return;
    }
    int busy = uses_of(plan, p) >= BUSY;
    int64_t least = min64(p->rows, busy ? BUSY_ROWS : BLOCK_ROWS);
    *cols = p->cols;
    *rows = min64(p->rows, max64(least, BLOCK_BYTES / (p->cols * size)));
    if (busy || p->rows * p->cols * size >= BLOCK_BYTES)
        *rows = min64(*rows, max64(least, ceil_div(p->rows, MIN_BLOCKS)));
}

/* Blocks of the parameters of a segment (with shards: of all) that are tables, or are none. */
static void cut_parameters(bp_plan *plan, int segment, int tables) {
    bp_block *small = NULL; /* the last one, where others may join it */
    int64_t rows, cols;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        int64_t n = p->rows * p->cols;
        if (p->flags & BP_PARAM_FROZEN || bp_is_table(plan, i) != tables) continue;
        if (!plan->shards && p->segment != segment) continue;
        int busy = uses_of(plan, p) >= BUSY;
        if (busy) small = NULL;
        if (small && !bp_forced.parallel_always && small->at + small->width == p->offset &&
            (small->width + n) * (int64_t)plan->size <= BLOCK_BYTES) {
            small->end++;
            small->width = small->ld += n;
            continue;
        }
        small = NULL;
        if (!busy && n * (int64_t)plan->size <= BLOCK_BYTES) {
            small = &plan->blocks[plan->n_blocks++];
            *small = (bp_block){.param = i, .end = i + 1, .whole = 1, .at = p->offset, .rows = 1, .width = n, .ld = n};
            continue;
        }
        block_shape(plan, p, &rows, &cols);
        for (int64_t c = 0; c < p->cols; c += cols)
            for (int64_t k = 0; k < p->rows; k += rows) {
                bp_cell cell = {k, min64(k + rows, p->rows), c, min64(c + cols, p->cols), 0};
                plan->blocks[plan->n_blocks++] =
                    (bp_block){i, i + 1, 0, 0, cell, p->offset + k * p->cols + c, cell.r1 - k, cell.c1 - c, p->cols, 0};
            }
    }
}

bp_status bp_cut_blocks(bp_plan *plan) {
    int64_t total = 0, rows, cols;
    for (int i = 0; i < plan->n_params; i++) {
        block_shape(plan, &plan->params[i], &rows, &cols);
        total += ceil_div(plan->params[i].rows, rows) * ceil_div(plan->params[i].cols, cols);
    }
    if (total > INT32_MAX) return BP_E_LIMIT;
    plan->blocks = malloc(sizeof(bp_block) * (size_t)(total + 1));
    plan->block_cost = calloc((size_t)total + 1, sizeof *plan->block_cost);
    if (!plan->blocks || !plan->block_cost) return BP_E_NOMEM;
    cut_parameters(plan, 0, 0);
    for (int i = 0; i < plan->n_stages; i++) {
        bp_stage *stage = &plan->stages[i];
        if (stage->scope != BP_SCOPE_BLOCKS) continue;
        stage->first_block = plan->n_blocks;
        cut_parameters(plan, plan->items[stage->first].op, 0);
        stage->end_block = plan->n_blocks;
    }
    plan->n_dense = plan->n_blocks;
    cut_parameters(plan, 0, 1);
    for (int i = 0; i < plan->n_blocks; i++) {
        bp_block *block = &plan->blocks[i];
        const bp_param *p = &plan->params[block->param];
        /* small parameters lie next to each other: parts of vectors stored there would make their neighbours wait */
        block->steps = !block->whole && has_step(plan, p);
        block->part = !plan->shards && bp_is_wide(plan, p) ? min64(block->rows, WIDE_ROWS) : block->rows;
        int64_t n = block->rows * block->width;
        double uses = block->whole ? 1 : uses_of(plan, p);
        plan->block_cost[i + 1] = plan->block_cost[i] + (int64_t)((double)n * uses) + BLOCK_COST;
        plan->block_max = max64(plan->block_max, block->part * block->width);
    }
    for (int i = 0; i < plan->n_tables; i++)
        plan->block_max = max64(plan->block_max, plan->params[plan->tables[i].param].cols);
    return BP_OK;
}

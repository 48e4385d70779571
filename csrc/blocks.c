/* Cuts theta into blocks, and chooses the home of each block's gradient. */
#include "blocks.h"

#include <math.h>
#include <stdlib.h>

enum {
    BLOCK_BYTES = 16 << 10, /* of a gradient block: it waits in L1 for its update */
    BLOCK_ROWS = 64,        /* at least, so that what a product packs is used often enough */
    BLOCK_WORK = 256,       /* of a block itself, in elements */
    MIN_BLOCKS = 8,         /* of a matrix worth splitting */
    WIDE_ROWS = 256,        /* of a wide one, at once */
    FUSED_ROWS = 1024,      /* of one whose gradient stays in registers, and needs no room */
    BUSY = 8,               /* uses of a number in an example: from here on blocks are cut for all threads */
    BUSY_ROWS = 16
};

/* How often an example uses each number of a parameter, by the flops of its operations: once in a dense layer, at every
 * position of a convolution or a sequence; less in one that reads sparse rows. */
static double uses_of(const bp_plan *plan, const bp_param *p) {
    double uses = p->first_use < 0;
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        double numbers = 0;
        for (int j = 0; j < op->n_params; j++)
            numbers += (double)plan->params[op->param[j]].rows * (double)plan->params[op->param[j]].cols;
        double own = bp_flops_of(plan, op) / (2 * numbers);
        uses = fmax(uses, op->type->by_column ? fmin(own, 1) : fmax(own, 1));
    }
    return uses;
}

int bp_takes_step(const bp_plan *plan, const bp_op *op) {
    return op->type->step[plan->dtype] && op->native && plan->rows <= plan->chunk_rows &&
           op->positions * plan->chunk_rows <= BP_STEP_ROWS;
}

/* Whether a parameter's gradient may be summed and applied in one go: one operation makes it, and can. */
static int is_fused(const bp_plan *plan, const bp_param *p) {
    if (plan->shards || p->first_use < 0 || p->first_use != p->last_use) return 0;
    if (!(plan->flags & BP_DO_FUSE) || plan->flags & BP_DO_BOUNDARY) return 0;
    if (plan->flags & BP_DO_PENALTY && (p->l1 > 0 || p->l2 > 0)) return 0;
    const bp_use *use = &plan->uses[p->first_use];
    return !use->slot && bp_takes_step(plan, &plan->ops[use->op]);
}

/* Small parameters lie next to each other: parts of vectors stored there would make their neighbours wait, so that a
 * whole one is not fused. */
static bp_home choose_home(const bp_plan *plan, const bp_param *p, int whole) {
    if (plan->shards) return BP_HOME_SHARDS;
    if (p->segment > 0 || plan->rows > plan->chunk_rows || plan->flags & BP_DO_BOUNDARY) return BP_HOME_KEPT;
    return !whole && is_fused(plan, p) ? BP_HOME_FUSED : BP_HOME_SCRATCH;
}

/* Rows of a block, each of so many flops: halved until together they are half a round at most. */
static int64_t rows_of_a_round(const bp_plan *plan, int64_t rows, double flops) {
    while (rows > 1 && 2 * (double)rows * flops > plan->round_flops) rows = ceil_div(rows, 2);
    return rows;
}

/* A parameter is cut into cells: whole rows where a row is short; of a wide one columns as well, and taller, so that
 * what the product packs is used by many rows. */
static void block_shape(const bp_plan *plan, const bp_param *p, int64_t *rows, int64_t *cols) {
    int64_t size = (int64_t)plan->size;
    double sums = 2 * (double)min64(plan->rows, plan->chunk_rows) * uses_of(plan, p); /* flops an element */
    if (!plan->shards && bp_is_wide(plan, p)) {
        *cols = min64(p->cols, BP_PACK_COLS);
        *rows = is_fused(plan, p) ? FUSED_ROWS : WIDE_ROWS;
        while (*rows > WIDE_ROWS && ceil_div(p->rows, *rows) * ceil_div(p->cols, *cols) < 2 * MIN_BLOCKS) *rows /= 2;
        /* columns are halved before a product has too few rows to pack for */
        while (*cols > BP_PACK_COLS / 4 && 2 * sums * (double)*cols * (double)min64(p->rows, 128) > plan->round_flops)
            *cols = ceil_div(*cols, 2);
        *rows = min64(p->rows, rows_of_a_round(plan, *rows, sums * (double)*cols));
        return;
    }
    int busy = uses_of(plan, p) >= BUSY;
    int64_t least = min64(p->rows, busy ? BUSY_ROWS : BLOCK_ROWS);
    *cols = p->cols;
    *rows = min64(p->rows, max64(least, BLOCK_BYTES / (p->cols * size)));
    if (busy || p->rows * p->cols * size >= BLOCK_BYTES)
        *rows = min64(*rows, max64(least, ceil_div(p->rows, MIN_BLOCKS)));
    /* a column stays whole: a bias is summed in one go, which takes little */
    if (!plan->shards && p->cols > 1) *rows = rows_of_a_round(plan, *rows, sums * (double)*cols);
}

/* Blocks of the parameters of a segment (with shards: of all); rows of tables that move have no blocks. */
static void cut_parameters(bp_plan *plan, int segment) {
    bp_block *small = NULL; /* the last one, where others may join it */
    int64_t rows, cols;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        int64_t n = p->rows * p->cols;
        if (bp_is_frozen(p) || (plan->n_tables && bp_is_table(p))) continue;
        if (!plan->shards && p->segment != segment) continue;
        int busy = uses_of(plan, p) >= BUSY;
        if (busy) small = NULL;
        const bp_param *first = small ? &plan->params[small->param] : NULL;
        if (small && !bp_forced.parallel_always && small->at + small->width == p->offset &&
            (small->width + n) * (int64_t)plan->size <= BLOCK_BYTES) {
            small->one_rate &= p->rate == first->rate && (p->max_norm > 0) == (first->max_norm > 0);
            small->one_decay &= p->decay == first->decay;
            small->end++;
            small->width = small->ld += n;
            continue;
        }
        small = NULL;
        bp_block block = {.param = i, .end = i + 1, .early = segment > 0, .one_rate = 1, .one_decay = 1};
        if (!busy && n * (int64_t)plan->size <= BLOCK_BYTES) {
            block.home = choose_home(plan, p, 1);
            block.whole = 1;
            block.at = p->offset;
            block.rows = 1;
            block.width = block.ld = n;
            small = &plan->blocks[plan->n_blocks++];
            *small = block;
            continue;
        }
        block.home = choose_home(plan, p, 0);
        block.ld = p->cols;
        block_shape(plan, p, &rows, &cols);
        for (int64_t c = 0; c < p->cols; c += cols)
            for (int64_t k = 0; k < p->rows; k += rows) {
                block.cell = (bp_cell){.r0 = k, .r1 = min64(k + rows, p->rows), .c0 = c};
                block.cell.c1 = min64(c + cols, p->cols);
                block.at = p->offset + k * p->cols + c;
                block.rows = block.cell.r1 - k;
                block.width = block.cell.c1 - c;
                plan->blocks[plan->n_blocks++] = block;
            }
    }
}

/* Whether the sums that are made and applied in registers take longer than a round. */
static int moves_are_long(const bp_plan *plan) {
    double elements = 0;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        if (!bp_is_frozen(p) && is_fused(plan, p)) elements += (double)p->rows * (double)p->cols;
    }
    return 2 * (double)plan->rows * elements > plan->round_flops;
}

/* What moves cannot be left half done, unless it is undone: where all sums of a chunk would take too long with it, the
 * first of them are made before, in rounds. */
static void choose_waiting(bp_plan *plan) {
    double rows = 2 * (double)min64(plan->rows, plan->chunk_rows); /* flops an element */
    int at_once = plan->flags & BP_DO_MOVE && !(plan->flags & BP_DO_BOUNDARY) && !plan->undoes;
    for (int i = 0; i < plan->n_blocks && at_once; i++) {
        bp_block *block = &plan->blocks[i];
        double left = rows * (double)(plan->work_before[plan->n_blocks] - plan->work_before[i]);
        if (left <= plan->round_flops) break;
        if (block->early || (block->home != BP_HOME_SCRATCH && block->home != BP_HOME_KEPT)) continue;
        block->home = BP_HOME_KEPT;
        block->waits = 1;
        plan->n_waiting = i + 1;
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
    plan->work_before = calloc((size_t)total + 1, sizeof *plan->work_before);
    plan->moved_before = calloc((size_t)total + 1, sizeof *plan->moved_before);
    if (!plan->blocks || !plan->work_before || !plan->moved_before) return BP_E_NOMEM;
    cut_parameters(plan, 0);
    for (int i = 0; i < plan->n_stages; i++) {
        bp_stage *stage = &plan->stages[i];
        if (stage->scope != BP_SCOPE_BLOCKS) continue;
        stage->first_block = plan->n_blocks;
        cut_parameters(plan, plan->items[stage->first].op);
        stage->end_block = plan->n_blocks;
    }
    for (int i = 0; i < plan->n_blocks; i++) {
        const bp_block *block = &plan->blocks[i];
        int64_t n = block->rows * block->width;
        double uses = block->whole ? 1 : uses_of(plan, &plan->params[block->param]);
        plan->work_before[i + 1] = plan->work_before[i] + (int64_t)((double)n * uses) + BLOCK_WORK;
        plan->moved_before[i + 1] = plan->moved_before[i] + n;
        plan->most_work = max64(plan->most_work, plan->work_before[i + 1] - plan->work_before[i]);
        plan->most_moved = max64(plan->most_moved, n);
    }
    plan->undoes = moves_are_long(plan);
    choose_waiting(plan);
    for (int i = 0; i < plan->n_blocks; i++) {
        const bp_block *block = &plan->blocks[i];
        if (block->home == BP_HOME_SCRATCH)
            plan->scratch_size = max64(plan->scratch_size, block->rows * block->width);
    }
    for (int i = 0; i < plan->n_tables; i++)
        plan->scratch_size = max64(plan->scratch_size, plan->params[plan->tables[i].param].cols);
    return BP_OK;
}

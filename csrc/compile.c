/* Compiles the list of operations: gradients, sizes of tiles and chunks, then the passes, a file each. */
#include "blocks.h"
#include "checkpoint.h"
#include "memory.h"
#include "stages.h"
#include "strips.h"
#include "tables.h"

#include <math.h>
#include <stdlib.h>

static const double SLICED_FLOPS = 1e7; /* where parallel work is forced, a step is long from here on */

/* How the work is cut: fixed numbers, so that the bits depend on shapes alone. */
enum {
    INFER_WIDE_TILE = 128, /* where weights are packed for each tile; half as many where sums of a loss go with it */
    TRAIN_TILE = 64,
    PYTHON_TILE = 1024, /* of tiles that go forward and back by themselves: the user's Python is called less often */
    MAX_CHUNK_ROWS = 16384,
    SPARSE_CHUNK_ROWS = 2048 /* the same where the entries of its rows are listed */
};
/* A chunk has at most so much work, in a stage of tiles, on a grid and in its update. */
static const double ROWS_FLOPS = 2e9, GRID_FLOPS = 6e9, UPDATE_FLOPS = 16e9;

/* A parameter's uses in operations that the loss does not depend on are no terms of its gradient. */
static void drop_dead_uses(bp_plan *plan) {
    for (int i = 0; i < plan->n_params; i++) {
        bp_param *p = &plan->params[i];
        int u = p->first_use, next;
        for (p->first_use = p->last_use = -1; u >= 0; u = next) {
            next = plan->uses[u].next;
            plan->uses[u].next = -1;
            if (plan->buffers[plan->ops[plan->uses[u].op].out].grad < 0) continue;
            if (p->first_use < 0) p->first_use = u;
            else plan->uses[p->last_use].next = u;
            p->last_use = u;
        }
    }
}

static int gradient_buffer(bp_plan *plan, int64_t cols) {
    int grad = bp_plan_buffer(plan, BP_REAL, cols);
    if (grad >= 0) plan->buffers[grad].maker = BP_GRADIENT;
    return grad;
}

/* Gives a gradient to every buffer on a way from a parameter (or from the input, where that is wanted) to the loss,
 * and says which contribution to it is the first (written) and which come later (added). */
static bp_status declare_gradients(bp_plan *plan) {
    int n = plan->n_buffers, want_input = !!(plan->flags & BP_DO_INPUT_GRAD);
    char *needs = calloc((size_t)n + 1, 1), *reaches = calloc((size_t)n + 1, 1), *seen = calloc((size_t)n + 1, 1);
    bp_status status = needs && reaches && seen ? BP_OK : BP_E_NOMEM;
    for (int i = 0; i < n && !status; i++)
        needs[i] = (char)(want_input && plan->buffers[i].kind == BP_REAL && !bp_maker_of(plan, i));
    for (int i = 0; i < plan->n_ops && !status; i++) {
        bp_op *op = &plan->ops[i];
        for (int j = 0; j < op->n_in; j++) needs[op->out] |= needs[op->in[j]];
        for (int j = 0; j < op->n_params; j++)
            needs[op->out] |= !bp_is_frozen(&plan->params[op->param[j]]);
    }
    for (int i = 0; i < plan->n_losses && !status; i++) reaches[plan->losses[i].out] = 1;
    for (int i = plan->n_ops - 1; i >= 0 && !status; i--)
        for (int j = 0; j < plan->ops[i].n_in; j++) reaches[plan->ops[i].in[j]] |= reaches[plan->ops[i].out];
    for (int i = 0; i < n && !status; i++) {
        if (!needs[i] || !reaches[i]) continue;
        int grad = gradient_buffer(plan, plan->buffers[i].cols);
        if (grad < 0) status = BP_E_NOMEM;
        plan->buffers[i].grad = grad;
    }
    if (!status) {
        drop_dead_uses(plan);
        for (int i = 0; i < plan->n_losses; i++) seen[plan->losses[i].in] = 1;
        for (int i = plan->n_ops - 1; i >= 0; i--) {
            bp_op *op = &plan->ops[i];
            if (op->skip || plan->buffers[op->out].grad < 0) continue;
            for (int j = 0; j < op->n_in; j++) {
                op->add[j] = seen[op->in[j]];
                seen[op->in[j]] = 1;
            }
        }
    }
    free(needs);
    free(reaches);
    free(seen);
    return status;
}

/* A loss of bpcore's writes its gradient, wanted or not. */
static bp_status place_losses(bp_plan *plan) {
    for (int i = 0; i < plan->n_losses; i++) {
        bp_loss *loss = &plan->losses[i];
        loss->call.fused = loss->fused;
        loss->grad = plan->buffers[loss->in].grad;
        if (loss->grad >= 0 || !loss->type) continue;
        loss->grad = gradient_buffer(plan, plan->buffers[loss->in].cols);
        if (loss->grad < 0) return BP_E_NOMEM;
    }
    return BP_OK;
}

/* Whether the gradient of a parameter sums more numbers than one chain of floats may.  In double chains do no harm. */
static int sums_are_long(const bp_plan *plan) {
    double rows = plan->by_tile ? 1 : (double)plan->rows;
    for (int i = 0; i < plan->n_params && plan->dtype == BP_F32; i++) {
        double terms = 0;
        for (int u = plan->params[i].first_use; u >= 0; u = plan->uses[u].next)
            terms += fmax((double)plan->ops[plan->uses[u].op].terms, 1);
        if (!bp_is_frozen(&plan->params[i]) && terms * rows > BP_STEP_ROWS) return 1;
    }
    return 0;
}

/* Operations that train on the whole batch: where theta moves, and theirs is not frozen. */
static void find_batch_ops(bp_plan *plan) {
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_MOVE; i++) {
        bp_op *op = &plan->ops[i];
        int trained = 0;
        for (int j = 0; j < op->n_params; j++) trained |= !bp_is_frozen(&plan->params[op->param[j]]);
        op->of_batch = op->type->of_batch[plan->dtype] && trained;
        plan->of_batch |= op->of_batch;
    }
}

/* Shards pay where many rows meet few weights: a tile's activations outweigh the gradient it is added to. */
static int choose_shards(const bp_plan *plan, int64_t units, int has_chunk_op) {
    int none = !(plan->flags & BP_DO_BACKWARD) || plan->by_tile || plan->of_batch || has_chunk_op || !plan->n_theta;
    if (none || bp_forced.sums == 1) return 0;
    int64_t tiles = ceil_div(plan->rows, plan->row_tile);
    if (bp_forced.sums == 2 || (tiles >= 4 && plan->n_theta <= TRAIN_TILE * units))
        return (int)min64(BP_MAX_SHARDS, tiles);
    return 0;
}

/* Rows of a tile: many where a tile reads all weights once, fewer where weights are used many times a row, or where a
 * second thread would have nothing to do; a small rest costs as much as a whole tile. */
static int64_t choose_tile(const bp_plan *plan, int calls_python) {
    if (plan->by_tile && calls_python) return PYTHON_TILE;
    int64_t tile = plan->rows >= 2 * TRAIN_TILE ? TRAIN_TILE : TRAIN_TILE / 2, least = 0;
    if (plan->rows <= 2 * BP_LEAST_TILE && plan->rows > 2 * BP_LEAST_TILE - 8) tile = BP_LEAST_TILE;
    if (plan->inference) tile = BP_INFER_TILE;
    double flops = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        int packs = op->n_params && op->scope == BP_SCOPE_CELLS && bp_is_wide(plan, &plan->params[op->param[0]]);
        if (plan->inference && packs && !bp_forced.parallel_always)
            tile = plan->flags & BP_DO_LOSS ? TRAIN_TILE : INFER_WIDE_TILE;
        if (op->n_params && !op->type->by_row) flops += bp_flops_of(plan, op);
        least = max64(least, op->type->tile);
    }
    double uses = flops / (2 * (double)plan->n_theta + 1); /* of a weight, in a row */
    while (tile > BP_LEAST_TILE && tile > least && uses * (double)tile > 2 * TRAIN_TILE) tile /= 2;
    return max64(tile, least);
}

/* Flops of a row, and the rows of a chunk: as many as keep every stage and the update short.  Returns the flops of a
 * tile between two barriers, if there are none but those of the grids; a byte counts, too. */
static double size_chunks(bp_plan *plan) {
    double together = 1, apart = 1; /* of the operations that share a stage of row tiles; of the largest on a grid */
    plan->flops_row = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        double flops = bp_flops_of(plan, op);
        plan->flops_row += flops;
        if (!bp_is_grid(plan, &(bp_item){.kind = BP_FORWARD, .op = i})) together += flops;
        else if (flops > apart) apart = flops;
    }
    int back = !(plan->flags & BP_DO_BACKWARD) ? 0 : plan->cotangents && !(plan->flags & BP_DO_EACH) ? 1 : 2;
    /* forward, to the inputs, to the parameters */
    double passes = 1 + back * (plan->cotangents ? (double)plan->cotangents : 1);
    int wide = plan->inference && plan->row_tile > BP_INFER_TILE; /* several tiles, for all threads */
    double most = fmin((wide ? GRID_FLOPS : ROWS_FLOPS) / (together * passes), GRID_FLOPS / apart);
    double tile = bp_tile_flops(plan, back);
    if (plan->by_part) most = fmin(most, ROWS_FLOPS / tile * (double)plan->row_tile);
    if (back && !plan->by_tile) most = fmin(most, UPDATE_FLOPS / plan->flops_row);
    plan->flops_row *= passes;
    plan->flops = plan->flops_row * (double)plan->rows;
    double longest = plan->n_columns && back ? SPARSE_CHUNK_ROWS : MAX_CHUNK_ROWS;
    int64_t limit = max64((int64_t)fmin(most, longest) / plan->row_tile, 1) * plan->row_tile;
    if (plan->of_batch) limit = round_up(plan->rows, plan->row_tile);
    plan->chunk_rows = round_up(ceil_div(plan->rows, ceil_div(plan->rows, limit)), plan->row_tile);
    plan->n_tiles = ceil_div(plan->chunk_rows, plan->row_tile);
    return tile;
}

/* Rows of a batch whose step is long: a slice may end within it. */
static int64_t rows_of_a_long_step(const bp_plan *plan) {
    double cost = 0, most = bp_forced.parallel_always ? SLICED_FLOPS : BP_LONG_FLOPS; /* bytes count in `cost` alone */
    if (plan->by_part || bp_move_flops(plan) * (double)bp_moved(plan) >= plan->round_flops) return 1;
    for (int i = 0; i < plan->n_stages; i++) cost += plan->stages[i].flops_row;
    double rows = fmin(fmin(most, plan->round_flops) / plan->flops_row, plan->round_flops / cost);
    return (int64_t)ceil(fmin(rows, 1e18));
}

bp_status bp_plan_compile(bp_plan *plan, int flags, int64_t rows, int n_threads) {
    if (plan->compiled || rows < 1 || n_threads < 1 || n_threads > BP_MAX_THREADS) return BP_E_SHAPE;
    if (flags & (BP_DO_LOSS | BP_DO_BACKWARD) && !plan->n_losses) return BP_E_SHAPE;
    if ((plan->cotangents || flags & BP_DO_EACH) && !(flags & BP_DO_BACKWARD)) return BP_E_SHAPE;
    if (plan->cotangents && (plan->n_losses != 1 || plan->losses[0].fused)) return BP_E_SHAPE;
    int moves = flags & (BP_DO_MOVE | BP_DO_FUSE | BP_DO_BOUNDARY | BP_DO_AVERAGE | BP_DO_PENALTY);
    if (moves && (plan->cotangents || flags & BP_DO_EACH || !(flags & BP_DO_BACKWARD))) return BP_E_SHAPE;
    if (plan->n_columns && (plan->cotangents || flags & (BP_DO_EACH | BP_DO_INPUT_GRAD))) return BP_E_SHAPE;
    if (flags & BP_DO_STRIPS && flags & ~(BP_DO_FORWARD | BP_DO_REUSE | BP_DO_STRIPS)) return BP_E_SHAPE;
    plan->flags = flags;
    plan->by_tile = plan->cotangents || flags & BP_DO_EACH;
    plan->rows = rows;
    plan->round_flops = bp_forced.round_flops;
    plan->n_threads = n_threads;
    int has_chunk_op = 0, has_table = 0;
    for (int i = 0; i < plan->n_params; i++) has_table |= bp_is_table(&plan->params[i]);
    for (int i = 0; i < plan->n_losses && flags & BP_DO_LOSS; i++) {
        const bp_loss *loss = &plan->losses[i];
        int needed = plan->buffers[loss->out].kept && !(flags & BP_DO_BACKWARD);
        if (loss->fused && !needed) bp_maker_of(plan, loss->out)->skip = 1;
        has_chunk_op |= !loss->type;
    }

    find_batch_ops(plan);
    plan->inference = !(flags & BP_DO_BACKWARD);
    int64_t units = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        has_chunk_op |= op->scope == BP_SCOPE_CHUNK && flags & BP_DO_FORWARD;
        units += op->n_params ? plan->buffers[op->out].cols : 0;
    }
    if (plan->n_ops) units += plan->buffers[plan->ops[0].in[0]].cols;
    if (plan->by_tile && has_chunk_op) plan->n_threads = 1; /* the calling thread */
    plan->row_tile = choose_tile(plan, has_chunk_op);
    plan->shards = choose_shards(plan, units, has_chunk_op || has_table || plan->n_columns);
    plan->windowed = plan->shards || plan->by_tile || (plan->inference && !has_chunk_op);
    double tile = size_chunks(plan);
    for (; plan->by_tile && tile > plan->round_flops && plan->row_tile > BP_LEAST_TILE; tile = size_chunks(plan))
        plan->row_tile /= 2;
    plan->by_part = tile > plan->round_flops && !(flags & BP_DO_STRIPS);
    if (plan->by_part && !plan->by_tile) { /* between its stages a tile's rows stay where they are */
        plan->windowed = plan->shards = 0;
        size_chunks(plan);
    } else if (plan->by_part) { /* a tile's parts meet in the only window that is used */
        plan->chunk_rows = plan->row_tile;
        plan->n_tiles = 1;
    }

    /* BLAS may treat the rows of a product differently; a prediction must not */
    for (int i = 0; i < plan->n_ops; i++)
        plan->ops[i].native = bp_forced.backend != 1 || plan->inference || plan->by_tile;
    bp_status status = flags & BP_DO_BACKWARD ? declare_gradients(plan) : BP_OK;
    if (!status && flags & BP_DO_LOSS) status = place_losses(plan);
    int sums = flags & BP_DO_BACKWARD && !plan->by_tile;
    plan->keeps_lost = (sums || flags & BP_DO_EACH) && sums_are_long(plan);
    if (!status && sums) status = bp_find_tables(plan);
    if (!status && sums) bp_find_segments(plan);
    if (!status) bp_fuse_products(plan);
    if (!status && sums) status = bp_add_replicas(plan);
    if (!status) status = bp_cut_stages(plan);
    if (!status && sums) status = bp_cut_blocks(plan);
    for (int i = 0; i < plan->n_params && sums; i++) plan->n_norms += bp_norm_tasks(plan, &plan->params[i]);
    plan->after_sums = plan->n_norms > 0 || flags & (BP_DO_BOUNDARY | BP_DO_PENALTY);
    if (!status && flags & BP_DO_STRIPS) bp_find_strips(plan);
    if (!status) status = bp_lay_out(plan);
    if (!status) plan->long_rows = rows_of_a_long_step(plan);
    plan->compiled = !status;
    return status;
}

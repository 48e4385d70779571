/* Cuts the work on rows into stages: items one after another; some are fused into the product before or after. */
#include "ops.h"
#include "stages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    GRID_ROWS = 512,               /* a cell of a large layer */
    GRID_COLS_MIN = 48,
    GRID_WEIGHT_BYTES = 2 << 20,   /* a layer is large from here on: its weights outgrow L2 */
    GRID_LEAST_BYTES = 256 << 10   /* the same where weights would be packed again and again, or work is forced */
};

/* Whether a product can do a function's work: both must stay, or have replicas, in one segment. */
static int can_fuse(const bp_op *product, const bp_op *f) {
    return product->type->fuses && product->native && product->segment == f->segment && product->stays == f->stays;
}

/* Products do elementwise work while their tiles are in registers: a ReLU after them, and the factor f' of any function
 * before them.  z then has no place of its own. */
void bp_fuse_products(bp_plan *plan) {
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_REUSE; i++) {
        bp_op *f = &plan->ops[i], *before = bp_maker_of(plan, f->in[0]);
        const bp_buffer *z = &plan->buffers[f->in[0]], *a = &plan->buffers[f->out];
        if (!f->type->elementwise || f->skip || f->aux < 0) continue;
        f->fused_forward = before && can_fuse(before, f) && z->consumers == 1 && !z->kept &&
                           !strcmp(bp_op_function(plan, f, 0), "relu");
        for (int k = 0; k < plan->n_losses; k++)
            if (plan->losses[k].in == f->in[0]) f->fused_forward = 0;
        if (f->fused_forward) before->relu_df = f->aux;
        if (a->grad < 0 || z->grad < 0 || a->consumers != 1 || z->consumers != 1 || a->kept || f->add[0]) continue;
        for (int k = i + 1; k < plan->n_ops; k++) {
            bp_op *after = &plan->ops[k];
            if (after->in[0] != f->out || !can_fuse(after, f) || after->add[0]) continue;
            if (plan->buffers[after->out].grad < 0) continue; /* the loss does not depend on it */
            after->factor_df = f->aux;
            f->fused_backward = 1;
        }
    }
}

static bp_scope item_scope(const bp_plan *plan, const bp_item *item) {
    if (plan->by_tile) return BP_SCOPE_ROWS;
    switch (item->kind) {
    case BP_FORWARD:
    case BP_BACKWARD:
        /* what the user's function computed backward is cached: only its forward needs the whole chunk */
        if (item->kind == BP_BACKWARD && plan->ops[item->op].scope == BP_SCOPE_CHUNK && plan->ops[item->op].aux >= 0)
            return BP_SCOPE_CELLS;
        return plan->ops[item->op].scope;
    case BP_LOSS:
        return plan->losses[item->op].type ? BP_SCOPE_ROWS : BP_SCOPE_CHUNK;
    case BP_PARAM_GRADS:
        return plan->shards ? BP_SCOPE_ROWS : BP_SCOPE_BLOCKS;
    default:
        return BP_SCOPE_ROWS;
    }
}

int bp_is_grid(const bp_plan *plan, const bp_item *item) {
    if (plan->windowed || (plan->inference && !plan->by_part)) return 0;
    if (item->kind != BP_FORWARD && item->kind != BP_BACKWARD) return 0;
    const bp_op *op = &plan->ops[item->op];
    if (op->scope != BP_SCOPE_CELLS || !op->n_params) return 0;
    const bp_param *p = &plan->params[op->param[0]];
    int again = bp_is_wide(plan, p) && plan->rows > plan->row_tile; /* packed for each tile */
    int64_t large = again || bp_forced.parallel_always ? GRID_LEAST_BYTES : GRID_WEIGHT_BYTES;
    return p->rows * p->cols * (int64_t)plan->size >= large;
}

static int joins_grid(const bp_plan *plan, const bp_stage *stage, const bp_item *item) {
    return (item->kind == BP_FORWARD || item->kind == BP_BACKWARD) && item_scope(plan, item) == BP_SCOPE_CELLS &&
           !plan->ops[item->op].n_params && item->cols == stage->cols;
}

static int has_gradients(const bp_plan *plan, int segment) {
    for (int i = 0; i < plan->n_params; i++)
        if (plan->params[i].segment == segment) return 1;
    return 0;
}

/* Backward through the segments, the last one first; n: items so far.  Returns how many there are then. */
static int walk_back(bp_plan *plan, int n) {
    for (int end = plan->n_ops, first; end > 0; end = first) {
        int segment = plan->ops[end - 1].segment;
        for (first = end; first > 0 && plan->ops[first - 1].segment == segment; first--) {}
        for (int i = first; i < end; i++) {
            int back = plan->ops[i].back;
            if (plan->ops[back].again && !plan->ops[back].fused_forward)
                plan->items[n++] =
                    (bp_item){.kind = BP_FORWARD, .op = back, .cols = plan->buffers[plan->ops[i].out].cols};
        }
        for (int i = end - 1; i >= first; i--) {
            if (!bp_wants_backward(plan, &plan->ops[i]) || plan->ops[i].fused_backward) continue;
            bp_item back = {.kind = BP_BACKWARD,
                            .op = plan->ops[i].back,
                            .cols = plan->buffers[plan->ops[i].in[0]].cols};
            if (plan->ops[i].of_batch) plan->items[n++] = (bp_item){.kind = BP_SUM_BACKWARD, .op = back.op};
            plan->items[n++] = back;
        }
        if (segment && has_gradients(plan, segment))
            plan->items[n++] = (bp_item){.kind = BP_PARAM_GRADS, .op = segment};
    }
    return n;
}

/* Bytes of a row that an item reads and writes, about. */
static double item_bytes(const bp_plan *plan, const bp_item *item) {
    const bp_op *op = &plan->ops[item->op];
    double numbers = 0;
    if (item->kind == BP_LOSS) {
        const bp_loss *loss = &plan->losses[item->op];
        numbers = (double)plan->buffers[loss->in].cols;
        if (!plan->cotangents) numbers = 2 * numbers + (double)plan->buffers[loss->target].cols;
    }
    for (int i = 0; i < plan->n_buffers && (item->kind == BP_GATHER || item->kind == BP_SCATTER); i++) {
        int gathered = item->kind == BP_GATHER && plan->buffers[i].maker == BP_GATHERED;
        int scattered = item->kind == BP_SCATTER && plan->buffers[i].kept;
        if (gathered || scattered) numbers += 2 * (double)bp_row_numbers(&plan->buffers[i]);
    }
    if (item->kind == BP_FORWARD || item->kind == BP_BACKWARD || bp_is_sum(item->kind)) {
        numbers = (double)plan->buffers[op->out].cols;
        for (int i = 0; i < op->n_in; i++) numbers += (double)bp_row_numbers(&plan->buffers[op->in[i]]);
    }
    return numbers * (double)plan->size;
}

/* Of a row and a cotangent, about; a byte counts as the flops that a slow core does meanwhile. */
static double item_flops(const bp_plan *plan, const bp_item *item) {
    double flops = 0, moved = BP_FLOPS_A_BYTE * item_bytes(plan, item);
    if (item->kind == BP_FORWARD) return fmax(moved, bp_flops_of(plan, &plan->ops[item->op]));
    if (item->kind == BP_BACKWARD) return fmax(2 * moved, bp_flops_of(plan, &plan->ops[item->op]));
    for (int i = 0; i < plan->n_ops && item->kind == BP_PARAM_GRADS; i++)
        if (plan->ops[i].n_params && plan->ops[i].segment == item->op) flops += bp_flops_of(plan, &plan->ops[i]);
    return fmax(flops, moved);
}

double bp_tile_flops(const bp_plan *plan, int passes_back) {
    double cotangents = plan->cotangents ? (double)plan->cotangents : 1;
    double flops = item_flops(plan, &(bp_item){.kind = BP_GATHER}) + item_flops(plan, &(bp_item){.kind = BP_SCATTER});
    for (int i = 0; i < plan->n_ops; i++) {
        bp_item forward = {.kind = BP_FORWARD, .op = i}, back = {.kind = BP_BACKWARD, .op = i};
        if (bp_is_grid(plan, &forward)) continue;
        flops += item_flops(plan, &forward);
        if (plan->ops[i].of_batch) flops += 2 * item_flops(plan, &(bp_item){.kind = BP_SUM_FORWARD, .op = i});
        if (passes_back) flops += cotangents * item_flops(plan, &back);
        if (passes_back > 1) flops += cotangents * bp_flops_of(plan, &plan->ops[i]);
    }
    for (int i = 0; i < plan->n_losses && plan->flags & BP_DO_LOSS; i++)
        flops += item_flops(plan, &(bp_item){.kind = BP_LOSS, .op = i});
    return flops * (double)plan->row_tile;
}

static int n_gathered(const bp_plan *plan) {
    int n = 0;
    for (int i = 0; i < plan->n_buffers; i++) n += plan->buffers[i].maker == BP_GATHERED;
    return n;
}

/* In how many parts an item is done on a tile: what is copied in and out, by rows, a loss by rows or positions. */
static int64_t parts_of(const bp_plan *plan, const bp_item *item) {
    const bp_op *op = &plan->ops[item->op];
    double rounds = ceil(item->flops * (double)plan->row_tile / plan->round_flops), most = 1;
    if (plan->by_tile && item->kind == BP_PARAM_GRADS) return plan->row_tile * max64(plan->n_params, 1);
    if (item->kind == BP_GATHER) most = (double)bp_tile_rows(plan) * n_gathered(plan);
    if (item->kind == BP_SCATTER) most = (double)bp_tile_rows(plan);
    if (item->kind == BP_LOSS && plan->cotangents) return plan->row_tile;
    if (item->kind == BP_LOSS && plan->losses[item->op].type)
        most = (double)(plan->row_tile * plan->losses[item->op].call.positions / bp_loss_rows(&plan->losses[item->op]));
    if (bp_is_sum(item->kind)) most = (double)(op->n_sums / BP_CUT_COLS);
    if (item->call && op->type->parts) most = (double)op->type->parts(plan, op);
    return (int64_t)fmax(fmin(most, rounds), 1);
}

bp_status bp_cut_stages(bp_plan *plan) {
    size_t room = (size_t)(5 * plan->n_ops + plan->n_replicas + plan->n_losses + 3);
    plan->items = malloc(sizeof(bp_item) * room);
    plan->stages = calloc(room, sizeof(bp_stage));
    if (!plan->items || !plan->stages) return BP_E_NOMEM;
    int n = 0;
    plan->items[n++] = (bp_item){.kind = BP_GATHER};
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_FORWARD; i++) {
        if (plan->ops[i].skip || plan->ops[i].fused_forward) continue;
        if (plan->ops[i].of_batch) plan->items[n++] = (bp_item){.kind = BP_SUM_FORWARD, .op = i};
        plan->items[n++] = (bp_item){.kind = BP_FORWARD, .op = i, .cols = plan->buffers[plan->ops[i].out].cols};
    }
    for (int i = 0; i < plan->n_losses && plan->flags & BP_DO_LOSS; i++)
        plan->items[n++] = (bp_item){.kind = BP_LOSS, .op = i};
    if (plan->flags & BP_DO_BACKWARD) n = walk_back(plan, n);
    if (plan->shards || plan->flags & BP_DO_EACH) plan->items[n++] = (bp_item){.kind = BP_PARAM_GRADS};
    plan->items[n++] = (bp_item){.kind = BP_SCATTER};
    plan->n_items = n;
    for (int i = 0; i < n; i++) {
        bp_item *item = &plan->items[i];
        const bp_op *op = &plan->ops[item->op];
        item->flops = item_flops(plan, item);
        if (item->kind != BP_FORWARD && item->kind != BP_BACKWARD) continue;
        item->on = op;
        item->call = (item->kind == BP_FORWARD ? op->type->forward : op->type->backward)[plan->dtype];
    }

    bp_stage *stage = NULL;
    int segment = 0;
    for (int i = 0; i < n; i++) {
        bp_item *item = &plan->items[i];
        bp_scope scope = item_scope(plan, item);
        int passes = item->kind == BP_BACKWARD || item->kind == BP_PARAM_GRADS;
        double flops = item->flops * (passes && plan->cotangents ? (double)plan->cotangents : 1);
        int fits = !plan->by_part || plan->by_tile;
        if (i && bp_is_sum(plan->items[i - 1].kind)) stage = NULL; /* all tiles meet */
        if (!plan->windowed && (item->kind == BP_FORWARD || item->kind == BP_BACKWARD)) {
            if (plan->ops[item->op].segment != segment) stage = NULL; /* behind a barrier all sizes can share memory */
            segment = plan->ops[item->op].segment;
        }
        if (bp_is_grid(plan, item)) {
            stage = &plan->stages[plan->n_stages++];
            int64_t cells = round_up(ceil_div(item->cols, BP_PACK_COLS), plan->n_threads); /* as many for each thread */
            cells = min64(cells, ceil_div(item->cols, GRID_COLS_MIN));
            *stage = (bp_stage){.scope = BP_SCOPE_CELLS, .first = i, .count = 1, .row_tile = GRID_ROWS,
                                .cols = item->cols, .cells = cells};
            double most = plan->round_flops * (double)cells / flops; /* rows */
            while (stage->row_tile > BP_LEAST_TILE && (double)stage->row_tile > most) stage->row_tile /= 2;
        } else if (scope == BP_SCOPE_CHUNK || scope == BP_SCOPE_BLOCKS) {
            stage = &plan->stages[plan->n_stages++];
            *stage = (bp_stage){.scope = scope, .first = i, .count = 1, .row_tile = plan->chunk_rows};
        } else if (stage && stage->scope == BP_SCOPE_CELLS && joins_grid(plan, stage, item)) {
            stage->count++;
        } else if (stage && stage->scope == BP_SCOPE_ROWS &&
                   (fits || (stage->flops_row + flops) * (double)plan->row_tile <= plan->round_flops)) {
            stage->count++;
        } else {
            stage = &plan->stages[plan->n_stages++];
            *stage = (bp_stage){.scope = BP_SCOPE_ROWS, .first = i, .count = 1, .row_tile = plan->row_tile};
        }
        item->parts = plan->by_part && stage->scope == BP_SCOPE_ROWS ? parts_of(plan, item) : 1;
        item->stage = plan->n_stages - 1;
        stage->flops_row += flops;
        stage->parts = plan->by_tile ? stage->parts + item->parts : max64(item->parts, 1);
    }
    if (plan->by_tile && plan->cotangents) stage->parts *= plan->cotangents;
    if (!plan->by_part) stage->parts = 1;
    return BP_OK;
}

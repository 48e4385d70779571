/* Small steps.  What a task calls has the same operands at each step, so it is listed once: products are prepared, of
 * the rest the operands are kept.  The calls are those that rows.c and sums.c would come to. */
#include "calls.h"

#include "data.h"
#include "moves.h"
#include "penalties.h"
#include "rows.h"
#include "sums.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TILES = 4, MAX_CALLS = 256 };

typedef bp_status bp_call_fn(bp_run *run, bp_call *call, size_t shift);
struct bp_call {
    bp_call_fn *fn; /* unless a product is prepared */
    int number;     /* of a port, an item, a use of a parameter, or a block */
    bp_tile tile;
    bp_cell cell;
    char *to;       /* rows of a port, or G: of thread 0, those of others lie `shift` bytes further */
    size_t bytes;
    char *lost;     /* beside G, or NULL */
    int64_t ld;
    int add;
    const bp_block *block;
    bp_loss_call loss;
    bp_prepared product;
};

/* A call's pointer to its left operand, rows of the user's that are read where they lie: it follows the batch. */
struct bp_follower {
    void *left;
    const char *first; /* what it was in the batch at call_pos */
    int port;
};

static void note_follower(bp_run *run, const bp_call *call, const bp_op *op) {
    for (int i = 0; i < run->n_in && call->product.left; i++) {
        if (!run->in_place[i] || run->in[i].buffer != op->in[0]) continue;
        bp_follower *f = &run->followers[run->n_followers++];
        *f = (bp_follower){.left = call->product.left, .port = i};
        memcpy(&f->first, f->left, sizeof f->first);
    }
}

void bp_follow_batch(bp_run *run) {
    for (int i = 0; i < run->n_followers; i++) {
        const bp_follower *f = &run->followers[i];
        const char *rows = f->first + (run->at.pos - run->call_pos) * run->in[f->port].array.row_stride;
        memcpy(f->left, &rows, sizeof rows);
    }
}

/* ---- rows ---- */

/* Rows of the user's that are copied as they lie. */
static bp_status do_copy(bp_run *run, bp_call *call, size_t shift) {
    const bp_array *array = &run->in[call->number].array;
    (void)shift;
    memcpy(call->to, array->data + (run->at.pos + call->tile.row) * array->row_stride, call->bytes);
    return BP_OK;
}

static bp_status do_gather(bp_run *run, bp_call *call, size_t shift) {
    (void)shift;
    bp_gather_rows(run, call->number, run->at.pos + call->tile.row, call->tile.count, call->to);
    return BP_OK;
}

static bp_status do_item(bp_run *run, bp_call *call, size_t shift) {
    (void)shift;
    return bp_do_item(run, &run->plan->items[call->number], &call->tile, &call->cell);
}

static bp_status do_loss(bp_run *run, bp_call *call, size_t shift) {
    (void)shift;
    for (int i = 0; i < 3; i++) call->loss.sum[i] = 0;
    return bp_do_loss(run, run->plan->items[call->number].op, &call->tile, &call->loss);
}

static bp_call *list_ports(bp_run *run, bp_call *call, bp_tile t) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < run->n_in; i++) {
        const bp_array *array = &run->in[i].array;
        const bp_buffer *b = &plan->buffers[run->in[i].buffer];
        if (run->in_place[i]) continue;
        int copied = !run->order && !run->partner && bp_is_copied(array, b, plan->dtype) && bp_is_run(array, b->cols);
        size_t row = bp_row_bytes(b, plan->size);
        *call++ = (bp_call){.fn = copied ? do_copy : do_gather, .number = i, .tile = t,
                            .to = run->arena + b->offset + (size_t)t.at * row, .bytes = (size_t)t.count * row};
    }
    return call;
}

static bp_call *list_tile(bp_run *run, bp_call *call, bp_tile t) {
    const bp_plan *plan = run->plan;
    bp_context preparing = run->x;
    for (int i = 0; i < plan->n_items; i++) {
        const bp_item *item = &plan->items[i];
        if (item->kind == BP_GATHER) call = list_ports(run, call, t);
        if (item->kind == BP_GATHER || (item->kind == BP_SCATTER && !run->n_out)) continue;
        *call = (bp_call){.fn = do_item, .number = i, .tile = t};
        call->cell = (bp_cell){.r0 = t.at, .r1 = t.at + t.count, .c1 = item->cols, .row = t.row};
        if (item->kind == BP_LOSS) {
            call->fn = do_loss;
            call->loss = bp_loss_operands(run, item->op, &t);
        }
        preparing.prepare = &call->product;
        if (item->call && item->on->type->prepares && item->on->native) item->call(&preparing, item->on, &call->cell);
        if (item->kind == BP_FORWARD) note_follower(run, call, item->on);
        call++;
    }
    return call;
}

/* ---- sums and moves ---- */

static bp_status do_gradient(bp_run *run, bp_call *call, size_t shift) {
    const bp_use *use = &run->plan->uses[call->number];
    const bp_op *op = &run->plan->ops[use->op];
    op->type->param_grad[run->plan->dtype](&run->x, op, use->slot, 0, run->rows, &call->cell, call->to + shift,
                                           call->lost ? call->lost + shift : NULL, call->ld, call->add);
    return BP_OK;
}

static bp_status do_penalty(bp_run *run, bp_call *call, size_t shift) {
    return bp_note_penalty(run, call->number, bp_penalise_block(run, call->block, call->to + shift, call->ld));
}

static bp_status do_move(bp_run *run, bp_call *call, size_t shift) {
    return bp_move_block(run, call->block, call->to + shift, call->ld);
}

static bp_status do_fused(bp_run *run, bp_call *call, size_t shift) {
    (void)shift;
    return bp_do_fused(run, call->block);
}

static bp_call *list_block(bp_run *run, bp_call *call, const bp_block *block) {
    const bp_plan *plan = run->plan;
    bp_context preparing = run->x;
    char *G = run->arena + plan->scratch;
    if (block->home == BP_HOME_FUSED) {
        *call = (bp_call){.fn = do_fused, .block = block};
        return call + 1;
    }
    for (int i = block->param; i < block->end; i++) {
        const bp_param *p = &plan->params[i];
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next, call++) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            *call = (bp_call){.fn = do_gradient, .number = u, .cell = block->cell, .to = G, .ld = block->width,
                              .add = u != p->first_use};
            if (block->whole) {
                call->cell = (bp_cell){.r1 = p->rows, .c1 = p->cols};
                call->to += (size_t)(p->offset - block->at) * plan->size;
                call->ld = p->cols;
            }
            call->lost = bp_lost_of(plan, BP_HOME_SCRATCH, call->to);
            preparing.prepare = &call->product;
            if (op->type->prepares && op->native && !call->lost)
                op->type->param_grad[plan->dtype](&preparing, op, plan->uses[u].slot, 0, run->rows, &call->cell,
                                                  call->to, NULL, call->ld, call->add);
            note_follower(run, call, op);
        }
    }
    if (plan->flags & BP_DO_PENALTY)
        *call++ = (bp_call){.fn = do_penalty, .block = block, .number = (int)(block - plan->blocks), .to = G,
                            .ld = block->width};
    *call = (bp_call){.fn = do_move, .block = block, .to = G, .ld = block->width};
    return call + 1;
}

/* ---- both ---- */

/* How many calls a step of so many rows makes at most, or 0 where it is left to the tasks. */
static int64_t count_calls(const bp_run *run, int64_t rows) {
    const bp_plan *plan = run->plan;
    int64_t tiles = tiles_of(rows, plan->row_tile), n = tiles * (plan->n_items + run->n_in) + plan->n_blocks;
    int one_stage = plan->n_stages == 1 && plan->stages[0].scope == BP_SCOPE_ROWS && rows <= plan->chunk_rows;
    int apart = plan->windowed || plan->n_tables || plan->n_columns || plan->n_norms || plan->flags & BP_DO_BOUNDARY;
    if (plan->flags & BP_DO_PENALTY) n += plan->n_blocks;
    if (!bp_moves(run) || apart || !one_stage || tiles > MAX_TILES) return 0;
    if (rows >= plan->long_rows) return 0; /* its phases may have rounds */
    for (int i = 0; i < plan->n_blocks && n <= MAX_CALLS; i++) {
        const bp_block *block = &plan->blocks[i];
        if (block->home == BP_HOME_KEPT) return 0;
        for (int k = block->param; k < block->end; k++) {
            if (plan->params[k].first_use < 0) return 0;
            for (int u = plan->params[k].first_use; u >= 0; u = plan->uses[u].next) n++;
        }
    }
    return n <= MAX_CALLS ? n : 0;
}

void bp_list_calls(bp_run *run) {
    const bp_plan *plan = run->plan;
    int64_t rows = min64(run->batch, run->n), tiles = tiles_of(rows, plan->row_tile);
    if (rows != run->rows || run->call_rows == rows) return;
    run->call_rows = 0;
    int64_t n = count_calls(run, rows);
    if (!n) return;
    free(run->calls);
    free(run->first_call);
    free(run->followers);
    void *calls = NULL;
    int failed = posix_memalign(&calls, _Alignof(bp_call), sizeof(bp_call) * (size_t)n);
    run->calls = failed ? NULL : calls;
    run->first_call = malloc(sizeof(int) * (size_t)(tiles + plan->n_blocks + 1));
    run->followers = malloc(sizeof(bp_follower) * (size_t)n);
    run->n_followers = 0;
    if (!run->calls || !run->first_call || !run->followers) return; /* steps do without */
    bp_call *call = run->calls;
    int *first = run->first_call;
    for (int64_t i = 0; i < tiles; i++) {
        *first++ = (int)(call - run->calls);
        call = list_tile(run, call, bp_tile_of(run, i, plan->row_tile, 0));
    }
    for (int i = 0; i < plan->n_blocks; i++) {
        *first++ = (int)(call - run->calls);
        call = list_block(run, call, &plan->blocks[i]);
    }
    *first = (int)(call - run->calls);
    run->call_rows = rows;
    run->call_pos = run->at.pos;
}

bp_status bp_do_calls(bp_run *run, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    const int *first = run->first_call + task + ((run->phase == BP_SUMS) ? tiles_of(run->rows, plan->row_tile) : 0);
    bp_call *call = run->calls + first[0];
    const bp_call *end = run->calls + first[1];
    size_t shift = (run->phase == BP_SUMS) ? (size_t)thread * plan->scratch_bytes : 0;
    bp_status status = BP_OK;
    for (; call < end && !status; call++) {
        if (call->product.fn) call->product.fn(call->product.operands, shift);
        else status = call->fn(run, call, shift);
    }
    return status;
}

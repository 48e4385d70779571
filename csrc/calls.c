/* Small steps.  What a task calls has the same operands at each step, so it is listed once: products are prepared, of
 * the rest the operands are kept.  The calls are those that phase1.c and phase2.c would come to. */
#include "kernels/kernels.h"
#include "run.h"

#include <stdlib.h>

enum { MAX_TILES = 4, MAX_CALLS = 256 };

typedef bp_status bp_call_fn(bp_run *run, bp_call *call, const bp_update *step, size_t shift);
struct bp_call {
    bp_call_fn *fn; /* unless a product is prepared */
    int number;     /* of a port, an item, or a use of a parameter */
    bp_tile tile;
    bp_cell cell;
    char *to;       /* rows of a port, or G: of thread 0, those of others lie `shift` bytes further */
    size_t bytes;
    int64_t ld;
    int add;
    const bp_block *block;
    bp_loss_call loss;
    bp_prepared product;
};

/* A product whose left operand is rows of the user's, read where they lie, moves on from batch to batch. */
static void note_moved(bp_run *run, const bp_call *call, const bp_op *op) {
    for (int i = 0; i < run->n_in && call->product.left; i++) {
        if (!run->in_place[i] || run->in[i].buffer != op->in[0]) continue;
        bp_moved *m = &run->moved[run->n_moved++];
        *m = (bp_moved){.left = call->product.left, .port = i};
        memcpy(&m->first, m->left, sizeof m->first);
    }
}

void bp_move_calls(bp_run *run) {
    for (int i = 0; i < run->n_moved; i++) {
        const bp_moved *m = &run->moved[i];
        const char *rows = m->first + (run->at.pos - run->call_pos) * run->in[m->port].array.row_stride;
        memcpy(m->left, &rows, sizeof rows);
    }
}

/* ---- phase 1 ---- */

/* Rows of the user's that are copied as they lie. */
static bp_status do_copy(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    const bp_array *array = &run->in[call->number].array;
    (void)step, (void)shift;
    memcpy(call->to, array->data + (run->at.pos + call->tile.row) * array->row_stride, call->bytes);
    return BP_OK;
}

static bp_status do_gather(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    const bp_in_port *port = &run->in[call->number];
    (void)step, (void)shift;
    bp_gather(&port->array, run->order, run->at.pos + call->tile.row, call->tile.count,
              &run->plan->buffers[port->buffer], run->plan->dtype, call->to);
    return BP_OK;
}

static bp_status do_item(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    (void)step, (void)shift;
    return bp_do_item(run, &run->plan->items[call->number], &call->tile, &call->cell);
}

static bp_status do_loss(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    (void)step, (void)shift;
    for (int i = 0; i < 3; i++) call->loss.sum[i] = 0;
    return bp_do_loss(run, run->plan->items[call->number].op, &call->tile, &call->loss);
}

static bp_call *list_ports(bp_run *run, bp_call *call, bp_tile t) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < run->n_in; i++) {
        const bp_array *array = &run->in[i].array;
        const bp_buffer *b = &plan->buffers[run->in[i].buffer];
        if (run->in_place[i]) continue;
        int copied = !run->order && bp_is_copied(array, b, plan->dtype) && bp_is_run(array, b->cols);
        size_t row = (size_t)b->cols * (b->kind == BP_REAL ? plan->size : sizeof(int32_t));
        *call++ = (bp_call){.fn = copied ? do_copy : do_gather, .number = i, .tile = t,
                            .to = plan->arena + b->offset + (size_t)t.at * row, .bytes = (size_t)t.count * row};
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
        *call = (bp_call){.fn = do_item, .number = i, .tile = t, .cell = {t.at, t.at + t.count, 0, item->cols, t.row}};
        if (item->kind == BP_LOSS) {
            call->fn = do_loss;
            call->loss = bp_loss_operands(run, item->op, &t);
        }
        preparing.prepare = &call->product;
        if (item->call && item->on->type->prepares && item->on->native) item->call(&preparing, item->on, &call->cell);
        if (item->kind == BP_FORWARD) note_moved(run, call, item->on);
        call++;
    }
    return call;
}

/* ---- phase 2 ---- */

static bp_status do_gradient(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    const bp_use *use = &run->plan->uses[call->number];
    const bp_op *op = &run->plan->ops[use->op];
    (void)step;
    op->type->param_grad[run->plan->dtype](&run->x, op, use->slot, 0, run->rows, &call->cell, call->to + shift,
                                           call->ld, call->add);
    return BP_OK;
}

static bp_status do_update(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    return bp_update_block(run, step, call->block, call->to + shift, call->ld);
}

/* Plain SGD, made with the gradient. */
static bp_status do_step(bp_run *run, bp_call *call, const bp_update *step, size_t shift) {
    const bp_op *op = &run->plan->ops[run->plan->uses[call->number].op];
    (void)shift;
    int bad = op->type->step[run->plan->dtype](&run->x, op, 0, run->rows, &call->cell, step, run->theta);
    return bad ? BP_E_NONFINITE_PARAM : BP_OK;
}

static bp_call *list_block(bp_run *run, bp_call *call, const bp_block *block) {
    const bp_plan *plan = run->plan;
    bp_context preparing = run->x;
    char *G = plan->arena + plan->scratch;
    if (block->steps && run->plain) {
        *call++ = (bp_call){.fn = do_step, .number = plan->params[block->param].first_use, .cell = block->cell};
        return call;
    }
    for (int i = block->param; i < block->end; i++) {
        const bp_param *p = &plan->params[i];
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next, call++) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            *call = (bp_call){.fn = do_gradient, .number = u, .cell = block->cell, .to = G, .ld = block->width,
                              .add = u != p->first_use};
            if (block->whole) {
                call->cell = (bp_cell){0, p->rows, 0, p->cols, 0};
                call->to += (size_t)(p->offset - block->at) * plan->size;
                call->ld = p->cols;
            }
            preparing.prepare = &call->product;
            if (op->type->prepares && op->native)
                op->type->param_grad[plan->dtype](&preparing, op, plan->uses[u].slot, 0, run->rows, &call->cell,
                                                  call->to, call->ld, call->add);
            note_moved(run, call, op);
        }
    }
    *call = (bp_call){.fn = do_update, .block = block, .to = G, .ld = block->width};
    return call + 1;
}

/* ---- both ---- */

/* How many calls a step of so many rows makes at most, or 0 where it is left to the tasks. */
static int64_t count_calls(const bp_run *run, int64_t rows) {
    const bp_plan *plan = run->plan;
    int64_t tiles = tiles_of(rows, plan->row_tile), n = tiles * (plan->n_items + run->n_in) + plan->n_blocks;
    int one_stage = plan->n_stages == 1 && plan->stages[0].scope == BP_SCOPE_ROWS && rows <= plan->chunk_rows;
    if (!bp_trains(run) || plan->windowed || plan->n_tables || !one_stage || tiles > MAX_TILES) return 0;
    for (int i = 0; i < plan->n_blocks && n <= MAX_CALLS; i++) {
        const bp_block *block = &plan->blocks[i];
        if (block->part < block->rows && !(block->steps && run->plain)) return 0; /* its gradient is made in parts */
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
    free(run->moved);
    void *calls = NULL;
    int failed = posix_memalign(&calls, _Alignof(bp_call), sizeof(bp_call) * (size_t)n);
    run->calls = failed ? NULL : calls;
    run->first_call = malloc(sizeof(int) * (size_t)(tiles + plan->n_blocks + 1));
    run->moved = malloc(sizeof(bp_moved) * (size_t)n);
    run->n_moved = 0;
    if (!run->calls || !run->first_call || !run->moved) return; /* steps do without */
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

bp_status bp_do_calls(bp_run *run, const bp_update *step, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    const int *first = run->first_call + task + (run->updating ? tiles_of(run->rows, plan->row_tile) : 0);
    bp_call *call = run->calls + first[0];
    const bp_call *end = run->calls + first[1];
    size_t shift = run->updating ? (size_t)thread * plan->scratch_bytes : 0;
    bp_status status = BP_OK;
    for (; call < end && !status; call++) {
        if (call->product.fn) call->product.fn(call->product.operands, shift);
        else status = call->fn(run, call, step, shift);
    }
    return status;
}

/* Small steps on one thread.  What they call has the same operands at each step, so it is listed once, in the order in
 * which stages and blocks would come to it: products with their operands made ready, the rest with its own. */
#include "kernels/kernels.h"
#include "run.h"

#include <stdlib.h>

enum { MAX_TILES = 4 };

typedef bp_status bp_call_fn(bp_run *run, bp_call *call, const bp_update *u);
struct bp_call {
    bp_call_fn *fn; /* unless a product is ready */
    int port;       /* phase 1: of the user's rows, so many bytes where they are copied as they lie; or an item */
    size_t bytes;
    char *to;
    int item;
    bp_tile tile;
    bp_cell cell;
    int use, add;   /* phase 2: of a parameter */
    const bp_block *block;
    char *G;
    int64_t ld;
    bp_loss_call loss;
    bp_ready ready;
};

static bp_status do_copy(bp_run *run, bp_call *call, const bp_update *u) {
    const bp_array *array = &run->in[call->port].array;
    (void)u;
    memcpy(call->to, array->data + (run->at.pos + call->tile.row) * array->row_stride, call->bytes);
    return BP_OK;
}

static bp_status do_gather(bp_run *run, bp_call *call, const bp_update *u) {
    const bp_in_port *port = &run->in[call->port];
    (void)u;
    bp_gather(&port->array, run->order, run->at.pos + call->tile.row, call->tile.count,
              &run->plan->buffers[port->buffer], run->plan->dtype, call->to);
    return BP_OK;
}

static bp_status do_item(bp_run *run, bp_call *call, const bp_update *u) {
    (void)u;
    return bp_do_item(run, &run->plan->items[call->item], &call->tile, &call->cell);
}

static bp_status do_loss(bp_run *run, bp_call *call, const bp_update *u) {
    (void)u;
    for (int i = 0; i < 3; i++) call->loss.sum[i] = 0;
    return bp_do_loss(run, run->plan->items[call->item].op, &call->tile, &call->loss);
}

static bp_status do_gradient(bp_run *run, bp_call *call, const bp_update *u) {
    const bp_use *use = &run->plan->uses[call->use];
    const bp_op *op = &run->plan->ops[use->op];
    (void)u;
    op->type->param_grad[run->plan->dtype](&run->x, op, use->slot, 0, run->rows, &call->cell, call->G, call->ld,
                                           call->add);
    return BP_OK;
}

static bp_status do_update(bp_run *run, bp_call *call, const bp_update *u) {
    return bp_update_block(run, u, call->block, call->G, call->ld);
}

static bp_status do_step(bp_run *run, bp_call *call, const bp_update *u) {
    const bp_op *op = &run->plan->ops[run->plan->uses[call->use].op];
    int bad = op->type->step[run->plan->dtype](&run->x, op, 0, run->rows, &call->cell, u, run->theta);
    return bad ? BP_E_NONFINITE_PARAM : BP_OK;
}

static int is_small(const bp_run *run, int64_t rows) {
    const bp_plan *plan = run->plan;
    if (!bp_trains(run) || plan->windowed || plan->n_tables || plan->n_stages != 1) return 0;
    for (int i = 0; i < plan->n_params; i++)
        if (plan->params[i].first_use < 0) return 0;
    return plan->stages[0].scope == BP_SCOPE_ROWS && rows <= plan->chunk_rows &&
           tiles_of(rows, plan->row_tile) <= MAX_TILES;
}

static int n_uses_of(const bp_plan *plan, const bp_block *block) {
    int n = 0;
    for (int i = block->param; i < block->end; i++)
        for (int u = plan->params[i].first_use; u >= 0; u = plan->uses[u].next) n++;
    return n;
}

static bp_call *list_ports(bp_run *run, bp_call *call, bp_tile t) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < run->n_in; i++) {
        const bp_array *array = &run->in[i].array;
        const bp_buffer *b = &plan->buffers[run->in[i].buffer];
        int copied = !run->order && bp_is_copied(array, b, plan->dtype) && bp_is_run(array, b->cols);
        size_t row = (size_t)b->cols * (b->kind == BP_REAL ? plan->size : sizeof(int32_t));
        *call++ = (bp_call){.fn = copied ? do_copy : do_gather, .port = i, .tile = t,
                            .bytes = (size_t)t.count * row, .to = plan->arena + b->offset + (size_t)t.at * row};
    }
    return call;
}

static bp_call *list_tile(bp_run *run, bp_call *call, bp_tile t) {
    const bp_plan *plan = run->plan;
    bp_context making = run->x;
    for (int i = 0; i < plan->n_items; i++) {
        const bp_item *item = &plan->items[i];
        if (item->kind == BP_SCATTER && !run->n_out) continue;
        if (item->kind == BP_GATHER) {
            call = list_ports(run, call, t);
            continue;
        }
        call->fn = item->kind == BP_LOSS ? do_loss : do_item;
        call->item = i;
        call->tile = t;
        call->cell = (bp_cell){t.at, t.at + t.count, 0, item->cols, t.row};
        if (item->kind == BP_LOSS) call->loss = bp_loss_operands(run, item->op, &call->tile);
        if (item->call && item->on->type->readies && item->on->native) {
            making.ready = &call->ready;
            item->call(&making, item->on, &call->cell);
        }
        call++;
    }
    return call;
}

static bp_call *list_block(bp_run *run, bp_call *call, const bp_block *block) {
    const bp_plan *plan = run->plan;
    bp_context making = run->x;
    char *G = plan->arena + plan->scratch;
    if (block->steps && run->plain) {
        *call++ = (bp_call){.fn = do_step, .cell = block->cell, .use = plan->params[block->param].first_use};
        return call;
    }
    for (int i = block->param; i < block->end; i++) {
        const bp_param *p = &plan->params[i];
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next, call++) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            call->fn = do_gradient;
            call->use = u;
            call->add = u != p->first_use;
            call->cell = block->whole ? (bp_cell){0, p->rows, 0, p->cols, 0} : block->cell;
            call->G = block->whole ? G + (size_t)(p->offset - block->at) * plan->size : G;
            call->ld = block->whole ? p->cols : block->width;
            if (!op->type->readies || !op->native) continue;
            making.ready = &call->ready;
            op->type->param_grad[plan->dtype](&making, op, plan->uses[u].slot, 0, run->rows, &call->cell, call->G,
                                              call->ld, call->add);
        }
    }
    call->fn = do_update;
    call->block = block;
    call->G = G;
    call->ld = block->width;
    return call + 1;
}

void bp_list_calls(bp_run *run) {
    const bp_plan *plan = run->plan;
    int64_t rows = min64(run->batch, run->n);
    if (rows != run->rows || (run->n_phase1 && run->call_rows == rows) || !is_small(run, rows)) return;
    int64_t tiles = tiles_of(rows, plan->row_tile), n = tiles * (plan->n_items + run->n_in);
    for (int i = 0; i < plan->n_blocks; i++) n += n_uses_of(plan, &plan->blocks[i]) + 1;
    free(run->calls);
    run->n_phase1 = 0;
    void *calls = NULL;
    run->calls = posix_memalign(&calls, _Alignof(bp_call), sizeof(bp_call) * (size_t)n) ? NULL : calls;
    if (!run->calls) return; /* the tasks do without */
    memset(run->calls, 0, sizeof(bp_call) * (size_t)n);
    bp_call *call = run->calls;
    for (int64_t i = 0; i < tiles; i++) call = list_tile(run, call, bp_tile_of(run, i, plan->row_tile, 0));
    run->n_phase1 = (int)(call - run->calls);
    for (int i = 0; i < plan->n_blocks; i++) call = list_block(run, call, &plan->blocks[i]);
    run->n_phase2 = (int)(call - run->calls) - run->n_phase1;
    run->call_rows = rows;
}

bp_status bp_do_calls(bp_run *run) {
    bp_call *call = run->calls, *end = call + run->n_phase1;
    bp_update u = {0};
    if (run->updating) {
        call = end;
        end += run->n_phase2;
        u = bp_update_of(run);
        for (int i = 0; i < run->plan->n_blocks && run->saving; i++) {
            run->saved[i] = 1;
            bp_save_block(run, &run->plan->blocks[i]);
        }
    }
    bp_status status = BP_OK;
    for (; call < end && !status; call++) {
        if (call->ready.fn) call->ready.fn(call->ready.operands);
        else status = call->fn(run, call, &u);
    }
    return status;
}

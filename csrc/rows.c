/* Tasks on rows: the items of a stage on a tile of rows, on a cell, or on all rows of a chunk. */
#include "rows.h"

#include "data.h"

#include <string.h>

bp_tile bp_tile_of(const bp_run *run, int64_t tile, int64_t height, int thread) {
    const bp_plan *plan = run->plan;
    int64_t row = tile * height;
    return (bp_tile){tile, row, plan->windowed ? thread * height : row, min64(height, run->rows - row), 0, 1, 0, 0};
}

/* Some of the rows that repeat (see bp_run_repeat), from `first` on: what is there already is copied. */
static void gather_repeated(const bp_run *run, int i, int64_t first, bp_range some, size_t row, char *to) {
    const bp_array *array = &run->in[i].array;
    const bp_buffer *b = &run->plan->buffers[run->in[i].buffer];
    int64_t repeat = run->repeat[i], cycle = repeat * array->rows;
    for (int64_t r = some.first; r < some.end; r++, to += row) {
        int64_t ago = r >= cycle ? cycle : r && (first + r) % repeat ? 1 : 0;
        if (ago) memcpy(to, to - (size_t)ago * row, row);
        else bp_gather(array, NULL, (first + r) / repeat % array->rows, 1, b, run->plan->dtype, to);
    }
}

void bp_gather_rows(const bp_run *run, int i, int64_t first, int64_t rows, char *to) {
    const bp_plan *plan = run->plan;
    const bp_array *array = &run->in[i].array;
    const bp_buffer *b = &plan->buffers[run->in[i].buffer];
    int mixed = run->partner && b->kind != BP_INT32;
    bp_gather(array, mixed ? run->partner : run->order, first, rows, b, plan->dtype, to);
    const double *share = i == run->weight_port ? run->weight_share : run->share;
    for (int64_t r = first; r < first + rows && mixed; r++, to += bp_row_bytes(b, plan->size))
        bp_mix(array, run->order ? run->order[r] : r, share[r], b, plan->dtype, to);
}

static void gather(bp_run *run, const bp_tile *t, const bp_cell *cell) {
    const bp_plan *plan = run->plan;
    bp_range part = bp_part(cell, run->n_in * t->count); /* rows of one input, then of the next */
    for (int i = 0; i < run->n_in; i++) {
        const bp_buffer *b = &plan->buffers[run->in[i].buffer];
        bp_range some = {max64(part.first - i * t->count, 0), min64(part.end - i * t->count, t->count)};
        if (run->in_place[i] || some.end <= some.first) continue;
        size_t row = bp_row_bytes(b, plan->size);
        char *to = run->arena + b->offset + (size_t)(t->at + some.first) * row;
        int64_t first = run->at.pos + run->off + t->row;
        if (run->repeat[i]) gather_repeated(run, i, first, some, row, to);
        else bp_gather_rows(run, i, first + some.first, some.end - some.first, to);
    }
}

/* Where row r of a tile (of cotangents, rows) goes, in what goes out. */
static int64_t out_row(const bp_run *run, const bp_tile *t, int64_t r) {
    return (run->at.pos + run->off + t->row + r % t->count) * run->apart + t->cotangent + r / t->count;
}

static void scatter(bp_run *run, const bp_tile *t, const bp_cell *cell) {
    bp_range some = bp_part(cell, t->cotangents * t->count);
    for (int i = 0; i < run->n_out; i++) {
        const bp_out_port *port = &run->out[i];
        size_t row = (size_t)run->plan->buffers[port->buffer].cols * run->plan->size;
        const char *from = bp_at(&run->x, port->buffer, t->at, run->plan->size);
        int64_t run_of = run->apart == 1 ? some.end - some.first : 1; /* rows in one run of memory */
        for (int64_t r = some.first; r < some.end; r += run_of)
            bp_give(port, run->plan->buffers[port->buffer].cols, run->plan->dtype, from + (size_t)r * row, run_of,
                    (char *)port->data + (size_t)out_row(run, t, r) * row);
    }
}

/* x *= factor, n reals */
static void multiply(bp_dtype dtype, void *x, int64_t n, double factor) {
    if (dtype == BP_F32)
        for (int64_t i = 0; i < n; i++) ((float *)x)[i] *= (float)factor;
    else
        for (int64_t i = 0; i < n; i++) ((double *)x)[i] *= factor;
}

/* Weights of positions, scaled to a mean of 1 in each row: its loss is the average of the positions that count. */
static void average_positions(const bp_plan *plan, int buffer, void *weights, int64_t rows) {
    int64_t n = plan->buffers[buffer].cols;
    for (int64_t r = 0; r < rows; r++) {
        void *row = (char *)weights + (size_t)(r * n) * plan->size;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += plan->dtype == BP_F32 ? (double)((float *)row)[i] : ((double *)row)[i];
        for (int64_t i = 0; i < n && sum > 0; i++) /* n / sum may overflow */
            if (plan->dtype == BP_F32) ((float *)row)[i] = (float)(((float *)row)[i] * (double)n / sum);
            else ((double *)row)[i] = ((double *)row)[i] * (double)n / sum;
    }
}

bp_loss_call bp_loss_operands(const bp_run *run, int number, const bp_tile *t) {
    const bp_plan *plan = run->plan;
    const bp_loss *loss = &plan->losses[number];
    bp_loss_call call = loss->call;
    call.rows = t->count * call.positions;
    call.out = bp_at(&run->x, loss->in, t->at, plan->size);
    call.target = bp_at(&run->x, loss->target, t->at, call.labels ? sizeof(int32_t) : plan->size);
    if (loss->grad >= 0) call.grad = bp_at(&run->x, loss->grad, t->at, plan->size);
    if (run->weight_port >= 0) call.weight = bp_at(&run->x, run->in[run->weight_port].buffer, t->at, plan->size);
    return call;
}

/* Before the first rows of a tile: each position has a weight of its own then, if there are weights of positions. */
static inline bp_status average_weights(bp_run *run, int number, const bp_tile *t, bp_loss_call *call, int begins) {
    const bp_plan *plan = run->plan;
    if (!call->weight) return BP_OK;
    int weight = run->in[run->weight_port].buffer;
    if (plan->buffers[weight].cols <= 1) return BP_OK;
    if (plan->buffers[weight].cols != plan->losses[number].call.positions) return BP_E_SHAPE;
    if (begins) average_positions(plan, weight, bp_at(&run->x, weight, t->at, plan->size), t->count);
    call->positions = 1;
    return BP_OK;
}

/* The sums of rows so far, and their gradients' share. */
static inline void finish_loss(bp_run *run, const bp_loss *loss, const bp_loss_call *call, double *sum, int ends) {
    for (int j = 0; j < 3; j++) sum[j] = call->sum[j];
    if (loss->call.positions == 1 && loss->weight == 1) return;
    if (call->grad) multiply(run->plan->dtype, call->grad, call->rows * call->cols, loss->share);
    for (int j = 0; j < 3 && ends; j++) sum[j] /= (double)loss->call.positions;
}

bp_status bp_do_loss(bp_run *run, int number, const bp_tile *t, bp_loss_call *call) {
    const bp_plan *plan = run->plan;
    const bp_loss *loss = &plan->losses[number];
    bp_status status = average_weights(run, number, t, call, 1);
    if (status) return status;
    status = loss->type ? loss->type->fn[plan->dtype](call)
                        : run->x.callback(run->x.callback_self, loss->tag, call->rows, call->cols, NULL, NULL, NULL,
                                          call, NULL);
    if (status) return status;
    finish_loss(run, loss, call, bp_loss_sums(run, number, t->number), 1);
    return BP_OK;
}

/* Some rows of the loss of a tile: the sums go on where the part before left them.  Parts are whole vectors, so that
 * none writes behind the tile, where another may be done already. */
static bp_status do_loss_part(bp_run *run, int number, const bp_tile *t, const bp_cell *cell) {
    const bp_plan *plan = run->plan;
    const bp_loss *loss = &plan->losses[number];
    bp_loss_call call = bp_loss_operands(run, number, t);
    double *sum = bp_loss_sums(run, number, t->number);
    bp_status status = average_weights(run, number, t, &call, bp_begins(cell));
    int64_t together = bp_loss_rows(loss);
    bp_range some = bp_part(cell, ceil_div(call.rows, together));
    call.first = some.first * together;
    call.rows = min64(some.end * together, call.rows) - call.first;
    call.out = (const char *)call.out + (size_t)(call.first * call.cols) * plan->size;
    call.target = (const char *)call.target + (call.labels ? (size_t)call.first * sizeof(int32_t)
                                                           : (size_t)(call.first * call.target_cols) * plan->size);
    if (call.grad) call.grad = (char *)call.grad + (size_t)(call.first * call.cols) * plan->size;
    for (int j = 0; j < 3; j++) call.sum[j] = bp_begins(cell) ? 0 : sum[j];
    if (!status && call.rows > 0) status = loss->type->fn[plan->dtype](&call);
    finish_loss(run, loss, &call, sum, bp_ends(cell));
    return status;
}

/* What backward reads of a buffer, for each of the cotangents that share the tile: rows behind those of the first. */
static void repeat_rows(bp_run *run, int buffer, const bp_tile *t, bp_range some) {
    const bp_buffer *b = &run->plan->buffers[buffer];
    size_t row = bp_row_bytes(b, run->plan->size);
    char *first = (char *)run->arena + b->offset + (size_t)t->at * row;
    for (int64_t r = max64(some.first, t->count), n; r < some.end; r += n) {
        n = min64(t->count - r % t->count, some.end - r);
        memcpy(first + (size_t)r * row, first + (size_t)(r % t->count) * row, (size_t)n * row);
    }
}

/* dC/dout (cotangents, rows, cols): unit vectors */
static void write_cotangents(bp_run *run, const bp_tile *t, const bp_cell *cell) {
    const bp_plan *plan = run->plan;
    bp_range some = bp_part(cell, t->cotangents * t->count);
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        if (plan->buffers[op->out].grad < 0 || (t->cotangent && !op->type->backward_first)) continue;
        for (int j = 0; j < op->n_aux; j++) repeat_rows(run, op->aux + j, t, some);
        int ignores = op->type->ignores;
        if (op->n_params && plan->flags & BP_DO_EACH) ignores &= ignores & BP_GRAD_IGNORES_OUT ? BP_IGNORES_OUT : 0;
        for (int j = 0; j < op->n_in && !(ignores & BP_IGNORES_IN); j++) repeat_rows(run, op->in[j], t, some);
        if (!(ignores & BP_IGNORES_OUT)) repeat_rows(run, op->out, t, some);
    }
    int grad = plan->losses[0].grad;
    int64_t cols = plan->buffers[grad].cols;
    char *to = bp_at(&run->x, grad, t->at, plan->size);
    memset(to + (size_t)(some.first * cols) * plan->size, 0, (size_t)((some.end - some.first) * cols) * plan->size);
    for (int64_t r = some.first; r < some.end; r++) {
        int64_t at = r * cols + run->first_cotangent + t->cotangent + r / t->count;
        if (plan->dtype == BP_F32) ((float *)(void *)to)[at] = 1;
        else ((double *)(void *)to)[at] = 1;
    }
    memset(bp_loss_sums(run, 0, t->number), 0, 3 * sizeof(double));
}

/* The gradient by parameter i of rows r0..r1 of the buffers, in an array shaped as theta; lost is another, or NULL. */
static void gradient_of_rows(bp_run *run, int segment, int i, int64_t r0, int64_t r1, int add, char *grads,
                             char *lost) {
    const bp_plan *plan = run->plan;
    const bp_param *p = &plan->params[i];
    size_t at = (size_t)p->offset * plan->size;
    if (bp_is_frozen(p) || p->segment != segment) return;
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        op->type->param_grad[plan->dtype](&run->x, op, plan->uses[u].slot, r0, r1,
                                          &(bp_cell){.r1 = p->rows, .c1 = p->cols}, grads + at,
                                          lost ? lost + at : NULL, p->cols, add || u != p->first_use);
    }
}

static void param_grads(bp_run *run, int segment, const bp_tile *t, const bp_cell *cell) {
    const bp_plan *plan = run->plan;
    size_t theta = (size_t)plan->n_theta * plan->size;
    if (plan->shards) {
        char *grads = run->arena + plan->shard_grads + (size_t)t->shard * theta;
        char *lost = bp_lost_of(plan, BP_HOME_SHARDS, grads);
        for (int i = 0; i < plan->n_params; i++)
            gradient_of_rows(run, segment, i, t->at, t->at + t->count, t->add, grads, lost);
    } else if (run->each) {
        int64_t thread = t->at / plan->row_tile; /* whose window the tile lies in */
        char *lost = plan->keeps_lost ? run->arena + plan->each_lost + (size_t)thread * theta : NULL;
        /* a row's parameters, then the next one's */
        bp_range some = bp_part(cell, t->cotangents * t->count * plan->n_params);
        for (int64_t k = some.first; k < some.end; k++) {
            int64_t r = k / plan->n_params;
            size_t at = (size_t)(out_row(run, t, r) * run->n_params) * plan->size;
            gradient_of_rows(run, segment, (int)(k % plan->n_params), t->at + r, t->at + r + 1, 0, run->each + at,
                             lost);
        }
    }
}

static bp_status loss(bp_run *run, int number, const bp_tile *t, const bp_cell *cell) {
    if (cell->parts > 1) return do_loss_part(run, number, t, cell);
    bp_loss_call call = bp_loss_operands(run, number, t);
    return bp_do_loss(run, number, t, &call);
}

/* What a tile leaves for the others, before an operation of the batch. */
static bp_status tile_sums(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell) {
    const bp_plan *plan = run->plan;
    const bp_op *op = &plan->ops[item->op];
    double *sums = (double *)(void *)(run->arena + plan->tile_sums);
    return op->type->of_batch[plan->dtype]->sums[item->kind == BP_SUM_BACKWARD](&run->x, op, cell,
                                                                                sums + t->number * op->n_sums);
}

bp_status bp_join_tiles(bp_run *run) {
    const bp_plan *plan = run->plan;
    const bp_stage *stage = &plan->stages[run->stage];
    const bp_item *item = &plan->items[stage->first + stage->count - 1]; /* behind it all meet */
    const bp_op *op = &plan->ops[item->op];
    if (stage->scope != BP_SCOPE_ROWS || !bp_is_sum(item->kind)) return BP_OK;
    const double *sums = (const double *)(const void *)(run->arena + plan->tile_sums);
    return op->type->of_batch[plan->dtype]->join[item->kind == BP_SUM_BACKWARD](
        &run->x, op, tiles_of(run->rows, plan->row_tile), sums);
}

void bp_track_batch(bp_run *run) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < plan->n_ops; i++)
        if (plan->ops[i].of_batch) plan->ops[i].type->of_batch[plan->dtype]->track(&run->x, &plan->ops[i], run->state);
}

bp_status bp_do_item(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell) {
    if (item->call) return item->call(&run->x, item->on, cell);
    if (bp_is_sum(item->kind)) return tile_sums(run, item, t, cell);
    if (item->kind == BP_LOSS && !run->plan->cotangents) return loss(run, item->op, t, cell);
    if (item->kind == BP_LOSS) write_cotangents(run, t, cell);
    else if (item->kind == BP_GATHER) gather(run, t, cell);
    else if (item->kind == BP_PARAM_GRADS) param_grads(run, item->op, t, cell);
    else scatter(run, t, cell);
    return BP_OK;
}

/* The user's Python is called on the calling thread, with its floating-point environment. */
static bp_status do_outside(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell) {
    bp_fpenv own = bp_fpenv_flush();
    bp_fpenv_restore(run->x.caller_fpenv);
    bp_status status = bp_do_item(run, item, t, cell);
    bp_fpenv_restore(own);
    if (bp_pool_generation() != run->generation) { /* the user forked: this child is alone, the step ends here */
        bp_barrier_init(&run->barrier, 1);
        return BP_E_CALLBACK;
    }
    return status;
}

static int calls_python(const bp_plan *plan, const bp_item *item) {
    if (item->kind == BP_LOSS) return !plan->losses[item->op].type;
    if (item->kind != BP_FORWARD && item->kind != BP_BACKWARD) return 0;
    const bp_op *op = &plan->ops[item->op];
    return op->scope == BP_SCOPE_CHUNK && (item->kind == BP_FORWARD || op->aux < 0);
}

static bp_status do_tile(bp_run *run, const bp_stage *stage, bp_tile *t, int64_t part, int64_t parts) {
    const bp_item *item = &run->plan->items[stage->first], *end = item + stage->count;
    bp_cell cell = {t->at, t->at + t->count, 0, 0, run->off + t->row, part, parts};
    bp_status status = BP_OK;
    for (; item < end && !status; item++) {
        cell.c1 = item->cols;
        status = bp_do_item(run, item, t, &cell);
    }
    return status;
}

/* One forward pass, except that what backward overwrites is made anew; then backward from the cotangents, as many at a
 * time as have room.  Of all this one part, where there are parts: those of an item are parts of the tile. */
static bp_status do_by_tile(bp_run *run, const bp_stage *stage, bp_tile *t, int64_t part, int64_t parts) {
    const bp_plan *plan = run->plan;
    int64_t cotangents = plan->cotangents ? plan->cotangents : 1;
    const bp_item *first = &plan->items[stage->first], *end = first + stage->count;
    bp_status status = BP_OK;
    for (t->cotangent = 0; t->cotangent < cotangents && !status; t->cotangent += t->cotangents) {
        t->cotangents = min64(plan->row_tile / t->count, cotangents - t->cotangent);
        for (const bp_item *item = first; item < end && !status; item++) {
            if (t->cotangent && item->kind == BP_GATHER) continue;
            if (t->cotangent && item->kind == BP_FORWARD) {
                const bp_op *op = &plan->ops[item->op];
                if (!op->type->backward_first || plan->buffers[op->out].grad < 0) continue;
            }
            int64_t rows = item->kind == BP_BACKWARD ? t->cotangents * t->count : t->count;
            bp_cell cell = {.r0 = t->at, .r1 = t->at + rows, .c1 = item->cols, .row = run->off + t->row};
            if (parts) {
                cell.parts = item->parts;
                cell.part = part;
                part -= item->parts;
                if (cell.part < 0 || part >= 0) continue;
            }
            status = (calls_python(plan, item) ? do_outside : bp_do_item)(run, item, t, &cell);
        }
    }
    return status;
}

/* Of a cell: they are equally wide, but for whole vectors. */
static int64_t first_column(const bp_stage *stage, int64_t cell) {
    return min64(tiles_of(stage->cols, BP_CUT_COLS) * cell / stage->cells * BP_CUT_COLS, stage->cols);
}

static bp_status do_cell(bp_run *run, const bp_stage *stage, int64_t task) {
    const bp_item *item = &run->plan->items[stage->first], *end = item + stage->count;
    int64_t down = tiles_of(run->rows, stage->row_tile);
    bp_tile t = bp_tile_of(run, task % down, stage->row_tile, 0); /* cells of the same weights follow each other */
    bp_cell cell = {.r0 = t.at, .r1 = t.at + t.count, .row = run->off + t.row};
    cell.c0 = first_column(stage, task / down);
    cell.c1 = first_column(stage, task / down + 1);
    bp_status status = BP_OK;
    for (; item < end && !status; item++) status = bp_do_item(run, item, &t, &cell);
    return status;
}

/* All rows at once. */
static bp_status do_chunk(bp_run *run, const bp_stage *stage) {
    const bp_item *item = &run->plan->items[stage->first];
    bp_tile t = {.count = run->rows};
    return do_outside(run, item, &t, &(bp_cell){.r1 = t.count, .c1 = item->cols, .row = run->off});
}

/* Rows of a task; sums of a loss need tiles that are the same on any number of threads. */
static int64_t height_of(const bp_run *run, const bp_stage *stage) {
    const bp_plan *plan = run->plan;
    int shared = plan->inference && plan->windowed && !(plan->flags & BP_DO_LOSS);
    return shared ? bp_infer_tile(plan, run->rows, plan->n_threads) : stage->row_tile;
}

int64_t bp_stage_tasks(const bp_run *run, const bp_stage *stage) {
    if (stage->scope == BP_SCOPE_CHUNK) return 1;
    if (stage->scope == BP_SCOPE_BLOCKS) return stage->end_block - stage->first_block;
    if (run->plan->shards) return bp_shards_of(run);
    int64_t tiles = tiles_of(run->rows, height_of(run, stage));
    return stage->scope == BP_SCOPE_CELLS ? tiles * stage->cells : tiles;
}

bp_status bp_do_stage_task(bp_run *run, const bp_stage *stage, int64_t task, int thread) {
    if (stage->scope == BP_SCOPE_CHUNK) return do_chunk(run, stage);
    if (stage->scope == BP_SCOPE_CELLS) return do_cell(run, stage, task);
    int64_t height = height_of(run, stage), part = 0, parts = 0;
    if (stage->parts > 1 && run->rounds > 1) { /* the tasks are part 0 of each tile, then part 1 of each ... */
        parts = stage->parts;
        part = task / (run->n_tasks / parts);
        task %= run->n_tasks / parts;
        if (run->plan->by_tile) thread = 0; /* its parts meet in one place; there is one tile in a chunk */
    }
    int64_t first = task, end = task + 1;
    if (run->plan->shards) {
        int64_t tiles = tiles_of(run->rows, stage->row_tile), n = bp_shards_of(run);
        first = tiles * task / n;
        end = tiles * (task + 1) / n;
    }
    bp_status status = BP_OK;
    for (int64_t tile = first; tile < end && !status; tile++) {
        bp_tile t = bp_tile_of(run, tile, height, thread);
        t.shard = (int)task;
        t.add = run->off || tile > first;
        status = (run->plan->by_tile ? do_by_tile : do_tile)(run, stage, &t, part, parts);
    }
    return status;
}

/* Lays out the arena: buffers share places by their lives. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

enum { SEARCHED = 256 }; /* places that a buffer may take over */

/* Takes `rows * bytes` from the arena, aligned; -1 (and *total = SIZE_MAX) once the address space is used up. */
static size_t take(size_t *total, int64_t rows, size_t bytes) {
    size_t at = *total, need;
    if (at == SIZE_MAX || __builtin_mul_overflow((size_t)rows, bytes, &need) || need > PTRDIFF_MAX - 2 * BP_ALIGN ||
        at > PTRDIFF_MAX - 2 * BP_ALIGN - need) {
        *total = SIZE_MAX;
        return 0;
    }
    *total = at + (need + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
    return at;
}

/* When a buffer's values are needed: from the first item that touches it to the last. */
typedef struct {
    int first, last; /* items; last is INT32_MAX for sums and beyond */
    int holder;      /* the buffer in whose place it lies, for good: itself, or that of delta */
} bp_life;

static void touch(bp_life *lives, int buffer, int item) {
    if (buffer < 0) return;
    bp_life *life = &lives[lives[buffer].holder];
    if (item < life->first) life->first = item;
    if (item > life->last) life->last = item;
}

/* What an operation's forward or backward, or its parameters' gradients, read and write at an item; values of forward
 * serve all cotangents. */
static void touch_op(const bp_plan *plan, bp_life *lives, const bp_op *op, bp_item_kind kind, int item) {
    int ignores = kind == BP_BACKWARD && !(plan->cotangents && op->type->backward_first) ? op->type->ignores : 0;
    int last = kind != BP_FORWARD && plan->cotangents ? plan->n_items - 1 : item;
    for (int j = 0; j < op->n_in; j++) {
        if (!(ignores & BP_IGNORES_IN)) touch(lives, op->in[j], last);
        if (kind == BP_BACKWARD) touch(lives, plan->buffers[op->in[j]].grad, item);
    }
    int out_ignored = kind == BP_PARAM_GRADS ? op->type->ignores & BP_GRAD_IGNORES_OUT : ignores & BP_IGNORES_OUT;
    if (!out_ignored) touch(lives, op->out, last);
    for (int j = 0; j < op->n_aux; j++) touch(lives, op->aux + j, last);
    if (kind == BP_FORWARD) touch(lives, op->relu_df, item);
    if (kind == BP_BACKWARD) touch(lives, op->factor_df, last);
    if (kind != BP_FORWARD) touch(lives, plan->buffers[op->out].grad, item);
}

static void touch_gradients(const bp_plan *plan, bp_life *lives, int segment, int item) {
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        if (p->segment != segment || bp_is_frozen(p)) continue;
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next)
            touch_op(plan, lives, &plan->ops[plan->uses[u].op], BP_PARAM_GRADS, item);
    }
}

static void find_lives(const bp_plan *plan, bp_life *lives) {
    for (int i = 0; i < plan->n_buffers; i++) lives[i] = (bp_life){INT32_MAX, -1, i};
    for (int i = plan->n_ops - 1; i >= 0; i--) {
        const bp_op *op = &plan->ops[i];
        int from = plan->buffers[op->out].grad, to = plan->buffers[op->in[0]].grad;
        if (op->type->grad_in_place && from >= 0 && to >= 0 && plan->buffers[op->in[0]].consumers == 1 && !op->add[0])
            lives[to].holder = lives[from].holder;
    }
    for (int i = 0; i < plan->n_ops + plan->n_replicas; i++)
        if (plan->ops[i].fused_forward) lives[plan->ops[i].in[0]].holder = plan->ops[i].out;
    for (int i = 0; i < plan->n_items; i++) {
        const bp_item *item = &plan->items[i];
        const bp_op *op = &plan->ops[item->op];
        if (item->kind == BP_FORWARD || item->kind == BP_BACKWARD) touch_op(plan, lives, op, item->kind, i);
        for (int j = 0; item->kind == BP_SUM_FORWARD && j < op->n_aux; j++) touch(lives, op->aux + j, i);
        if (item->kind == BP_LOSS) {
            const bp_loss *loss = &plan->losses[item->op];
            touch(lives, loss->in, i);
            touch(lives, loss->target, i);
            touch(lives, loss->grad, i);
        }
        if (item->kind == BP_PARAM_GRADS) touch_gradients(plan, lives, item->op, i);
    }
    if (plan->flags & BP_DO_BACKWARD && !plan->shards && !plan->by_tile) touch_gradients(plan, lives, 0, INT32_MAX);
    for (int i = 0; i < plan->n_buffers; i++) {
        const bp_buffer *b = &plan->buffers[i];
        if (b->kept || (b->maker == BP_GATHERED && plan->flags & BP_DO_INPUT_GRAD)) {
            touch(lives, i, INT32_MAX);
            touch(lives, b->grad, INT32_MAX);
        }
        if (b->maker == BP_GATHERED && lives[i].last >= 0) touch(lives, i, 0); /* what is never read has no life */
    }
}

/* Buffers in the order of their first items, and of their numbers; `count` has room for n_items + 2. */
static void sort_by_first(const bp_life *lives, int n, int n_items, int *count, int *order) {
    memset(count, 0, sizeof *count * (size_t)(n_items + 2));
    for (int i = 0; i < n; i++) count[(lives[i].first < n_items ? lives[i].first : n_items) + 1]++;
    for (int i = 0; i < n_items; i++) count[i + 1] += count[i];
    for (int i = 0; i < n; i++) order[count[lives[i].first < n_items ? lives[i].first : n_items]++] = i;
}

/* A place of the arena, which one buffer has after the other. */
typedef struct {
    int last;   /* the buffer that has it last */
    size_t row; /* bytes, of the widest that has it */
} bp_place;

static size_t row_bytes(const bp_plan *plan, const bp_buffer *b) { return bp_row_bytes(b, plan->size); }

/* Finds a place whose last buffer has died: before a barrier, or in the same stage of row tiles with rows of the same
 * size, so that a row's task alone touches both.  The smallest that is wide enough; else the widest, which will be
 * widened.  Only the SEARCHED youngest places are looked at. */
static int find_place(const bp_plan *plan, const bp_life *lives, const bp_place *places, int n_places, int buffer) {
    size_t row = row_bytes(plan, &plan->buffers[buffer]);
    int stage = plan->items[lives[buffer].first].stage, best = -1;
    for (int i = n_places - 1; i >= 0 && i >= n_places - SEARCHED; i--) {
        const bp_place *place = &places[i];
        int last = lives[place->last].last;
        if (last < 0 || last >= lives[buffer].first) continue;
        if (plan->items[last].stage == stage && (row_bytes(plan, &plan->buffers[place->last]) != row ||
                                                 plan->stages[stage].scope != BP_SCOPE_ROWS))
            continue;
        size_t other = best < 0 ? 0 : places[best].row;
        if (other < row ? place->row > other : place->row >= row && place->row < other) best = i;
    }
    return best;
}

static bp_status place_buffers(bp_plan *plan, size_t *total, int64_t capacity) {
    int n = plan->n_buffers, n_places = 0;
    bp_life *lives = malloc(sizeof *lives * (size_t)(n + 1));
    bp_place *places = malloc(sizeof *places * (size_t)(n + 1));
    int *place_of = malloc(sizeof *place_of * (size_t)(n + 1)); /* by buffer that is its own holder */
    int *order = malloc(sizeof *order * (size_t)(n + 1)), *count = malloc(sizeof *count * (size_t)(plan->n_items + 2));
    bp_status status = lives && places && place_of && order && count ? BP_OK : BP_E_NOMEM;
    size_t apart = 0;
    if (!status) {
        find_lives(plan, lives);
        sort_by_first(lives, n, plan->n_items, count, order);
    }
    for (int k = 0; k < n && !status; k++) {
        int i = order[k];
        size_t row = row_bytes(plan, &plan->buffers[i]);
        if (lives[i].holder != i) continue;
        take(&apart, capacity, row);
        /* the weights of rows have no life here, nor a gradient that no item touches a first item */
        int shares = plan->flags & BP_DO_REUSE && lives[i].last >= 0 && lives[i].first < plan->n_items;
        int place = shares ? find_place(plan, lives, places, n_places, i) : -1;
        if (place < 0) places[place = n_places++] = (bp_place){i, row};
        if (row > places[place].row) places[place].row = row;
        places[place].last = i;
        place_of[i] = place;
    }
    for (int i = 0; i < n_places && !status; i++) {
        size_t at = take(total, capacity, places[i].row);
        places[i].row = at;
    }
    for (int i = 0; i < n && !status; i++) plan->buffers[i].offset = places[place_of[lives[i].holder]].row;
    plan->unshared_bytes = apart;
    free(lives);
    free(places);
    free(place_of);
    free(order);
    free(count);
    return status;
}

bp_status bp_lay_out(bp_plan *plan) {
    size_t total = 0;
    bp_status status =
        place_buffers(plan, &total, plan->windowed ? plan->row_tile * plan->n_threads : plan->chunk_rows);
    if (status) return status;
    size_t buffers = total;
    plan->loss_sums = take(&total, plan->n_losses * plan->n_tiles, 3 * sizeof(double));
    int64_t n_sums = 0;
    for (int i = 0; i < plan->n_ops && plan->of_batch; i++) {
        bp_op *op = &plan->ops[i];
        if (!op->of_batch) continue;
        op->joined = take(&total, op->n_joined, sizeof(double));
        n_sums = max64(n_sums, op->n_sums);
    }
    plan->tile_sums = take(&total, plan->n_tiles, (size_t)n_sums * sizeof(double));
    size_t theta = (size_t)plan->n_theta * plan->size;
    if (plan->flags & BP_DO_EACH && plan->keeps_lost) plan->each_lost = take(&total, plan->n_threads, theta);
    if (plan->flags & BP_DO_BACKWARD && !plan->by_tile) {
        plan->scratch_bytes = ((size_t)plan->scratch_size * plan->size + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
        plan->lost[BP_HOME_SCRATCH] = plan->scratch_bytes;
        if (plan->keeps_lost) plan->scratch_bytes *= 2;
        plan->scratch = take(&total, plan->n_threads, plan->scratch_bytes);
        if (plan->shards) {
            plan->shard_grads = take(&total, plan->shards, theta);
            plan->lost[BP_HOME_SHARDS] = total - plan->shard_grads;
            if (plan->keeps_lost) take(&total, plan->shards, theta);
        }
        plan->kept_from = plan->n_theta;
        for (int i = 0; i < plan->n_blocks; i++)
            if (plan->blocks[i].home == BP_HOME_KEPT) plan->kept_from = min64(plan->kept_from, plan->blocks[i].at);
        if (plan->flags & BP_DO_BOUNDARY && !plan->shards) plan->kept_from = 0; /* the hook sees all of theta */
        plan->kept_grads = take(&total, plan->n_theta - plan->kept_from, plan->size);
        plan->lost[BP_HOME_KEPT] = total - plan->kept_grads;
        if (plan->keeps_lost) take(&total, plan->n_theta - plan->kept_from, plan->size);
        if (plan->undoes) plan->undo = take(&total, plan->n_theta, plan->size);
        if (plan->flags & BP_DO_BOUNDARY) plan->squares = take(&total, plan->n_blocks + 1, sizeof(double));
        int64_t tasks = plan->n_blocks + 1;
        for (int i = 0; i < plan->n_tables; i++) tasks += ceil_div(plan->tables[i].most, BP_TABLE_ROWS);
        if (plan->flags & BP_DO_PENALTY) plan->penalties = take(&total, tasks, sizeof(double));
    }
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_BACKWARD; i++) {
        bp_op *op = &plan->ops[i];
        if (op->columns >= 0) op->slot_of = take(&total, plan->buffers[op->in[0]].cols, sizeof(int32_t));
    }
    for (int i = 0; i < plan->n_tables; i++) {
        bp_table *t = &plan->tables[i];
        const bp_param *p = &plan->params[t->param];
        if (t->columns >= 0) continue;
        t->slot_of = take(&total, p->rows, sizeof(int32_t));
        t->row = take(&total, t->most, sizeof(int32_t));
        t->first = take(&total, t->most, sizeof(int32_t));
        t->last = take(&total, t->most, sizeof(int32_t));
        t->next = take(&total, t->calls, sizeof(int32_t));
        if (t->keeps) t->grad = take(&total, t->most, (size_t)p->cols * plan->size);
        if (t->keeps && plan->keeps_lost) t->lost = take(&total, t->most, (size_t)p->cols * plan->size);
    }
    if (total == SIZE_MAX) return BP_E_LIMIT;
    plan->arena_bytes = total;
    plan->unshared_bytes += total - buffers;
    return BP_OK;
}

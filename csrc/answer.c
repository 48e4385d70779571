/* Answers without a run: a compiled plan and its parameters are only read, so that many callers may share them, each
 * with an arena of its own. */
#include "data.h"
#include "plan.h"
#include "pool.h"

#include <string.h>

enum {
    MAX_MOVED = 32,         /* buffers of a plan whose inputs are read in place */
    READING_ROWS = 4,       /* fewer take as long: the weights are read */
    SHARED_WEIGHTS = 1 << 17 /* of a product that threads share: 1 us */
};
/* Fewer are done by the caller alone; of a single tile 40 us, since a thread that sleeps comes 20 us late. */
static const double SERIAL_FLOPS = 1e6, TOGETHER_FLOPS = 2e6 * READING_ROWS;

typedef struct {
    const bp_plan *plan;
    bp_context x;
    int n_in, n_out;
    const bp_in_port *in;
    const bp_out_port *out;
    int64_t rows, tile;
    atomic_llong next;  /* tile of rows */
    atomic_int failure; /* bp_status of a tile, or BP_OK */
    int together;       /* so many threads share the only tile: columns of large products; the first does the rest */
    bp_barrier *meeting; /* of these */
} answer;

/* By products, which read no further than the last row. */
static int in_place(const bp_plan *plan, const bp_in_port *port) {
    for (int i = 0; i < plan->n_ops; i++)
        for (int j = 0; j < plan->ops[i].n_in; j++)
            if (plan->ops[i].in[j] == port->buffer && !plan->ops[i].n_params) return 0;
    return plan->n_buffers <= MAX_MOVED && bp_lies_as_held(&port->array, &plan->buffers[port->buffer], plan->dtype);
}

static int is_shared(const bp_plan *plan, const bp_op *op) {
    const bp_param *W = op->n_params ? &plan->params[op->param[0]] : NULL;
    if (!W || !W->strips || op->scope != BP_SCOPE_CELLS) return 0;
    return W->rows * W->cols >= SHARED_WEIGHTS || bp_forced.parallel_always;
}

static void meet(answer *a) {
    if (bp_barrier_arrive(a->meeting)) bp_barrier_release(a->meeting);
}

/* Forward on the rows at `at`; threads that share them walk side by side, also where the first fails. */
static inline bp_status walk(answer *a, const bp_context *x, int64_t first, int64_t at, int64_t rows, int thread) {
    const bp_plan *plan = a->plan;
    bp_status status = BP_OK;
    for (int i = 0, met = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        if (op->fused_forward) continue;
        bp_cell cell = {.r0 = at, .r1 = at + rows, .c1 = plan->buffers[op->out].cols, .row = first};
        int shared = a->together && is_shared(plan, op);
        if (shared) {
            int64_t strip = BP_STRIP_BYTES / (int64_t)plan->size, strips = (cell.c1 + strip - 1) / strip;
            cell.c0 = strips * thread / a->together * strip;
            cell.c1 = min64(strips * (thread + 1) / a->together * strip, cell.c1);
            if (!met) meet(a);
        } else if (thread && a->together) {
            met = 0;
            continue;
        }
        if (!status) status = op->type->forward[plan->dtype](x, op, &cell);
        if (shared) meet(a);
        else if (status && !a->together) break;
        met = shared;
    }
    return status;
}

static void answer_tile(answer *a, int64_t first, int64_t rows, int thread) {
    const bp_plan *plan = a->plan;
    bp_context x = a->x;
    bp_buffer buffers[MAX_MOVED];
    int64_t at = a->together ? 0 : thread * plan->row_tile;
    for (int i = 0; i < a->n_in; i++) {
        const bp_in_port *port = &a->in[i];
        const bp_buffer *b = &plan->buffers[port->buffer];
        if (in_place(plan, port)) {
            if (x.buffers != buffers) memcpy(buffers, plan->buffers, (size_t)plan->n_buffers * sizeof *buffers);
            size_t ahead = (uintptr_t)port->array.data - (uintptr_t)x.arena;
            buffers[port->buffer].offset = ahead + (size_t)((first - at) * b->cols) * plan->size;
            x.buffers = buffers;
        } else if (!thread || !a->together) {
            char *to = x.arena + b->offset + (size_t)at * bp_row_bytes(b, plan->size);
            bp_gather(&port->array, NULL, first, rows, b, plan->dtype, to);
        }
    }
    bp_status status = walk(a, &x, first, at, rows, thread);
    if (status) atomic_store_explicit(&a->failure, (int)status, memory_order_relaxed);
    if (status || (thread && a->together)) return;
    for (int i = 0; i < a->n_out; i++) {
        const bp_out_port *port = &a->out[i];
        size_t row = (size_t)plan->buffers[port->buffer].cols * plan->size;
        bp_give(port, plan->buffers[port->buffer].cols, plan->dtype, bp_at(&x, port->buffer, at, plan->size), rows,
                (char *)port->data + (size_t)first * row);
    }
}

static void answer_tiles(void *arg, int thread, int n_threads) {
    answer *a = arg;
    int64_t tile = a->tile, first;
    (void)n_threads;
    if (a->together) {
        answer_tile(a, 0, a->rows, thread);
        return;
    }
    while ((first = tile * atomic_fetch_add_explicit(&a->next, 1, memory_order_relaxed)) < a->rows)
        answer_tile(a, first, a->rows - first < tile ? a->rows - first : tile, thread);
}

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    answer *a = arg;
    if (n_threads == 1) a->together = 0;
    if (a->together) bp_barrier_init(a->meeting, a->together = n_threads);
    a->x.caller_fpenv = caller;
}

_Static_assert(2 * BP_LEAST_TILE >= BP_INFER_TILE, "rows that two threads share have room in their windows");
bp_status bp_answer(const bp_plan *plan, const void *theta, const void *state, void *arena, int n_in,
                    const bp_in_port *in, int n_out, const bp_out_port *out, int n_threads) {
    if (!plan->compiled || !plan->windowed || plan->flags & ~(BP_DO_FORWARD | BP_DO_REUSE | BP_DO_STRIPS))
        return BP_E_SHAPE;
    bp_barrier meeting;
    answer a = {.plan = plan,
                .x = {.buffers = plan->buffers,
                      .params = plan->params,
                      .arena = arena,
                      .theta = theta,
                      .state = state,
                      .weights = -1},
                .n_in = n_in,
                .n_out = n_out,
                .in = in,
                .out = out,
                .rows = in[0].array.rows,
                .meeting = &meeting};
    if (n_threads > plan->n_threads) n_threads = plan->n_threads;
    int single = a.rows <= BP_INFER_TILE;
    double flops = plan->flops_row * (double)(single && a.rows < READING_ROWS ? READING_ROWS : a.rows);
    if (flops < (single ? TOGETHER_FLOPS : SERIAL_FLOPS) && !bp_forced.parallel_always) n_threads = 1;
    for (int i = 0; i < plan->n_ops && single && n_threads > 1; i++) a.together |= is_shared(plan, &plan->ops[i]);
    if (single && !a.together) n_threads = 1;
    a.tile = bp_infer_tile(plan, a.rows, n_threads);
    bp_pool_run(n_threads, answer_tiles, prepare, &a);
    if (a.together) bp_barrier_destroy(&meeting);
    return (bp_status)atomic_load(&a.failure);
}

/* Answers of networks side by side: members of an ensemble that have one plan, each in a lane of the vectors.  Their
 * parameters are packed when they are set, [group][element][lane], and from then on only read: any number of calls may
 * share them, each with an arena of its own.  An element's sums are those that the member makes alone. */
#include "data.h"
#include "dispatch.h"
#include "lanes.h"
#include "ops.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

enum {
    MANY_ROWS = 16,            /* of a call: less is spared than of a few */
    TINY_THETA = 256,          /* parameters: lanes gain, the calls of so small a network cost more than it does */
    SMALL_THETA = 2560,        /* where enough of them are in use */
    MOST_THETA = 5120,         /* where nearly all are, and rows are few */
    TILE_BYTES = 1 << 16,      /* of what a layer reads or writes for the rows of a tile, about */
    MIN_TILE = 4,              /* rows: of a tile of the product */
    MAX_TILE = 32
};
static const double SERIAL_FLOPS = 1e6; /* fewer are done by the caller alone */

struct bp_members {
    const bp_plan *plan;
    bp_dtype dtype;
    size_t size, vector; /* bytes */
    int in, lanes, n_layers;
    int64_t n, n_groups, n_in, n_out;
    bp_lane_layer layers[BP_LANE_LAYERS];
    int has_softmax;
    bp_op softmax;       /* behind them */
    char *packed;        /* (n_groups, n_theta) vectors */
    char *own;           /* of the group that is being set, (lanes, theta_ld) */
    int64_t theta_ld;
    int64_t tile, ld;    /* rows of a tile; elements from one member's answers to the next's */
    /* a thread's part of the arena: its bytes, and offsets in it */
    size_t bytes, x, own_x, layer[2], answers, sums, first;
};

typedef struct {
    const bp_members *members;
    char *arena;
    const bp_array *x;
    int64_t first, end; /* rows */
    char *mean, *spread;
    atomic_llong next;  /* tile of them */
    atomic_int failure; /* bp_status of a tile, or BP_OK */
} call;

/* ---- made once ---- */

/* A chain of dense layers up to `out`, with a softmax behind it or not. */
static int find_chain(bp_members *m, int out) {
    const bp_op *last = bp_maker_of(m->plan, out);
    if (!last || m->plan->buffers[out].consumers) return 0;
    m->has_softmax = last->type == bp_op_find("softmax");
    if (m->has_softmax) m->softmax = *last;
    m->n_layers = bp_lane_chain(m->plan, m->has_softmax ? last->in[0] : out, m->layers);
    return m->n_layers > 0;
}

static size_t take(size_t *used, size_t bytes) {
    size_t at = *used;
    *used += (bytes + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
    return at;
}

static void lay_out(bp_members *m) {
    int64_t widest = m->n_in;
    for (int i = 0; i < m->n_layers; i++) widest = max64(widest, m->layers[i].n_out);
    m->tile = TILE_BYTES / (widest * (int64_t)m->vector) / MIN_TILE * MIN_TILE;
    m->tile = max64(MIN_TILE, min64(m->tile, MAX_TILE));
    int64_t cells = m->tile * m->n_out;
    size_t behind = (size_t)m->lanes * m->vector; /* which `separate` overwrites */
    m->own_x = take(&m->bytes, (size_t)(m->tile * m->n_in) * m->size + BP_ALIGN);
    m->x = take(&m->bytes, (size_t)(m->tile * m->n_in) * m->vector);
    for (int i = 0; i < 2; i++) m->layer[i] = take(&m->bytes, (size_t)(m->tile * widest) * m->vector + behind);
    m->answers = take(&m->bytes, 2 * ((size_t)cells * m->vector + behind));
    m->sums = take(&m->bytes, (size_t)(3 * cells) * sizeof(double));
    m->first = take(&m->bytes, (size_t)cells * m->size);
}

/* Of a vector's lanes, in eighths, how many are in use, and how many must be. */
static int gains(const bp_plan *plan, int64_t n, int64_t rows) {
    int64_t lanes = bp_active->vector_bytes / (int64_t)plan->size, filled = 8 * n / round_up(n, lanes);
    int few = rows < MANY_ROWS;
    if (plan->n_theta <= TINY_THETA) return few || filled >= 3;
    if (plan->n_theta <= SMALL_THETA) return filled >= (few ? 2 : 6);
    return few && plan->n_theta <= MOST_THETA && filled >= 6;
}

bp_status bp_members_new(const bp_plan *plan, int out, int64_t n, int64_t rows, bp_members **members) {
    *members = NULL;
    if (!plan->compiled || !plan->inference || !plan->n_ops || !gains(plan, n, rows)) return BP_OK;
    bp_members *m = calloc(1, sizeof *m);
    if (!m) return BP_E_NOMEM;
    *m = (bp_members){.plan = plan, .dtype = plan->dtype, .size = plan->size, .n = n, .in = plan->ops[0].in[0],
                      .vector = (size_t)bp_active->vector_bytes, .n_out = plan->buffers[out].cols};
    if (!find_chain(m, out)) {
        free(m);
        return BP_OK;
    }
    m->lanes = bp_active->vector_bytes / (int)plan->size;
    m->n_groups = ceil_div(n, m->lanes);
    m->n_in = plan->buffers[m->in].cols;
    m->theta_ld = round_up(plan->n_theta, m->lanes);
    lay_out(m);
    m->packed = bp_large_alloc((size_t)(m->n_groups * plan->n_theta + m->lanes) * m->vector);
    m->own = bp_large_alloc((size_t)m->theta_ld * m->vector);
    if (!m->packed || !m->own) {
        bp_members_free(m);
        return BP_E_NOMEM;
    }
    memset(m->own, 0, (size_t)m->theta_ld * m->vector);
    *members = m;
    return BP_OK;
}

void bp_members_free(bp_members *m) {
    if (!m) return;
    free(m->packed);
    free(m->own);
    free(m);
}

void bp_members_set(bp_members *m, int64_t member, const void *theta) {
    int64_t n_theta = m->plan->n_theta, lane = member % m->lanes;
    memcpy(m->own + (size_t)(lane * m->theta_ld) * m->size, theta, (size_t)n_theta * m->size);
    if (lane + 1 < m->lanes && member + 1 < m->n) return;
    char *to = m->packed + (size_t)(member / m->lanes * n_theta) * m->vector;
    bp_active->interleave[m->dtype](m->own, m->theta_ld, n_theta, to);
}

size_t bp_members_arena(const bp_members *m, int n_threads) { return m->bytes * (size_t)n_threads; }

/* ---- calls ---- */

/* f of the chain's last layer for a group of members; vectors (rows, n_out), in one of the arena's two places. */
static char *go_forward(const bp_members *m, const char *theta, char *arena, int64_t rows) {
    char *a = arena + m->x;
    int place = 0;
    for (int i = 0; i < m->n_layers; i++) {
        const bp_lane_layer *l = &m->layers[i];
        char *z = arena + m->layer[place];
        bp_active->lane_product[m->dtype](&(bp_lane_product){
            .m = rows, .n = l->n_out, .k = l->n_in, .A = a, .a_row = l->n_in, .a_col = 1,
            .B = theta + (size_t)l->W * m->vector, .b_row = l->n_out, .b_col = 1,
            .bias = l->b < 0 ? NULL : theta + (size_t)l->b * m->vector, .C = z, .ldc = l->n_out});
        a = z;
        place = !place;
        if (!l->f) continue;
        a = arena + m->layer[place];
        l->f->fn[m->dtype](z, a, NULL, rows * l->n_out * m->lanes);
        place = !place;
    }
    return a;
}

/* Rows of answers, one after the other: of all members at once, where they lie without gaps. */
static bp_status find_softmax(const bp_members *m, char *z, char *a, int64_t rows, int64_t ld, int64_t n) {
    int together = ld == rows * m->n_out;
    bp_buffer ends[2] = {{.cols = m->n_out}, {.cols = m->n_out, .offset = (size_t)(a - z)}};
    bp_op op = m->softmax;
    op.in[0] = 0;
    op.out = 1;
    bp_status status = BP_OK;
    for (int64_t l = 0; l < (together ? 1 : n) && !status; l++) {
        bp_context x = {.buffers = ends, .arena = z + (size_t)(l * ld) * m->size};
        bp_cell cell = {.r1 = together ? n * rows : rows, .c1 = m->n_out};
        status = op.type->forward[m->dtype](&x, &op, &cell);
    }
    return status;
}

static bp_status answer_tile(const call *c, int64_t first, int64_t rows, char *arena) {
    const bp_members *m = c->members;
    int64_t cells = rows * m->n_out, ld = cells <= m->lanes ? cells : round_up(cells, m->lanes);
    char *own = arena + m->answers, *other = own + (size_t)(m->lanes * ld) * m->size + BP_ALIGN;
    double *sums = (double *)(void *)(arena + m->sums);
    memset(sums, 0, (size_t)(3 * cells) * sizeof *sums);
    bp_gather(c->x, NULL, first, rows, &m->plan->buffers[m->in], m->dtype, arena + m->own_x);
    bp_active->broadcast[m->dtype](arena + m->own_x, rows * m->n_in, arena + m->x);
    for (int64_t g = 0; g < m->n_groups; g++) {
        const char *theta = m->packed + (size_t)(g * m->plan->n_theta) * m->vector, *answers = own;
        int64_t n = min64(m->lanes, m->n - g * m->lanes);
        bp_active->separate[m->dtype](go_forward(m, theta, arena, rows), cells, own, ld);
        if (m->has_softmax) {
            bp_status status = find_softmax(m, own, other, rows, ld, n);
            if (status) return status;
            answers = other;
        }
        if (!g) memcpy(arena + m->first, answers, (size_t)cells * m->size);
        bp_active->add_answers[m->dtype](answers, ld, n, cells, c->spread ? arena + m->first : NULL, sums);
    }
    size_t at = (size_t)(first * m->n_out) * m->size;
    bp_active->finish_answers[m->dtype](sums, m->n, cells, c->mean + at, c->spread ? c->spread + at : NULL);
    return BP_OK;
}

static void answer_tiles(void *arg, int thread, int n_threads) {
    call *c = arg;
    const bp_members *m = c->members;
    char *arena = c->arena + (size_t)thread * m->bytes;
    int64_t first;
    (void)n_threads;
    while ((first = c->first + m->tile * atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed)) < c->end) {
        bp_status status = answer_tile(c, first, min64(m->tile, c->end - first), arena);
        if (status) atomic_store_explicit(&c->failure, (int)status, memory_order_relaxed);
    }
}

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    (void)arg, (void)n_threads, (void)caller;
}

bp_status bp_members_answer(const bp_members *m, void *arena, const bp_array *x, int64_t first, int64_t end, void *mean,
                            void *spread, int n_threads) {
    call c = {.members = m, .arena = arena, .x = x, .first = first, .end = end, .mean = mean, .spread = spread};
    double flops = m->plan->flops_row * (double)((end - first) * m->n);
    if (flops < SERIAL_FLOPS && !bp_forced.parallel_always) n_threads = 1;
    bp_pool_run(n_threads, answer_tiles, prepare, &c);
    return (bp_status)atomic_load(&c.failure);
}

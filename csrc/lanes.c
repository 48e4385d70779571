/* Small networks side by side.  A network of a few weights fills no vector, and calls cost it more than products do;
 * several of one plan, at one place of their epochs, fill whole vectors: every operation is elementwise over networks,
 * and an element's sums are those that the network makes alone.  Each has its own theta, state, order and numbers.
 *
 * What is odd is left to the run: its theta and state are those of its last slice until a slice of the group has ended
 * well, and a network whose loss or parameters are not finite by then makes these steps again, alone. */
#include "lanes.h"

#include "dispatch.h"
#include "epoch.h"
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_THETA = 2560,         /* parameters of a network: those of all lanes stay in L2 */
    MAX_ROWS = 512,           /* of a batch */
    TINY_WORK = 500,          /* parameters times rows of a step: beside one alone, full lanes are 4 times as fast */
    LITTLE_WORK = 2500,       /* 2 times */
    SMALL_WORK = 20000,       /* 1.5 times */
    WIDE_LANES = 16,          /* where there are so many, also larger steps gain */
    TILE_BYTES = 1 << 15,     /* of what is gathered at once, about */
    ROWS_AT_ONCE = 8,         /* that go forward and back while they are in L1 */
    CLOCK_WORK = 50000        /* products of networks between two looks at the clock, about */
};

/* ---- which runs ---- */

int bp_lane_chain(const bp_plan *plan, int end, bp_lane_layer layers[BP_LANE_LAYERS]) {
    const bp_op_type *dense = bp_op_find("dense"), *activation = bp_op_find("activation");
    int n = 0, at = plan->n_ops ? plan->ops[0].in[0] : -1;
    for (int i = 0; i < plan->n_ops && at != end; i++) {
        const bp_op *op = &plan->ops[i];
        if (op->skip || op->in[0] != at || plan->buffers[op->out].consumers > 1) return 0;
        at = op->out;
        if (op->type == activation && n && !layers[n - 1].f) {
            layers[n - 1].f = op->detail;
            continue;
        }
        if (op->type != dense || op->positions != 1 || !op->native || n == BP_LANE_LAYERS) return 0;
        const bp_param *W = &plan->params[op->param[0]];
        int64_t b = op->n_params > 1 ? plan->params[op->param[1]].offset : -1;
        layers[n++] = (bp_lane_layer){.n_in = W->rows, .n_out = W->cols, .W = W->offset, .b = b};
    }
    return at == end ? n : 0;
}

/* The one rule over shapes: chains of few weights, whose gradients are summed and moved at once. */
static int fits(const bp_plan *plan) {
    int flags = BP_DO_MOVE | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD;
    int without = BP_DO_BOUNDARY | BP_DO_AVERAGE | BP_DO_PENALTY;
    if ((plan->flags & (flags | without)) != flags || plan->n_losses != 1) return 0;
    if (plan->n_theta > MAX_THETA || plan->rows > min64(plan->chunk_rows, MAX_ROWS)) return 0;
    if (plan->n_tables || plan->by_part || plan->undoes || plan->n_waiting || plan->n_replicas || plan->keeps_lost ||
        plan->n_norms)
        return 0;
    if (plan->row_tile > BP_LANE_CHAIN || (plan->shards && plan->n_tiles > plan->shards)) return 0;
    const bp_loss *loss = &plan->losses[0];
    if (!loss->type || loss->weight != 1 || loss->call.positions != 1) return 0;
    for (int i = 0; i < plan->n_blocks; i++)
        if (plan->blocks[i].home != BP_HOME_SCRATCH && plan->blocks[i].home != BP_HOME_SHARDS) return 0;
    for (int i = 0; i < plan->n_params; i++)
        if (plan->params[i].first_use < 0 || plan->params[i].first_use != plan->params[i].last_use) return 0;
    return bp_lane_chain(plan, loss->in, (bp_lane_layer[BP_LANE_LAYERS]){0}) > 0;
}

/* The number of the port that feeds a buffer, or -1. */
static int port_of(const bp_run *run, int buffer) {
    for (int i = 0; i < run->n_in; i++)
        if (run->in[i].buffer == buffer) return i;
    return -1;
}

/* Whether a run's ports and place allow it. */
static int is_ready(const bp_run *run) {
    const bp_plan *plan = run->plan;
    int between_steps = run->phase == BP_ROWS && !run->off && !run->stage && !run->round && run->replay_left < 0;
    if (!bp_moves(run) || run->opt.rule->by_cost || run->hook || run->partner || run->batch_losses) return 0;
    if (!between_steps) return 0;
    if (run->n_in != 2 + (run->weight_port >= 0)) return 0;
    if (run->weight_port >= 0 && plan->buffers[run->in[run->weight_port].buffer].cols != 1) return 0;
    for (int i = 0; i < run->n_in; i++)
        if (run->repeat[i]) return 0;
    return port_of(run, plan->ops[0].in[0]) >= 0 && port_of(run, plan->losses[0].target) >= 0;
}

/* The smaller a step, the more of it is spared: the more lanes may be empty. */
bp_lane_range bp_lanes_of(const bp_run *run) {
    const bp_plan *plan = run->plan;
    int most = bp_active->vector_bytes / (int)plan->size;
    int64_t work = plan->n_theta * min64(run->batch, run->n);
    if ((work > SMALL_WORK && most < WIDE_LANES) || !fits(plan) || !is_ready(run)) return (bp_lane_range){0, 0};
    int eighths = work <= TINY_WORK ? 2 : work <= LITTLE_WORK ? 4 : work <= SMALL_WORK ? 6 : 7;
    return (bp_lane_range){(most * eighths + 7) / 8 > 2 ? (most * eighths + 7) / 8 : 2, most};
}

int bp_lanes_alike(const bp_run *a, const bp_run *b) {
    int alike = a->plan == b->plan && a->n == b->n && a->batch == b->batch && a->at.pos == b->at.pos;
    alike = alike && a->opt.rule == b->opt.rule && (a->weight_port < 0) == (b->weight_port < 0);
    for (int i = 0; i < BP_MAX_STATES; i++) alike = alike && !a->opt.state[i] == !b->opt.state[i];
    return alike;
}

/* ---- a group ---- */

/* Room for n elements of each network in one array of vectors, and what `interleave` overwrites behind it. */
static size_t vectors(const bp_lanes *g, int64_t n) { return (size_t)(n + g->lanes) * g->vector; }

/* Takes `bytes` of the memory; where there is none yet, counts them. */
static char *take(char *memory, size_t *used, size_t bytes) {
    char *at = memory ? memory + *used : NULL;
    *used += (bytes + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
    return at;
}

/* Shares the memory out; returns how much it takes. */
static size_t lay_out(bp_lanes *g) {
    const bp_plan *plan = g->plan;
    char *memory = g->memory;
    size_t used = 0;
    for (int k = 0; k < g->n_arrays; k++) {
        g->own[k] = take(memory, &used, (size_t)(g->lanes * g->theta_ld) * g->size);
        g->live[k] = take(memory, &used, vectors(g, plan->n_theta));
    }
    g->G = take(memory, &used, vectors(g, plan->n_theta));
    g->own_G = take(memory, &used, (size_t)(g->lanes * g->theta_ld) * g->size);
    g->shard = plan->shards > 1 ? take(memory, &used, vectors(g, plan->n_theta)) : NULL;
    g->totals = (double *)(void *)take(memory, &used, vectors(g, plan->n_theta) * (sizeof(double) / g->size));
    for (int i = 0; i < BP_LANE_PORTS; i++) {
        bp_lane_port *p = &g->ports[i];
        p->ld = round_up(g->window * p->cols, g->lanes) + g->lanes;
        p->own = take(memory, &used, (size_t)(g->lanes * p->ld) * g->size);
        p->vectors = take(memory, &used, vectors(g, g->window * p->cols));
    }
    for (int i = 0; i < g->n_layers; i++) {
        bp_lane_layer *l = &g->layers[i];
        size_t bytes = vectors(g, g->at_once * l->n_out);
        l->z = l->a = take(memory, &used, bytes);
        l->delta = take(memory, &used, bytes);
        if (!l->f) continue;
        l->a = take(memory, &used, bytes);
        l->df = take(memory, &used, bytes);
    }
    g->out_ld = round_up(g->at_once * g->layers[g->n_layers - 1].n_out, g->lanes) + BP_ALIGN / (int64_t)g->size;
    g->own_out = take(memory, &used, g->lane_loss ? 0 : (size_t)(g->lanes * g->out_ld) * g->size);
    g->own_grad = take(memory, &used, g->lane_loss ? 0 : (size_t)(g->lanes * g->out_ld) * g->size);
    return used;
}

static void find_stretches(bp_lanes *g) {
    const bp_plan *plan = g->plan;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        bp_lane_stretch *last = g->n_stretches ? &g->stretches[g->n_stretches - 1] : NULL;
        if (bp_is_frozen(p)) continue;
        int joins = last && last->at + last->n == p->offset && last->rate == p->rate && last->decay == p->decay;
        if (joins) last->n += p->rows * p->cols;
        else g->stretches[g->n_stretches++] = (bp_lane_stretch){p->offset, p->rows * p->cols, p->rate, p->decay};
    }
}

/* Whether all networks read the same rows of a port. */
static int is_shared(const bp_lanes *g, int number) {
    const bp_run *first = g->run[0];
    for (int l = 1; l < g->n; l++) {
        const bp_array *a = &first->in[number].array, *b = &g->run[l]->in[number].array;
        if (g->run[l]->order != first->order || a->data != b->data || a->indices != b->indices) return 0;
        if (a->row_stride != b->row_stride || a->col_stride != b->col_stride || a->type != b->type) return 0;
        if (a->n_outer || b->n_outer || a->indptr != b->indptr || a->swapped != b->swapped) return 0;
        if (a->shift != b->shift || a->factor != b->factor) return 0;
    }
    return 1;
}

static bp_lane_loss_fn *lane_loss_of(const bp_loss *loss, bp_dtype dtype) {
    if (loss->call.n_numbers || loss->call.cols > BP_LANE_LOSS_COLS) return NULL;
    for (int i = 0; bp_active->lane_losses[i].name; i++)
        if (!strcmp(bp_active->lane_losses[i].name, loss->type->name))
            return bp_active->lane_losses[i].fused == loss->fused ? bp_active->lane_losses[i].fn[dtype] : NULL;
    return NULL;
}

/* A network's theta and states to its place, or back. */
static void copy_own(bp_lanes *g, int l, int back) {
    size_t bytes = (size_t)g->plan->n_theta * g->size;
    for (int k = 0; k < g->n_arrays; k++) {
        char *own = g->own[k] + (size_t)(l * g->theta_ld) * g->size;
        memcpy(back ? g->run[l]->live[k] : own, back ? own : g->run[l]->live[k], bytes);
    }
}

bp_lanes *bp_lanes_new(bp_run *const *runs, int n) {
    const bp_run *first = runs[0];
    const bp_plan *plan = first->plan;
    bp_lanes *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->plan = plan;
    g->dtype = plan->dtype;
    g->size = plan->size;
    g->vector = (size_t)bp_active->vector_bytes;
    g->n = n;
    g->lanes = bp_active->vector_bytes / (int)plan->size;
    for (int l = 0; l < g->lanes; l++) g->run[l] = runs[l < n ? l : 0];
    g->loss = &plan->losses[0];
    g->lane_loss = lane_loss_of(g->loss, g->dtype);
    g->n_layers = bp_lane_chain(plan, g->loss->in, g->layers);
    g->n_arrays = first->n_live;
    for (int i = 0, k = 1; i < BP_MAX_STATES; i++) g->state_of[i] = first->opt.state[i] ? k++ : 0;
    g->theta_ld = round_up(plan->n_theta, g->lanes);
    g->at_once = g->lane_loss ? min64(plan->row_tile, ROWS_AT_ONCE) : plan->row_tile;
    g->at_once = min64(g->at_once, plan->rows);
    const int buffer[BP_LANE_PORTS] = {plan->ops[0].in[0], g->loss->target,
                                 first->weight_port < 0 ? -1 : first->in[first->weight_port].buffer};
    int64_t cols = 0;
    for (int i = 0; i < BP_LANE_PORTS; i++) {
        bp_lane_port *p = &g->ports[i];
        p->number = buffer[i] < 0 ? -1 : port_of(first, buffer[i]);
        if (p->number < 0) continue;
        p->cols = plan->buffers[buffer[i]].cols;
        p->labels = plan->buffers[buffer[i]].kind == BP_INT32;
        p->shared = is_shared(g, p->number);
        cols += p->cols;
    }
    g->window = max64(g->at_once, TILE_BYTES / (cols * (int64_t)g->vector));
    g->stretches = calloc((size_t)plan->n_params + 1, sizeof *g->stretches);
    size_t bytes = lay_out(g);
    g->memory = bp_large_alloc(bytes);
    if (!g->memory || !g->stretches) {
        bp_lanes_free(g);
        return NULL;
    }
    memset(g->memory, 0, bytes);
    lay_out(g);
    find_stretches(g);
    for (int l = 0; l < g->lanes; l++) copy_own(g, l, 0);
    bp_lanes_join(g, 0, g->n_arrays);
    return g;
}

void bp_lanes_free(bp_lanes *g) {
    if (!g) return;
    free(g->stretches);
    free(g->memory);
    free(g);
}

/* ---- slices ---- */

static void begin_slice(bp_lanes *g) {
    int together = 1;
    g->pos = g->run[0]->at.pos;
    g->batches = 0;
    g->first = g->held = 0;
    g->spoilt = g->varies = 0;
    g->weighted = g->ports[BP_LANE_WEIGHT].number >= 0;
    for (int l = 0; l < g->lanes; l++) {
        const bp_run *run = g->run[l];
        const double done[3] = {run->at.done.loss, run->at.done.weight, run->at.done.hits};
        for (int j = 0; j < 3; j++) {
            g->done[j * g->lanes + l] = done[j];
            g->loss_sum[j * g->lanes + l] = run->loss_sum[0][j];
        }
        g->move[l] = run->move;
        g->t[l] = run->at.t;
        g->updates[l] = 0;
        g->varies |= run->varies;
        together &= g->t[l] == g->t[0];
    }
    for (int i = 0; i < BP_LANE_PORTS; i++)
        if (g->ports[i].number >= 0) g->ports[i].shared = is_shared(g, g->ports[i].number);
    for (int l = 1; l < g->n && !g->varies; l++) together &= bp_lanes_same_numbers(&g->move[l], &g->move[0]);
    if (g->apart && together) bp_lanes_join(g, 1, g->n_arrays);
    if (!g->apart && !together) bp_lanes_part(g);
    g->apart = !together;
}

static int is_finite(const bp_lanes *g, int l) {
    for (int k = 0; k < g->n_arrays; k++) {
        const char *own = g->own[k] + (size_t)(l * g->theta_ld) * g->size;
        for (int64_t i = 0; i < g->plan->n_theta; i++) {
            double x = g->dtype == BP_F32 ? (double)((const float *)(const void *)own)[i]
                                          : ((const double *)(const void *)own)[i];
            if (!isfinite(x)) return 0;
        }
    }
    return 1;
}

/* The network's run stands where the group does. */
static void give(bp_lanes *g, int l) {
    bp_run *run = g->run[l];
    copy_own(g, l, 1);
    for (int j = 0; j < 3; j++) run->loss_sum[0][j] = g->loss_sum[j * g->lanes + l];
    run->at.done.loss = g->done[l];
    run->at.done.weight = g->done[g->lanes + l];
    run->at.done.hits = g->done[2 * g->lanes + l];
    run->at.done.steps += g->updates[l];
    run->at.done.rows += g->pos - run->at.pos;
    run->at.done.batch += g->batches;
    run->at.t += g->updates[l];
    run->at.pos = g->pos;
    run->has_snapshot = 0;
    if (g->pos < run->n) bp_set_batch(run);
}

static uint32_t end_slice(bp_lanes *g) {
    uint32_t bad = 0, all = (uint32_t)((1u << g->n) - 1);
    if (!g->apart) bp_lanes_part(g);
    for (int l = 0; l < g->n; l++)
        if (!isfinite(g->done[l]) || (g->spoilt && !is_finite(g, l))) bad |= 1u << l;
    if (g->spoilt && !bad) bad = all;
    for (int l = 0; l < g->n; l++)
        if (!(bad >> l & 1)) give(g, l);
    return bad;
}

uint32_t bp_lanes_slice(bp_lanes *g, double deadline) {
    bp_fpenv caller = bp_fpenv_flush();
    int64_t steps = 1 + CLOCK_WORK / (g->plan->n_theta * min64(g->run[0]->batch, g->run[0]->n)), left = steps;
    begin_slice(g);
    do {
        bp_lanes_step(g);
        if (--left > 0) continue;
        if (bp_now() > deadline) break;
        left = steps;
    } while (g->pos < g->run[0]->n);
    uint32_t bad = end_slice(g);
    bp_fpenv_restore(caller);
    return bad;
}

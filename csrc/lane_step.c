/* Steps of networks side by side: what rows.c, sums.c and moves.c do for one.  Tiles, shards and chains are those of
 * the plan, so that each sum has the terms, and the order, that it has for a network alone. */
#include "lane_step.h"

#include "data.h"
#include "dispatch.h"
#include "moves.h"

#include <float.h>
#include <math.h>
#include <string.h>

void bp_lanes_join(bp_lanes *g, int first, int end) {
    for (int k = first; k < end; k++)
        bp_active->interleave[g->dtype](g->own[k], g->theta_ld, g->plan->n_theta, g->live[k]);
}

void bp_lanes_part(bp_lanes *g) {
    for (int k = 0; k < g->n_arrays; k++)
        bp_active->separate[g->dtype](g->live[k], g->plan->n_theta, g->own[k], g->theta_ld);
}

/* ---- rows ---- */

/* Rows of the epoch from `first` on. */
static void gather(bp_lanes *g, int64_t first) {
    g->first = first;
    g->held = min64(g->window, g->run[0]->n - first);
    for (int i = 0; i < BP_LANE_PORTS; i++) {
        bp_lane_port *p = &g->ports[i];
        int64_t n = g->held * p->cols;
        size_t apart = (size_t)p->ld * (p->labels ? sizeof(int32_t) : g->size);
        if (p->number < 0) continue;
        for (int l = 0; l < (p->shared ? 1 : g->lanes); l++) {
            const bp_in_port *in = &g->run[l]->in[p->number];
            bp_gather(&in->array, g->run[l]->order, first, g->held, &g->plan->buffers[in->buffer], g->dtype,
                      p->own + (size_t)l * apart);
        }
        if (p->labels)
            bp_active->lane_labels[g->dtype]((int32_t *)(void *)p->own, p->shared ? 0 : p->ld, n, p->vectors);
        else if (p->shared) bp_active->broadcast[g->dtype](p->own, n, p->vectors);
        else bp_active->interleave[g->dtype](p->own, p->ld, n, p->vectors);
    }
}

static char *at(const bp_lanes *g, char *vectors_, int64_t element) { return vectors_ + (size_t)element * g->vector; }

static void go_forward(bp_lanes *g, const char *a, int64_t rows) {
    for (int i = 0; i < g->n_layers; i++) {
        const bp_lane_layer *l = &g->layers[i];
        bp_active->lane_product[g->dtype](&(bp_lane_product){
            .m = rows, .n = l->n_out, .k = l->n_in, .A = a, .a_row = l->n_in, .a_col = 1, .B = at(g, g->live[0], l->W),
            .b_row = l->n_out, .b_col = 1, .bias = l->b < 0 ? NULL : at(g, g->live[0], l->b), .C = l->z,
            .ldc = l->n_out, .chains = g->batch_rows == 1 ? BP_LANES_FOUR : BP_LANES_ONE});
        if (l->f) l->f->fn[g->dtype](l->z, l->a, l->df, rows * l->n_out * g->lanes);
        a = l->a;
    }
}

/* A loss that knows no lanes, for one network after the other; from row `first` of the window on. */
static void call_loss(bp_lanes *g, int64_t first, int64_t rows, char *out, char *grad) {
    int64_t n = rows * g->loss->call.cols;
    bp_active->separate[g->dtype](out, n, g->own_out, g->out_ld);
    for (int l = 0; l < g->lanes; l++) {
        bp_loss_call call = g->loss->call;
        const bp_lane_port *y = &g->ports[BP_LANE_TARGET], *w = &g->ports[BP_LANE_WEIGHT];
        size_t own = (size_t)(l * g->out_ld) * g->size, size = y->labels ? sizeof(int32_t) : g->size;
        call.rows = rows;
        call.out = g->own_out + own;
        call.grad = g->own_grad + own;
        call.target = y->own + (size_t)((y->shared ? 0 : l * y->ld) + first * y->cols) * size;
        if (w->number >= 0) call.weight = w->own + (size_t)((w->shared ? 0 : l * w->ld) + first) * g->size;
        for (int j = 0; j < 3; j++) call.sum[j] = g->tile_sum[j * g->lanes + l];
        if (g->loss->type->fn[g->dtype](&call)) call.sum[0] = NAN;
        for (int j = 0; j < 3; j++) g->tile_sum[j * g->lanes + l] = call.sum[j];
    }
    bp_active->interleave[g->dtype](g->own_grad, g->out_ld, n, grad);
}

static void find_loss(bp_lanes *g, int64_t first, int64_t rows) {
    const bp_lane_layer *last = &g->layers[g->n_layers - 1];
    const bp_lane_port *y = &g->ports[BP_LANE_TARGET], *w = &g->ports[BP_LANE_WEIGHT];
    if (!g->lane_loss) call_loss(g, first, rows, last->a, last->delta);
    else
        g->lane_loss(&(bp_lane_loss){.out = last->a, .target = at(g, y->vectors, first * y->cols),
                                     .weight = w->number < 0 ? NULL : at(g, w->vectors, first), .grad = last->delta,
                                     .labels = y->labels, .rows = rows, .cols = g->loss->call.cols,
                                     .sum = g->tile_sum});
    if (last->f) bp_active->lane_times[g->dtype](last->delta, last->df, rows * last->n_out);
}

/* To the gradient G: the sums of weights and of biases go on, or begin; single: a sum has this row alone. */
static void go_back(bp_lanes *g, char *x, int64_t rows, char *G, int go_on, int biases_go_on, int single) {
    for (int i = g->n_layers - 1; i >= 0; i--) {
        const bp_lane_layer *l = &g->layers[i], *before = i ? l - 1 : NULL;
        bp_active->lane_product[g->dtype](&(bp_lane_product){
            .m = l->n_in, .n = l->n_out, .k = rows, .A = before ? before->a : x, .a_row = 1, .a_col = l->n_in,
            .B = l->delta, .b_row = l->n_out, .b_col = 1, .C = at(g, G, l->W), .ldc = l->n_out, .go_on = go_on,
            .chains = single ? BP_LANES_NONE : BP_LANES_ONE});
        if (l->b >= 0) bp_active->lane_sums[g->dtype](l->delta, rows, l->n_out, at(g, G, l->b),
                                                       biases_go_on);
        if (before)
            bp_active->lane_product[g->dtype](&(bp_lane_product){
                .m = rows, .n = l->n_in, .k = l->n_out, .A = l->delta, .a_row = l->n_out, .a_col = 1,
                .B = at(g, g->live[0], l->W), .b_row = 1, .b_col = l->n_out, .df = before->f ? before->df : NULL,
                .C = before->delta, .ldc = l->n_in});
    }
}

/* Sums of biases over many rows are chains of BP_LANE_CHAIN, added in double. */
static void fold_biases(bp_lanes *g, int first, int last) {
    for (int i = 0; i < g->n_layers; i++) {
        const bp_lane_layer *l = &g->layers[i];
        if (l->b >= 0)
            bp_active->lane_fold[g->dtype](at(g, g->G, l->b), l->n_out, g->totals + l->b * g->lanes, first, last);
    }
}

/* ---- steps ---- */

int bp_lanes_same_numbers(const bp_move *a, const bp_move *b) {
    int same = a->lr == b->lr && a->weight_decay == b->weight_decay && a->clip_value == b->clip_value;
    return same && !memcmp(a->number, b->number, sizeof a->number);
}

/* Whether one call of the rule moves all of them; else they move apart from here on. */
static int move_together(bp_lanes *g) {
    const double *weight = g->sum + g->lanes;
    int together = !g->apart;
    for (int l = 0; l < g->lanes && g->weighted; l++) {
        g->move[l].scale = 1 / weight[l];
        together &= weight[l] != 0 && g->move[l].scale >= FLT_MIN;
    }
    for (int l = 0; l < g->lanes && !g->weighted && g->move[l].scale != 1 / weight[0]; l++)
        g->move[l].scale = 1 / weight[0];
    for (int l = 0; l < g->n && g->varies; l++) {
        bp_move_numbers(&g->move[l], &g->run[l]->opt, g->t[l] + g->updates[l] - g->run[l]->epoch_t);
        together &= bp_lanes_same_numbers(&g->move[l], &g->move[0]);
    }
    return together;
}

/* The parameters of network l move, or those of all networks. */
static void move_arrays(bp_lanes *g, const bp_move *m, char *G, char *const *arrays, int64_t first, int64_t each) {
    for (int i = 0; i < g->n_stretches; i++) {
        const bp_lane_stretch *s = &g->stretches[i];
        size_t at = (size_t)(first + s->at * each) * g->size;
        void *state[BP_MAX_STATES];
        for (int k = 0; k < BP_MAX_STATES; k++) state[k] = g->state_of[k] ? arrays[g->state_of[k]] + at : NULL;
        g->spoilt |= bp_move_elements(g->run[0]->kernel, m, g->dtype, s->rate, s->decay, s->n * each, G + at,
                                      arrays[0] + at, state);
    }
}

static void move(bp_lanes *g) {
    const bp_rule *rule = g->run[0]->opt.rule;
    int64_t n_theta = g->plan->n_theta;
    if (move_together(g)) {
        bp_move *m = &g->move[0];
        if (g->weighted) { /* which differ: the rule's own factor is 1 */
            double scale[BP_MAX_LANES];
            for (int l = 0; l < g->lanes; l++) scale[l] = g->move[l].scale;
            bp_active->lane_scale[g->dtype](g->G, scale, n_theta);
            m->scale = 1;
        }
        if (rule->prepare) rule->prepare(m, g->t[0] + g->updates[0] + 1);
        move_arrays(g, m, g->G, g->live, 0, g->lanes);
        for (int l = 0; l < g->lanes; l++) g->updates[l]++;
        return;
    }
    if (!g->apart) bp_lanes_part(g);
    g->apart = 1;
    bp_active->separate[g->dtype](g->G, n_theta, g->own_G, g->theta_ld);
    for (int l = 0; l < g->n; l++) {
        bp_move *m = &g->move[l];
        if (g->sum[g->lanes + l] == 0) continue; /* a batch without weight makes no step */
        if (rule->prepare) rule->prepare(m, g->t[l] + g->updates[l] + 1);
        move_arrays(g, m, g->own_G, g->own, l * g->theta_ld, 1);
        g->updates[l]++;
    }
    bp_lanes_join(g, 0, 1);
}

/* Sums are (3, lanes). */
static size_t sum_bytes(const bp_lanes *g) { return (size_t)(3 * g->lanes) * sizeof(double); }

static void add_sums(const bp_lanes *g, double *to, const double *from) {
    for (int i = 0; i < 3 * g->lanes; i++) to[i] += from[i];
}

/* Rows of the epoch from `row` on, of a tile whose gradient comes to G: rows `done` of its sums are there. */
static void do_rows(bp_lanes *g, int64_t row, int64_t rows, char *G, int64_t done, int64_t all) {
    const bp_lane_port *x = &g->ports[BP_LANE_X];
    int is_long = all > BP_LANE_CHAIN, ends = done + rows == all;
    if (row < g->first || row + rows > g->first + g->held) gather(g, row);
    char *a = at(g, x->vectors, (row - g->first) * x->cols);
    go_forward(g, a, rows);
    find_loss(g, row - g->first, rows);
    go_back(g, a, rows, G, done > 0, is_long ? done % BP_LANE_CHAIN > 0 : done > 0, all == 1);
    if (is_long && (ends || (done + rows) % BP_LANE_CHAIN == 0)) fold_biases(g, done < BP_LANE_CHAIN, ends);
}

void bp_lanes_step(bp_lanes *g) {
    const bp_plan *plan = g->plan;
    g->batch_rows = min64(g->run[0]->batch, g->run[0]->n - g->pos);
    memset(g->sum, 0, sum_bytes(g));
    for (int64_t tile = 0, end; tile < g->batch_rows; tile = end) {
        end = min64(tile + plan->row_tile, g->batch_rows);
        memset(g->tile_sum, 0, sum_bytes(g));
        int64_t from = plan->shards ? tile : 0, all = plan->shards ? end - tile : g->batch_rows; /* of a sum */
        char *G = from ? g->shard : g->G;
        for (int64_t row = tile, rows; row < end; row += rows) {
            rows = min64(g->at_once, end - row);
            do_rows(g, g->pos + row, rows, G, row - from, all);
        }
        if (from) bp_active->sum[g->dtype](g->G, NULL, G, plan->n_theta * g->lanes);
        add_sums(g, g->sum, g->tile_sum);
        add_sums(g, g->loss_sum, g->tile_sum);
    }
    move(g);
    add_sums(g, g->done, g->sum);
    g->pos += g->batch_rows;
    g->batches++;
}

/* What a run may be told: ports whose rows repeat, gradients of each row and of outputs, draws, several losses. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 3, N_IN = 4, N_OUT = 3, N_THETA = N_IN * N_OUT + N_OUT, MOST = 120 };

typedef struct {
    double X[MOST * T * N_IN], y[2][MOST * T * N_OUT], w[MOST], theta[N_THETA];
} numbers;

static numbers *drawn(void) {
    numbers *d = zeros(1, sizeof *d);
    uint64_t state = 11;
    for (double *p = d->X; p < (double *)(d + 1); p++) *p = uniform(&state);
    for (int i = 0; i < MOST; i++) d->w[i] = i % 7 == 3 ? 0 : 1.5 + d->w[i];
    return d;
}

/* A sequence of `positions` inputs, one dense layer at each, and a loss on it and on its tanh, where they weigh more
 * than nothing. */
typedef struct {
    int positions, weighted, n_threads, sums;
    double share[2];
    int64_t repeat[2]; /* of x and of y[0] */
    int64_t rows[2];   /* that x and y[0] have; 0: as many as the batch */
    int each, trains;  /* each row's gradient; a step of gradient descent; else the gradient */
    double dropout;    /* above zero: before the dense layer */
    uint64_t seed;
    int64_t step;
} setup;

typedef struct {
    double cost, *grad;
} result;

static result run_it(const numbers *d, const setup *s, int64_t n) {
    bp_plan *plan = bp_plan_new(BP_F64);
    int64_t n_in = s->positions * N_IN, n_out = s->positions * N_OUT;
    int x = bp_plan_buffer(plan, BP_REAL, n_in), z = -1, a = -1, h = x, n_ports = 0, weight_port = -1, port_of_y = -1;
    int params[2] = {bp_plan_param(plan, 0, N_IN, N_OUT, 0, 1, 1),
                     bp_plan_param(plan, N_IN * N_OUT, N_OUT, 1, 0, 1, 0)};
    bp_settings drops = {.n = {1}, .x = {s->dropout}};
    bp_in_port ports[4] = {{x, plain_array(d->X, s->rows[0] ? s->rows[0] : n, n_in, BP_DOUBLE)}};
    n_ports++;
    if (s->dropout > 0) CHECK(!bp_plan_op(plan, bp_op_find("dropout"), 1, &x, 0, NULL, &drops, -1, &h));
    CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &h, 2, params, NULL, -1, &z));
    CHECK(!bp_plan_op(plan, bp_op_find("activation"), 1, &z, 0, NULL, bp_activation_detail("tanh"), -1, &a));
    for (int i = 0; i < 2; i++) {
        if (s->share[i] == 0) continue;
        int target = bp_plan_buffer(plan, BP_REAL, n_out);
        const double delta = 0.4;
        CHECK(!bp_plan_loss(plan, i ? "huber" : "mse", i ? a : z, target, &delta, 1, 0, s->positions, s->share[i]));
        int64_t rows = i == 0 && s->rows[1] ? s->rows[1] : n;
        if (i == 0) port_of_y = n_ports;
        ports[n_ports++] = (bp_in_port){target, plain_array(d->y[i], rows, n_out, BP_DOUBLE)};
    }
    if (s->weighted) {
        weight_port = n_ports;
        ports[n_ports++] = (bp_in_port){bp_plan_buffer(plan, BP_REAL, 1), plain_array(d->w, n, 1, BP_DOUBLE)};
    }
    bp_plan_keep(plan, a);
    bp_set_sums(s->sums);
    result r = {.grad = zeros((size_t)(s->each ? n : 1) * N_THETA, sizeof(double))};
    bp_opt opt = s->trains ? opt_new(&(optimizer){.rule = "sgd", .lr = 0.1}, 0) : gradient_to(s->each ? NULL : r.grad);
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | (s->each ? BP_DO_EACH : bp_opt_flags(&opt));
    CHECK(!bp_plan_compile(plan, flags, n, s->n_threads));
    bp_set_sums(0);
    bp_run *run = run_new(plan, (void *)(uintptr_t)d->theta, N_THETA);
    CHECK(!bp_run_ports(run, n_ports, ports, 0, NULL, weight_port));
    if (s->repeat[0]) bp_run_repeat(run, 0, s->repeat[0]);
    if (s->repeat[1]) bp_run_repeat(run, port_of_y, s->repeat[1]);
    if (s->each) bp_run_each(run, r.grad);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_random(run, s->seed, s->step);
    bp_run_begin(run, n, n, NULL);
    CHECK(bp_epoch(run, s->n_threads, INFINITY, -1, 1) == BP_DONE);
    bp_progress p = bp_run_progress(run);
    r.cost = p.loss / p.weight;
    double sum = 0;
    for (int i = 0, k = 0; i < 2; i++)
        if (s->share[i] != 0) sum += s->share[i] * bp_run_loss(run, k++)[0];
    CHECK(fabs(sum - p.loss) <= 1e-13 * fabs(p.loss));
    bp_run_free(run);
    bp_plan_free(plan);
    return r;
}

static int same(const result *a, const result *b, int64_t n) {
    return a->cost == b->cost && !memcmp(a->grad, b->grad, (size_t)(n * N_THETA) * sizeof(double));
}

static int close(const result *a, const result *b, double tolerance) {
    double worst = fabs(a->cost - b->cost);
    for (int i = 0; i < N_THETA; i++) worst = fmax(worst, fabs(a->grad[i] - b->grad[i]));
    return worst <= tolerance;
}

/* The gradients of 1..3 threads, owners and shards, of which the bits of one mode agree. */
static result by_threads(const numbers *d, setup s, int64_t n) {
    result first[3] = {{0}};
    for (s.sums = 1; s.sums <= 2; s.sums++)
        for (s.n_threads = 1; s.n_threads <= 3; s.n_threads++) {
            result r = run_it(d, &s, n);
            if (s.n_threads == 1) {
                first[s.sums] = r;
                continue;
            }
            CHECK(same(&r, &first[s.sums], 1));
            free(r.grad);
        }
    CHECK(close(&first[1], &first[2], 1e-14));
    free(first[2].grad);
    return first[1];
}

/* Two losses with weights are the weighted sum of each alone. */
static void test_losses(const numbers *d) {
    for (int weighted = 0; weighted < 2; weighted++)
        for (int positions = 1; positions <= T; positions += T - 1) {
            context("losses: %d positions, weights %d", positions, weighted);
            setup s = {.positions = positions, .weighted = weighted, .share = {0.3, 2}};
            result both = by_threads(d, s, 70), sum = {0, zeros(N_THETA, sizeof(double))};
            for (int i = 0; i < 2; i++) {
                setup alone = s;
                alone.share[i] = 1;
                alone.share[!i] = 0;
                result one = by_threads(d, alone, 70);
                sum.cost += s.share[i] * one.cost;
                for (int k = 0; k < N_THETA; k++) sum.grad[k] += s.share[i] * one.grad[k];
                free(one.grad);
            }
            CHECK(close(&both, &sum, 1e-14));
            free(both.grad);
            free(sum.grad);
        }
}

/* Positions of a row are rows of their own with its weight: their mean is the row's loss. */
static void test_positions(const numbers *d) {
    for (int weighted = 0; weighted < 2; weighted++) {
        context("positions: weights %d", weighted);
        setup s = {.positions = T, .weighted = weighted, .share = {1, 0.5}};
        numbers *flat = drawn();
        for (int i = 0; i < 120; i++) flat->w[i] = d->w[i / T];
        result rows = by_threads(d, s, 40);
        s.positions = 1;
        result single = by_threads(flat, s, 40 * T);
        CHECK(close(&rows, &single, 1e-14));
        free(rows.grad);
        free(single.grad);
        free(flat);
    }
}

/* Row r of a port is row r / repeat % rows of its array. */
static void test_repeats(const numbers *d) {
    numbers *whole = drawn();
    context("repeats");
    for (int64_t r = 0; r < 60; r++) {
        memcpy(&whole->X[r * N_IN], &d->X[r / 4 % 15 * N_IN], N_IN * sizeof(double));
        memcpy(&whole->y[0][r * N_OUT], &d->y[0][r % 4 * N_OUT], N_OUT * sizeof(double));
    }
    setup s = {.positions = 1, .share = {1, 0}};
    result expected = by_threads(whole, s, 60);
    s.repeat[0] = 4;
    s.repeat[1] = 1;
    s.rows[0] = 15;
    s.rows[1] = 4;
    result r = by_threads(d, s, 60);
    CHECK(same(&r, &expected, 1));
    free(r.grad);
    free(expected.grad);
    free(whole);
}

/* BP_DO_EACH writes the gradient of each row, whatever the tiles and threads, and leaves theta alone. */
static void test_each(const numbers *d) {
    static const int64_t counts[] = {1, 5, 70, MOST};
    double before[N_THETA];
    memcpy(before, d->theta, sizeof before);
    for (int i = 0; i < 4; i++) {
        context("each of %d rows", (int)counts[i]);
        setup s = {.positions = 2, .share = {1, 1}, .each = 1, .n_threads = 1};
        result all = run_it(d, &s, counts[i]);
        s.n_threads = 3;
        result again = run_it(d, &s, counts[i]);
        CHECK(same(&all, &again, counts[i]));
        s.each = 0;
        for (int64_t r = 0; r < counts[i]; r++) {
            numbers *part = drawn();
            memmove(part->X, part->X + r * 2 * N_IN, 2 * N_IN * sizeof(double));
            for (int k = 0; k < 2; k++) memmove(part->y[k], part->y[k] + r * 2 * N_OUT, 2 * N_OUT * sizeof(double));
            result one = run_it(part, &s, 1);
            CHECK(!memcmp(one.grad, all.grad + r * N_THETA, N_THETA * sizeof(double)));
            free(one.grad);
            free(part);
        }
        free(all.grad);
        free(again.grad);
    }
    CHECK(!memcmp(before, d->theta, sizeof before));
}

/* Of a = tanh(x W + b): da_k/dx_i = (1 - a_k^2) W_ik and da_k/dtheta, from the cotangents `first` on, in blocks of rows
 * of every length. */
static void test_cotangents(const numbers *d) {
    static const int64_t counts[] = {1, 5, 33, 70, MOST};
    for (int i = 0; i < 2 * 5 * 3; i++) {
        int64_t n = counts[i / 6], first = i % 3 == 2 ? 1 : 0, cotangents = N_OUT - first;
        int each = i / 3 % 2, flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | BP_DO_REUSE;
        context("%d cotangents of %d rows, each %d", (int)cotangents, (int)n, each);
        bp_plan *plan = bp_plan_new(BP_F64);
        int x = bp_plan_buffer(plan, BP_REAL, N_IN), z = -1, a = -1, target = bp_plan_buffer(plan, BP_REAL, N_OUT);
        int frozen = each ? 0 : BP_PARAM_FROZEN;
        int params[2] = {bp_plan_param(plan, 0, N_IN, N_OUT, frozen, 1, 1),
                         bp_plan_param(plan, N_IN * N_OUT, N_OUT, 1, frozen, 1, 1)};
        CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, 2, params, NULL, -1, &z));
        CHECK(!bp_plan_op(plan, bp_op_find("activation"), 1, &z, 0, NULL, bp_activation_detail("tanh"), -1, &a));
        CHECK(!bp_plan_loss(plan, "linear", a, target, NULL, 0, 0, 1, 1));
        bp_plan_cotangents(plan, cotangents);
        CHECK(!bp_plan_compile(plan, flags | (each ? BP_DO_EACH : BP_DO_INPUT_GRAD), MOST, 1 + i % 3));
        bp_run *run = run_new(plan, (void *)(uintptr_t)d->theta, N_THETA);
        int64_t cols = each ? N_THETA : N_IN;
        double *J = zeros((size_t)(n * N_OUT * cols), sizeof *J);
        bp_in_port in = {x, plain_array(d->X, n, N_IN, BP_DOUBLE)};
        bp_out_port out = {.buffer = bp_plan_grad(plan, x), .data = J + first * cols};
        CHECK(!bp_run_ports(run, 1, &in, !each, &out, -1));
        bp_run_cotangents(run, first, N_OUT);
        if (each) bp_run_each(run, J + first * cols);
        bp_run_begin(run, n, n, NULL);
        CHECK(bp_epoch(run, 1 + i % 3, INFINITY, -1, 1) == BP_DONE);
        double worst = 0;
        for (int64_t r = 0; r < n; r++)
            for (int k = 0; k < N_OUT; k++) {
                const double *row = d->X + r * N_IN, *W = d->theta, *b = W + N_IN * N_OUT;
                double sum = b[k], *got = J + (r * N_OUT + k) * cols;
                for (int j = 0; j < N_IN; j++) sum += row[j] * W[j * N_OUT + k];
                double slope = k < first ? 0 : 1 - tanh(sum) * tanh(sum);
                for (int j = 0; j < N_IN; j++) {
                    double *at = each ? got + j * N_OUT + k : got + j;
                    worst = fmax(worst, fabs(*at - slope * (each ? row[j] : W[j * N_OUT + k])));
                    *at = 0;
                }
                if (each) worst = fmax(worst, fabs(got[N_IN * N_OUT + k] - slope));
                if (each) got[N_IN * N_OUT + k] = 0;
                for (int j = 0; j < cols; j++) worst = fmax(worst, fabs(got[j])); /* the rest */
            }
        CHECK(worst <= 1e-14);
        free(J);
        bp_run_free(run);
        bp_plan_free(plan);
    }
}

/* What a step drops depends on the seed and the number of the step, and on nothing else. */
static void test_draws(void) {
    double first[N_THETA] = {0};
    context("draws");
    for (int i = 0; i < 6; i++) {
        numbers *d = drawn();
        setup s = {.positions = 1, .share = {1, 0}, .trains = 1, .dropout = i == 5 ? 0 : 0.5,
                   .seed = i == 3 ? 8 : 7, .step = i == 4 ? 4 : 3, .n_threads = 1 + i % 3, .sums = 1};
        result r = run_it(d, &s, 70);
        if (i == 0) memcpy(first, d->theta, sizeof first);
        CHECK(isfinite(r.cost) && !memcmp(first, d->theta, sizeof first) == (i < 3));
        free(r.grad);
        free(d);
    }
}

/* Mean and variance of the whole batch, weighted, over positions; rows of weight 0 take no part.  The state moves, and
 * answers are computed with it. */
static void test_batch(void) {
    enum { N = 100, COLS = T * N_IN };
    numbers *d = drawn();
    double state[3][2 * N_IN], theta[3][2 * N_IN], mean[N_IN] = {0}, variance[N_IN] = {0}, W = 0;
    bp_settings set = {.x = {1e-3, 0.75}};
    context("batch");
    for (int i = 0; i < 3; i++) {
        bp_plan *plan = bp_plan_new(BP_F64), *forward = bp_plan_new(BP_F64);
        int flags = bp_opt_flags(&(bp_opt){.rule = bp_rule_find("sgd")});
        int x = -1, y = -1, target = -1, weight = -1;
        for (int k = 0; k < 2; k++) {
            bp_plan *p = k ? forward : plan;
            x = bp_plan_buffer(p, BP_REAL, COLS);
            int params[] = {bp_plan_param(p, 0, N_IN, 1, BP_PARAM_STATE, 1, 0),
                            bp_plan_param(p, N_IN, N_IN, 1, BP_PARAM_STATE, 1, 0),
                            bp_plan_param(p, 0, N_IN, 1, 0, 1, 0), bp_plan_param(p, N_IN, N_IN, 1, 0, 1, 0)};
            CHECK(!bp_plan_op(p, bp_op_find("batch_norm"), 1, &x, 4, params, &set, -1, &y));
        }
        target = bp_plan_buffer(plan, BP_REAL, COLS);
        weight = bp_plan_buffer(plan, BP_REAL, 1);
        CHECK(!bp_plan_loss(plan, "mse", y, target, NULL, 0, 0, T, 1));
        bp_plan_keep(forward, y);
        CHECK(!bp_plan_compile(plan, BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | flags, N, i + 1));
        CHECK(!bp_plan_compile(forward, BP_DO_FORWARD | BP_DO_REUSE, N, 1));
        for (int c = 0; c < N_IN; c++) {
            state[i][c] = 0;
            state[i][N_IN + c] = theta[i][c] = 1;
            theta[i][N_IN + c] = 0;
        }
        bp_run *run = bp_run_new(plan, NULL);
        CHECK(bp_run_bind(run, theta[i], 2 * N_IN, state[i], 2 * N_IN - 1) == BP_E_SHAPE);
        CHECK(!bp_run_bind(run, theta[i], 2 * N_IN, state[i], 2 * N_IN));
        bp_in_port in[] = {{x, plain_array(d->X, N, COLS, BP_DOUBLE)},
                           {target, plain_array(d->y[0], N, COLS, BP_DOUBLE)},
                           {weight, plain_array(d->w, N, 1, BP_DOUBLE)}};
        CHECK(!bp_run_ports(run, 3, in, 0, NULL, 2));
        bp_opt opt = opt_new(&(optimizer){.rule = "sgd", .lr = 0.1}, 0);
        CHECK(!bp_run_optimizer(run, &opt));
        bp_run_begin(run, N, N, NULL);
        CHECK(bp_epoch(run, i + 1, INFINITY, -1, 1) == BP_DONE && bp_run_progress(run).steps == 1);
        bp_run_free(run);
        double out[COLS];
        bp_out_port to = {.buffer = y, .data = out};
        void *arena = NULL;
        if (posix_memalign(&arena, BP_ALIGN, bp_plan_describe(forward).arena_bytes)) abort();
        in[0].array.rows = 1;
        CHECK(!bp_answer(forward, theta[i], state[i], arena, 1, in, 1, &to, 1));
        for (int c = 0; c < COLS; c++) {
            double m = state[i][c % N_IN], v = state[i][N_IN + c % N_IN];
            double want = theta[i][c % N_IN] * (d->X[c] - m) / sqrt(v + 1e-3) + theta[i][N_IN + c % N_IN];
            CHECK(fabs(out[c] - want) < 1e-14);
        }
        free(arena);
        bp_plan_free(plan);
        bp_plan_free(forward);
    }
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < N * COLS; k++) {
            double w = d->w[k / COLS], off = d->X[k] - mean[k % N_IN] / (pass ? W : 1);
            if (pass) variance[k % N_IN] += w * off * off;
            else mean[k % N_IN] += w * d->X[k];
            W += pass || k % N_IN ? 0 : w;
        }
    for (int c = 0; c < N_IN; c++) {
        CHECK(fabs(state[0][c] - 0.25 * mean[c] / W) < 1e-15);
        CHECK(fabs(state[0][N_IN + c] - 0.75 - 0.25 * variance[c] / W) < 1e-15 && theta[0][c] != 1);
    }
    CHECK(!memcmp(state[1], state[0], sizeof state[0]) && !memcmp(state[2], state[0], sizeof state[0]));
    CHECK(!memcmp(theta[1], theta[0], sizeof theta[0]) && !memcmp(theta[2], theta[0], sizeof theta[0]));
    free(d);
}

/* ---- epochs of batches: rows that are mixed, an epoch that goes on in another run, losses of batches ---- */

enum { ROWS = 60, BATCH = 8, BATCHES = 8 };
static const double L2 = 0.02;

typedef struct {
    const double *X, *y, *w;
    int mixed, cut, n_threads; /* cut: batches of another run before */
    const int64_t *partner;
    const double *share;
    int first; /* batches that come in ports of their own; fewer than cut */
} epoch;

typedef struct {
    double theta[N_THETA], batch[BATCHES][3];
    bp_progress done;
} epoch_end;

/* From this batch on, of X, y and w in their buffers. */
static void port_batches(bp_run *run, const epoch *e, const int *buffers, int first) {
    int64_t row = first * BATCH, n = ROWS - row;
    bp_in_port in[] = {{buffers[0], plain_array(e->X + row * N_IN, n, N_IN, BP_DOUBLE)},
                       {buffers[1], plain_array(e->y + row * N_OUT, n, N_OUT, BP_DOUBLE)},
                       {buffers[2], plain_array(e->w + row, n, 1, BP_DOUBLE)}};
    CHECK(!bp_run_ports(run, 3, in, 0, NULL, 2));
}

static epoch_end make_epoch(const numbers *d, const epoch *e) {
    bp_plan *plan = bp_plan_new(BP_F64);
    int x = bp_plan_buffer(plan, BP_REAL, N_IN), y = bp_plan_buffer(plan, BP_REAL, N_OUT), z = -1;
    int weight = bp_plan_buffer(plan, BP_REAL, 1);
    int params[2] = {bp_plan_param(plan, 0, N_IN, N_OUT, 0, 1, 1),
                     bp_plan_param(plan, N_IN * N_OUT, N_OUT, 1, 0, 1, 0)};
    CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, 2, params, NULL, -1, &z));
    CHECK(!bp_plan_loss(plan, "squared_error", z, y, NULL, 0, 0, 1, 1));
    bp_opt opt = opt_new(&(optimizer){.rule = "sgd", .lr = 0.1, .number = {0.5}}, N_THETA * sizeof(double));
    opt.l2.value = L2;
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
    CHECK(!bp_plan_compile(plan, flags, BATCH, e->n_threads));
    int buffers[] = {x, y, weight}, resumes;
    epoch_end o = {.done = {0}};
    double sums[1][3];
    memcpy(o.theta, d->theta, sizeof o.theta);
    for (int part = !e->cut; part < 2; part++) {
        bp_run *run = run_new(plan, o.theta, N_THETA);
        resumes = part && e->cut;
        port_batches(run, e, buffers, resumes ? e->first : 0);
        CHECK(!bp_run_optimizer(run, &opt));
        bp_run_batch_losses(run, o.batch[0]);
        bp_run_begin(run, e->first && !resumes ? e->first * BATCH : ROWS - e->first * BATCH, BATCH, NULL);
        if (e->first && !resumes) {
            CHECK(bp_epoch(run, e->n_threads, INFINITY, -1, 1) == BP_DONE);
            port_batches(run, e, buffers, e->first);
            bp_run_go_on(run, ROWS - e->first * BATCH, BATCH, NULL);
        }
        if (e->mixed) bp_run_mix(run, e->partner, e->share, e->share);
        if (resumes)
            bp_run_resume(run, &o.done, (const double(*)[3])sums, e->cut - e->first, e->first * BATCH);
        CHECK(bp_epoch(run, e->n_threads, INFINITY, part ? -1 : e->cut - e->first, 1) == (part ? BP_DONE : BP_PAUSED));
        o.done = bp_run_progress(run);
        memcpy(sums, bp_run_loss(run, 0), sizeof sums);
        opt.t = bp_run_updates(run);
        CHECK(part || (o.done.batch == e->cut && o.done.steps == e->cut));
        bp_run_free(run);
    }
    CHECK(o.done.batch == BATCHES && o.done.rows == ROWS && opt.t == BATCHES);
    states_free(&opt);
    bp_plan_free(plan);
    return o;
}

/* The sum of losses, and of weights, of the first batch by the first theta. */
static void first_batch(const numbers *d, double *loss, double *weight, double *penalty) {
    *loss = *weight = *penalty = 0;
    for (int i = 0; i < N_IN * N_OUT; i++) *penalty += L2 / 2 * d->theta[i] * d->theta[i];
    for (int r = 0; r < BATCH; r++) {
        *weight += d->w[r];
        for (int c = 0; c < N_OUT; c++) {
            double a = d->theta[N_IN * N_OUT + c] - d->y[0][r * N_OUT + c];
            for (int i = 0; i < N_IN; i++) a += d->X[r * N_IN + i] * d->theta[i * N_OUT + c];
            *loss += d->w[r] * a * a / 2;
        }
    }
    *loss += *weight * *penalty;
}

static void test_epochs(const numbers *d) {
    int64_t partner[ROWS];
    double share[ROWS], ones[ROWS], X[ROWS * N_IN], y[ROWS * N_OUT], w[ROWS];
    for (int r = 0; r < ROWS; r++) {
        partner[r] = (r * 7 + 3) % ROWS;
        share[r] = 0.5 + 0.4 * d->X[r];
        ones[r] = 1;
        double other = 1 - share[r];
        for (int i = 0; i < N_IN; i++)
            X[r * N_IN + i] = share[r] * d->X[r * N_IN + i] + other * d->X[partner[r] * N_IN + i];
        for (int c = 0; c < N_OUT; c++)
            y[r * N_OUT + c] = share[r] * d->y[0][r * N_OUT + c] + other * d->y[0][partner[r] * N_OUT + c];
        w[r] = share[r] * d->w[r] + other * d->w[partner[r]];
    }
    epoch plain = {d->X, d->y[0], d->w, 0, 0, 1, partner, share, 0};
    epoch_end whole = make_epoch(d, &plain), other;
    double loss, weight, penalty, sum[2] = {0};
    first_batch(d, &loss, &weight, &penalty);
    CHECK(fabs(whole.batch[0][0] - loss) < 1e-12 && fabs(whole.batch[0][1] - weight) < 1e-12);
    CHECK(fabs(whole.batch[0][2] - penalty) < 1e-14);
    for (int k = 0; k < BATCHES; k++)
        for (int i = 0; i < 2; i++) sum[i] += whole.batch[k][i];
    CHECK(fabs(sum[0] - whole.done.loss) < 1e-12 && fabs(sum[1] - whole.done.weight) < 1e-12);
    for (int n_threads = 1; n_threads < 3; n_threads++)
        for (int cut = 0; cut < BATCHES; cut += 3) {
            epoch e = plain;
            e.cut = cut, e.n_threads = n_threads;
            other = make_epoch(d, &e);
            CHECK(!memcmp(other.theta, whole.theta, sizeof whole.theta));
            CHECK(!memcmp(other.batch, whole.batch, sizeof whole.batch));
            CHECK(other.done.loss == whole.done.loss && other.done.weight == whole.done.weight);
            e.first = 2; /* the rest comes later */
            other = make_epoch(d, &e);
            CHECK(!memcmp(other.theta, whole.theta, sizeof whole.theta));
            CHECK(!memcmp(other.batch, whole.batch, sizeof whole.batch));
            CHECK(!memcmp(&other.done, &whole.done, sizeof whole.done) || cut); /* steps: of a run alone */
            e.first = 0;
            e.mixed = 1, e.share = ones; /* of itself alone */
            other = make_epoch(d, &e);
            CHECK(!memcmp(other.theta, whole.theta, sizeof whole.theta));
            e.share = share;
            other = make_epoch(d, &e);
            epoch by_hand = {X, y, w, 0, 0, n_threads, NULL, NULL, 0};
            epoch_end wanted = make_epoch(d, &by_hand);
            for (int i = 0; i < N_THETA; i++) CHECK(fabs(other.theta[i] - wanted.theta[i]) < 1e-13);
            CHECK(fabs(other.done.loss - wanted.done.loss) < 1e-12);
        }
}

/* Of a rule that leads, theta follows from the average and the lead: once it is lost, it comes back to the bit. */
static void test_leads(const numbers *d) {
    double theta[2][N_THETA], lead[2][N_THETA], average[2][N_THETA], weights[2];
    for (int again = 0; again < 2; again++) {
        bp_plan *plan = bp_plan_new(BP_F64);
        int x = bp_plan_buffer(plan, BP_REAL, N_IN), y = bp_plan_buffer(plan, BP_REAL, N_OUT), z = -1;
        int params[2] = {bp_plan_param(plan, 0, N_IN, N_OUT, 0, 1, 1),
                         bp_plan_param(plan, N_IN * N_OUT, N_OUT, 1, 0, 1, 0)};
        CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, 2, params, NULL, -1, &z));
        CHECK(!bp_plan_loss(plan, "mse", z, y, NULL, 0, 0, 1, 1));
        bp_plan_keep(plan, z);
        for (double (*each)[N_THETA] = theta; each; each = each == theta ? lead : each == lead ? average : NULL)
            memcpy(each[again], d->theta, sizeof d->theta);
        bp_opt opt = {.rule = bp_rule_find("schedule_free_sgd"), .lr = {.value = 0.1}, .state = {lead[again]},
                      .number = {{.value = 0.9}, {.value = 0}, {.value = 2}}, .average = average[again]};
        CHECK(bp_rule_leads(opt.rule) && !bp_rule_leads(bp_rule_find("sgd")));
        int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
        CHECK(!bp_plan_compile(plan, flags, 3, 1));
        bp_run *run = run_new(plan, theta[again], N_THETA);
        bp_in_port ports[2] = {{x, plain_array(d->X, 12, N_IN, BP_DOUBLE)},
                               {y, plain_array(d->y[0], 12, N_OUT, BP_DOUBLE)}};
        CHECK(!bp_run_ports(run, 2, ports, 0, NULL, -1));
        CHECK(!bp_run_optimizer(run, &opt));
        bp_run_begin(run, 12, 3, NULL);
        if (again) {
            CHECK(bp_epoch(run, 1, INFINITY, 2, 1) == BP_PAUSED);
            CHECK(bp_run_updates(run) == 2 && fabs(bp_run_weights(run) - 0.02) < 1e-15);
            memset(theta[again], 0, sizeof theta[again]);
            bp_run_follow_average(run, 0, 5);
            bp_run_follow_average(run, 5, N_THETA - 5);
        }
        CHECK(bp_epoch(run, 1, INFINITY, -1, 1) == BP_DONE);
        weights[again] = bp_run_weights(run);
        bp_run_free(run);
        bp_plan_free(plan);
    }
    CHECK(!memcmp(theta[0], theta[1], sizeof theta[0]) && !memcmp(lead[0], lead[1], sizeof lead[0]));
    CHECK(!memcmp(average[0], average[1], sizeof average[0]) && weights[0] == weights[1]);
    CHECK(memcmp(theta[0], average[0], sizeof theta[0]) && memcmp(average[0], d->theta, sizeof d->theta));
}

void test_runs(void) {
    numbers *d = drawn();
    bp_set_parallel_always(1);
    test_losses(d);
    test_positions(d);
    test_repeats(d);
    test_each(d);
    test_cotangents(d);
    test_draws();
    test_batch();
    test_epochs(d);
    test_leads(d);
    bp_set_parallel_always(0);
    free(d);
}

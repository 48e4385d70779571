/* Plans that are no chain, inference, the way back alone, and what a plan refuses. */
#include "harness.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { N_IN = 4, N_OUT = 3 };

static int dense(bp_plan *plan, int x, int W, int b) {
    int params[2] = {W, b}, out = -1;
    CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, b < 0 ? 1 : 2, params, NULL, -1, &out));
    return out;
}
static int apply(bp_plan *plan, const char *name, int x) {
    int out = -1;
    CHECK(!bp_plan_op(plan, bp_op_find("activation"), 1, &x, 0, NULL, bp_activation_detail(name), -1, &out));
    return out;
}
static int softmax(bp_plan *plan, int x) {
    int out = -1;
    CHECK(!bp_plan_op(plan, bp_op_find("softmax"), 1, &x, 0, NULL, NULL, -1, &out));
    return out;
}
static int add(bp_plan *plan, int n, const int *x) {
    int out = -1;
    CHECK(!bp_plan_op(plan, bp_op_find("add"), n, x, 0, NULL, NULL, -1, &out));
    return out;
}

/* theta: A [4, 4], a (4), B [4, 3], b (3), C [4, 4] */
enum { AT_A = 0, AT_a = 16, AT_B = 20, AT_b = 32, AT_C = 35, N_THETA = 51 };
typedef struct {
    int A, a, B, b, C;
} weights;

static weights declare(bp_plan *plan) {
    return (weights){bp_plan_param(plan, AT_A, 4, 4, 0, 1, 1), bp_plan_param(plan, AT_a, 4, 1, 0, 1, 0),
                     bp_plan_param(plan, AT_B, 4, 3, 0, 1, 1), bp_plan_param(plan, AT_b, 3, 1, 0, 1, 0),
                     bp_plan_param(plan, AT_C, 4, 4, 0, 1, 1)};
}

static int residual(bp_plan *plan, int x, weights w) {
    int h = apply(plan, "tanh", dense(plan, x, w.A, w.a)), sum = add(plan, 2, (int[]){h, x});
    return dense(plan, dense(plan, sum, w.C, -1), w.B, w.b);
}
static int doubled(bp_plan *plan, int x, weights w) { /* x + x, and a sum of many */
    int h = dense(plan, add(plan, 2, (int[]){x, x}), w.A, w.a);
    int s = apply(plan, "silu", add(plan, 8, (int[]){h, x, h, h, x, h, x, h}));
    return dense(plan, dense(plan, s, w.C, -1), w.B, w.b);
}
static int recurrent(bp_plan *plan, int x, weights w) { /* A and a are used eleven times */
    int h = x;
    for (int t = 0; t < 11; t++) h = apply(plan, "tanh", add(plan, 2, (int[]){dense(plan, h, w.A, w.a), x}));
    return dense(plan, dense(plan, h, w.C, -1), w.B, w.b);
}
static int branched(bp_plan *plan, int x, weights w) { /* two ways from h, a softmax with two readers */
    int h = softmax(plan, dense(plan, x, w.A, w.a));
    int left = apply(plan, "gelu", dense(plan, h, w.C, -1)), right = softmax(plan, h);
    return dense(plan, add(plan, 3, (int[]){left, right, h}), w.B, w.b);
}
static int forked(bp_plan *plan, int x, weights w) { /* the gradient of h may not be written over that of `right` */
    int h = dense(plan, x, w.A, w.a), right = apply(plan, "tanh", h), left = dense(plan, h, w.C, -1);
    return dense(plan, add(plan, 2, (int[]){left, right}), w.B, w.b);
}
static int dead_end(bp_plan *plan, int x, weights w) { /* what the loss does not depend on has no gradient */
    int h = apply(plan, "tanh", dense(plan, x, w.A, w.a)), out = dense(plan, h, w.B, w.b);
    apply(plan, "relu", apply(plan, "exp", dense(plan, h, w.C, -1)));
    dense(plan, h, w.A, w.a);
    apply(plan, "exp", out);
    return out;
}
static int unused(bp_plan *plan, int x, weights w) { return dense(plan, x, w.B, w.b); }

/* a b of the user's, in double; returns what `data` points to */
static int product(bp_function_call *call) {
    const double *a = call->in[0], *b = call->in[1], *dout = call->out_grad;
    double *out = call->out, *da = call->in_grad[0], *db = call->in_grad[1];
    for (int64_t i = 0; i < call->rows * call->out_cols; i++) {
        if (!dout) out[i] = a[i] * b[i];
        if (dout && da) da[i] += b[i] * dout[i];
        if (dout && db) db[i] += a[i] * dout[i];
    }
    return *(const int *)call->data;
}
static int product_fails[2], product_codes[2]; /* forward, backward */
static const bp_c_function own = {4, {product, product}, {&product_fails[0], &product_fails[1]}, product_codes};

static int multiplied(bp_plan *plan, int a, int b) {
    int out = -1;
    CHECK(!bp_plan_op(plan, bp_op_find("c_function"), 2, (int[]){a, b}, 0, NULL, &own, -1, &out));
    return out;
}
static int owned(bp_plan *plan, int x, weights w) { /* inputs with other readers, and one given twice */
    int h = apply(plan, "tanh", dense(plan, x, w.A, w.a)), p = multiplied(plan, h, x);
    int square = multiplied(plan, p, p), sum = add(plan, 3, (int[]){p, h, square});
    return dense(plan, multiplied(plan, dense(plan, sum, w.C, -1), sum), w.B, w.b);
}

typedef int build(bp_plan *plan, int x, weights w);

typedef struct {
    double cost, theta[N_THETA], *x;
} gradient;

static gradient run_graph(build *graph, int flags, int rows, const double *X, const double *y, double *theta,
                          int sums, int n_threads, bp_status expected) {
    bp_plan *plan = bp_plan_new(BP_F64);
    int x = bp_plan_buffer(plan, BP_REAL, N_IN), out = graph(plan, x, declare(plan));
    int target = bp_plan_buffer(plan, BP_REAL, N_OUT);
    gradient g = {.x = zeros((size_t)rows * N_IN, sizeof(double))};
    for (int i = 0; i < N_THETA; i++) g.theta[i] = NAN;
    for (int i = 0; i <= out && flags & BP_DO_REUSE; i += 3) bp_plan_checkpoint(plan, i);
    bp_set_sums(sums);
    CHECK(!bp_plan_loss(plan, "squared_error", out, target, NULL, 0, 0, 1, 1));
    CHECK(!bp_plan_compile(plan, flags, rows, n_threads));
    bp_set_sums(0);
    bp_run *run = run_new(plan, theta, N_THETA);
    bp_in_port in[2] = {{x, plain_array(X, rows, N_IN, BP_DOUBLE)}, {target, plain_array(y, rows, N_OUT, BP_DOUBLE)}};
    bp_out_port port = {.buffer = bp_plan_grad(plan, x), .data = g.x};
    CHECK((port.buffer >= 0) == !!(flags & BP_DO_INPUT_GRAD));
    CHECK(!bp_run_ports(run, 2, in, port.buffer >= 0, &port, -1));
    bp_opt opt = gradient_to(flags & BP_DO_BACKWARD ? g.theta : NULL);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, rows, rows, NULL);
    CHECK(bp_epoch(run, n_threads, INFINITY, -1, 1) == expected);
    g.cost = bp_run_progress(run).loss / rows;
    bp_run_free(run);
    bp_plan_free(plan);
    return g;
}

static double cost_of(build *graph, int rows, const double *X, const double *y, double *theta) {
    gradient g = run_graph(graph, BP_DO_FORWARD | BP_DO_LOSS, rows, X, y, theta, 0, 1, BP_DONE);
    free(g.x);
    return g.cost;
}

static void check_graph(build *graph, int rows) {
    enum { MOST = 100 };
    double X[MOST * N_IN], y[MOST * N_OUT], theta[N_THETA], expected[N_THETA], dx[MOST * N_IN];
    const double h = 1e-5;
    uint64_t state = 5;
    for (int i = 0; i < rows * N_IN; i++) X[i] = uniform(&state);
    for (int i = 0; i < rows * N_OUT; i++) y[i] = uniform(&state);
    for (int i = 0; i < N_THETA; i++) theta[i] = 0.7 * uniform(&state);
    for (int i = 0; i < N_THETA + rows * N_IN; i++) {
        double *moved = i < N_THETA ? &theta[i] : &X[i - N_THETA], was = *moved, c[2];
        for (int side = 0; side < 2; side++) {
            *moved = was + (side ? h : -h);
            c[side] = cost_of(graph, rows, X, y, theta);
        }
        *moved = was;
        if (i < N_THETA) expected[i] = (c[1] - c[0]) / (2 * h);
        else dx[i - N_THETA] = (c[1] - c[0]) / (2 * h) * rows; /* E of its own row */
    }
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD;
    for (int sums = 1; sums <= 2; sums++) {
        gradient first = {0};
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            gradient g = run_graph(graph, flags | BP_DO_INPUT_GRAD, rows, X, y, theta, sums, n_threads, BP_DONE);
            gradient plain = run_graph(graph, flags, rows, X, y, theta, sums, n_threads, BP_DONE);
            gradient cut = run_graph(graph, flags | BP_DO_REUSE, rows, X, y, theta, sums, n_threads, BP_DONE);
            CHECK(!memcmp(g.theta, plain.theta, sizeof g.theta));
            CHECK(!memcmp(g.theta, cut.theta, sizeof g.theta) && g.cost == cut.cost);
            free(plain.x);
            free(cut.x);
            if (n_threads > 1) {
                CHECK(!memcmp(g.theta, first.theta, sizeof g.theta) && g.cost == first.cost);
                CHECK(!memcmp(g.x, first.x, (size_t)(rows * N_IN) * sizeof(double)));
                free(g.x);
                continue;
            }
            first = g;
            int close = 1;
            for (int i = 0; i < N_THETA; i++) close &= fabs(g.theta[i] - expected[i]) <= 1e-7;
            for (int i = 0; i < rows * N_IN; i++) close &= fabs(g.x[i] - dx[i]) <= 1e-7 * rows;
            CHECK(close);
        }
        free(first.x);
    }
}

static void test_shapes_of_graphs(void) {
    static const struct {
        const char *name;
        build *build;
    } graphs[] = {{"residual", residual}, {"doubled", doubled},   {"recurrent", recurrent},
                  {"branched", branched}, {"forked", forked},   {"dead end", dead_end}, {"unused", unused},
                  {"owned", owned}};
    bp_set_parallel_always(1);
    for (size_t i = 0; i < sizeof graphs / sizeof *graphs; i++) {
        context("graph: %s", graphs[i].name);
        check_graph(graphs[i].build, 1);
        check_graph(graphs[i].build, 70);
    }
    bp_set_parallel_always(0);
}

/* A function of the user's fails on all threads at once: the step ends with nothing written, and says which. */
static void test_failures(void) {
    enum { ROWS = 300 };
    double X[ROWS * N_IN], y[ROWS * N_OUT], theta[N_THETA] = {0};
    uint64_t state = 5;
    for (int i = 0; i < ROWS * N_IN; i++) X[i] = uniform(&state);
    for (int i = 0; i < ROWS * N_OUT; i++) y[i] = uniform(&state);
    bp_set_parallel_always(1);
    for (int way = 0; way < 2; way++)
        for (int sums = 1; sums <= 2; sums++)
            for (int n_threads = 1; n_threads <= 3; n_threads++) {
                context("failure %d on %d threads", way, n_threads);
                product_fails[way] = 40 + way;
                product_codes[0] = product_codes[1] = 0;
                gradient g = run_graph(owned, BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD, ROWS, X, y,
                                       theta, sums, n_threads, BP_E_FUNCTION);
                CHECK(product_codes[way] == 40 + way && !product_codes[!way] && isnan(g.theta[0]));
                product_fails[way] = 0;
                free(g.x);
            }
    bp_set_parallel_always(0);
}

/* ---- inference ---- */

/* Callers that share a plan, each with an arena of its own, and as many threads as they like. */
typedef struct {
    const net *n;
    const void *theta;
    const data *d;
    const char *wanted;
    size_t row;
    int n_threads, wrong;
} asker;

static void *ask(void *arg) {
    asker *a = arg;
    void *arena = NULL;
    char *out = zeros((size_t)a->d->rows, a->row);
    if (posix_memalign(&arena, BP_ALIGN, bp_plan_describe(a->n->plan).arena_bytes)) abort();
    for (int64_t rows = 1; rows <= a->d->rows; rows += rows < 4 ? 1 : 21) {
        bp_in_port in = {a->n->x, plain_array(a->d->X, rows, 5, BP_DOUBLE)};
        bp_out_port to = {.buffer = a->n->a[2], .data = out};
        a->wrong |= bp_answer(a->n->plan, a->theta, NULL, arena, 1, &in, 1, &to, a->n_threads) != BP_OK;
        a->wrong |= memcmp(out, a->wanted, (size_t)rows * a->row) != 0;
    }
    free(arena);
    free(out);
    return NULL;
}

/* Weights of rows from 1 KiB on lie in strips of 192 bytes, a narrower one last; the rest as it was. */
static void check_packed(const spec *s, const void *theta, const void *packed) {
    size_t size = size_of(s), at = 0, moved = 0;
    for (int l = 1; l <= s->depth; l++) {
        size_t rows = (size_t)s->width[l - 1], cols = (size_t)s->width[l], strip = 192 / size;
        if (cols * size < 1024) strip = cols;
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++) {
                size_t first = c / strip * strip, wide = cols - first < strip ? cols - first : strip;
                size_t to = at + first * rows + r * wide + c - first, from = at + r * cols + c;
                moved += !!memcmp((const char *)packed + to * size, (const char *)theta + from * size, size);
            }
        at += rows * cols;
        moved += !!memcmp((const char *)packed + at * size, (const char *)theta + at * size, cols * size);
        at += cols;
    }
    CHECK(!moved);
}

static void check_answers(const spec *s, const data *d, const void *theta, const char *wanted, size_t row) {
    enum { ASKERS = 3 };
    net n;
    pthread_t threads[ASKERS];
    asker askers[ASKERS];
    CHECK(!net_open(&n, s, BP_DO_FORWARD, 1, 3));
    bp_in_port in = {n.x, plain_array(d->X, 1, 5, BP_DOUBLE)};
    bp_out_port to = {.buffer = n.a[2], .data = NULL};
    if (!strcmp(s->f[1], "python_function")) {
        CHECK(bp_answer(n.plan, theta, NULL, NULL, 1, &in, 1, &to, 1) == BP_E_SHAPE);
        net_close(&n);
        return;
    }
    void *packed = zeros((size_t)n_theta(s), size_of(s));
    for (int pass = 0; pass < 4; pass++) {
        const void *read = pass < 2 ? theta : packed;
        bp_set_parallel_always(pass % 2);
        if (pass == 2) {
            net_close(&n);
            CHECK(!net_open(&n, s, BP_DO_FORWARD | BP_DO_STRIPS, 1, 3));
            CHECK(!run_new(n.plan, NULL, n_theta(s))); /* for bp_answer alone */
            bp_plan_pack(n.plan, theta, packed);
            check_packed(s, theta, packed);
        }
        for (int i = 0; i < ASKERS; i++) {
            askers[i] = (asker){&n, read, d, wanted, row, 1 + i, 0};
            if (pthread_create(&threads[i], NULL, ask, &askers[i])) abort();
        }
        for (int i = 0; i < ASKERS; i++) {
            pthread_join(threads[i], NULL);
            CHECK(!askers[i].wrong);
        }
    }
    bp_set_parallel_always(0);
    free(packed);
    net_close(&n);
    CHECK(!net_open(&n, s, BP_DO_FORWARD | BP_DO_CACHE, 1, 1)); /* does more than answer */
    CHECK(bp_answer(n.plan, theta, NULL, NULL, 1, &in, 1, &to, 1) == BP_E_SHAPE);
    net_close(&n);
}

/* Two inputs, one read by products alone, and two outputs; through a function of the user's. */
static void test_answers_of_several(void) {
    enum { ROWS = 77 };
    double X[ROWS * N_IN], Y[ROWS * N_IN], theta[N_THETA], out[ROWS * N_OUT], inner[ROWS * N_IN];
    uint64_t state = 5;
    context("answers of several");
    for (int i = 0; i < ROWS * N_IN; i++) X[i] = uniform(&state), Y[i] = uniform(&state);
    for (int i = 0; i < N_THETA; i++) theta[i] = uniform(&state);
    bp_plan *plan = bp_plan_new(BP_F64);
    weights w = declare(plan);
    int x = bp_plan_buffer(plan, BP_REAL, N_IN), z = bp_plan_buffer(plan, BP_REAL, N_IN);
    int h = multiplied(plan, dense(plan, x, w.A, w.a), z), last = dense(plan, h, w.B, w.b);
    bp_plan_keep(plan, h);
    bp_plan_keep(plan, last);
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD | BP_DO_REUSE, 1, 3));
    void *arena = NULL;
    if (posix_memalign(&arena, BP_ALIGN, bp_plan_describe(plan).arena_bytes)) abort();
    bp_in_port in[2] = {{x, plain_array(X, ROWS, N_IN, BP_DOUBLE)}, {z, plain_array(Y, ROWS, N_IN, BP_DOUBLE)}};
    bp_out_port to[2] = {{.buffer = last, .data = out}, {.buffer = h, .data = inner}};
    for (int always = 0; always < 2; always++) {
        bp_set_parallel_always(always);
        CHECK(bp_answer(plan, theta, NULL, arena, 2, in, 2, to, 3) == BP_OK);
        double most = 0;
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < N_IN; j++) {
                double s = theta[AT_a + j];
                for (int k = 0; k < N_IN; k++) s += X[r * N_IN + k] * theta[AT_A + k * N_IN + j];
                most = fmax(most, fabs(s * Y[r * N_IN + j] - inner[r * N_IN + j]));
            }
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < N_OUT; j++) {
                double s = theta[AT_b + j];
                for (int k = 0; k < N_IN; k++) s += inner[r * N_IN + k] * theta[AT_B + k * N_OUT + j];
                most = fmax(most, fabs(s - out[r * N_OUT + j]));
            }
        CHECK(most < 1e-13);
        product_fails[0] = 9;
        CHECK(bp_answer(plan, theta, NULL, arena, 2, in, 2, to, 3) == BP_E_FUNCTION && product_codes[0] == 9);
        product_fails[0] = 0;
    }
    bp_set_parallel_always(0);
    free(arena);
    bp_plan_free(plan);
}

/* A row has the same bits in every batch, on every number of threads, with or without the cache. */
static void check_inference(bp_dtype dtype, const char *f, int64_t width) {
    enum { ROWS = 67 };
    spec s = {dtype, 2, {5, width, 3}, {NULL, f, "softmax"}, "cross_entropy", 0, 1, 0};
    data d = data_new(&s, ROWS);
    void *theta = theta_new(&s);
    size_t row = 3 * size_of(&s);
    char *first = NULL;
    static const int64_t batches[] = {67, 1, 2, 31, 32, 33, 64, 66};
    context("inference, %s, width %d", f, (int)width);
    for (int i = 0; i < 8; i++)
        for (int cache = 0; cache <= BP_DO_CACHE; cache += BP_DO_CACHE) {
            net n;
            user u;
            char *out = zeros(ROWS, row);
            CHECK(!net_open(&n, &s, BP_DO_FORWARD | cache, batches[i], 1 + i % 4));
            CHECK(bp_plan_describe(n.plan).shards == 0 && bp_plan_describe(n.plan).arena_bytes > 0);
            bp_out_port port = {.buffer = n.a[2], .data = out};
            bp_run *run = run_open(&n, &s, &d, theta, &u, 1, &port);
            bp_run_begin(run, ROWS, batches[i], NULL);
            CHECK(bp_epoch(run, 1 + i % 4, INFINITY, -1, 1) == BP_DONE);
            if (!first) first = out;
            CHECK(!memcmp(first, out, ROWS * row));
            if (first != out) free(out);
            bp_run_free(run);
            net_close(&n);
        }
    check_answers(&s, &d, theta, first, row);
    free(first);
    free(theta);
    data_free(&d);
}

/* A tape (z, a, df) kept outside, then the way back from it alone: the gradient of the step that does both. */
static void test_tape(void) {
    enum { ROWS = 45 };
    spec s = {BP_F64, 2, {4, 9, 3}, {NULL, "tanh", "softmax"}, "squared_error", 0, 0, 1};
    data d = data_new(&s, ROWS);
    double *theta = theta_new(&s), *grad = zeros((size_t)n_theta(&s), sizeof *grad);
    double *expected = zeros((size_t)n_theta(&s), sizeof *expected), *tape[4], delta[ROWS * 9];
    context("tape");
    cost(&s, &d, theta, expected, 1, 1);
    for (int i = 0; i < 4; i++) tape[i] = zeros(ROWS * 9, sizeof(double));
    net n;
    user u;
    CHECK(!net_open(&n, &s, BP_DO_FORWARD | BP_DO_CACHE, ROWS, 2));
    CHECK(bp_plan_cache(n.plan, n.a[2]) == -1 && bp_plan_cache(n.plan, n.x) == -1 && bp_plan_cache(n.plan, -1) == -1);
    CHECK(bp_plan_grad(n.plan, n.z[1]) == -1 && bp_plan_grad(n.plan, 1000) == -1);
    int buffers[4] = {n.z[1], n.a[1], bp_plan_cache(n.plan, n.a[1]), n.a[2]};
    bp_out_port out[4];
    for (int i = 0; i < 4; i++) out[i] = (bp_out_port){.buffer = buffers[i], .data = tape[i]};
    bp_run *run = run_open(&n, &s, &d, theta, &u, 4, out);
    bp_run_begin(run, ROWS, ROWS, NULL);
    CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == BP_DONE);
    bp_run_free(run);
    net_close(&n);
    double worst = 0;
    for (int i = 0; i < ROWS * 9; i++) {
        worst = fmax(worst, fabs(tape[1][i] - tanh(tape[0][i])));
        worst = fmax(worst, fabs(tape[2][i] - (1 - tape[1][i] * tape[1][i])));
    }
    CHECK(worst <= 1e-15);

    CHECK(!net_open(&n, &s, BP_DO_LOSS | BP_DO_BACKWARD | BP_DO_INPUT_GRAD, ROWS, 2));
    run = run_new(n.plan, theta, n_theta(&s));
    bp_in_port in[7] = {{n.x, plain_array(d.X, ROWS, 4, BP_DOUBLE)},
                        {n.target, plain_array(d.y, ROWS, 3, BP_DOUBLE)},
                        {n.weight, plain_array(d.w, ROWS, 1, BP_DOUBLE)}};
    for (int i = 0; i < 4; i++)
        in[3 + i] = (bp_in_port){buffers[i], plain_array(tape[i], ROWS, i < 3 ? 9 : 3, BP_DOUBLE)};
    out[0] = (bp_out_port){.buffer = bp_plan_grad(n.plan, n.z[1]), .data = delta};
    CHECK(!bp_run_ports(run, 7, in, 1, out, 2));
    bp_opt opt = gradient_to(grad);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, ROWS, ROWS, NULL);
    CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == BP_DONE);
    double weight = bp_run_progress(run).weight;
    for (int64_t i = 0; i < n_theta(&s); i++) CHECK(fabs(grad[i] - expected[i]) <= 1e-15);
    for (int c = 0; c < 9; c++) { /* db = sum of delta, divided once */
        double sum = 0;
        for (int r = 0; r < ROWS; r++) sum += delta[9 * r + c];
        CHECK(fabs(sum / weight - expected[36 + c]) <= 1e-15);
    }
    bp_run_free(run);
    net_close(&n);
    for (int i = 0; i < 4; i++) free(tape[i]);
    free(theta);
    free(grad);
    free(expected);
    data_free(&d);
}

/* ---- what is refused ---- */

static bp_status declare_copy(bp_plan *plan, bp_op *op) {
    op->out = bp_plan_buffer(plan, BP_REAL, plan ? 1 : op->n_in);
    return BP_OK;
}

static void test_refusals(void) {
    static bp_op_type types[100];
    static char names[100][8];
    context("refusals");
    bp_plan *plan = bp_plan_new(BP_F32);
    int x = bp_plan_buffer(plan, BP_REAL, 4), wide = bp_plan_buffer(plan, BP_REAL, 5), out = -1;
    int labels = bp_plan_buffer(plan, BP_INT32, 1), W = bp_plan_param(plan, 0, 4, 3, 0, 1, 1);
    int b = bp_plan_param(plan, 12, 3, 1, 0, 1, 0), b4 = bp_plan_param(plan, 15, 4, 1, 0, 1, 0);
    const bp_op_type *dense_type = bp_op_find("dense"), *add_type = bp_op_find("add");
    const void *tanh_ = bp_activation_detail("tanh");
    CHECK(bp_plan_buffer(plan, BP_REAL, 0) == -1 && bp_plan_buffer(plan, BP_REAL, -1) == -1);
    CHECK(bp_plan_param(plan, 0, 0, 1, 0, 1, 0) == -1 && bp_plan_param(plan, 0, 1, 0, 0, 1, 0) == -1);
    CHECK(bp_plan_param(plan, -1, 1, 1, 0, 1, 0) == -1 && bp_plan_param(plan, 0, INT64_MAX / 2, 3, 0, 1, 0) == -1);
    CHECK(bp_plan_param(plan, INT64_MAX, 1, 1, 0, 1, 0) == -1);
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD | BP_DO_LOSS, 4, 1) == BP_E_SHAPE); /* no loss */
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD, 0, 1) == BP_E_SHAPE);
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD, 4, 0) == BP_E_SHAPE);
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD, 4, BP_MAX_THREADS + 1) == BP_E_SHAPE);
    CHECK(run_new(plan, NULL, 0) == NULL); /* not compiled */
    CHECK(bp_plan_op(plan, dense_type, 1, &wide, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, &labels, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, &x, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, &x, 2, (int[]){W, b4}, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, &x, 2, (int[]){W, W}, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, &x, 2, (int[]){W, 99}, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 2, (int[]){x, x}, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, (int[]){99}, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, dense_type, 1, (int[]){-1}, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, add_type, 2, (int[]){x, wide}, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, add_type, 2, (int[]){x, labels}, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, add_type, 1, &x, 1, &W, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, add_type, 0, NULL, 0, NULL, NULL, -1, &out) == BP_E_LIMIT);
    CHECK(bp_plan_op(plan, add_type, 9, (int[9]){0}, 0, NULL, NULL, -1, &out) == BP_E_LIMIT);
    CHECK(bp_plan_op(plan, bp_op_find("activation"), 1, &x, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, bp_op_find("activation"), 2, (int[]){x, x}, 0, NULL, tanh_, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, bp_op_find("c_function"), 1, &x, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, bp_op_find("c_function"), 1, &x, 1, &W, &own, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, bp_op_find("c_function"), 1, &labels, 0, NULL, &own, -1, &out) == BP_E_SHAPE);
    CHECK(bp_plan_op(plan, bp_op_find("softmax"), 1, &labels, 0, NULL, NULL, -1, &out) == BP_E_SHAPE);
    CHECK(out == -1);
    CHECK(!bp_plan_op(plan, dense_type, 1, &x, 2, (int[]){W, b}, NULL, -1, &out) && out >= 0);
    int target = bp_plan_buffer(plan, BP_REAL, 3);
    CHECK(bp_plan_loss(plan, "no such", out, target, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "mse", 99, target, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "mse", out, -1, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "mse", out, wide, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "mse", out, labels, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "cross_entropy", out, wide, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(bp_plan_loss(plan, "mse", labels, labels, NULL, 0, 0, 1, 1) == BP_E_SHAPE);
    CHECK(!bp_plan_loss(plan, "cross_entropy", out, labels, NULL, 0, 0, 1, 1));
    CHECK(bp_plan_loss(plan, "mse", out, target, NULL, 0, 0, 1, 1) == BP_E_SHAPE); /* one output has one loss */
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD | BP_DO_LOSS, 4, 1));
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD, 4, 1) == BP_E_SHAPE); /* compiled already */
    CHECK(run_new(plan, NULL, 18) == NULL);          /* theta ends too soon */
    bp_plan_free(plan);

    plan = bp_plan_new(BP_F64);
    CHECK(bp_plan_buffer(plan, BP_REAL, INT64_MAX / 16) == 0);
    CHECK(bp_plan_compile(plan, BP_DO_FORWARD, 4096, 1) == BP_E_LIMIT); /* beyond the address space */
    bp_plan_free(plan);
    bp_plan_free(NULL);
    bp_run_free(NULL);

    int n = 0;
    types[0] = (bp_op_type){.name = "tanh", .scope = BP_SCOPE_ROWS, .declare = declare_copy};
    CHECK(!bp_op_register(&types[0]) && bp_op_find("tanh") == &types[0]);
    CHECK(bp_op_register(&types[0]) == BP_E_LIMIT); /* the name is taken */
    types[1].name = "dense";
    CHECK(bp_op_register(&types[1]) == BP_E_LIMIT && bp_op_find("dense") == dense_type);
    for (int i = 1; i < 100; i++) {
        for (int j = 0, k = i; j < 2; j++, k /= 10) names[i][j] = (char)('a' + k % 10);
        types[i] = (bp_op_type){.name = names[i], .scope = BP_SCOPE_ROWS, .declare = declare_copy};
        n += !bp_op_register(&types[i]);
    }
    CHECK(n >= 32 && n < 99 && !bp_op_find(names[n + 1])); /* the table is full */
}

void test_graphs(void) {
    test_shapes_of_graphs();
    check_inference(BP_F32, "tanh", 33);
    check_inference(BP_F64, "gelu", 65);
    check_inference(BP_F32, "python_function", 31);
    check_inference(BP_F64, "user_function", 1);
    check_inference(BP_F32, "relu", 601);
    check_inference(BP_F64, "silu", 193);
    test_failures();
    test_answers_of_several();
    test_tape();
    test_refusals();
}

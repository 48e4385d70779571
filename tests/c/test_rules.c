/* Sums and moves: numbers that change from step to step, factors of parameters, clipping, and the boundary. */
#include "harness.h"
#include "rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 96, BATCH = 8, STEPS = ROWS / BATCH };
static const spec deep = {BP_F64, 2, {5, 7, 3}, {NULL, "tanh", "identity"}, "mse", 0, 0, 1};

static regime plain(const optimizer *o, int n_threads, int sums) {
    return (regime){.n_threads = n_threads, .sums = sums, .epochs = 2, .batch = BATCH, .max_steps = -1,
                    .seconds = INFINITY, .opt = *o};
}

/* An array of one number gives the bits of the number, and of another for each step what single steps give. */
static void test_numbers(void) {
    static const optimizer rules[] = {
        {.rule = "sgd", .lr = 0.1},
        {.rule = "sgd", .lr = 0.1, .weight_decay = 0.01, .number = {0.9, 1}},
        {.rule = "adam", .lr = 0.01, .weight_decay = 0.1, .number = {0.9, 0.999, 1e-8}},
    };
    data d = data_new(&deep, ROWS);
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        double same[2 + BP_MAX_NUMBERS][STEPS], falling[STEPS];
        bp_number numbers[2 + BP_MAX_NUMBERS] = {{rules[k].lr, NULL}, {rules[k].weight_decay, NULL}};
        for (int i = 0; i < BP_MAX_NUMBERS; i++) numbers[2 + i].value = rules[k].number[i];
        regime r = plain(&rules[k], 2, 1);
        outcome constant = train(&deep, &d, &r);
        for (int i = 0; i < 2 + BP_MAX_NUMBERS; i++) {
            for (int j = 0; j < STEPS; j++) same[i][j] = numbers[i].value;
            if (k) numbers[i].steps = same[i]; /* decays in an array would do without the fused step, which rounds */
        }
        if (!k) numbers[0].steps = same[0];
        r.numbers = numbers;
        outcome steps = train(&deep, &d, &r);
        context("numbers of rule %d", (int)k);
        CHECK(same_bits(&constant, &steps));
        for (int j = 0; j < STEPS; j++) falling[j] = 0.1 / (1 + j);
        numbers[0].steps = falling;
        outcome first = train(&deep, &d, &r);
        for (r.n_threads = 1; r.n_threads <= 3; r.n_threads++) {
            r.max_steps = r.n_threads; /* whatever the slices */
            outcome o = train(&deep, &d, &r);
            CHECK(same_bits(&first, &o) && memcmp(o.theta, constant.theta, o.bytes));
            outcome_free(&o);
        }
        outcome_free(&first);
        outcome_free(&steps);
        outcome_free(&constant);
    }
    data_free(&d);
}

/* lr falls from step to step; a run of one step an epoch, told the number of each, gives the same. */
static void test_numbers_are_those_of_the_step(void) {
    data d = data_new(&deep, ROWS);
    optimizer sgd = {.rule = "sgd", .number = {0.5}};
    double falling[STEPS];
    for (int j = 0; j < STEPS; j++) falling[j] = 0.3 / (1 + j);
    bp_number numbers[2 + BP_MAX_NUMBERS] = {{0, falling}, {0, NULL}, {0.5, NULL}};
    regime r = plain(&sgd, 1, 1);
    r.epochs = 1;
    r.numbers = numbers;
    outcome steps = train(&deep, &d, &r);
    context("a number for each step");

    net n;
    user u;
    void *theta = theta_new(&deep);
    bp_opt opt = opt_new(&sgd, steps.bytes);
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
    bp_set_backend(2);
    CHECK(!net_open(&n, &deep, flags, BATCH, 1));
    bp_set_backend(0);
    bp_run *run = run_open(&n, &deep, &d, theta, &u, 0, NULL);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, ROWS, BATCH, NULL);
    for (int j = 0; j < STEPS; j++) {
        bp_run *next = run_open(&n, &deep, &d, theta, &u, 0, NULL); /* goes on where the last one is */
        opt.lr.value = falling[j];
        opt.t = j;
        CHECK(!bp_run_optimizer(next, &opt));
        bp_run_follow(next, run);
        CHECK(bp_epoch(next, 1, INFINITY, 1, 1) == (j < STEPS - 1 ? BP_PAUSED : BP_DONE));
        bp_run_free(run);
        run = next;
    }
    bp_progress p = bp_run_progress(run);
    CHECK(!memcmp(&p, &steps.progress, sizeof p) && bp_run_updates(run) == STEPS);
    CHECK(!memcmp(theta, steps.theta, steps.bytes));
    bp_run_free(run);
    net_close(&n);
    states_free(&opt);
    free(theta);
    outcome_free(&steps);
    data_free(&d);
}

/* ---- one step, held against the gradient ---- */

enum { N_IN = 3, N_OUT = 2, N = N_IN * N_OUT + N_OUT };

typedef struct {
    double theta[N];
    bp_status status;
} step_result;

static bp_status tripled(void *self, const bp_boundary *b) {
    ++*(int *)self;
    for (int64_t i = 0; i < b->n_theta; i++) ((double *)b->grad)[i] *= 3; /* two more processes have the same rows */
    *b->weight *= 3;
    return *(int *)self > 1 ? BP_E_CALLBACK : BP_OK;
}

/* A step of x W + b with these factors of (W, b); sums, threads; a hook that is called `*hooked` times. */
static step_result step_once(const optimizer *o, const double rate[2], const double decay[2], int sums, int n_threads,
                             int *hooked, double *gradient) {
    enum { MANY = 600 };
    static double X[MANY * N_IN], y[MANY * N_OUT];
    uint64_t state = 4;
    step_result r;
    for (int i = 0; i < MANY * N_IN; i++) X[i] = uniform(&state);
    for (int i = 0; i < MANY * N_OUT; i++) y[i] = 3 * uniform(&state);
    for (int i = 0; i < N; i++) r.theta[i] = uniform(&state);
    bp_plan *plan = bp_plan_new(BP_F64);
    int params[2] = {bp_plan_param(plan, 0, N_IN, N_OUT, 0, rate[0], decay[0]),
                     bp_plan_param(plan, N_IN * N_OUT, N_OUT, 1, 0, rate[1], decay[1])};
    int x = bp_plan_buffer(plan, BP_REAL, N_IN), z, target = bp_plan_buffer(plan, BP_REAL, N_OUT);
    bp_opt opt = gradient ? gradient_to(gradient) : opt_new(o, N * sizeof(double));
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
    CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, 2, params, NULL, -1, &z));
    CHECK(!bp_plan_loss(plan, "squared_error", z, target, NULL, 0, 0, 1, 1));
    bp_set_sums(sums);
    CHECK(!bp_plan_compile(plan, flags | (hooked ? BP_DO_BOUNDARY : 0), MANY, n_threads));
    bp_set_sums(0);
    CHECK((sums == 2) == (bp_plan_describe(plan).shards > 0));
    bp_run *run = run_new(plan, r.theta, N);
    bp_in_port in[2] = {{x, plain_array(X, MANY, N_IN, BP_DOUBLE)}, {target, plain_array(y, MANY, N_OUT, BP_DOUBLE)}};
    CHECK(!bp_run_ports(run, 2, in, 0, NULL, -1) && !bp_run_optimizer(run, &opt));
    CHECK(bp_run_hook(run, tripled, hooked) == (hooked || opt.clip_norm > 0 ? BP_OK : BP_E_SHAPE));
    if (!hooked && opt.clip_norm > 0) CHECK(!bp_run_hook(run, NULL, NULL));
    bp_run_begin(run, MANY, MANY, NULL);
    r.status = bp_epoch(run, n_threads, INFINITY, -1, 1);
    bp_run_free(run);
    bp_plan_free(plan);
    if (!gradient) states_free(&opt);
    return r;
}

static const double ones[2] = {1, 1}, weights_alone[2] = {1, 0};

/* theta - rate lr (clipped g + decay weight_decay theta), element by element. */
static void check_step(const optimizer *o, const double rate[2], const double decay[2], const double *theta,
                       const double *g, int hooked) {
    double norm = 0, worst = 0;
    for (int i = 0; i < N; i++) norm += g[i] * g[i];
    double factor = o->clip_norm > 0 ? fmin(1, o->clip_norm / (sqrt(norm) + 1e-6)) : 1;
    for (int sums = 1; sums <= 2; sums++) {
        step_result first = {{0}, BP_OK};
        for (int n_threads = 1; n_threads <= 4; n_threads++) {
            int calls = 0;
            step_result r = step_once(o, rate, decay, sums, n_threads, hooked ? &calls : NULL, NULL);
            CHECK(r.status == BP_DONE && calls == hooked);
            if (n_threads == 1) first = r;
            CHECK(!memcmp(&r.theta, &first.theta, sizeof r.theta));
            for (int i = 0; i < N; i++) {
                int bias = i >= N_IN * N_OUT;
                double d = g[i] * factor;
                if (o->clip_value > 0) d = fmax(-o->clip_value, fmin(o->clip_value, d));
                d += decay[bias] * o->weight_decay * theta[i];
                worst = fmax(worst, fabs(theta[i] - rate[bias] * o->lr * d - r.theta[i]));
            }
        }
    }
    context("clip_norm %g, clip_value %g, hook %d: off by %g", o->clip_norm, o->clip_value, hooked, worst);
    CHECK(worst <= 4e-16);
}

static void test_steps(void) {
    static const double other_rate[2] = {0.5, 2}, other_decay[2] = {3, 0.25};
    static const optimizer still = {.rule = "sgd", .lr = 0};
    double g[N];
    step_result before = step_once(&still, ones, ones, 1, 1, NULL, NULL);
    step_once(&still, ones, ones, 1, 1, NULL, g);
    double largest = 0, norm = 0;
    for (int i = 0; i < N; i++) largest = fmax(largest, fabs(g[i])), norm += g[i] * g[i];
    norm = sqrt(norm);
    for (int hooked = 0; hooked <= 1; hooked++)
        for (int i = 0; i < 8; i++) {
            optimizer o = {.rule = "sgd", .lr = 0.25, .weight_decay = i & 4 ? 0.125 : 0};
            if (i & 1) o.clip_norm = i & 2 ? norm / 3 : 3 * norm;
            if (i & 2) o.clip_value = largest / 2;
            check_step(&o, ones, weights_alone, before.theta, g, hooked);
            check_step(&o, other_rate, other_decay, before.theta, g, hooked);
        }
}

/* A hook that fails leaves theta as it is. */
static void test_failing_hook(void) {
    static const optimizer still = {.rule = "sgd", .lr = 0}, sgd = {.rule = "sgd", .lr = 1};
    int calls = 1;
    step_result before = step_once(&still, ones, ones, 1, 1, NULL, NULL);
    step_result r = step_once(&sgd, ones, ones, 1, 2, &calls, NULL);
    context("a hook that fails");
    CHECK(r.status == BP_E_CALLBACK && calls == 2 && !memcmp(r.theta, before.theta, sizeof r.theta));
}

static bp_status silent(void *self, const bp_boundary *b) {
    ++*(int *)self;
    return b->n_theta == N ? BP_OK : BP_E_CALLBACK;
}

/* Where no process has a row of weight, no step is made, clipped or not. */
static void test_hook_without_weight(void) {
    spec s = {BP_F64, 1, {N_IN, N_OUT}, {NULL, "identity"}, "squared_error", 0, 0, 1};
    data d = data_new(&s, 30);
    memset(d.w + 10, 0, 10 * sizeof *d.w);
    for (int clipped = 0; clipped < 2; clipped++) {
        int calls = 0;
        optimizer o = {.rule = "sgd", .lr = 0.1, .clip_norm = clipped};
        regime r = {.n_threads = 2, .epochs = 1, .batch = 10, .max_steps = -1, .seconds = INFINITY, .opt = o,
                    .hook = silent, .hook_self = &calls};
        for (r.sums = 1; r.sums <= 2; r.sums++) {
            outcome out = train(&s, &d, &r);
            context("a hook, a batch without weight, clipped %d: status %d", clipped, (int)out.status);
            CHECK(out.status == BP_DONE && out.updates == 2 && out.progress.batch == 3 && calls == 3 * r.sums);
            outcome_free(&out);
        }
    }
    data_free(&d);
}

/* A norm that is not finite counts as a parameter that is not. */
static void test_endless_norm(void) {
    spec s = {BP_F64, 1, {2, 2}, {NULL, "identity"}, "huber", 0, 0, 0};
    data d = data_new(&s, 40);
    d.X[2 * 30] = 1e160; /* E is finite, the square of its gradient is not */
    optimizer o = {.rule = "sgd", .lr = 1e-300, .clip_norm = 1};
    regime r = {.n_threads = 2, .epochs = 1, .batch = 4, .max_steps = -1, .seconds = INFINITY, .opt = o};
    data start = data_new(&s, 28);
    outcome spoilt = train(&s, &d, &r), before = train(&s, &start, &r);
    context("a norm that is not finite: status %d after %d batches", (int)spoilt.status, (int)spoilt.progress.batch);
    CHECK(spoilt.status == BP_E_NONFINITE_PARAM && spoilt.progress.batch == 7);
    CHECK(!memcmp(spoilt.theta, before.theta, before.bytes));
    outcome_free(&spoilt);
    outcome_free(&before);
    data_free(&d);
    data_free(&start);
}

/* Several chunks and clipping: one step on 34,000 rows is that of the gradient. */
static void test_chunks(void) {
    spec s = {BP_F64, 2, {2, 14, 1}, {NULL, "tanh", "logistic"}, "binary_cross_entropy", 0, 0, 1};
    data d = data_new(&s, 34000);
    size_t bytes = (size_t)n_theta(&s) * sizeof(double);
    double *theta = theta_new(&s), *grad = zeros(bytes, 1), norm = 0;
    for (int sums = 1; sums <= 2; sums++) {
        cost(&s, &d, theta, grad, sums, 1);
        norm = 0;
        for (int64_t i = 0; i < n_theta(&s); i++) norm += grad[i] * grad[i];
        norm = sqrt(norm);
        optimizer o = {.rule = "sgd", .lr = 1, .clip_norm = norm / 2};
        regime r = {.sums = sums, .epochs = 1, .batch = d.rows, .max_steps = -1, .seconds = INFINITY, .opt = o};
        for (r.n_threads = 1; r.n_threads <= 3; r.n_threads++) {
            outcome one = train(&s, &d, &r);
            double worst = 0;
            for (int64_t i = 0; i < n_theta(&s); i++)
                worst = fmax(worst, fabs(((double *)one.theta)[i] -
                                         (theta[i] - o.clip_norm / (norm + 1e-6) * grad[i])));
            context("a clipped step of several chunks, mode %d: off by %g", sums, worst);
            CHECK(one.status == BP_DONE && worst <= 1e-15);
            outcome_free(&one);
        }
    }
    free(theta);
    free(grad);
    data_free(&d);
}

/* The table: names, numbers and states are there, and a rule that only writes needs no other flag. */
static void test_table(void) {
    int n = 0, needs;
    context("the table of rules");
    for (const char *name; (name = bp_rule_name(n)); n++) CHECK(!strcmp(bp_rule_find(name)->name, name));
    CHECK(n >= 3 && !bp_rule_find("abacus"));
    CHECK(!bp_rule_moves(bp_rule_find("gradient")) && bp_rule_moves(bp_rule_find("sgd")));
    CHECK(!strcmp(bp_rule_state(bp_rule_find("sgd"), 0, &needs), "velocity") && needs == 0);
    bp_opt opt = {.rule = bp_rule_find("sgd"), .lr = {0.1, NULL}};
    CHECK(bp_opt_flags(&opt) == (BP_DO_MOVE | BP_DO_FUSE));
    opt.clip_value = 1;
    CHECK(bp_opt_flags(&opt) == BP_DO_MOVE);
    opt.clip_norm = 1;
    CHECK(bp_opt_flags(&opt) == (BP_DO_MOVE | BP_DO_BOUNDARY));
    opt = (bp_opt){.rule = bp_rule_find("gradient")};
    CHECK(bp_opt_flags(&opt) == 0);
    opt = (bp_opt){0};
    CHECK(bp_opt_flags(&opt) == 0);
}

/* A plan refuses an optimiser that it was not compiled for, and the run keeps what it had. */
static void test_refusals(void) {
    static const optimizer sgd = {.rule = "sgd", .lr = 0.1}, decayed = {.rule = "sgd", .lr = 0.1, .weight_decay = 1},
                           clipped = {.rule = "sgd", .lr = 0.1, .clip_norm = 1};
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD;
    double theta[80] = {0};
    bp_opt fused = opt_new(&sgd, 0), apart = opt_new(&decayed, 0), norm = opt_new(&clipped, 0), none = {0};
    context("optimisers that do not fit a plan");
    net n;
    CHECK(!net_open(&n, &deep, flags | BP_DO_MOVE | BP_DO_FUSE, BATCH, 1));
    bp_run *run = run_new(n.plan, theta, n_theta(&deep));
    bp_opt gradient = gradient_to(theta);
    CHECK(!bp_run_optimizer(run, &fused) && !bp_run_optimizer(run, &none));
    CHECK(bp_run_optimizer(run, &apart) == BP_E_SHAPE && bp_run_optimizer(run, &norm) == BP_E_SHAPE);
    CHECK(bp_run_optimizer(run, &gradient) == BP_E_SHAPE);
    bp_run_free(run);
    net_close(&n);
    CHECK(!net_open(&n, &deep, flags | BP_DO_MOVE, BATCH, 1));
    run = run_new(n.plan, theta, n_theta(&deep));
    CHECK(!bp_run_optimizer(run, &apart) && !bp_run_optimizer(run, &fused));
    CHECK(bp_run_optimizer(run, &norm) == BP_E_SHAPE && bp_run_hook(run, tripled, NULL) == BP_E_SHAPE);
    CHECK(bp_run_bind(run, theta, n_theta(&deep) - 1, NULL, 0) == BP_E_SHAPE && !bp_run_bind(run, theta, 80, NULL, 0));
    bp_run_free(run);
    net_close(&n);
    CHECK(net_open(&n, &deep, BP_DO_FORWARD | BP_DO_LOSS | BP_DO_MOVE, BATCH, 1) == BP_E_SHAPE);
    net_close(&n);
}

/* An update that takes longer than a round has the same bits in rounds; between them it is taken back, and made anew */
static void test_half_made_updates(void) {
    static const spec wide = {BP_F32, 2, {41, 500, 20}, {NULL, "tanh", "identity"}, "mse", 0, 0, 1};
    static const optimizer sgd = {.rule = "sgd", .lr = 0.1};
    data d = data_new(&wide, ROWS);
    regime r = plain(&sgd, 2, 1);
    r.epochs = 1;
    r.batch = ROWS / 2;
    outcome wanted = train(&wide, &d, &r);
    bp_set_round_flops(2e5);
    r.seconds = 0;
    outcome rounds = train(&wide, &d, &r);
    CHECK(same_bits(&wanted, &rounds) && rounds.slices > 20);

    net n;
    user u;
    char *theta = theta_new(&wide), *whole = memcpy(zeros(1, wanted.bytes), theta, wanted.bytes);
    bp_opt opt = opt_new(&sgd, wanted.bytes);
    bp_set_sums(1);
    bp_set_backend(2);
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
    CHECK(!net_open(&n, &wide, flags, r.batch, 2));
    bp_run *run = run_open(&n, &wide, &d, theta, &u, 0, NULL);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, ROWS, r.batch, NULL);
    int64_t steps = 0, halves = 0;
    while (bp_epoch(run, 2, 0, -1, 0) == BP_PAUSED) {
        if (bp_run_progress(run).steps > steps) {
            steps = bp_run_progress(run).steps;
            memcpy(whole, theta, wanted.bytes);
        }
        if (bp_run_is_whole(run) || ++halves != 2) continue;
        CHECK(memcmp(whole, theta, wanted.bytes));
        bp_run_make_whole(run);
        CHECK(bp_run_is_whole(run) && !memcmp(whole, theta, wanted.bytes));
    }
    CHECK(halves > 2 && !memcmp(theta, wanted.theta, wanted.bytes));
    bp_set_sums(0);
    bp_set_backend(0);
    bp_set_round_flops(0);
    bp_run_free(run);
    net_close(&n);
    free(whole);
    free(theta);
    states_free(&opt);
    outcome_free(&rounds);
    outcome_free(&wanted);
    data_free(&d);
}

/* Runs of equal networks, a thread each or, where they share a plan, side by side, have the bits of one alone. */
static void test_many(void) {
    enum { K = 5, OWN = 1, COLS = BP_JOB_COLS + 2 };
    static const optimizer sgd = {.rule = "sgd", .lr = 0.1, .number = {0.9, 0}};
    data d = data_new(&deep, ROWS);
    regime r = plain(&sgd, 1, 1);
    outcome wanted = train(&deep, &d, &r);
    net n[K];
    user u[K];
    void *theta[K];
    bp_opt opt[K];
    bp_job job[K], *left[K];
    double log[K][2 * COLS];
    bp_set_sums(1);
    bp_set_backend(2);
    for (int k = 0; k < K; k++) {
        theta[k] = theta_new(&deep);
        opt[k] = opt_new(&sgd, wanted.bytes);
        int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt[k]);
        if (k <= OWN) CHECK(!net_open(&n[k], &deep, flags, BATCH, 1));
        bp_run *run = run_open(&n[k == OWN ? OWN : 0], &deep, &d, theta[k], &u[k], 0, NULL);
        CHECK(!bp_run_optimizer(run, &opt[k]));
        bp_run_begin(run, ROWS, BATCH, NULL);
        job[k] = (bp_job){.run = run, .n = ROWS, .batch = BATCH, .epochs = 2, .log = log[k], .n_losses = 1, .fresh = 1,
                          .status = BP_PAUSED};
    }
    for (int turns = 0, count = K; count && turns < 1000; turns++) {
        count = 0;
        for (int k = 0; k < K; k++)
            if (job[k].status == BP_PAUSED) left[count++] = &job[k];
        if (count) CHECK(bp_many(left, count, 2, 0.1) == BP_OK && left[0]->had_turn);
    }
    for (int k = 0; k < K; k++) {
        CHECK(job[k].status == BP_DONE && !memcmp(theta[k], wanted.theta, wanted.bytes));
        CHECK(log[k][0] == log[0][0] && log[k][COLS + 2] == ROWS && log[k][COLS] == wanted.progress.loss);
        bp_run_free(job[k].run);
        if (k == OWN) net_close(&n[k]);
        states_free(&opt[k]);
        free(theta[k]);
    }
    net_close(&n[0]);
    bp_set_sums(0);
    bp_set_backend(0);
    outcome_free(&wanted);
    data_free(&d);
}

/* Rows of zeros have no gradient but that of the penalties; then the norms of columns are bounded. */
static void test_penalties(void) {
    const double w[4] = {1, -2, 0.5, 3}, zeros[4] = {0};
    const float single[3] = {1, -2, 0.5f};
    CHECK(bp_penalty(BP_F64, w, 4, 0.5, 2) == 0.5 * 6.5 + 14.25 && bp_penalty(BP_F32, single, 3, 1, 0) == 3.5);
    for (int bounded = 0; bounded < 2; bounded++) {
        double theta[4];
        memcpy(theta, w, sizeof w);
        int z, flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | BP_DO_MOVE | BP_DO_PENALTY;
        bp_plan *plan = bp_plan_new(BP_F64);
        int x = bp_plan_buffer(plan, BP_REAL, 2), y = bp_plan_buffer(plan, BP_REAL, 2);
        int W = bp_plan_param(plan, 0, 2, 2, 0, 1, 1);
        CHECK(bp_plan_regularise(plan, W, -1, 0, 0) == BP_E_SHAPE);
        CHECK(bp_plan_regularise(plan, W, 0, NAN, 0) == BP_E_SHAPE && bp_plan_regularise(plan, W + 1, 0, 0, 0));
        CHECK(!bp_plan_regularise(plan, W, 0.25, 0.5, bounded ? 2 : 0));
        CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &x, 1, &W, NULL, -1, &z));
        CHECK(!bp_plan_loss(plan, "squared_error", z, y, NULL, 0, 1, 1, 1) && !bp_plan_compile(plan, flags, 2, 1));
        bp_run *run = run_new(plan, theta, 4);
        bp_in_port in[2] = {{x, plain_array(zeros, 2, 2, BP_DOUBLE)}, {y, plain_array(zeros, 2, 2, BP_DOUBLE)}};
        static const optimizer sgd = {.rule = "sgd", .lr = 0.1};
        bp_opt opt = opt_new(&sgd, 0);
        CHECK(!bp_run_ports(run, 2, in, 0, NULL, -1) && !bp_run_optimizer(run, &opt));
        bp_run_begin(run, 2, 2, NULL);
        CHECK(bp_epoch(run, 1, INFINITY, -1, 1) == BP_DONE);
        CHECK(fabs(bp_run_progress(run).loss - 2 * bp_penalty(BP_F64, w, 4, 0.25, 0.5)) < 1e-14);
        double norm[2] = {0, 0}, moved[4];
        for (int i = 0; i < 4; i++) moved[i] = w[i] - 0.1 * ((w[i] > 0 ? 0.25 : -0.25) + 0.5 * w[i]);
        for (int i = 0; i < 4; i++) norm[i % 2] += moved[i] * moved[i];
        for (int i = 0; i < 4; i++) {
            double most = bounded && norm[i % 2] > 4 ? 2 / sqrt(norm[i % 2]) : 1;
            CHECK(fabs(theta[i] - moved[i] * most) < 1e-14);
        }
        bp_run_free(run);
        bp_plan_free(plan);
    }
}

/* 1 - beta^t to some ulp, also where beta^t is near 1. */
static void test_corrections(void) {
    static const double betas[] = {0, 0.5, 0.9, 0.999, 1 - 0x1p-40};
    for (size_t k = 0; k < sizeof betas / sizeof *betas; k++)
        for (int64_t t = 1; t < (int64_t)1 << 50; t = 3 * t + 1) {
            bp_opt opt = {.rule = bp_rule_find("adam"), .number = {{betas[k], NULL}, {betas[k], NULL}}};
            bp_move m = {0};
            bp_move_numbers(&m, &opt, 0);
            opt.rule->prepare(&m, t);
            long double wanted = -expm1l((long double)t * logl((long double)betas[k]));
            context("1 - %g^%lld", betas[k], (long long)t);
            CHECK(fabsl((long double)m.prepared[0] / wanted - 1) < 0x1p-50L);
            CHECK(fabsl((long double)m.prepared[1] / sqrtl(wanted) - 1) < 0x1p-50L);
        }
}

void test_rules(void) {
    test_table();
    test_corrections();
    test_refusals();
    bp_set_parallel_always(1);
    test_numbers();
    test_half_made_updates();
    test_many();
    test_numbers_are_those_of_the_step();
    test_steps();
    test_failing_hook();
    test_hook_without_weight();
    test_endless_norm();
    test_penalties();
    test_chunks();
    bp_set_parallel_always(0);
}

/* Statuses: labels, callbacks, divergence with replay, pauses. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIN = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD };
static const optimizer sgd = {.rule = "sgd", .lr = 0.1};

/* Labels from memory of any integer type: what lies outside is a status, and nothing is updated. */
static void test_labels(void) {
    static const struct {
        bp_source type;
        int64_t value;
        int swapped;
        bp_status expected;
    } cases[] = {
        {BP_I64, 2, 0, BP_DONE},        {BP_I64, 3, 0, BP_E_LABEL},         {BP_I64, -1, 0, BP_E_LABEL},
        {BP_I64, 1ll << 40, 0, BP_E_LABEL}, {BP_I64, 1ll << 32, 0, BP_E_LABEL}, {BP_U64, -1, 0, BP_E_LABEL},
        {BP_I32, -1, 0, BP_E_LABEL},    {BP_U32, 0xffffffff, 0, BP_E_LABEL}, {BP_I16, -2, 0, BP_E_LABEL},
        {BP_U16, 2, 0, BP_DONE},        {BP_I8, -128, 0, BP_E_LABEL},       {BP_U8, 255, 0, BP_E_LABEL},
        {BP_BOOL, 1, 0, BP_DONE},       {BP_I64, 2ll << 56, 1, BP_DONE},    {BP_U64, 3ll << 56, 1, BP_E_LABEL},
        {BP_DOUBLE, 0, 0, BP_E_LABEL},
    };
    static const int8_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 16};
    spec s = {BP_F64, 1, {2, 3}, {NULL, "softmax"}, "cross_entropy", 0, 1, 0};
    enum { ROWS = 40 };
    data d = data_new(&s, ROWS);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int sums = 1; sums <= 2; sums++) {
            context("label case %d", (int)i);
            char labels[ROWS * 8] = {0};
            int64_t size = sizes[cases[i].type];
            memcpy(labels + 33 * size, &cases[i].value, (size_t)size); /* little-endian, as both platforms are */
            double *theta = theta_new(&s), *before = theta_new(&s);
            net n;
            user u;
            bp_set_sums(sums);
            bp_opt opt = opt_new(&sgd, 0);
            CHECK(!net_open(&n, &s, TRAIN | bp_opt_flags(&opt), ROWS, 2));
            bp_run *run = run_open(&n, &s, &d, theta, &u, 0, NULL);
            bp_array y = {.data = labels, .rows = ROWS, .cols = 1, .row_stride = size, .col_stride = size,
                          .type = cases[i].type, .swapped = cases[i].swapped};
            bp_in_port in[2] = {{n.x, plain_array(d.X, ROWS, 2, BP_DOUBLE)}, {n.target, y}};
            CHECK(!bp_run_ports(run, 2, in, 0, NULL, -1));
            CHECK(!bp_run_optimizer(run, &opt));
            bp_run_begin(run, ROWS, ROWS, NULL);
            CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == cases[i].expected);
            int moved = memcmp(theta, before, (size_t)n_theta(&s) * sizeof *theta) != 0;
            CHECK(moved == (cases[i].expected == BP_DONE));
            CHECK(bp_run_progress(run).batch == (cases[i].expected == BP_DONE));
            bp_run_free(run);
            net_close(&n);
            free(theta);
            free(before);
        }
    bp_set_sums(0);
    data_free(&d);
}

/* A callback that fails leaves the last whole step; the run goes on from there to the same bits. */
static void test_callbacks(void) {
    spec s = {BP_F64, 2, {3, 4, 2}, {NULL, "python_function", "identity"}, NULL, 0, 0, 1};
    data d = data_new(&s, 50);
    regime r = {.n_threads = 2, .epochs = 1, .batch = 20, .max_steps = -1, .seconds = INFINITY, .opt = sgd};
    outcome whole = train(&s, &d, &r);
    CHECK(whole.status == BP_DONE && whole.updates == 3);
    for (int fail_at = 1; fail_at <= 6; fail_at++) {
        context("callback fails at call %d", fail_at);
        double *theta = theta_new(&s), *steps = theta_new(&s);
        net n;
        user u;
        bp_opt opt = opt_new(&sgd, 0);
        CHECK(!net_open(&n, &s, TRAIN | bp_opt_flags(&opt), 20, 2));
        for (int half = 0; half < 2; half++) { /* first whole steps only, into `steps`; then with the failure */
            bp_run *run = run_open(&n, &s, &d, half ? theta : steps, &u, 0, NULL);
            CHECK(!bp_run_optimizer(run, &opt));
            bp_run_begin(run, 50, 20, NULL);
            int64_t before = (fail_at - 1) / 2;
            if (!half && before) CHECK(bp_epoch(run, 2, INFINITY, before, 1) == BP_PAUSED);
            if (half) {
                u.fail_at = fail_at;
                CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == BP_E_CALLBACK);
                CHECK(bp_run_progress(run).batch == before && bp_run_updates(run) == before);
                CHECK(!memcmp(theta, steps, whole.bytes));
                CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == BP_DONE);
                CHECK(!memcmp(theta, whole.theta, whole.bytes));
            }
            bp_run_free(run);
        }
        net_close(&n);
        free(theta);
        free(steps);
    }
    outcome_free(&whole);
    data_free(&d);
}

/* An overflow at batch `at` of a slice gives the parameters, states and counts of the steps before it. */
static void check_divergence(const optimizer *opt, double huge, bp_status expected, int sums, int64_t max_steps) {
    enum { ROWS = 60, BATCH = 4, AT = 9 };
    spec s = {BP_F64, 1, {2, 2}, {NULL, "identity"}, "huber", 0, 0, 0};
    data d = data_new(&s, ROWS), start = data_new(&s, AT * BATCH);
    for (int i = 0; i < 2 * ROWS; i++) d.X[i] *= 1e-6; /* lr is large */
    memcpy(start.X, d.X, 2 * AT * BATCH * sizeof *d.X);
    memcpy(start.y, d.y, 2 * AT * BATCH * sizeof *d.y);
    d.X[2 * (AT * BATCH + 1)] = huge;
    regime r = {.n_threads = 3, .sums = sums, .epochs = 1, .batch = BATCH, .max_steps = max_steps,
                .seconds = INFINITY, .opt = *opt};
    outcome diverged = train(&s, &d, &r), before = train(&s, &start, &r);
    CHECK(diverged.status == expected);
    CHECK(before.status == BP_DONE && before.updates == AT);
    CHECK(diverged.progress.batch == AT && diverged.progress.steps == AT);
    before.status = diverged.status;
    CHECK(same_bits(&diverged, &before));
    outcome_free(&diverged);
    outcome_free(&before);
    data_free(&d);
    data_free(&start);
}

static void test_divergence(void) {
    static const optimizer opts[] = {
        {.rule = "sgd", .lr = 1e8},
        {.rule = "sgd", .lr = 1e8, .number = {0.9, 1}},
        {.rule = "adam", .lr = 1e-3, .number = {0.9, 0.999, 1e-8}},
    };
    for (int i = 0; i < 3; i++)
        for (int sums = 1; sums <= 2; sums++)
            for (int64_t max_steps = -1; max_steps <= 4; max_steps += 5) {
                context("divergence %d, sums of mode %d, slices of %d", i, sums, (int)max_steps);
                /* the loss is finite, its gradient times lr is not; Adam's step is bounded: there the loss is not */
                if (i < 2) check_divergence(&opts[i], 1e303, BP_E_NONFINITE_PARAM, sums, max_steps);
                check_divergence(&opts[i], NAN, BP_E_NONFINITE_LOSS, sums, max_steps);
            }
}

/* theta written between slices is what a divergence goes back to, when the slice is told so.  The copy is of more
 * than the plan moves, so that it costs far more than the slice: a copy so young would else be kept. */
static void test_fresh(void) {
    enum { ROWS = 8, MANY = 1 << 20 };
    spec s = {BP_F64, 1, {1, 1}, {NULL, "identity"}, "huber", 1, 0, 0};
    data d = data_new(&s, ROWS);
    bp_opt opt = opt_new(&(optimizer){.rule = "sgd", .lr = 1e8}, 0);
    double *theta = zeros(MANY, sizeof *theta);
    net n;
    context("a write to theta between slices");
    d.X[7] = 1e305;
    CHECK(!net_open(&n, &s, TRAIN | bp_opt_flags(&opt), 1, 1));
    bp_run *run = run_new(n.plan, theta, MANY);
    bp_in_port in[2] = {{n.x, plain_array(d.X, ROWS, 1, BP_DOUBLE)}, {n.target, plain_array(d.y, ROWS, 1, BP_DOUBLE)}};
    CHECK(!bp_run_ports(run, 2, in, 0, NULL, -1));
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, ROWS, 1, NULL);
    CHECK(bp_epoch(run, 1, INFINITY, 7, 1) == BP_PAUSED);
    theta[0] = theta[MANY - 1] = 0.5;
    CHECK(bp_epoch(run, 1, INFINITY, -1, 1) == BP_E_NONFINITE_PARAM);
    CHECK(theta[0] == 0.5 && theta[MANY - 1] == 0.5 && bp_run_progress(run).batch == 7);
    bp_run_free(run);
    net_close(&n);
    free(theta);
    data_free(&d);
}

/* A batch whose weights are all zero makes no step. */
static void test_weightless(void) {
    spec s = {BP_F32, 1, {2, 1}, {NULL, "tanh"}, "squared_error", 0, 0, 1};
    data d = data_new(&s, 30);
    memset(d.w + 10, 0, 10 * sizeof *d.w);
    regime r = {.n_threads = 1, .epochs = 2, .batch = 10, .max_steps = -1, .seconds = INFINITY, .opt = sgd};
    for (r.sums = 1; r.sums <= 2; r.sums++) {
        outcome o = train(&s, &d, &r);
        context("a batch without weight");
        CHECK(o.status == BP_DONE && o.updates == 4 && o.progress.steps == 4 && o.progress.batch == 3);
        outcome_free(&o);
    }
    data_free(&d);
}

/* Instruction sets come best first and end with the one that runs anywhere; an unknown one changes nothing. */
static void test_instruction_sets(void) {
    const char *before = bp_isa();
    int n = 0;
    while (bp_isa_name(n)) n++;
    CHECK(n >= 1 && !strcmp(bp_isa_name(n - 1), "portable"));
    CHECK(bp_isa_use("abacus") == BP_E_SHAPE && bp_isa() == before);
    for (int i = 0; i < n; i++) CHECK(!bp_isa_use(bp_isa_name(i)) && !strcmp(bp_isa(), bp_isa_name(i)));
    CHECK(!bp_isa_use(before) && !strcmp(bp_isa(), before));
}

void test_status(void) {
    test_instruction_sets();
    test_labels();
    test_callbacks();
    test_divergence();
    test_fresh();
    test_weightless();
}

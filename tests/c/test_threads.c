/* The same bits for any number of threads and any pauses; several callers; fork. */
#include "harness.h"
#include "plan.h"

#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const optimizer opts[] = {
    {.rule = "sgd", .lr = 0.05},
    {.rule = "sgd", .lr = 0.05, .weight_decay = 1e-3, .number = {0.9}},
    {.rule = "sgd", .lr = 0.05, .number = {0.8, 1}},
    {.rule = "adam", .lr = 0.01, .weight_decay = 1e-2, .number = {0.9, 0.999, 1e-8}},
};

/* One thread unpaused against 1..4 threads, in one go, in steps of one and of three, and in slices of no time. */
static void check_bits(const spec *s, int64_t rows, regime r, int fewest_slices) {
    data d = data_new(s, rows);
    r.n_threads = 1;
    r.max_steps = -1;
    r.seconds = INFINITY;
    outcome first = train(s, &d, &r);
    CHECK(first.status == BP_DONE && isfinite(first.progress.loss));
    CHECK(first.updates == r.epochs * ((rows + r.batch - 1) / r.batch));
    for (int n_threads = 1; n_threads <= 4; n_threads++)
        for (int pause = 0; pause < 3; pause++) {
            r.n_threads = n_threads;
            r.max_steps = pause == 1 ? 1 + n_threads % 2 * 2 : -1;
            r.seconds = pause == 2 ? 0 : INFINITY;
            int64_t done[4], helped = 0;
            bp_pool_tasks_reset();
            outcome o = train(s, &d, &r);
            bp_pool_tasks(done, 4);
            CHECK(same_bits(&first, &o));
            CHECK(pause != 2 || o.slices >= fewest_slices);
            for (int i = 1; i < 4; i++) helped += done[i];
            CHECK(n_threads == 1 ? !helped : helped > 0);
            outcome_free(&o);
        }
    outcome_free(&first);
    data_free(&d);
}

static void test_bits(void) {
    static const struct {
        spec s;
        int64_t rows, batch;
    } cases[] = {
        {{BP_F32, 2, {31, 33, 7}, {NULL, "relu", "softmax"}, "cross_entropy", 0, 1, 0}, 130, 65},
        {{BP_F64, 3, {2, 65, 1, 3}, {NULL, "tanh", "gelu", "identity"}, "mse", 0, 0, 1}, 200, 129},
        {{BP_F32, 1, {1, 1}, {NULL, "logistic"}, "binary_cross_entropy", 1, 0, 0}, 66, 33},
        {{BP_F64, 2, {33, 40, 5}, {NULL, "elu", "logistic"}, "binary_cross_entropy", 0, 0, 1}, 300, 300},
        {{BP_F64, 2, {5, 9, 2}, {NULL, "user_function", "softplus"}, "huber", 0, 0, 0}, 150, 70},
        {{BP_F32, 2, {5, 70, 2}, {NULL, "python_function", "tanh"}, NULL, 0, 0, 1}, 150, 140},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int sums = 0; sums <= 2; sums++) {
            regime r = {.sums = sums, .epochs = 2, .batch = cases[i].batch, .reversed = 1,
                        .opt = opts[(i + (size_t)sums) % 4]};
            context("bits %d, sums of mode %d", (int)i, sums);
            check_bits(&cases[i].s, cases[i].rows, r, (int)(2 * cases[i].rows / cases[i].batch));
        }
    /* one example at a time */
    regime online = {.epochs = 1, .batch = 1, .opt = opts[1]};
    context("bits, online");
    spec small = {BP_F32, 2, {7, 33, 3}, {NULL, "tanh", "softmax"}, "cross_entropy", 0, 1, 0};
    data d = data_new(&small, 9);
    online.n_threads = 1, online.max_steps = -1, online.seconds = INFINITY;
    outcome one = train(&small, &d, &online);
    online.n_threads = 4;
    outcome four = train(&small, &d, &online);
    CHECK(same_bits(&one, &four) && one.updates == 9);
    outcome_free(&four);
    online.max_steps = 0; /* no limit */
    four = train(&small, &d, &online);
    CHECK(same_bits(&one, &four) && four.slices == 1);
    outcome_free(&one);
    outcome_free(&four);
    data_free(&d);

    /* grids, paused between stages; then several chunks, paused between them */
    spec grid = {BP_F64, 2, {130, 257, 9}, {NULL, "tanh", "softmax"}, "cross_entropy", 0, 1, 1};
    regime r = {.epochs = 1, .batch = 260, .opt = opts[3]};
    context("bits, grid");
    check_bits(&grid, 260, r, 3);
    spec mixed = {BP_F64, 3, {700, 48, 48, 700}, {NULL, "identity", "tanh", "softmax"}, "mse", 0, 0, 0};
    r.batch = 40;
    context("bits, grids and small layers of one width");
    check_bits(&mixed, 40, r, 3);
    spec chunks = {BP_F64, 2, {2, 14, 1}, {NULL, "tanh", "logistic"}, "binary_cross_entropy", 0, 0, 1};
    r.opt = opts[0];
    r.batch = 34000;
    for (r.sums = 1; r.sums <= 2; r.sums++) {
        context("bits, chunks, sums of mode %d", r.sums);
        check_bits(&chunks, 34000, r, 3);
    }
}

/* Several callers run one plan at once: one has the pool, the others work by themselves, and all get the same bits. */
static const spec shared_spec = {BP_F64, 2, {9, 35, 4}, {NULL, "tanh", "softmax"}, "cross_entropy", 0, 1, 0};
static regime shared_regime(void) {
    return (regime){.n_threads = 3, .sums = 0, .epochs = 8, .batch = 70, .max_steps = 2, .seconds = INFINITY,
                    .opt = opts[2]};
}

enum { N_CALLERS = 3 };
static data shared_data;
static net shared_net;
static double *shared_thetas[N_CALLERS];

static void *caller(void *number) {
    int i = *(int *)number;
    regime r = shared_regime();
    user u;
    bp_run *run = run_open(&shared_net, &shared_spec, &shared_data, shared_thetas[i], &u, 0, NULL);
    bp_opt opt = opt_new(&r.opt, (size_t)n_theta(&shared_spec) * sizeof(double));
    bp_run_optimizer(run, &opt);
    for (int epoch = 0; epoch < r.epochs; epoch++) {
        bp_run_begin(run, shared_data.rows, r.batch, NULL);
        while (bp_epoch(run, r.n_threads, r.seconds, r.max_steps, 0) == BP_PAUSED) continue;
    }
    bp_run_free(run);
    states_free(&opt);
    return NULL;
}

static void test_callers(void) {
    regime r = shared_regime();
    pthread_t threads[N_CALLERS];
    int numbers[N_CALLERS];
    context("several callers");
    shared_data = data_new(&shared_spec, 210);
    outcome alone = train(&shared_spec, &shared_data, &r);
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&alone.opt);
    CHECK(!net_open(&shared_net, &shared_spec, flags, r.batch, r.n_threads));
    for (int i = 0; i < N_CALLERS; i++) {
        numbers[i] = i;
        shared_thetas[i] = theta_new(&shared_spec);
        CHECK(!pthread_create(&threads[i], NULL, caller, &numbers[i]));
    }
    for (int i = 0; i < N_CALLERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(!memcmp(shared_thetas[i], alone.theta, alone.bytes));
        free(shared_thetas[i]);
    }
    net_close(&shared_net);
    outcome_free(&alone);
    data_free(&shared_data);
}

/* ThreadSanitizer knows no threads after a fork. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_FORK
#endif
#elif defined(__SANITIZE_THREAD__)
#define NO_FORK
#endif

/* The child of a fork has a pool of its own. */
static void test_fork(void) {
#ifndef NO_FORK
    regime r = shared_regime();
    context("fork");
    shared_data = data_new(&shared_spec, 210);
    outcome parent = train(&shared_spec, &shared_data, &r);
    pid_t child = fork();
    if (!child) {
        alarm(30);
        outcome o = train(&shared_spec, &shared_data, &r);
        _exit(!same_bits(&parent, &o));
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    outcome again = train(&shared_spec, &shared_data, &r);
    CHECK(same_bits(&parent, &again));
    outcome_free(&again);
    outcome_free(&parent);
    data_free(&shared_data);
#endif
}

/* The caller's rounding changes no bit, and neither it nor the flags are changed. */
static void test_environment(void) {
    static const int roundings[2] = {FE_TONEAREST, FE_UPWARD};
    double *theta[2];
    size_t bytes = (size_t)n_theta(&shared_spec) * sizeof(double);
    volatile double small = 0x1p-1074;
    data d = data_new(&shared_spec, 210);
    context("floating-point environment");
    for (int i = 0; i < 2; i++) {
        net n;
        user u;
        bp_opt opt = opt_new(&(optimizer){.rule = "sgd", .lr = 0.05}, 0);
        theta[i] = theta_new(&shared_spec);
        int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&opt);
        CHECK(!net_open(&n, &shared_spec, flags, 70, 3));
        bp_run *run = run_open(&n, &shared_spec, &d, theta[i], &u, 0, NULL);
        CHECK(!bp_run_optimizer(run, &opt));
        bp_run_begin(run, d.rows, 70, NULL);
        CHECK(!fesetround(roundings[i]) && !feclearexcept(FE_ALL_EXCEPT));
        CHECK(bp_epoch(run, 3, INFINITY, -1, 1) == BP_DONE);
        CHECK(fegetround() == roundings[i] && !fetestexcept(FE_ALL_EXCEPT & ~FE_INEXACT));
        CHECK(small * 3 > 0x1p-1073 && !fesetround(FE_TONEAREST));
        bp_run_free(run);
        net_close(&n);
    }
    CHECK(!memcmp(theta[0], theta[1], bytes));
    free(theta[0]);
    free(theta[1]);
    data_free(&d);
}

/* ---- the measured pace ---- */

/* An operation whose tasks sleep, so that it takes as long on a busy machine: out = x. */
static pthread_t nap_caller;
static long nap_us[2]; /* of a task on the calling thread, and on another */

static bp_status nap_declare(bp_plan *plan, bp_op *op) {
    op->out = bp_plan_buffer(plan, BP_REAL, plan->buffers[op->in[0]].cols);
    return op->out < 0 ? BP_E_NOMEM : BP_OK;
}

static bp_status nap_forward(const bp_context *x, const bp_op *op, const bp_cell *cell) {
    struct timespec t = {.tv_nsec = 1000 * nap_us[!pthread_equal(pthread_self(), nap_caller)]};
    size_t row = (size_t)x->buffers[op->out].cols * sizeof(double);
    memcpy(bp_at(x, op->out, cell->r0, sizeof(double)), bp_at(x, op->in[0], cell->r0, sizeof(double)),
           (size_t)(cell->r1 - cell->r0) * row);
    nanosleep(&t, NULL);
    return BP_OK;
}

static double nap_flops(const bp_plan *plan, const bp_op *op) { /* neither too few nor too many to be in doubt */
    (void)plan, (void)op;
    return 1e4;
}

static const bp_op_type nap = {.name = "nap",
                               .scope = BP_SCOPE_ROWS,
                               .declare = nap_declare,
                               .forward = {nap_forward, nap_forward},
                               .flops = nap_flops};

/* The share of the tasks that the second thread did, of 200 batches of 8 tasks or more. */
static double share_of_second(long on_caller, long on_other) {
    enum { BATCH = 512, BATCHES = 200 };
    double *X = zeros(BATCH * BATCHES, sizeof *X), *out = zeros(BATCH * BATCHES, sizeof *out);
    int64_t done[2];
    bp_plan *plan = bp_plan_new(BP_F64);
    bp_in_port in = {bp_plan_buffer(plan, BP_REAL, 1), plain_array(X, BATCH * BATCHES, 1, BP_DOUBLE)};
    bp_out_port to = {.buffer = -1, .data = out};
    CHECK(!bp_plan_op(plan, &nap, 1, &in.buffer, 0, NULL, NULL, -1, &to.buffer));
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD, BATCH, 2));
    bp_run *run = run_new(plan, NULL, 0);
    CHECK(!bp_run_ports(run, 1, &in, 1, &to, -1));
    nap_caller = pthread_self();
    nap_us[0] = on_caller;
    nap_us[1] = on_other;
    bp_pool_tasks_reset();
    bp_run_begin(run, BATCH * BATCHES, BATCH, NULL);
    bp_status status;
    while ((status = bp_epoch(run, 2, 0.025, -1, 0)) == BP_PAUSED) continue;
    bp_pool_tasks(done, 2);
    CHECK(status == BP_DONE && done[0] + done[1] >= BATCHES * 8);
    bp_run_free(run);
    bp_plan_free(plan);
    free(X);
    free(out);
    return (double)done[1] / (double)(done[0] + done[1]);
}

/* Half of the tasks where two threads are twice as fast, next to none where the second is a hindrance: a batch takes
 * 2 ms on one thread, on two half of that, or 10 ms. */
static void test_pace(void) {
    double share = share_of_second(100, 100);
    context("pace: %.2f of the tasks by a second thread as fast as the first", share);
    CHECK(share > 0.3);
    share = share_of_second(100, 10000);
    context("pace: %.2f of the tasks by a second thread that is slow", share);
    CHECK(share < 0.02);
}

void test_threads(void) {
    bp_set_parallel_always(1);
    test_environment();
    test_bits();
    test_callers();
    test_fork();
    bp_set_parallel_always(0);
    test_pace();
}

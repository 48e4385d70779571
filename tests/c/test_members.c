/* Members of an ensemble side by side: the mean of what each answers alone, and how far they are apart. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_IN = 5, HIDDEN = 9, N_OUT = 3, N_THETA = (N_IN + 1) * HIDDEN + (HIDDEN + 1) * N_OUT, ROWS = 37, MOST = 20 };

/* A chain of two dense layers, with a softmax behind it or not; of a chain that is none, its output is read twice. */
static bp_plan *chain(bp_dtype dtype, int softmax, int twice, int *x, int *out) {
    bp_plan *plan = bp_plan_new(dtype);
    int at = 0, h = *x = bp_plan_buffer(plan, BP_REAL, N_IN), widths[] = {N_IN, HIDDEN, N_OUT};
    for (int l = 0; l < 2; l++) {
        int n_W = widths[l] * widths[l + 1];
        int params[] = {bp_plan_param(plan, at, widths[l], widths[l + 1], 0, 1, 1),
                        bp_plan_param(plan, at + n_W, widths[l + 1], 1, 0, 1, 0)};
        at += n_W + widths[l + 1];
        CHECK(!bp_plan_op(plan, bp_op_find("dense"), 1, &h, 2, params, NULL, -1, &h));
        const bp_op_type *f = bp_op_find("activation");
        if (!l) CHECK(!bp_plan_op(plan, f, 1, &h, 0, NULL, bp_activation_detail("tanh"), -1, &h));
    }
    if (softmax) CHECK(!bp_plan_op(plan, bp_op_find("softmax"), 1, &h, 0, NULL, NULL, -1, &h));
    int both[] = {h, h};
    if (twice) CHECK(!bp_plan_op(plan, bp_op_find("multiply"), 2, both, 0, NULL, NULL, -1, &h));
    bp_plan_keep(plan, *out = h);
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD | BP_DO_REUSE, ROWS, 2));
    return plan;
}

static void *arena_new(size_t bytes) {
    void *arena = NULL;
    if (posix_memalign(&arena, BP_ALIGN, bytes)) abort();
    return arena;
}

static void answer_alike(bp_dtype dtype, int softmax, int n, int64_t rows) {
    enum { CELLS = ROWS * N_OUT };
    uint64_t state = 5;
    size_t size = dtype == BP_F64 ? sizeof(double) : sizeof(float);
    double X[ROWS * N_IN], sum[CELLS] = {0}, squares[CELLS] = {0}, first[CELLS];
    for (int i = 0; i < ROWS * N_IN; i++) X[i] = uniform(&state);
    int x, answer;
    bp_plan *plan = chain(dtype, softmax, 0, &x, &answer);
    bp_array array = plain_array(X, ROWS, N_IN, BP_DOUBLE);
    bp_members *members = NULL;
    CHECK(!bp_members_new(plan, answer, n, rows, &members));
    void *out = zeros(CELLS, size), *own = arena_new(bp_plan_describe(plan).arena_bytes);
    for (int k = 0; k < n; k++) {
        void *theta = zeros(N_THETA, size);
        for (int i = 0; i < N_THETA; i++) set(dtype, theta, i, uniform(&state));
        if (members) bp_members_set(members, k, theta);
        bp_in_port in = {x, plain_array(X, ROWS, N_IN, BP_DOUBLE)};
        bp_out_port port = {.buffer = answer, .data = out};
        CHECK(!bp_answer(plan, theta, NULL, own, 1, &in, 1, &port, 1));
        for (int i = 0; i < CELLS; i++) {
            double a = get(dtype, out, i);
            if (!k) first[i] = a;
            sum[i] += a;
            squares[i] += (a - first[i]) * (a - first[i]);
        }
        free(theta);
    }
    free(own);
    free(out);
    CHECK(members != NULL);
    if (members) {
        double tolerance = dtype == BP_F64 ? 1e-14 : 1e-6;
        void *mean[2], *spread[2];
        for (int t = 0; t < 2; t++) {
            void *arena = arena_new(bp_members_arena(members, t + 1));
            mean[t] = zeros(CELLS, size), spread[t] = zeros(CELLS, size);
            CHECK(!bp_members_answer(members, arena, &array, 0, rows, mean[t], t ? spread[t] : NULL, t + 1));
            CHECK(!bp_members_answer(members, arena, &array, 0, rows, mean[t], spread[t], t + 1));
            free(arena);
        }
        for (int64_t i = 0; i < rows * N_OUT; i++) {
            double m = sum[i] / n, d = m - first[i], s = sqrt(fmax(0, squares[i] / n - d * d));
            CHECK(fabs(get(dtype, mean[0], i) - m) <= tolerance);
            CHECK(fabs(get(dtype, spread[0], i) - s) <= 10 * tolerance);
        }
        CHECK(!memcmp(mean[0], mean[1], CELLS * size) && !memcmp(spread[0], spread[1], CELLS * size));
        for (int t = 0; t < 2; t++) free(mean[t]), free(spread[t]);
    }
    bp_members_free(members);
    bp_plan_free(plan);
}

void test_members(void) {
    for (bp_dtype dtype = BP_F32; dtype <= BP_F64; dtype++)
        for (int softmax = 0; softmax < 2; softmax++)
            for (int n = 1; n <= MOST; n += n < 4 ? 1 : 5) {
                context("members: %d of float%d", n, dtype == BP_F64 ? 64 : 32);
                answer_alike(dtype, softmax, n, 1);
                if (n == MOST - 1) answer_alike(dtype, softmax, n, ROWS);
            }
    int x, out;
    bp_plan *plan = chain(BP_F64, 0, 1, &x, &out);
    bp_members *members = NULL;
    CHECK(!bp_members_new(plan, out, 8, 1, &members) && !members); /* of no chain */
    bp_members_free(members);
    bp_plan_free(plan);
}

/* Gradients against central differences, for every activation and loss. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double STEP = 1e-5, TOLERANCE = 1e-7;

static double difference(const spec *s, const data *d, double *theta, const double *along, int64_t only) {
    double c[2];
    int64_t n = n_theta(s);
    double *moved = zeros((size_t)n, sizeof *moved);
    for (int side = 0; side < 2; side++) {
        double h = side ? STEP : -STEP;
        for (int64_t i = 0; i < n; i++) moved[i] = theta[i] + (along ? h * along[i] : i == only ? h : 0);
        c[side] = cost(s, d, moved, NULL, 0, 1);
    }
    free(moved);
    return (c[1] - c[0]) / (2 * STEP);
}

/* The larger, NaN included; gcc 12 for Arm fails on a loop of fmax. */
static double larger(double a, double b) { return b <= a ? a : b; }

/* All of dC/dtheta under owners and under shards, in both types. */
static void check_every_weight(const spec *s, int64_t rows) {
    int64_t n = n_theta(s);
    data d = data_new(s, rows);
    double *theta = theta_new(s), *expected = zeros((size_t)n, sizeof *expected), largest = 0;
    for (int64_t i = 0; i < n; i++) {
        expected[i] = difference(s, &d, theta, NULL, i);
        largest = larger(largest, fabs(expected[i]));
    }
    spec single = *s;
    single.dtype = BP_F32;
    float *theta32 = zeros((size_t)n, sizeof *theta32), *grad32 = zeros((size_t)n, sizeof *grad32);
    for (int64_t i = 0; i < n; i++) theta32[i] = (float)theta[i];
    for (int sums = 1; sums <= 2; sums++) {
        double *grad = zeros((size_t)n, sizeof *grad), worst = 0, worst32 = 0;
        double c = cost(s, &d, theta, grad, sums, 2), c32 = cost(&single, &d, theta32, grad32, sums, 2);
        for (int64_t i = 0; i < n; i++) {
            worst = larger(worst, fabs(grad[i] - expected[i]));
            worst32 = larger(worst32, fabs((double)grad32[i] - grad[i]));
        }
        CHECK(largest > 1e-5);
        CHECK(worst <= TOLERANCE * largest);
        CHECK(worst32 <= 2e-5 * largest);
        CHECK(fabs(c - cost(s, &d, theta, NULL, 0, 1)) <= 1e-14 * fabs(c));
        CHECK(fabs(c - c32) <= 1e-5 * fabs(c));
        free(grad);
    }
    free(theta32);
    free(grad32);
    free(expected);
    free(theta);
    data_free(&d);
}

/* The derivative along one direction, where weights are many. */
static void check_one_direction(const spec *s, int64_t rows, int sums) {
    int64_t n = n_theta(s);
    uint64_t state = 11;
    data d = data_new(s, rows);
    double *theta = theta_new(s), *grad = zeros((size_t)n, sizeof *grad), *along = zeros((size_t)n, sizeof *along);
    double slope = 0;
    cost(s, &d, theta, grad, sums, 2);
    for (int64_t i = 0; i < n; i++) slope += grad[i] * (along[i] = uniform(&state));
    CHECK(fabs(slope - difference(s, &d, theta, along, -1)) <= TOLERANCE * fabs(slope));
    free(along);
    free(grad);
    free(theta);
    data_free(&d);
}

static int positive(const char *f) { return !strcmp(f, "softmax") || !strcmp(f, "logistic"); }

static int is_one_of(const char *const *names, const char *name) {
    for (; *names; names++)
        if (name && !strcmp(*names, name)) return 1;
    return 0;
}

/* Those with kinks, where differences say nothing, are tests/test_losses.py's. */
static void check_losses(const char *f, int64_t rows) {
    static const char *const kinks[] = {"mae", "quantile", "hinge", NULL};
    static const char *const of_positive[] = {"binary_cross_entropy", "cross_entropy", "kl_divergence", "focal",
                                              "categorical_focal", "poisson", "gamma", "tweedie", NULL};
    static const char *const of_classes[] = {"cross_entropy", "categorical_focal", NULL};
    for (int i = 0; i == 0 || bp_loss_name(i - 1); i++) {
        const char *loss = bp_loss_name(i); /* NULL past the end: the callback's */
        if (is_one_of(kinks, loss) || (is_one_of(of_positive, loss) && !positive(f))) continue;
        for (int labels = 0; labels <= is_one_of(of_classes, loss); labels++) {
            spec s = {BP_F64, 2, {3, 5, 4}, {NULL, f, positive(f) ? f : "identity"}, loss, 0, labels, i % 2};
            context("%s, %s, labels %d", f, loss ? loss : "callback", labels);
            check_every_weight(&s, rows);
        }
    }
}

void test_gradients(void) {
    static const char *const others[] = {"identity", "softmax", "user_function", "python_function"};
    int n = 0;
    for (; bp_activation_name(n); n++) check_losses(bp_activation_name(n), 70);
    CHECK(n == 26); /* and the derivatives as functions */
    for (int i = 0; i < 4; i++) check_losses(others[i], 70);
    CHECK(!bp_activation_detail("no such") && !bp_op_find("no such"));

    static const spec shapes[] = {
        {BP_F64, 1, {1, 1}, {NULL, "logistic"}, "binary_cross_entropy", 0, 0, 0},
        {BP_F64, 1, {65, 2}, {NULL, "softmax"}, "cross_entropy", 1, 1, 1},
        {BP_F64, 2, {2, 33, 1}, {NULL, "gelu", "identity"}, "mse", 0, 0, 1},
        {BP_F64, 3, {1, 2, 31, 3}, {NULL, "tanh", "silu", "softmax"}, "cross_entropy", 0, 1, 1},
        {BP_F64, 4, {2, 3, 1, 4, 2}, {NULL, "elu", "softplus", "tanh", "logistic"}, "squared_error", 1, 0, 0},
    };
    static const int64_t rows[] = {1, 2, 31, 33, 65, 129};
    for (int i = 0; i < 5; i++)
        for (int j = i % 2; j < 6; j += 2) {
            context("shape %d, %d rows", i, (int)rows[j]);
            check_every_weight(&shapes[i], rows[j]);
        }

    /* large layers, whose stages are grids, which elementwise operations join, and softmax and small layers do not */
    static const spec grids[] = {
        {BP_F64, 2, {130, 257, 9}, {NULL, "tanh", "softmax"}, "cross_entropy", 0, 1, 1},
        {BP_F64, 3, {7, 129, 255, 3}, {NULL, "silu", "softmax", "identity"}, "squared_error", 1, 0, 0},
        {BP_F64, 2, {6, 181, 182}, {NULL, "python_function", "user_function"}, NULL, 0, 0, 1},
        {BP_F64, 3, {700, 48, 48, 2}, {NULL, "identity", "tanh", "softmax"}, "cross_entropy", 0, 1, 0},
        {BP_F64, 3, {3, 48, 48, 700}, {NULL, "tanh", "identity", "identity"}, "mse", 0, 0, 0},
    };
    for (int i = 0; i < 5; i++) {
        context("grid %d", i);
        check_one_direction(&grids[i], i ? 33 : 260, 1);
        check_one_direction(&grids[i], 33, 2);
    }
    /* more rows than a chunk holds */
    spec long_ = {BP_F64, 2, {2, 3, 1}, {NULL, "tanh", "logistic"}, "binary_cross_entropy", 0, 0, 1};
    for (int sums = 0; sums <= 2; sums++) {
        context("chunks, sums of mode %d", sums);
        check_one_direction(&long_, 33000, sums);
    }
    long_.f[1] = "python_function";
    check_one_direction(&long_, 16400, 0);
}

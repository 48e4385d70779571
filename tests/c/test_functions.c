/* Vector functions against the C library in a wider type, on every instruction set: in units of the last place of the
 * result, where it is normal.  BPCORE_COMPLETE=1 takes all of float32 and 10^7 float64, else one in STRIDE. */
#include "harness.h"
#include "dispatch.h"
#include "functions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096, MAX_ISAS = 5, STRIDE = 1009 };
static const bp_kernels *isas[MAX_ISAS];
static int n_isas;
static int complete;

/* The wider functions, for float32 arguments quickly where it is easy. */
static double exp_double(double x) { return x < -110 ? 0 : x > 90 ? (double)INFINITY : fabs(x) < 1e-9 ? 1 : exp(x); }
static double tanh_double(double x) {
    double s = x * x;
    return fabs(x) > 10 ? copysign(1, x) : s < 0x1p-18 ? x * (1 - s * (1.0 / 3 - s * (2.0 / 15))) : tanh(x);
}
static double logistic_double(double x) {
    double s = x * x;
    if (s < 0x1p-60) return 0.5;
    if (s < 0x1p-18) return 0.5 + x * (0.25 - s * (1.0 / 48 - s / 480));
    return x > 40 ? 1 : x < -110 ? 0 : 1 / (1 + exp(-x));
}
static double gelu_double(double x) {
    if (fabs(x) < 0x1p-20) return x * (0.5 + x * 0.39894228040143267794);
    return x > 7 ? x : x < -16 ? -0.0 : x * 0.5 * erfc(x * -0.70710678118654752440);
}
static long double logistic_long(long double x) { return 1 / (1 + expl(-x)); }
/* What erfc's argument loses in rounding is made good by the derivative: it tells in the tail. */
static long double gelu_long(long double x) {
    const long double root = 0.707106781186547524400844362104849039L, t = -x * root;
    long double lost = fmal(-x, root, -t) - x * fmal(-root, root, 0.5L) / (2 * root);
    return x / 2 * (erfcl(t) - 1.128379167095512573896158903121545172L * expl(-t * t) * lost);
}

static const struct {
    const char *name;
    double (*wider)(double);
    long double (*widest)(long double);
    double low, high; /* where the result is normal and not yet constant, in float64 */
    double ulps;
} functions[] = {
    {"exp", exp_double, expl, -708, 709.7, 2.5},
    {"tanh", tanh_double, tanhl, -20, 20, 2.5},
    {"logistic", logistic_double, logistic_long, -708, 40, 2.5},
    {"gelu", gelu_double, gelu_long, -37, 10, 14},
};
enum { N_FUNCTIONS = sizeof functions / sizeof *functions };

static const bp_activation *find(const bp_kernels *isa, const char *name) {
    const bp_activation *f = isa->activations;
    while (strcmp(f->name, name)) f++;
    return f;
}

/* Largest error of n results; where one ought to be subnormal, it is to be small. */
static double worst_float(const float *got, const double *wanted, int n) {
    double worst = 0;
    int different = 0;
    for (int i = 0; i < n; i++) different += got[i] != (float)wanted[i];
    if (!different) return 0.5;
    for (int i = 0; i < n; i++) {
        double size = fabs(wanted[i]), ulp, error;
        uint64_t pattern;
        memcpy(&pattern, &size, sizeof pattern);
        pattern = (pattern & 0x7FF0000000000000u) - (23ull << 52);
        memcpy(&ulp, &pattern, sizeof ulp);
        error = fabs((isinf(got[i]) ? copysign(0x1p128, (double)got[i]) : (double)got[i]) - wanted[i]) / ulp;
        if (size < 0x1p-126) error = fabs((double)got[i]) <= 0x1.00001p-126 ? 0 : (double)INFINITY;
        if (size >= 0x1p128) error = isinf(got[i]) || fabsf(got[i]) > 0x1.fffff8p127f ? 0 : (double)INFINITY;
        worst = error <= worst ? worst : error;
    }
    return worst;
}

static void check_float(int which) {
    static float x[BLOCK], got[BLOCK];
    static double wanted[BLOCK];
    double worst[MAX_ISAS] = {0};
    uint64_t stride = complete ? 1 : STRIDE, block = 0;
    for (uint64_t at = 0; at < (uint64_t)1 << 32;) {
        int n = 0;
        block++;
        for (; n < BLOCK && at < (uint64_t)1 << 32; at += stride) {
            uint32_t pattern = (uint32_t)at;
            if (!(pattern & 0x7F800000u)) pattern &= 0x80000000u; /* subnormal: 0 */
            if ((pattern & 0x7F800000u) == 0x7F800000u) {         /* infinities and NaN: check_ends */
                at = (at | 0x7FFFFF) + 1 - stride;
                if (n) break;
                continue;
            }
            memcpy(&x[n++], &pattern, sizeof *x);
        }
        if (!n) break;
        wanted[0] = functions[which].wider((double)x[0]);
        wanted[n - 1] = functions[which].wider((double)x[n - 1]);
        int flat = n > 1 && wanted[0] == wanted[n - 1] && !signbit(x[0]) == !signbit(x[n - 1]); /* constant */
        for (int i = 1; i < n - 1; i++) wanted[i] = flat ? wanted[0] : functions[which].wider((double)x[i]);
        for (int j = 0; j < n_isas; j++) {
            /* all by the best one */
            if (complete && block % 32 && j) continue;
            find(isas[j], functions[which].name)->fn[BP_F32](x, got, NULL, n);
            double error = worst_float(got, wanted, n);
            worst[j] = error <= worst[j] ? worst[j] : error;
        }
    }
    for (int j = 0; j < n_isas; j++) {
        context("%s, %s, float32: %.2f ulp", functions[which].name, isas[j]->isa, worst[j]);
        CHECK(worst[j] <= functions[which].ulps);
        printf("%s %s float32: %.3f ulp\n", functions[which].name, isas[j]->isa, worst[j]);
    }
}

static double ulps_of_double(double got, long double wanted) {
    int e;
    frexpl(wanted, &e);
    return (double)(fabsl((long double)got - wanted) / ldexpl(1, e - 53));
}

/* Half of the arguments are uniform, half uniform in their logarithm. */
static void check_double(int which) {
    static double x[BLOCK], got[BLOCK];
    static long double wanted[BLOCK];
    double worst[MAX_ISAS] = {0};
    uint64_t state = 1;
    for (int64_t left = complete ? 10000000 : 100000; left > 0; left -= BLOCK) {
        for (int i = 0; i < BLOCK; i++) {
            double end = uniform(&state) < 0 ? functions[which].low : functions[which].high, u = uniform(&state);
            x[i] = i % 2 ? end * fabs(u) : end * exp2(15 * u - 15);
            wanted[i] = functions[which].widest((long double)x[i]);
        }
        for (int j = 0; j < n_isas; j++) {
            find(isas[j], functions[which].name)->fn[BP_F64](x, got, NULL, BLOCK);
            for (int i = 0; i < BLOCK; i++) {
                double error = ulps_of_double(got[i], wanted[i]);
                worst[j] = error <= worst[j] ? worst[j] : error;
            }
        }
    }
    for (int j = 0; j < n_isas; j++) {
        context("%s, %s, float64: %.2f ulp", functions[which].name, isas[j]->isa, worst[j]);
        CHECK(worst[j] <= functions[which].ulps);
        printf("%s %s float64: %.3f ulp\n", functions[which].name, isas[j]->isa, worst[j]);
    }
}

/* The limits at infinity of every activation and its derivative, as functions too, and NaN for NaN. */
static void check_ends(void) {
    static const struct {
        const char *name;
        double a[2], df[2];
    } limits[] = {
        {"logistic", {0, 1}, {0, 0}},
        {"tanh", {-1, 1}, {0, 0}},
        {"relu", {0, INFINITY}, {0, 1}},
        {"leaky_relu", {-INFINITY, INFINITY}, {0.01, 1}},
        {"elu", {-1, INFINITY}, {0, 1}},
        {"selu", {-1.7580993408473766, INFINITY}, {0, 1.0507009873554805}},
        {"gelu", {0, INFINITY}, {0, 1}},
        {"silu", {0, INFINITY}, {0, 1}},
        {"softplus", {0, INFINITY}, {0, 1}},
        {"softsign", {-1, 1}, {0, 0}},
        {"hard_sigmoid", {0, 1}, {0, 0}},
        {"hard_tanh", {-1, 1}, {0, 0}},
        {"exp", {0, INFINITY}, {0, INFINITY}},
        {"logistic'", {0, 0}, {0, 0}},
        {"tanh'", {0, 0}, {0, 0}},
        {"relu'", {0, 1}, {0, 0}},
        {"leaky_relu'", {0.01, 1}, {0, 0}},
        {"elu'", {0, 1}, {0, 0}},
        {"selu'", {0, 1.0507009873554805}, {0, 0}},
        {"gelu'", {0, 1}, {0, 0}},
        {"silu'", {0, 1}, {0, 0}},
        {"softplus'", {0, 1}, {0, 0}},
        {"softsign'", {0, 0}, {0, 0}},
        {"hard_sigmoid'", {0, 0}, {0, 0}},
        {"hard_tanh'", {0, 0}, {0, 0}},
        {"exp'", {0, INFINITY}, {0, INFINITY}},
    };
    enum { N = sizeof limits / sizeof *limits, LENGTH = 64 };
    for (int j = 0; j < n_isas; j++)
        for (int which = 0; which < N; which++)
            for (bp_dtype dtype = BP_F32; dtype <= BP_F64; dtype++) {
                double x[LENGTH] = {0}, a[LENGTH], df[LENGTH], just_a[LENGTH];
                static const double ends[3] = {-INFINITY, INFINITY, NAN};
                for (int i = 0; i < LENGTH; i++) set(dtype, x, i, ends[i % 3]);
                const bp_activation *f = find(isas[j], limits[which].name);
                context("%s, %s at the ends, type %d", f->name, isas[j]->isa, (int)dtype);
                f->fn[dtype](x, a, df, LENGTH);
                f->fn[dtype](x, just_a, NULL, LENGTH);
                for (int i = 0; i < LENGTH; i++) {
                    double got = get(dtype, a, i), slope = get(dtype, df, i);
                    if (i % 3 == 2) {
                        int steps = strchr(f->name, '\'') != NULL; /* some derivatives are steps */
                        CHECK(steps || (isnan(got) && isnan(get(dtype, just_a, i))));
                        continue;
                    }
                    CHECK(get(dtype, just_a, i) == got);
                    double limit = limits[which].a[i % 3], slope_limit = limits[which].df[i % 3];
                    CHECK(got == limit || fabs(got - limit) < 1e-6);
                    CHECK(slope == slope_limit || fabs(slope - slope_limit) < 1e-6);
                }
            }
    for (int i = 0; bp_activation_name(i); i++) {
        int known = 0;
        for (int which = 0; which < N; which++) known |= !strcmp(bp_activation_name(i), limits[which].name);
        context("%s", bp_activation_name(i));
        CHECK(known);
    }
}

/* What a loss says of one row, and its gradient where it is wanted; cross_entropy's target is a label. */
static double loss_of(const bp_kernels *isa, const char *name, bp_dtype dtype, const double *out, int64_t cols,
                      const void *target, int fused, double *gradient) {
    const bp_loss_type *loss = isa->losses;
    int labels = !strcmp(name, "cross_entropy");
    size_t size = dtype == BP_F32 ? sizeof(float) : sizeof(double), whole = (size_t)cols + BP_ALIGN;
    double *grad = zeros(whole, sizeof *grad), *z = zeros(whole, sizeof *z), *y = zeros(whole, sizeof *y);
    for (int64_t i = 0; i < cols; i++) {
        if (dtype == BP_F32) ((float *)z)[i] = (float)out[i];
        else z[i] = out[i];
    }
    memcpy(y, target, labels ? sizeof(int32_t) : size);
    while (strcmp(loss->name, name)) loss++;
    bp_loss_call call = {.out = z, .target = y, .grad = grad,
                         .labels = labels, .fused = fused, .rows = 1, .cols = cols, .target_cols = 1};
    if (loss->fn[dtype](&call)) CHECK(0);
    for (int64_t i = 0; gradient && i < cols; i++) gradient[i] = get(dtype, grad, i);
    free(grad);
    free(z);
    free(y);
    return call.sum[0];
}

static double ulps_of(bp_dtype dtype, double got, long double wanted) {
    return ulps_of_double(got, wanted) / (dtype == BP_F32 ? 0x1p29 : 1);
}

/* Log-sum-exp is the cross-entropy of a label whose z is 0; log a and log(1 - a) the binary one of a. */
static void check_logarithms(void) {
    enum { MOST = 100 };
    static const int64_t widths[] = {2, 3, 10, MOST};
    for (int j = 0; j < n_isas; j++)
        for (bp_dtype dtype = BP_F32; dtype <= BP_F64; dtype++) {
            uint64_t state = 3;
            double z[MOST], worst = 0, worst_log = 0;
            int32_t label = 0;
            for (int i = 0; i < (complete ? 100000 : 4000); i++) {
                int64_t cols = widths[i % 4];
                long double rest = 0;
                z[0] = 0;
                for (int64_t c = 1; c < cols; c++) {
                    z[c] = (double)(float)(uniform(&state) * (i % 3 ? 80 : 2));
                    rest += expl((long double)z[c]);
                }
                long double wanted = log1pl(rest);
                double e = ulps_of(dtype, loss_of(isas[j], "cross_entropy", dtype, z, cols, &label, 1, NULL), wanted);
                worst = e <= worst ? worst : e;

                double a = (double)(float)exp2(20 * (uniform(&state) - 1)), zero = 0, one = 1;
                float zero32 = 0, one32 = 1;
                if (a == 0 || a == 1) continue;
                const void *no = dtype == BP_F32 ? (const void *)&zero32 : &zero;
                const void *yes = dtype == BP_F32 ? (const void *)&one32 : &one;
                const char *name = "binary_cross_entropy";
                double got_a = loss_of(isas[j], name, dtype, &a, 1, yes, 0, NULL);
                double got_b = loss_of(isas[j], name, dtype, &a, 1, no, 0, NULL);
                double log_a = ulps_of(dtype, got_a, -logl((long double)a));
                double log_b = ulps_of(dtype, got_b, -log1pl(-(long double)a));
                worst_log = log_a <= worst_log ? worst_log : log_a;
                worst_log = log_b <= worst_log ? worst_log : log_b;
            }
            context("log-sum-exp %.2f ulp, log %.2f ulp, %s, type %d", worst, worst_log, isas[j]->isa, (int)dtype);
            CHECK(worst <= 2.5);
            CHECK(worst_log <= 2.5);
            printf("log-sum-exp %s %s: %.3f ulp; log: %.3f ulp\n", isas[j]->isa, dtype ? "float64" : "float32", worst,
                   worst_log);
            double ends[2] = {0, 1}, yes = 1, no = 0;
            float yes32 = 1, no32 = 0;
            const void *targets[2] = {dtype ? (const void *)&yes : &yes32, dtype ? (const void *)&no : &no32};
            for (int i = 0; i < 2; i++) {
                CHECK(isinf(loss_of(isas[j], "binary_cross_entropy", dtype, &ends[i], 1, targets[i], 0, NULL)));
                CHECK(loss_of(isas[j], "binary_cross_entropy", dtype, &ends[i], 1, targets[1 - i], 0, NULL) == 0);
            }
            double bad = NAN;
            CHECK(isnan(loss_of(isas[j], "binary_cross_entropy", dtype, &bad, 1, targets[0], 0, NULL)));
        }
}

/* In ulps of what is just below 1. */
static double off_by(bp_dtype dtype, double got, long double wanted) {
    return (double)(fabsl((long double)got - wanted) * (dtype == BP_F32 ? 0x1p24L : 0x1p53L));
}

static void raise_to(double *worst, double e) { *worst = e <= *worst ? *worst : e; }

/* Where the label is the largest z, cross-entropy is log(1 + rest), rest = sum e^(z - max) of the others: random ones,
 * and all equal, whose errors add up.  The largest is 0, so that differences are exact. */
static void check_largest_labels(const bp_kernels *isa, bp_dtype dtype) {
    enum { MOST = 1000, WIDTHS = 8 };
    static const int32_t widths[WIDTHS] = {2, 3, 10, 16, 17, 33, 257, MOST};
    uint64_t state = 4;
    for (int i = 0; i < WIDTHS; i++) {
        int32_t cols = widths[i];
        double z[MOST], gradient[MOST], worst = 0, slope = 0;
        for (int at = 0; at < (complete ? 100000 : 6000) / (cols + 10); at++) {
            int32_t label = at % cols;
            double equal = 20 * (uniform(&state) - 1), range = at % 3 ? 8 * (at % 3) : 0.25;
            long double rest = 0;
            for (int32_t c = 0; c < cols; c++) {
                z[c] = c == label ? 0 : (double)(float)(at % 2 ? equal : range * (uniform(&state) - 1));
                rest += c == label ? 0 : expl((long double)z[c]);
            }
            double loss = loss_of(isa, "cross_entropy", dtype, z, cols, &label, 1, gradient);
            raise_to(&worst, ulps_of(dtype, loss, log1pl(rest)));
            raise_to(&slope, off_by(dtype, gradient[label], -rest / (1 + rest)));
            for (int32_t c = 0; c < cols; c++)
                if (c != label) raise_to(&slope, ulps_of(dtype, gradient[c], expl((long double)z[c]) / (1 + rest)));
        }
        context("%d classes: loss %.2f, gradient %.2f ulp, %s, type %d", cols, worst, slope, isa->isa, (int)dtype);
        CHECK(worst <= 2.5);
        CHECK(slope <= 3.5);
        printf("cross-entropy of %d %s %s: %.3f ulp; gradient: %.3f ulp\n", cols, isa->isa,
               dtype ? "float64" : "float32", worst, slope);
    }
}

/* From z: of 0 and 1, and of what lies between. */
static void check_binary(const bp_kernels *isa, bp_dtype dtype) {
    uint64_t state = 5;
    double worst[2] = {0}, slope = 0;
    for (int i = 0; i < (complete ? 1000000 : 20000); i++) {
        int soft = i % 4 > 1;
        double z = (double)(float)(uniform(&state) * (i % 3 ? 20 : 1)), gradient;
        float y32 = soft ? (float)fabs(uniform(&state)) : (float)(i % 2);
        double y = dtype == BP_F32 ? (double)y32 : soft ? fabs(uniform(&state)) : i % 2;
        const void *target = dtype == BP_F32 ? (const void *)&y32 : &y;
        long double linear = z > 0 ? z * (1 - (long double)y) : -z * (long double)y;
        double loss = loss_of(isa, "binary_cross_entropy", dtype, &z, 1, target, 1, &gradient);
        raise_to(&worst[soft], ulps_of(dtype, loss, linear + log1pl(expl(-fabsl((long double)z)))));
        raise_to(&slope, off_by(dtype, gradient, logistic_long(z) - (long double)y));
    }
    context("binary: loss %.2f, %.2f, gradient %.2f, %s, type %d", worst[0], worst[1], slope, isa->isa, (int)dtype);
    CHECK(worst[0] <= 3);
    CHECK(worst[1] <= 3.5);
    CHECK(slope <= 2.5);
    printf("binary cross-entropy %s %s: %.3f ulp, between 0 and 1 %.3f; gradient: %.3f ulp\n", isa->isa,
           dtype ? "float64" : "float32", worst[0], worst[1], slope);
}

/* Functions of functions.h, of arguments of every size. */
static void check_doubles(void) {
    static const struct {
        const char *name;
        double (*function)(double);
        long double (*widest)(long double);
        double sizes[2], ends[3], limits[3]; /* sizes are powers of two */
        int negative;
    } doubles[] = {
        {"exp", bp_exp, expl, {-60, 9.4}, {-INFINITY, INFINITY, 0}, {0, INFINITY, 1}, 1},
        {"expm1", bp_expm1, expm1l, {-60, 9.4}, {-INFINITY, INFINITY, 0}, {-1, INFINITY, 0}, 1},
        {"log", bp_log, logl, {-1000, 1000}, {0, INFINITY, 1}, {-INFINITY, INFINITY, 0}, 0},
    };
    uint64_t state = 7;
    for (size_t k = 0; k < sizeof doubles / sizeof *doubles; k++) {
        double worst = 0, middle = (doubles[k].sizes[0] + doubles[k].sizes[1]) / 2;
        for (int i = 0; i < (complete ? 10000000 : 100000); i++) {
            static const double near[] = {1, 0x1p-20}; /* to 1 */
            double u = uniform(&state), power = middle + (doubles[k].sizes[1] - middle) * u;
            double x = exp2(i % 3 ? near[i % 3 - 1] * u : power);
            if (doubles[k].negative && i % 2) x = -x;
            double e = ulps_of_double(doubles[k].function(x), doubles[k].widest((long double)x));
            worst = e <= worst ? worst : e;
        }
        context("bp_%s: %.2f ulp", doubles[k].name, worst);
        CHECK(worst <= 2);
        printf("bp_%s: %.3f ulp\n", doubles[k].name, worst);
        for (int i = 0; i < 3; i++) CHECK(doubles[k].function(doubles[k].ends[i]) == doubles[k].limits[i]);
        CHECK(isnan(doubles[k].function(NAN)));
    }
    CHECK(isnan(bp_log(-1)));
}

void test_functions(void) {
    const char *before = bp_isa();
    complete = getenv("BPCORE_COMPLETE") != NULL;
    n_isas = 0;
    for (int i = 0; bp_isa_name(i); i++)
        if (!bp_isa_use(bp_isa_name(i))) isas[n_isas++] = bp_active;
    bp_isa_use(before);
    for (int i = 0; i < N_FUNCTIONS; i++) {
        check_float(i);
        check_double(i);
    }
    check_ends();
    check_doubles();
    check_logarithms();
    for (int j = 0; j < n_isas; j++)
        for (bp_dtype dtype = BP_F32; dtype <= BP_F64; dtype++) {
            check_largest_labels(isas[j], dtype);
            check_binary(isas[j], dtype);
        }
}

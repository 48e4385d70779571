/* Bits as one number a line, to be compared between machines: activations, losses, products, training. */
#include "harness.h"
#include "dispatch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *kinds[2] = {"float32", "float64"};

/* FNV-1a. */
static uint64_t digest(uint64_t h, const void *from, size_t bytes) {
    const unsigned char *p = from;
    if (!h) h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

static void say(const char *what, bp_dtype dtype, uint64_t h) {
    printf("digest %s %s %016llx\n", what, kinds[dtype], (unsigned long long)h);
}

static size_t size_in(bp_dtype dtype) { return dtype == BP_F32 ? sizeof(float) : sizeof(double); }

/* f and f' of arguments of every size, of both signs. */
static void say_activations(bp_dtype dtype) {
    enum { N = 4096 };
    double *z = zeros(N, sizeof *z), *a = zeros(N, sizeof *a), *df = zeros(N, sizeof *df);
    for (const bp_activation *f = bp_active->activations; f->name; f++) {
        uint64_t state = 11;
        for (int i = 0; i < N; i++) set(dtype, z, i, ldexp(uniform(&state), i % 48 - 40));
        f->fn[dtype](z, a, df, N);
        say(f->name, dtype, digest(digest(0, a, N * size_in(dtype)), df, N * size_in(dtype)));
    }
    free(z);
    free(a);
    free(df);
}

/* Sums and gradients, of probabilities and labels, before and after the activation. */
static void say_losses(bp_dtype dtype) {
    enum { ROWS = 67, COLS = 21, ROOM = ROWS * COLS + BP_ALIGN };
    double *out = zeros(ROOM, sizeof *out), *y = zeros(ROOM, sizeof *y), *w = zeros(ROWS, sizeof *w);
    double *grad = zeros(ROOM, sizeof *grad);
    int32_t labels[ROWS];
    uint64_t state = 5;
    for (int i = 0; i < ROWS * COLS; i++) {
        set(dtype, out, i, 0.5 + 0.45 * uniform(&state));
        set(dtype, y, i, 0.5 + 0.5 * uniform(&state));
    }
    for (int r = 0; r < ROWS; r++) {
        set(dtype, w, r, 1.5 + uniform(&state));
        labels[r] = r * 5 % COLS;
    }
    for (const bp_loss_type *loss = bp_active->losses; loss->name; loss++)
        for (int fused = 0; fused <= (loss->fused_with != NULL); fused++)
            for (int by_label = 0; by_label <= loss->takes_labels; by_label++) {
                char what[64];
                const double numbers[2] = {0.3, 0.7};
                int64_t parts = loss->parts == BP_EACH_NUMBER ? 1 : loss->parts, width = COLS / parts;
                bp_loss_call call = {.out = out, .target = by_label ? (void *)labels : y, .weight = w, .grad = grad,
                                     .labels = by_label, .fused = fused, .rows = ROWS, .cols = parts * width,
                                     .target_cols = by_label ? 1 : width, .numbers = numbers,
                                     .n_numbers = loss->n_numbers};
                CHECK(!loss->fn[dtype](&call));
                snprintf(what, sizeof what, "%s%s%s", loss->name, fused ? "_fused" : "", by_label ? "_labels" : "");
                uint64_t h = digest(0, call.sum, sizeof call.sum);
                say(what, dtype, digest(h, grad, ROWS * COLS * size_in(dtype)));
            }
    free(out);
    free(y);
    free(w);
    free(grad);
}

/* Predictions by products of every remainder of rows and columns. */
static void say_products(bp_dtype dtype) {
    uint64_t h = 0;
    for (int64_t width = 1; width <= 70; width += 3) {
        spec s = {dtype, 2, {width, 71 - width, width + 2}, {NULL, "identity", "relu"}, "mse", 0, 0, 0};
        data d = data_new(&s, width + 1);
        net n;
        user u;
        void *theta = theta_new(&s), *out = zeros((size_t)(d.rows * s.width[2]), size_of(&s));
        CHECK(!net_open(&n, &s, BP_DO_FORWARD, d.rows, 1));
        bp_run *run = run_open(&n, &s, &d, theta, &u, 1, &(bp_out_port){.buffer = n.a[2], .data = out});
        bp_run_begin(run, d.rows, d.rows, NULL);
        CHECK(bp_epoch(run, 1, INFINITY, -1, 1) == BP_DONE);
        h = digest(h, out, (size_t)(d.rows * s.width[2]) * size_of(&s));
        bp_run_free(run);
        net_close(&n);
        free(theta);
        free(out);
        data_free(&d);
    }
    say("products", dtype, h);
}

/* Parameters and loss after some steps; any number of threads. */
static void say_training(bp_dtype dtype) {
    static const struct {
        const char *what, *f[3], *loss;
        int64_t width[4], batch;
        int labels, weighted;
        optimizer opt;
    } cases[] = {
        {"sgd", {"relu", "tanh", "softmax"}, "cross_entropy", {37, 53, 17, 5}, 33, 1, 1,
         {.rule = "sgd", .lr = 0.05}},
        {"momentum", {"gelu", "silu", "logistic"}, "binary_cross_entropy", {20, 131, 30, 3}, 100, 0, 0,
         {.rule = "sgd", .lr = 0.05, .weight_decay = 1e-3, .number = {0.9, 1}}},
        {"online", {"softplus", "elu", "identity"}, "mse", {9, 40, 16, 2}, 1, 0, 0,
         {.rule = "sgd", .lr = 0.01}},
        {"wide", {"selu", "softsign", "softmax"}, "squared_error", {60, 300, 700, 4}, 130, 0, 1,
         {.rule = "sgd", .lr = 0.01}},
        {"adam", {"tanh", "logistic", "identity"}, "huber", {21, 31, 40, 6}, 64, 0, 0,
         {.rule = "adam", .lr = 0.01, .number = {0.9, 0.999, 1e-8}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int sums = 1; sums <= 2; sums++) {
            spec s = {.dtype = dtype, .depth = 3, .loss = cases[i].loss, .labels = cases[i].labels,
                      .weighted = cases[i].weighted};
            memcpy(s.width, cases[i].width, sizeof cases[i].width);
            memcpy(s.f + 1, cases[i].f, sizeof cases[i].f);
            s.width[0] |= 1; /* bpcore's products: see open_forced */
            data d = data_new(&s, 150);
            regime r = {.n_threads = 1, .sums = sums, .epochs = 2, .batch = cases[i].batch, .max_steps = 0,
                        .seconds = INFINITY, .opt = cases[i].opt};
            char what[64];
            snprintf(what, sizeof what, "%s_%s", cases[i].what, sums == 1 ? "owners" : "shards");
            context("%s, %s", what, kinds[dtype]);
            outcome one = train(&s, &d, &r);
            r.n_threads = 3;
            outcome three = train(&s, &d, &r);
            CHECK(one.status == BP_DONE && same_bits(&one, &three));
            say(what, dtype, digest(digest(0, &one.progress, sizeof one.progress), one.theta, one.bytes));
            outcome_free(&one);
            outcome_free(&three);
            data_free(&d);
        }
}

void test_digests(void) {
    for (bp_dtype dtype = BP_F32; dtype <= BP_F64; dtype++) {
        say_activations(dtype);
        say_losses(dtype);
        say_products(dtype);
        say_training(dtype);
    }
}

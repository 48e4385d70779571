/* Every allocation fails in its turn: a status comes back, and nothing leaks.  The linker wraps the allocators. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>

static long allowed = -1; /* allocations until one fails; -1: none does */

static int fails(void) { return allowed >= 0 && allowed-- == 0; }

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_posix_memalign(void **p, size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_posix_memalign(void **p, size_t alignment, size_t n);
void *__wrap_malloc(size_t n) { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return fails() ? NULL : __real_realloc(p, n); }
int __wrap_posix_memalign(void **p, size_t alignment, size_t n) {
    return fails() ? 12 : __real_posix_memalign(p, alignment, n); /* ENOMEM */
}

/* The whole of a training epoch; BP_DONE or BP_E_NOMEM. */
static bp_status train_once(const spec *s, const data *d, int reuse, void *theta, void *state) {
    net n;
    user u;
    bp_opt opt = {.rule = bp_rule_find("sgd"), .lr = {0.1, NULL}, .number = {{0.5, NULL}}, .state = {state}};
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | reuse | bp_opt_flags(&opt);
    bp_status status = net_open(&n, s, flags, d->rows, 1);
    if (!status) {
        bp_run *run = run_open(&n, s, d, theta, &u, 0, NULL);
        status = BP_E_NOMEM;
        if (run) {
            CHECK(!bp_run_optimizer(run, &opt));
            bp_run_begin(run, d->rows, d->rows, NULL);
            status = bp_epoch(run, 1, INFINITY, -1, 1);
        }
        bp_run_free(run);
    }
    net_close(&n);
    return status;
}

void test_memory(void) {
    spec s = {BP_F64, 3, {3, 5, 4, 2}, {NULL, "tanh", "gelu", "softmax"}, "cross_entropy", 0, 1, 1};
    data d = data_new(&s, 40);
    long n = 0;
    for (int mode = 0; mode < 3; mode++) { /* a list of calls; owners with checkpoints; shards */
        int refused = 0;
        bp_set_sums(mode < 2 ? 1 : 2);
        for (n = 0; n < 200; n++) {
            double *theta = theta_new(&s), *state = zeros((size_t)n_theta(&s), sizeof *state);
            context("allocation %ld fails", n);
            allowed = n;
            bp_status status = train_once(&s, &d, mode ? BP_DO_REUSE : 0, theta, state);
            int reached = allowed < 0;
            allowed = -1;
            free(theta);
            free(state);
            CHECK(status == BP_DONE || (reached && status == BP_E_NOMEM));
            refused += reached && status == BP_E_NOMEM;
            if (!reached) break;
        }
        CHECK(n > 20 && n < 200);
        CHECK(refused == n - (mode ? 0 : 3)); /* without its three arrays a list is done without */
    }
    bp_set_sums(0);
    data_free(&d);
}

/* What the parts of the harness share: checks, a naive BLAS, small networks, data and training. */
#ifndef HARNESS_H
#define HARNESS_H

#include "op.h"

/* ---- checks ---- */

void context(const char *format, ...) __attribute__((format(printf, 1, 2))); /* said when a check fails */
void check(int ok, const char *condition, const char *file, int line);
#define CHECK(condition) check(!!(condition), #condition, __FILE__, __LINE__)

double uniform(uint64_t *state); /* in -1..1, splitmix64 */
void *zeros(size_t n, size_t size);
double get(bp_dtype dtype, const void *from, int64_t i); /* element i of an array */
void set(bp_dtype dtype, void *to, int64_t i, double value);

extern const bp_blas naive_blas;

/* ---- networks ---- */

enum { MAX_DEPTH = 4 };

typedef struct {
    bp_dtype dtype;
    int depth;
    int64_t width[MAX_DEPTH + 1];
    const char *f[MAX_DEPTH + 1]; /* of layers 1..depth: a name, "user_function" or "python_function" */
    const char *loss;             /* NULL: squared error by the callback */
    int no_bias, labels, weighted;
} spec;

typedef struct {
    bp_plan *plan;
    int x, target, weight; /* buffers */
    int z[MAX_DEPTH + 1], a[MAX_DEPTH + 1];
} net;

size_t size_of(const spec *s);
int64_t n_theta(const spec *s);
bp_status net_open(net *n, const spec *s, int flags, int64_t rows, int n_threads);
void net_close(net *n);

/* Squared error, and tanh as an activation; fails at call number fail_at, counted from 1. */
typedef struct {
    bp_dtype dtype;
    int calls, fail_at;
} user;
bp_status callback(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                   bp_loss_call *loss, bp_function_call *function);

/* ---- data ---- */

typedef struct {
    int64_t rows;
    double *X, *y, *w;
    int64_t *labels;
} data;

data data_new(const spec *s, int64_t rows);
void data_free(data *d);
bp_array plain_array(const void *from, int64_t rows, int64_t cols, bp_source type);
/* theta as drawn, in the type of s. */
void *theta_new(const spec *s);

/* A run of n over d with theta, ready for bp_run_begin. */
bp_run *run_open(const net *n, const spec *s, const data *d, void *theta, user *u, int n_out, const bp_out_port *out);

/* A run of the plan with theta (n,), or NULL. */
bp_run *run_new(const bp_plan *plan, void *theta, int64_t n);

/* ---- optimisers ---- */

/* A rule by name, and its numbers in their order. */
typedef struct {
    const char *rule;
    double lr, weight_decay, number[BP_MAX_NUMBERS], clip_norm, clip_value;
} optimizer;
/* Its states, of the size of theta, are zero and to be freed by states_free. */
bp_opt opt_new(const optimizer *o, size_t bytes);
void states_free(bp_opt *opt);
/* The rule that writes dC/dtheta to `to`; none where that is NULL. */
bp_opt gradient_to(void *to);

/* ---- what a run computes ---- */

/* C over d, and dC/dtheta in `grad` unless it is NULL; sums as in bp_set_sums. */
double cost(const spec *s, const data *d, const void *theta, void *grad, int sums, int n_threads);

typedef struct {
    int n_threads, sums, epochs;
    int64_t batch, max_steps;
    double seconds;
    int reversed;   /* the rows are taken from the last to the first */
    optimizer opt;
    const bp_number *numbers; /* lr, weight_decay and the rule's own, in place of opt's; or NULL */
    bp_boundary_fn *hook;     /* or NULL */
    void *hook_self;
} regime;
typedef struct {
    bp_status status;
    bp_progress progress;
    int64_t updates, slices;
    size_t bytes;      /* of theta, and of each state */
    void *theta;
    bp_opt opt;        /* with its states */
} outcome;

outcome train(const spec *s, const data *d, const regime *r);
int same_bits(const outcome *a, const outcome *b);
void outcome_free(outcome *o);

/* ---- parts ---- */

void test_gradients(void);
void test_threads(void);
void test_graphs(void);
void test_runs(void);
void test_rules(void);
void test_data(void);
void test_status(void);
void test_members(void);
void test_memory(void);
void test_philox(void);
void test_functions(void);
void test_digests(void);

#endif

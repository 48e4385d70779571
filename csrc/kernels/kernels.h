/* What an instruction set's file offers: the kernels for both types, in one struct; and what all of them share. */
#ifndef BP_KERNELS_H
#define BP_KERNELS_H

#include "../op.h"
#include "../pool.h"
#include "../rules.h"
#include "operations.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { BP_MAX_ACTIVATIONS = 40, BP_MAX_LOSSES = 40 };

typedef struct {
    const char *name;
    double cost; /* of an element, in flops of a product that take as long */
    void (*fn[2])(const void *z, void *a, void *df, int64_t n); /* df NULL where it is not wanted */
} bp_activation;

/* An operation's, by bp_dtype; see bp_op_type. */
typedef struct {
    bp_cell_fn *forward[2], *backward[2];
    bp_param_fn *param_grad[2];
    bp_step_fn *step[2];
} bp_op_kernels;

enum { BP_PHILOX_BLOCKS = 32 };

/* Networks side by side (lanes.inc): the vectors of all arrays hold an element of each network, as many as there are
 * reals in a vector.  C (m, n) of A (m, k) and B (k, n): A(i, p) is vector i * a_row + p * a_col, and so on. */
typedef struct {
    int64_t m, n, k;
    const void *A;
    int64_t a_row, a_col;
    const void *B;
    int64_t b_row, b_col;
    const void *bias; /* (n,), which the sums begin with; NULL: 0 */
    const void *df;   /* as C: the sums' factors; or NULL */
    void *C;
    int64_t ldc;
    int go_on; /* the sums begin with what C holds */
    enum { BP_LANES_ONE, BP_LANES_FOUR, BP_LANES_NONE } chains; /* an element.  FOUR: of `online` in gemm.inc; NONE: it
                                                                 * is one term, and no sum */
} bp_lane_product;

/* A loss on rows of all networks. */
typedef struct {
    const void *out;    /* (rows, cols) */
    const void *target; /* (rows, cols), or labels (rows,): whole numbers of a real's size */
    const void *weight; /* (rows,), or NULL for 1 */
    void *grad;         /* (rows, cols) */
    int labels;
    int64_t rows, cols;
    double *sum;        /* (3, lanes): those of bp_loss_call, to which the rows are added */
} bp_lane_loss;
typedef void bp_lane_loss_fn(const bp_lane_loss *loss);

enum { BP_MAX_LANE_LOSSES = 4, BP_LANE_LOSS_COLS = 16 /* of one, at most */ };

/* The kernels of one instruction set, by bp_dtype. */
typedef struct {
    const char *isa;
    bp_op_kernels operations[BP_N_OPERATIONS];
    bp_batch_fns batch_norm[2];
    /* n elements of the user's, `stride` bytes apart, to the real type */
    void (*convert[2])(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, void *out);
    /* n elements, as bp_array and bp_out_port say */
    void (*scaled_in[2])(const double *x, const double *shift, const double *factor, int64_t n, void *out);
    void (*scaled_out[2])(const void *x, const double *shift, const double *factor, int64_t n, void *out);
    /* x = share own + (1 - share) x, n elements */
    void (*mix[2])(const void *own, double share, int64_t n, void *x);
    /* adds elements first..end-1 of a sparse matrix, times a factor, to a row of `cols` columns */
    void (*scatter[2])(const bp_array *a, int64_t first, int64_t end, int64_t cols, double factor, void *row);
    /* G (cols,), with what it loses unless that is NULL, = or += the sum of value times delta[row] along the chain of a
     * slot; rows of delta are ld apart */
    void (*sum_column[2])(const bp_columns *columns, int64_t slot, const void *delta, int64_t ld, int64_t cols, void *G,
                          void *lost, int add);
    bp_rule_fn *rules[BP_N_RULES][2];
    /* n elements of gradients; see sums.inc and rules.inc */
    void (*sum[2])(void *sum, void *lost, const void *term, int64_t n);
    void (*clip[2])(void *G, int64_t n, double scale, double bound);
    double (*squares[2])(const void *G, int64_t n);
    void (*average[2])(double ema, int64_t n, const void *theta, void *average);
    void (*lead[2])(double share, double beta, int64_t n, void *theta, void *x, void *lead);
    double (*penalise[2])(void *G, const void *w, int64_t n, double l1, double l2, double weight);
    int (*bound[2])(void *w, int64_t rows, int64_t cols, int64_t ld, double most);
    void (*philox)(uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step, uint32_t first,
                   uint32_t w[4][BP_PHILOX_BLOCKS]);
    /* networks side by side; n, rows and cols count vectors */
    int vector_bytes;
    void (*lane_product[2])(const bp_lane_product *x);
    /* sum (n,) (+)= the sum of rows (rows, n), one chain, which begins with the first */
    void (*lane_sums[2])(const void *rows, int64_t n_rows, int64_t n, void *sum, int go_on);
    /* total (n,) = 0 or goes on, += sum; at the last, sum is the total, rounded */
    void (*lane_fold[2])(void *sum, int64_t n, double *total, int first, int last);
    void (*lane_times[2])(void *x, const void *factor, int64_t n); /* x (n,) *= factor (n,) */
    void (*lane_scale[2])(void *x, const double *scale, int64_t n); /* the same factor, (lanes,), for all of n */
    /* Each network's n elements, ld apart, to vectors, and back; what lies behind the n up to a vector's (to: up to as
     * many vectors) is overwritten. */
    void (*interleave[2])(const void *from, int64_t ld, int64_t n, void *to);
    void (*separate[2])(const void *from, int64_t n, void *to, int64_t ld);
    void (*broadcast[2])(const void *from, int64_t n, void *to); /* the same of all networks */
    void (*lane_labels[2])(const int32_t *from, int64_t ld, int64_t n, void *to);
    /* answers of an ensemble's members, ld apart, n elements each: sums (3, n) of answers and, unless `first`, the
     * first member's, is NULL, of differences from that and of their squares, in the order of members; mean and
     * spread */
    void (*add_answers[2])(const void *answers, int64_t ld, int64_t members, int64_t n, const void *first,
                           double *sums);
    void (*finish_answers[2])(const double *sums, int64_t members, int64_t n, void *mean, void *spread);
    struct {
        const char *name;
        int fused;
        bp_lane_loss_fn *fn[2];
    } lane_losses[BP_MAX_LANE_LOSSES + 1]; /* closed by a NULL name */
    bp_activation activations[BP_MAX_ACTIVATIONS + 1]; /* closed by a NULL name */
    bp_loss_type losses[BP_MAX_LOSSES + 1];            /* the same */
} bp_kernels;

extern const bp_kernels bp_kernels_portable, bp_kernels_v2, bp_kernels_avx2, bp_kernels_avx512, bp_kernels_neon;

/* Room for a thread's packed panels, more than the stack of a small thread. */
enum { BP_PANEL_BYTES = BP_STEP_ROWS * BP_PACK_COLS * (int)sizeof(float) };
extern _Thread_local char bp_panels[];

int64_t bp_source_size(bp_source type); /* bytes */
float bp_from_half(uint16_t half);

/* Element i of a sparse matrix's indices or indptr. */
static inline int64_t bp_index(const bp_array *a, const void *indices, int64_t i) {
    return a->wide ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
}

#endif

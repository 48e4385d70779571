/* What an instruction set's file offers: the kernels for both types, in a table. */
#ifndef BP_KERNELS_H
#define BP_KERNELS_H

#include "../bp.h"
#include "../pool.h"
#include "operations.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { BP_N_ACTIVATIONS = 26, BP_N_LOSSES = 6 };

typedef struct {
    const char *name;
    double cost; /* of an element, in flops of a product that take as long */
    void (*fn[2])(const void *z, void *a, void *df, int64_t n); /* df NULL where it is not wanted */
} bp_activation;

/* What an update needs beside the optimiser's settings. */
struct bp_update {
    double lr, correction1, correction2; /* Adam: 1 - beta1^t, sqrt(1 - beta2^t) */
    const bp_opt *opt;
    double scale;  /* of the gradient: 1 / sum of weights */
    int decay;
};

/* An operation's, by bp_dtype; see bp_op_type. */
typedef struct {
    bp_cell_fn *forward[2], *backward[2];
    bp_param_fn *param_grad[2];
    bp_step_fn *step[2];
} bp_op_kernels;

enum { BP_PHILOX_BLOCKS = 32 };

/* The kernels of one instruction set, by bp_dtype. */
typedef struct {
    const char *isa;
    bp_op_kernels operations[BP_N_OPERATIONS];
    /* n elements of the user's, `stride` bytes apart, to the real type */
    void (*convert[2])(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, void *out);
    /* n elements of theta and state from `at`; G is their gradient.  Returns 0 when all of theta stayed finite. */
    int (*update[2])(const bp_update *u, int64_t at, int64_t n, const void *G, void *theta);
    void (*sum[2])(void *sum, const void *term, int64_t n); /* sum += term */
    void (*philox)(uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step, uint32_t first,
                   uint32_t w[4][BP_PHILOX_BLOCKS]);
    bp_activation activations[BP_N_ACTIVATIONS + 1];        /* closed by a NULL name */
    bp_loss_type losses[BP_N_LOSSES + 1];
} bp_kernels;

/* Room for a thread's packed panels, more than the stack of a small thread. */
enum { BP_PANEL_BYTES = BP_STEP_ROWS * 240 * 4 };
extern _Thread_local char bp_panels[];

void bp_ops_bind(const bp_kernels *kernels);        /* into the table of operations */
/* One of these tables, each in the file of its instruction set. */
extern const bp_kernels *bp_active;
extern const bp_kernels bp_kernels_portable_table, bp_kernels_v2_table, bp_kernels_avx2_table, bp_kernels_avx512_table,
    bp_kernels_neon_table;

/* n integers of any source type; values beyond int32 become -1, as a label outside every range does. */
void bp_convert_int32(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, int32_t *out);
/* Rows first.. of an array, or of its rows in that order, to a buffer's rows. */
void bp_gather(const bp_array *a, const int64_t *order, int64_t first, int64_t rows, const bp_buffer *b, bp_dtype dtype,
               char *to);
/* Whether its elements are as the buffer holds them, next to each other; whether rows of `cols` are one run. */
int bp_is_copied(const bp_array *a, const bp_buffer *b, bp_dtype dtype);
int bp_is_run(const bp_array *a, int64_t cols);
int64_t bp_source_size(bp_source type);
float bp_from_half(uint16_t half);

#endif

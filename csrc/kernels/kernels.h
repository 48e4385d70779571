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

/* The kernels of one instruction set, by bp_dtype. */
typedef struct {
    const char *isa;
    bp_op_kernels operations[BP_N_OPERATIONS];
    /* n elements of the user's, `stride` bytes apart, to the real type */
    void (*convert[2])(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, void *out);
    /* adds elements first..end-1 of a sparse matrix to a row of `cols` columns */
    void (*scatter[2])(const bp_array *a, int64_t first, int64_t end, int64_t cols, void *row);
    bp_rule_fn *rules[BP_N_RULES][2];
    /* n elements of gradients; see sums.inc and rules.inc */
    void (*sum[2])(void *sum, void *lost, const void *term, int64_t n);
    void (*clip[2])(void *G, int64_t n, double scale, double bound);
    double (*squares[2])(const void *G, int64_t n);
    void (*average[2])(double ema, int64_t n, const void *theta, void *average);
    void (*philox)(uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step, uint32_t first,
                   uint32_t w[4][BP_PHILOX_BLOCKS]);
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

/* Philox4x32: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#include "dispatch.h"

__extension__ typedef unsigned __int128 uint128;

void bp_philox(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int i = 0; i < rounds; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* A stream (purpose, layer, step) of 64-bit words: 2i and 2i + 1 come from the counter that ends with i. */
typedef struct {
    uint64_t seed;
    uint32_t purpose, layer, step, w[4][BP_PHILOX_BLOCKS];
} stream;

/* Word i, where words are asked for in ascending order from `first` on. */
static uint64_t word(stream *s, int64_t i, int64_t first) {
    uint32_t block = (uint32_t)(i / 2), at = block % BP_PHILOX_BLOCKS;
    if (i == first || (at == 0 && i % 2 == 0))
        bp_active->philox(s->seed, s->purpose, s->layer, s->step, block - at, s->w);
    return i % 2 ? (uint64_t)s->w[3][at] << 32 | s->w[2][at] : (uint64_t)s->w[1][at] << 32 | s->w[0][at];
}

void bp_uniform(double *out, int64_t first, int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer,
                uint32_t step) {
    stream s = {.seed = seed, .purpose = purpose, .layer = layer, .step = step};
    for (int64_t i = 0; i < n; i++) out[i] = (double)(word(&s, first + i, first) >> 11) * 0x1p-53;
}

void bp_permutation(int64_t *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t step) {
    bp_permutation_part(out, 0, n, seed, purpose, 0, step);
}

void bp_permutation_part(int64_t *out, int64_t first, int64_t end, uint64_t seed, uint32_t purpose, uint32_t layer,
                         uint32_t step) {
    stream s = {.seed = seed, .purpose = purpose, .layer = layer, .step = step};
    for (int64_t i = first; i < end; i++) {
        /* j uniform in 0..i: the high word of w (i + 1) */
        int64_t j = (int64_t)((uint128)word(&s, i, first) * (uint64_t)(i + 1) >> 64);
        out[i] = out[j];
        out[j] = i;
    }
}

/* Philox4x32: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#include "bp.h"

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

/* Two 64-bit words: element 2i and 2i + 1 of the stream (purpose, layer, step). */
static void words(uint64_t out[2], uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step, uint32_t i) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, counter[4] = {purpose, layer, step, i}, w[4];
    bp_philox(counter, key, 10, w);
    out[0] = (uint64_t)w[1] << 32 | w[0];
    out[1] = (uint64_t)w[3] << 32 | w[2];
}

void bp_uniform(double *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step) {
    uint64_t w[2] = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        if (i % 2 == 0) words(w, seed, purpose, layer, step, (uint32_t)(i / 2));
        out[i] = (double)(w[i % 2] >> 11) * 0x1p-53;
    }
}

void bp_permutation(int64_t *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t step) {
    bp_permutation_part(out, 0, n, seed, purpose, step);
}

void bp_permutation_part(int64_t *out, int64_t first, int64_t end, uint64_t seed, uint32_t purpose, uint32_t step) {
    uint64_t w[2] = {0, 0};
    for (int64_t i = first; i < end; i++) {
        if (i % 2 == 0 || i == first) words(w, seed, purpose, 0, step, (uint32_t)(i / 2));
        /* j uniform in 0..i: the high word of w (i + 1) */
        int64_t j = (int64_t)((uint128)w[i % 2] * (uint64_t)(i + 1) >> 64);
        out[i] = out[j];
        out[j] = i;
    }
}

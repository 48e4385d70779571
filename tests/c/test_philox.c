#include "harness.h"

#include <stdlib.h>
#include <string.h>

/* Random123 v1.14.0, kat_vectors */
static const struct {
    uint32_t counter[4], key[2], rounds, out[4];
} known[] = {
    {{0, 0, 0, 0}, {0, 0}, 10, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, 10, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, 10,
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    {{0, 0, 0, 0}, {0, 0}, 7, {0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}},
    {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, 7, {0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, 7,
     {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}},
};

void test_philox(void) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        bp_philox(known[i].counter, known[i].key, (int)known[i].rounds, out);
        CHECK(!memcmp(out, known[i].out, sizeof out));
    }
    /* element i of a stream is word i % 2 of the block at counter (purpose, layer, step, i / 2) */
    enum { N = 101 };
    double u[N];
    uint32_t key[2] = {0x89abcdef, 0x01234567};
    bp_uniform(u, 0, N, 0x0123456789abcdef, 5, 6, 7);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t counter[4] = {5, 6, 7, i / 2}, w[4];
        bp_philox(counter, key, 10, w);
        uint64_t word = (uint64_t)w[2 * (i % 2) + 1] << 32 | w[2 * (i % 2)];
        CHECK(u[i] == (double)(word >> 11) / 9007199254740992.0 && u[i] >= 0 && u[i] < 1);
    }
    for (int64_t first = 0; first < N; first++) { /* in parts, wherever one begins */
        double part[N];
        bp_uniform(part, first, N - first, 0x0123456789abcdef, 5, 6, 7);
        CHECK(!memcmp(part, u + first, (size_t)(N - first) * sizeof *u));
    }
    for (int64_t n = 0; n <= N; n++) {
        int64_t order[N + 1];
        char seen[N + 1] = {0};
        bp_permutation(order, n, 42, 1, (uint32_t)n);
        int64_t parts[N + 1], cut = n * 3 / 7;
        bp_permutation_part(parts, 0, cut, 42, 1, 0, (uint32_t)n);
        bp_permutation_part(parts, cut, n, 42, 1, 0, (uint32_t)n);
        CHECK(!memcmp(order, parts, (size_t)n * sizeof *order));
        for (int64_t i = 0; i < n; i++) {
            CHECK(order[i] >= 0 && order[i] < n && !seen[order[i]]);
            seen[order[i]] = 1;
        }
    }
    /* each of the six orders of three about as often: 1,000 +- 5 standard deviations */
    int count[9] = {0};
    for (uint32_t step = 0; step < 6000; step++) {
        int64_t order[3];
        bp_permutation(order, 3, 42, 1, step);
        count[3 * order[0] + order[1]]++;
    }
    for (int i = 0; i < 9; i++) CHECK(i % 4 == 0 ? !count[i] : abs(count[i] - 1000) < 145);
}

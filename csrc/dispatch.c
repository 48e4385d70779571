/* Chooses the kernels once, at load. */
#include "dispatch.h"

const bp_kernels *bp_active = &bp_kernels_portable;

const bp_kernels *bp_kernels_of(int i) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") && n++ == i)
        return &bp_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && n++ == i) return &bp_kernels_avx2;
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") && n++ == i) return &bp_kernels_v2;
#elif defined(__aarch64__)
    if (n++ == i) return &bp_kernels_neon;
#endif
    return n == i ? &bp_kernels_portable : NULL;
}

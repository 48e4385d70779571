/* Chooses the kernels once, at load. */
#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

const bp_kernels *bp_active = &bp_kernels_portable;

#if defined(__x86_64__)
static int has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/* How many of v2, AVX2 and AVX-512 the processor has, and the system keeps for each thread.  Asked here: some tool
 * chains link a __builtin_cpu_supports that always says no. */
static int vector_levels(void) {
    const unsigned sse4_2 = 1u << 20, popcnt = 1u << 23, fma = 1u << 12, osxsave = 1u << 27; /* leaf 1, ecx */
    const unsigned avx2 = 1u << 5, avx512f = 1u << 16, avx512dq = 1u << 17, avx512bw = 1u << 30,
                   avx512vl = 1u << 31;     /* leaf 7, ebx */
    const unsigned ymm = 0x06, zmm = 0xE6;  /* registers that xgetbv says are kept */
    unsigned a, b, c, d, basic, extended, kept;
    if (!__get_cpuid(1, &a, &b, &basic, &d) || !has(basic, sse4_2 | popcnt)) return 0;
    if (!has(basic, fma | osxsave) || !__get_cpuid_count(7, 0, &a, &extended, &c, &d)) return 1;
    __asm__("xgetbv" : "=a"(kept), "=d"(d) : "c"(0));
    if (!has(extended, avx2) || !has(kept, ymm)) return 1;
#if defined(__APPLE__)
    kept |= zmm; /* from a thread's first use on */
#endif
    return has(extended, avx512f | avx512dq | avx512bw | avx512vl) && has(kept, zmm) ? 3 : 2;
}
#endif

const bp_kernels *bp_kernels_of(int i) {
#if defined(__x86_64__)
    static const bp_kernels *const vectors[] = {&bp_kernels_avx512, &bp_kernels_avx2, &bp_kernels_v2};
    int n = vector_levels();
    if (i < n) return vectors[3 - n + i];
#elif defined(__aarch64__)
    int n = 1;
    if (i < n) return &bp_kernels_neon;
#else
    int n = 0;
#endif
    return i == n ? &bp_kernels_portable : NULL;
}

/* AVX2 and FMA, 2013 on. */
#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define BP_ISA avx2
#define BP_VECTOR_BYTES 32
#define BP_REGISTERS 16
#define BP_MASKS 0
#define BP_FMA 1
#include "all.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

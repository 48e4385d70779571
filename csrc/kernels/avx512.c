/* AVX-512, 2017 on. */
#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#define BP_CLANG_TARGET "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"
#pragma clang attribute push(__attribute__((target(BP_CLANG_TARGET))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define BP_ISA avx512
#define BP_VECTOR_BYTES 64
#define BP_REGISTERS 32
#define BP_MASKS 1
#define BP_FMA 1
#include "all.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

/* x86-64-v2. */
#include "kernels.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("sse4.2,popcnt"))), apply_to = function)
#else
#pragma GCC target("sse4.2,popcnt")
#endif
#define BP_ISA v2
#define BP_VECTOR_BYTES 16
#define BP_REGISTERS 16
#define BP_MASKS 0
#define BP_FMA 0
#include "all.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

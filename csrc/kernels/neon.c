/* 64-bit Arm. */
#include "kernels.h"

#if defined(__aarch64__)
#define BP_ISA neon
#define BP_VECTOR_BYTES 16
#define BP_REGISTERS 32
#define BP_MASKS 0
#define BP_FMA 1
#include "all.inc"
#endif

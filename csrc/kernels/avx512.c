#if defined(__x86_64__)
#define BP_ISA avx512
#define BP_VECTOR_BYTES 64
#define BP_REGISTERS 32
#define BP_MASKS 1
#include "all.inc"
#endif

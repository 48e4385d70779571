#if defined(__x86_64__)
#define BP_ISA avx2
#define BP_VECTOR_BYTES 32
#define BP_REGISTERS 16
#define BP_MASKS 0
#include "all.inc"
#endif

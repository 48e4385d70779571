/* Any machine: vectors that the compiler makes of what there is. */
#include "kernels.h"

#define BP_ISA portable
#define BP_VECTOR_BYTES 16
#define BP_REGISTERS 16
#define BP_MASKS 0
#define BP_FMA 0
#include "all.inc"

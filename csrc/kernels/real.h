/* Opens a file of functions written once for both types; f32.c and f64.c define BP_SINGLE or not. */
#include "../pool.h"
#include "kernels.h"

#include <math.h>
#include <string.h>

#ifdef BP_SINGLE
#define REAL float
#define FN(name) bp_##name##_f32
#define R(function) function##f /* expf */
#define DTYPE BP_F32
#else
#define REAL double
#define FN(name) bp_##name##_f64
#define R(function) function
#define DTYPE BP_F64
#endif

#define AT(x, buffer, row) ((REAL *)bp_at(x, buffer, row, sizeof(REAL)))
#define GRAD_AT(x, buffer, row) AT(x, bp_grad_of(x, buffer), row)

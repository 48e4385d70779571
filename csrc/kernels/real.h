/* Opens a file of functions written once: BP_ISA is the instruction set, BP_SINGLE chooses float. */
#undef REAL
#undef FN
#undef R
#undef DTYPE
#undef VEC
#undef LANES

#ifdef BP_SINGLE
#define REAL float
#define FN(name) BP_PASTE(name, BP_ISA, f32)
#define R(function) function##f /* expf */
#define DTYPE BP_F32
#else
#define REAL double
#define FN(name) BP_PASTE(name, BP_ISA, f64)
#define R(function) function
#define DTYPE BP_F64
#endif

#define AT(x, buffer, row) ((REAL *)bp_at(x, buffer, row, sizeof(REAL)))
#define GRAD_AT(x, buffer, row) AT(x, bp_grad_of(x, buffer), row)

/* bpcore: backpropagation on the CPU.  The C API, its notation and its contracts.
 *
 * Notation (rows are examples, row-major, no padding; l = 1..L):
 *   a^0 = X                       (rows, n_0)
 *   z^l = a^{l-1} W^l + b^l       (rows, n_l)     W^l lies in theta as [n_{l-1}, n_l]
 *   a^l = f^l(z^l)                (rows, n_l)
 *   df^l = (f^l)'(z^l)            (rows, n_l)     the one "d..." that is not a gradient of the cost
 *   delta^l = dC/dz^l             (rows, n_l)     per example; times its weight while training
 * C = sum_x w_x E_x / sum_x w_x over a batch; the division is made once, in the update.
 *
 * A plan is a list of operations over numbered buffers.  Phase 1 of a step walks the rows (gather, forward, loss,
 * delta), phase 2 the parameters (gradient and update).  Sums are cut by shapes alone, and each has one fixed order, so
 * the bits of a result do not depend on the number of threads; columns, which no sum runs over, may be cut by it.
 *
 * Ownership: a plan owns its arena, sized once, and memory for a safety copy; all other pointers are borrowed and must
 * outlive the run.  No function prints, exits, or keeps randomness.  Every function that can fail returns bp_status.
 */
#ifndef BP_H
#define BP_H

#include "../bpcore/include/bpcore.h"

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)

typedef enum {
    BP_OK = 0,
    BP_PAUSED,             /* the slice's time or steps are used up; call again to go on */
    BP_DONE,               /* the epoch (or the pass over the data) is complete */
    BP_E_NONFINITE_LOSS,   /* parameters are those of the last whole step */
    BP_E_NONFINITE_PARAM,  /* an update overflowed; parameters were put back to the last finite step */
    BP_E_LABEL,            /* a whole number lies outside its range: a class label, or a row of a table */
    BP_E_CALLBACK,         /* a callback of the user's failed; nothing was updated */
    BP_E_NOMEM,
    BP_E_SHAPE,            /* operands do not fit the operation */
    BP_E_LIMIT,            /* more operands than BP_MAX_OPERANDS, or a size beyond the address space */
    BP_E_FUNCTION          /* an operation of the user's, in C, returned other than 0; nothing was updated */
} bp_status;

typedef enum { BP_F32 = 0, BP_F64 = 1 } bp_dtype;

/* BLAS comes in as pointers with Fortran conventions (column-major, all arguments by address). */
typedef void bp_gemm_fn(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda, void *b, int *ldb,
                        void *beta, void *c, int *ldc);
typedef void bp_gemv_fn(char *t, int *m, int *n, void *alpha, void *a, int *lda, void *x, int *incx, void *beta,
                        void *y, int *incy);
typedef void bp_ger_fn(int *m, int *n, void *alpha, void *x, int *incx, void *y, int *incy, void *a, int *lda);
typedef struct {
    bp_gemm_fn *gemm[2]; /* by bp_dtype */
    bp_gemv_fn *gemv[2];
    bp_ger_fn *ger[2];
} bp_blas;

/* Instruction sets that this machine can run, best first; NULL past the end. */
const char *bp_isa_name(int i);
/* Takes the kernels of one (NULL: the best), before the first plan is made; BP_E_SHAPE where it is not there. */
bp_status bp_isa_use(const char *name);
const char *bp_isa(void);

/* ---- plan ------------------------------------------------------------------------------------------------- */

enum { BP_ALIGN = 64, BP_MAX_OPERANDS = 8, BP_MAX_SHARDS = 16, BP_MAX_THREADS = 256 };

typedef enum { BP_REAL, BP_INT32 } bp_kind;
enum { BP_GATHERED = -1, BP_GRADIENT = -2 };

typedef struct {
    bp_kind kind;
    int64_t cols;   /* elements a row */
    int grad;       /* buffer of the gradient of C with respect to this one, or -1 */
    int maker;      /* operation that writes it (or, cached, leaves it), BP_GATHERED or BP_GRADIENT */
    int consumers;  /* operations that read it */
    int checkpoint; /* the operations are cut behind its maker: see bp_plan_checkpoint */
    int kept;       /* its memory is no other buffer's: it is read when all is done */
    size_t offset;  /* of row 0 in the arena, bytes */
} bp_buffer;

/* Weight decay touches it (weights, not biases); it is not trained: its gradient is taken for zero; its rows are named
 * by whole numbers, and only those that a batch names are trained (set by the operation). */
enum { BP_PARAM_DECAY = 1, BP_PARAM_FROZEN = 2, BP_PARAM_TABLE = 4 };

/* A parameter: a [rows, cols] block of theta.  Phase 2 may split it by rows and columns. */
typedef struct {
    int64_t offset; /* in theta, elements */
    int64_t rows, cols;
    int flags;      /* a sum of BP_PARAM_... */
    int first_use, last_use; /* in plan order; a weight used twice has two; -1: none */
    int segment;    /* its gradient is summed as soon as this one has been walked back; 0: when all have */
    int strips;     /* its columns lie in strips, one [rows, BP_STRIP_BYTES] after the other: see bp_plan_pack */
} bp_param;
enum { BP_STRIP_BYTES = 192 }; /* of a row; whole panels of every instruction set (gemm.inc) */
typedef struct {
    int op, slot, next;
} bp_use;

/* What an operation's tasks may be cut into. */
typedef enum {
    BP_SCOPE_CELLS, /* any block of rows and columns of what it writes; without parameters it reads no other cell */
    BP_SCOPE_ROWS,  /* any block of whole rows */
    BP_SCOPE_CHUNK, /* all rows at once, on the calling thread */
    BP_SCOPE_BLOCKS /* blocks of parameters: of gradients that are summed between the stages, no operation's */
} bp_scope;

/* Backward does not read the inputs, or the output; param_grad does not read the output. */
enum { BP_IGNORES_IN = 1, BP_IGNORES_OUT = 2, BP_GRAD_IGNORES_OUT = 4 };

typedef struct bp_plan bp_plan;
typedef struct bp_op bp_op;
typedef struct bp_context bp_context;

/* Rows r0..r1 of the buffers, and columns c0..c1 of what is written; `row` is the number of r0 in its batch. */
typedef struct {
    int64_t r0, r1, c0, c1, row;
} bp_cell;

typedef bp_status bp_cell_fn(const bp_context *x, const bp_op *op, const bp_cell *cell);
/* G (+)= a block of rows and columns of the gradient of parameter `slot`, summed over the buffers' rows r0..r1 with
 * their weights; rows of G are `ld` elements apart; it is overwritten unless `add`. */
typedef void bp_param_fn(const bp_context *x, const bp_op *op, int slot, int64_t r0, int64_t r1, const bp_cell *block,
                         void *G, int64_t ld, int add);

/* The same for the first parameter, not written but applied, theta -= lr (scale G), where rows times positions are at
 * most BP_STEP_ROWS.  Returns whether a number is no longer finite. */
enum { BP_STEP_ROWS = 512 };
typedef struct bp_update bp_update;
typedef int bp_step_fn(const bp_context *x, const bp_op *op, int64_t r0, int64_t r1, const bp_cell *block,
                       const bp_update *u, void *theta);

typedef struct {
    const char *name;
    bp_scope scope; /* unless `declare` sets another */
    int64_t tile; /* rows that it wants together, at least; 0: any */
    int ignores; /* a sum of BP_IGNORES_...: what is not read on the way back; aux and gradients may be */
    int by_row; /* of its parameter it reads only the rows that the whole numbers of its input name */
    int grad_in_place; /* backward may write the gradient of its only input over that of its output */
    int elementwise; /* backward is dz = df * da, with df cached */
    int prepares; /* where a context has a place for it, a product is prepared there, and not done */
    int fuses; /* its products do what an elementwise operation before or after it does; see bp_op.relu, factor */
    int takes_strips; /* forward reads its first parameter in strips of columns, too */
    int backward_first; /* param_grad needs what backward leaves, whether an input has a gradient or not */
    /* Checks operands and declares the output (op->out) and cached buffers (op->aux, op->aux + 1, ...). */
    bp_status (*declare)(bp_plan *plan, bp_op *op);
    bp_cell_fn *forward[2];
    bp_cell_fn *backward[2];      /* to the inputs; adds where op->add[i], skips where the input has no gradient */
    bp_param_fn *param_grad[2];   /* NULL without parameters */
    bp_step_fn *step[2];          /* may be NULL */
    double (*flops)(const bp_plan *plan, const bp_op *op); /* of forward, a row; NULL: one per output */
} bp_op_type;

struct bp_op {
    const bp_op_type *type;
    int n_in, in[BP_MAX_OPERANDS], add[BP_MAX_OPERANDS];
    int out;
    bp_scope scope;
    int64_t positions; /* of a row that a dense layer takes one by one */
    int aux;  /* the first of n_aux cached buffers (df), or -1 */
    int n_aux;
    int n_params, param[BP_MAX_OPERANDS];
    int native; /* products by bpcore's own kernels; else by BLAS */
    int skip; /* forward is not needed: a fused loss works on the input */
    int segment; /* between checkpoints; the operations of each but the last are computed again on the way back */
    int back;    /* the operation that goes the way back: itself, or its copy, which reads what is computed again */
    int again;   /* of a copy: its forward is needed once more */
    int stays;   /* it has no copy */
    int relu;   /* df of the ReLU after it, whose place its output has: it does that, too; or -1 */
    int factor; /* df of the function before it, by which its backward multiplies; or -1 */
    int fused_forward, fused_backward; /* done by another operation */
    int tag;  /* handed to the user's callback */
    const void *detail; /* what the type's functions need: a table entry, a user's functions, bp_settings */
};

/* Settings of an operation; what they mean stands in its file. */
enum { BP_MAX_SETTINGS = 16 };
typedef struct {
    int64_t n[BP_MAX_SETTINGS]; /* sizes */
    double x[BP_MAX_OPERANDS + 1];
} bp_settings;

/* The user's own elementwise function, scipy.LowLevelCallable of "double (double)" or "double (double, void *)". */
typedef struct {
    double (*plain)(double); /* one of the two is NULL */
    double (*with_data)(double, void *);
    void *data;
} bp_scalar_function;
typedef struct {
    bp_scalar_function f, df;
} bp_user_function;

/* The user's own operation, scipy.LowLevelCallable of "int (bp_function_call *)": forward, backward. */
typedef int bp_operation_fn(bp_function_call *call);
typedef struct {
    int64_t out_cols;
    bp_operation_fn *fn[2];
    void *data[2];
    int *code; /* (2,): what they returned last that was not 0 */
} bp_c_function;

/* One call of a loss on a block of rows: reads out and target, writes the gradient.  bpcore's own losses work on whole
 * vectors: what lies within BP_ALIGN bytes behind the last row is read, and in grad overwritten. */
typedef struct {
    const void *out;    /* (rows, cols): a^L, or z^L where the loss is fused with the last activation */
    const void *target; /* (rows, target_cols) real, or (rows,) int32 labels */
    const void *weight; /* (rows,) real, or (rows / positions,) where positions share one; or NULL for 1 */
    void *grad;         /* (rows, cols): weight * dE/dout; NULL only for the user's, where the value is enough */
    int labels, fused;
    int64_t rows, cols, target_cols, positions;
    double attr;
    double sum[3];      /* out: sum of w E, of w, of w times the share of outputs that are right */
} bp_loss_call;

typedef bp_status bp_loss_fn(bp_loss_call *call);
typedef struct {
    const char *name;
    const char *fused_with; /* the activation it is fused with, or NULL */
    int takes_labels;       /* (rows,) int32 as well as (rows, cols) */
    bp_loss_fn *fn[2];
} bp_loss_type;

/* The user's Python: an activation's operands as (rows, cols), df NULL where it is not wanted; or the call of a loss,
 * or of an operation, which adds to gradients as one in C does. */
typedef bp_status bp_callback_fn(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                                 bp_loss_call *loss, bp_function_call *function);

/* The table of operations, activations and losses; NULL for a name that is not there. */
const bp_op_type *bp_op_find(const char *name);
bp_status bp_op_register(const bp_op_type *type); /* BP_E_LIMIT when the table is full or the name taken */
const char *bp_activation_name(int i);            /* NULL past the end */
const char *bp_loss_name(int i);

/* What a plan does, a sum of flags.  REUSE: buffers share memory where one is read for the last time before the other
 * is written; only those kept (and gradients of inputs) hold their values when all is done.  EACH: gradients by the
 * parameters are those of each row (BP_OPT_EACH), not summed. */
enum {
    BP_DO_FORWARD = 1,
    BP_DO_CACHE = 2,
    BP_DO_LOSS = 4,
    BP_DO_BACKWARD = 8,
    BP_DO_INPUT_GRAD = 16,
    BP_DO_REUSE = 32,
    BP_DO_EACH = 64
};

bp_plan *bp_plan_new(bp_dtype dtype);
void bp_plan_free(bp_plan *plan);
/* These return the new number, or -1 when memory or the limits do not allow it. */
int bp_plan_buffer(bp_plan *plan, bp_kind kind, int64_t cols);
int bp_plan_param(bp_plan *plan, int64_t offset, int64_t rows, int64_t cols, int flags);
/* Adds an operation; *out is the number of its output buffer. */
bp_status bp_plan_op(bp_plan *plan, const bp_op_type *type, int n_in, const int *in, int n_params, const int *param,
                     const void *detail, int tag, int *out);
void bp_plan_keep(bp_plan *plan, int buffer);
/* Before compiling: the way back is gone n times a row, once from each unit vector as the gradient by what the only
 * loss reads, after one way forward: derivatives of the outputs, by inputs or (EACH) by parameters.  0: it is not. */
void bp_plan_seeds(bp_plan *plan, int64_t n);
/* Cuts the operations behind the one that writes `buffer`.  Training then stores only what is read across a cut; the
 * rest of a segment is computed again, by the same operations, when the way back comes to it. */
void bp_plan_checkpoint(bp_plan *plan, int buffer);
/* detail of the operation "activation"; NULL for a name that is not there. */
const void *bp_activation_detail(const char *name);
/* Adds `weight` times the mean of a loss over `positions` (of a sequence, an image), each with its share of the columns
 * of `out` and `target`.  name NULL is the user's own: the callback is called with `tag`. */
bp_status bp_plan_loss(bp_plan *plan, const char *name, int out, int target, double attr, int tag, int64_t positions,
                       double weight);
/* Cuts the work and lays out the arena for batches of at most `rows` rows and n_threads threads. */
bp_status bp_plan_compile(bp_plan *plan, int flags, int64_t rows, int n_threads);
/* Numbers a caller may ask of a compiled plan. */
typedef struct {
    int shards;          /* 0: owners */
    int n_stages;
    int calls_blas;      /* some product runs on BLAS */
    int recomputed;      /* operations that training computes twice */
    int64_t chunk_rows;
    size_t arena_bytes;
    size_t unshared_bytes; /* of an arena without REUSE */
    double flops;        /* a batch of `rows` rows, all phases; a function counts as the flops that take as long */
} bp_plan_info;
bp_plan_info bp_plan_describe(const bp_plan *plan);
int bp_plan_grad(const bp_plan *plan, int buffer);  /* number of the gradient's buffer, or -1 */
int bp_plan_cache(const bp_plan *plan, int buffer); /* what the operation that made `buffer` cached (df), or -1 */

/* A product with its operands, prepared once and done at each step, its result `shift` bytes further than was said; fn
 * is NULL where there is none. */
typedef struct {
    void (*fn)(const void *operands, size_t shift);
    void *left; /* where its pointer to its left operand is */
    _Alignas(64) char operands[512];
} bp_prepared;

/* What the functions of an operation see. */
struct bp_context {
    const bp_plan *plan;
    const bp_op *ops;
    const bp_buffer *buffers;
    const bp_param *params;
    const bp_blas *blas;
    char *arena;
    const char *theta;
    int cache;         /* df is wanted */
    int training;      /* a step of an optimiser: Dropout drops */
    uint64_t seed;     /* of what is drawn in training */
    int64_t step;
    int online;        /* a step on one example alone: its products may add in another order */
    bp_prepared *prepare; /* or NULL; see bp_op_type.prepares */
    bp_callback_fn *callback;
    void *callback_self;
    uint64_t caller_fpenv; /* the calling thread's floating-point environment, for the user's functions */
};

static inline void *bp_at(const bp_context *x, int buffer, int64_t row, size_t size) {
    const bp_buffer *b = &x->buffers[buffer];
    return (void *)((uintptr_t)x->arena + b->offset + (size_t)(row * b->cols) * size); /* may lie outside: answer.c */
}
static inline int bp_grad_of(const bp_context *x, int buffer) { return x->buffers[buffer].grad; }

/* ---- data ------------------------------------------------------------------------------------------------- */

typedef enum {
    BP_BOOL, BP_I8, BP_U8, BP_I16, BP_U16, BP_I32, BP_U32, BP_I64, BP_U64, BP_F16, BP_FLOAT, BP_DOUBLE, BP_LONGDOUBLE,
    BP_N_SOURCES
} bp_source;

/* A borrowed array of the user's: any strides, any byte order, never written.  A row is cols elements, col_stride
 * apart; or, of more than two axes, runs of them, over n_outer more. */
enum { BP_MAX_OUTER = 4 };
typedef struct {
    const char *data;
    int64_t rows, cols;
    int64_t row_stride, col_stride; /* bytes */
    int n_outer;
    int64_t outer[BP_MAX_OUTER], outer_stride[BP_MAX_OUTER];
    bp_source type;
    int swapped; /* byte order is not the machine's */
} bp_array;

/* Finds the first element (in memory order) that is not finite once rounded to dtype, or lies outside low..high:
 * its row and column, or -1 when all is well. */
void bp_scan(const bp_array *array, bp_dtype dtype, double low, double high, int64_t *row, int64_t *col);

/* ---- run -------------------------------------------------------------------------------------------------- */

typedef enum { BP_OPT_NONE, BP_OPT_GRADIENT, BP_OPT_EACH, BP_OPT_SGD, BP_OPT_ADAM } bp_opt_kind;

/* v = momentum v + g; theta -= lr (nesterov ? g + momentum v : v);  Adam as Kingma and Ba, epsilon outside the root.
 * BP_OPT_GRADIENT writes the gradient to state[0] and leaves theta alone; BP_OPT_EACH writes that of each row, (n,
 * n_params) or, of a plan with seeds, as bp_run_seeds says; only where the plan does BP_DO_EACH. */
typedef struct {
    bp_opt_kind kind;
    double lr, momentum, beta1, beta2, eps, weight_decay;
    int nesterov;
    void *state[2]; /* shaped as theta (BP_OPT_EACH: one a row), or NULL */
    int64_t t;      /* updates made so far */
} bp_opt;

typedef struct {
    int buffer;
    bp_array array;
} bp_in_port;
typedef struct {
    int buffer;
    void *data; /* (n, cols), contiguous, the plan's dtype; of a plan with seeds see bp_run_seeds */
} bp_out_port;

typedef struct bp_run bp_run;
typedef struct {
    double loss, weight, hits; /* sums over the batches done */
    int64_t steps;             /* updates since the run began */
    int64_t rows;              /* rows done in this epoch */
    int64_t batch;             /* batches done in this epoch */
} bp_progress;

bp_run *bp_run_new(bp_plan *plan, const bp_blas *blas, void *theta, int64_t n_params);
void bp_run_free(bp_run *run);
bp_status bp_run_ports(bp_run *run, int n_in, const bp_in_port *in, int n_out, const bp_out_port *out,
                       int weight_port); /* index into `in` of the weights, or -1 */
/* Row r of the data is row r / repeat % rows of this port's array, rather than row r or that of an order. */
void bp_run_repeat(bp_run *run, int port, int64_t repeat);
/* The plan's seeds are the unit vectors from `first` on; what goes out is (n, apart, cols), of which a row fills the
 * first. */
void bp_run_seeds(bp_run *run, int64_t first, int64_t apart);
void bp_run_optimizer(bp_run *run, const bp_opt *opt);
void bp_run_callback(bp_run *run, bp_callback_fn *fn, void *self);
/* Key of what training draws, and the network's count of steps at the run's beginning. */
void bp_run_random(bp_run *run, uint64_t seed, int64_t step);
/* Begins an epoch over n rows in batches; order (n,) or NULL for 0..n-1. */
void bp_run_begin(bp_run *run, int64_t n, int64_t batch, const int64_t *order);
/* One slice: runs until the epoch ends, `seconds` have passed or `max_steps` batches are done (0 or less: as many as
 * there are).  `fresh`: theta may have been written since the last slice.  Blocks; may be called without the GIL. */
bp_status bp_epoch(bp_run *run, int n_threads, double seconds, int64_t max_steps, int fresh);
bp_progress bp_run_progress(const bp_run *run);
/* (3,): loss, weight and hits of one of the losses over this epoch, the loss without its weight. */
const double *bp_run_loss(const bp_run *run, int loss);
int64_t bp_run_updates(const bp_run *run); /* the optimiser's t */

/* Copies theta to where bp_answer reads it from then on: wide weights of dense layers in strips of columns, which a
 * product reads from front to back, all else as it was. */
void bp_plan_pack(bp_plan *plan, const void *theta, void *to);

/* Forward for all rows of the inputs, as many in each, to data of the outputs.  The plan, compiled to do nothing but
 * forward and without functions of the user's Python, and theta are only read: callers may share them.  The arena,
 * bp_plan_describe(plan).arena_bytes, aligned to BP_ALIGN, is this call's alone. */
bp_status bp_answer(const bp_plan *plan, const void *theta, void *arena, int n_in, const bp_in_port *in, int n_out,
                    const bp_out_port *out, int n_threads);

/* ---- threads ---------------------------------------------------------------------------------------------- */

/* Tasks done by each thread of the pool since the last reset; for tests. */
void bp_pool_tasks(int64_t *count, int n);
void bp_pool_tasks_reset(void);
void bp_set_parallel_always(int on);
/* 0: auto, 1: blas, 2: native. */
void bp_set_backend(int mode);
void bp_set_phase2(int mode); /* 0: by shapes, 1: owners, 2: shards */

/* ---- Philox4x32 (Salmon et al. 2011) ------------------------------------------------------------------------ */

void bp_philox(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t out[4]);
/* n uniforms in [0, 1) of 53 bits; counter = (purpose, layer, step, element). */
void bp_uniform(double *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step);
/* A permutation of 0..n-1 (Fisher and Yates). */
void bp_permutation(int64_t *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t step);
/* A permutation of 0..first-1 in out becomes one of 0..end-1: n elements in parts give the bits of n at once. */
void bp_permutation_part(int64_t *out, int64_t first, int64_t end, uint64_t seed, uint32_t purpose, uint32_t step);

#pragma GCC visibility pop

#endif

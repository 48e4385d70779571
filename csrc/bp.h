/* bpcore: backpropagation on the CPU.  The C API, as the binding uses it, its notation and its contracts.
 *
 * Notation (rows are examples, row-major, no padding; l = 1..L):
 *   a^0 = X                       (rows, n_0)
 *   z^l = a^{l-1} W^l + b^l       (rows, n_l)     W^l lies in theta as [n_{l-1}, n_l]
 *   a^l = f^l(z^l)                (rows, n_l)
 *   df^l = (f^l)'(z^l)            (rows, n_l)     the one "d..." that is not a gradient of the cost
 *   delta^l = dC/dz^l             (rows, n_l)     per example; times its weight while training
 * C = sum_x w_x E_x / sum_x w_x over a batch; the division is made once, when theta moves.
 *
 * The road from data to theta, and the files to read, in this order:
 *   plan.[ch]    a plan is a list of operations over numbered buffers; plan.h has the glossary and a picture
 *   compile.c    cuts the work once, for batches of so many rows, and calls its passes (stages, blocks, memory, ...)
 *   run.[ch]     a run is what changes meanwhile: arena, position, sums; slice.c opens and closes a slice of it
 *   epoch.c      the walk: batch by batch, chunk by chunk, rows, then sums, then moves
 *   rows.c       rows:  gather, forward, loss, delta                                (each thread its own rows)
 *   sums.c       sums:  the gradient of each block of theta comes to its home       (each thread its own blocks)
 *   moves.c      moves: a rule (rules.h) changes the block, given its gradient
 *   penalties.c  what l1 and l2 add to the sums, and bounds of norms once all has moved
 *   op.h         what authors of operations and losses need; kernels/ has one file an operation
 *
 * Sums are cut by shapes alone, and each has one fixed order, so the bits of a result do not depend on the number of
 * threads; columns, which no sum runs over, may be cut by it.
 *
 * Ownership: a compiled plan is only read, so several runs may share it, in several threads; it must outlive them.  A
 * run owns its arena and its safety copy; all other pointers are borrowed and must outlive their use.  No function
 * prints, exits, or keeps randomness.  Every function that can fail returns bp_status.
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

typedef struct bp_plan bp_plan;
typedef struct bp_op_type bp_op_type; /* op.h */
typedef enum {
    BP_REAL,
    BP_INT32,
    BP_SPARSE /* rows of a sparse matrix, `cols` wide, of which the buffer holds where their entries are */
} bp_kind;

enum {
    BP_PARAM_FROZEN = 1, /* it is not trained: its gradient is taken for zero */
    BP_PARAM_TABLE = 2,  /* whole numbers, or the columns of sparse rows, name its rows, and only those that a batch
                          * names move (set by an operation, or by compiling) */
    BP_PARAM_STATE = 4,  /* it lies in the run's state, not in theta, and only its operation moves it */
    BP_PARAM_LAZY = 8    /* where sparse rows alone read it, only the rows that a batch names move, whatever the rule */
};

/* Settings of an operation; kernels/settings.h names them. */
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
    const void *weight; /* of all rows of the tile: (rows,) real, or (rows / positions,) where positions share one; or
                           NULL for 1 */
    void *grad;         /* (rows, cols): weight * dE/dout; NULL only for the user's, where the value is enough */
    int labels, fused;
    int64_t rows, cols, target_cols, positions;
    int64_t first;      /* row of the tile that is the first of these: 0 but for bpcore's own losses */
    const double *numbers; /* (n_numbers,): the loss's settings */
    int n_numbers;
    double sum[3];      /* out: sum of w E, of w, of w times the share of outputs that are right */
} bp_loss_call;

/* The user's Python: an activation's operands as (rows, cols), df NULL where it is not wanted; or the call of a loss,
 * or of an operation, which adds to gradients as one in C does. */
typedef bp_status bp_callback_fn(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                                 bp_loss_call *loss, bp_function_call *function);

/* The catalogue of operations, activations and losses; NULL for a name that is not there. */
const bp_op_type *bp_op_find(const char *name);
bp_status bp_op_register(const bp_op_type *type); /* BP_E_LIMIT when the catalogue is full or the name taken */
const char *bp_activation_name(int i);            /* NULL past the end */
const char *bp_loss_name(int i);

/* What a plan does, a sum of flags. */
enum {
    BP_DO_FORWARD = 1,
    BP_DO_CACHE = 2,
    BP_DO_LOSS = 4,
    BP_DO_BACKWARD = 8,
    BP_DO_INPUT_GRAD = 16,
    /* buffers share memory where one is read for the last time before the other is written; only those kept (and
     * gradients of inputs) hold their values when all is done */
    BP_DO_REUSE = 32,
    BP_DO_EACH = 64,      /* gradients by the parameters are those of each row (bp_run_each), not summed */
    BP_DO_MOVE = 128,     /* theta moves: of tables, the rows that the batch names */
    BP_DO_FUSE = 256,     /* moves may be made in the registers of the product that sums the gradient */
    BP_DO_BOUNDARY = 512, /* the whole gradient is known before anything moves */
    BP_DO_STRIPS = 1024,  /* theta is read as bp_plan_pack leaves it: for bp_answer alone */
    BP_DO_AVERAGE = 2048, /* an average of theta is kept, in which all rows of tables move */
    BP_DO_PENALTY = 4096  /* penalties join the cost and its gradient: see bp_plan_regularise */
};

bp_plan *bp_plan_new(bp_dtype dtype);
void bp_plan_free(bp_plan *plan);
/* These return the new number, or -1 when memory or the limits do not allow it. */
int bp_plan_buffer(bp_plan *plan, bp_kind kind, int64_t cols);
/* theta[offset : offset + rows * cols] as [rows, cols], or of a BP_PARAM_STATE these numbers of the state; factors of
 * the learning rate and of the weight decay (0 for biases): finite and not negative. */
int bp_plan_param(bp_plan *plan, int64_t offset, int64_t rows, int64_t cols, int flags, double rate, double decay);
/* Of a parameter's elements: the penalty l1 |w| + l2 w^2 / 2, in plans that do BP_DO_PENALTY; and what the norm of a
 * column (of a table: of a row that the batch names) may be once theta has moved, 0: any.  BP_E_SHAPE unless all are
 * finite and not negative. */
bp_status bp_plan_regularise(bp_plan *plan, int param, double l1, double l2, double max_norm);
/* Sum of l1 |w| + l2 w^2 / 2 over n elements. */
double bp_penalty(bp_dtype dtype, const void *w, int64_t n, double l1, double l2);
/* Adds an operation; *out is the number of its output buffer. */
bp_status bp_plan_op(bp_plan *plan, const bp_op_type *type, int n_in, const int *in, int n_params, const int *param,
                     const void *detail, int tag, int *out);
/* The buffer is read when all is done; a plan without a backward pass computes it though no loss may need it. */
void bp_plan_keep(bp_plan *plan, int buffer);
/* Before compiling: one forward pass, then n backward passes a row, one from each unit vector as the gradient by what
 * the only loss reads: derivatives of the outputs, by inputs or (EACH) by parameters.  0: the loss has the gradient. */
void bp_plan_cotangents(bp_plan *plan, int64_t n);
/* Cuts the operations behind the one that writes `buffer`.  Training then stores only what is read across a cut;
 * backward computes the rest of a segment again, by the same operations, when it comes to it. */
void bp_plan_checkpoint(bp_plan *plan, int buffer);
/* detail of the operation "activation"; NULL for a name that is not there. */
const void *bp_activation_detail(const char *name);
/* Adds `weight` times the mean of a loss over `positions` (of a sequence, an image), each with its share of the columns
 * of `out` and `target`; numbers: the loss's settings.  name NULL is the user's own: the callback is called with
 * `tag`. */
bp_status bp_plan_loss(bp_plan *plan, const char *name, int out, int target, const double *numbers, int n_numbers,
                       int tag, int64_t positions, double weight);
/* Cuts the work for batches of at most `rows` rows and n_threads threads.  From here on the plan is only read. */
bp_status bp_plan_compile(bp_plan *plan, int flags, int64_t rows, int n_threads);
/* Numbers a caller may ask of a compiled plan. */
typedef struct {
    int shards;          /* 0: blocks have owners */
    int n_stages;
    int calls_blas;      /* some product runs on BLAS */
    int recomputed;      /* operations that training computes twice */
    int64_t chunk_rows;
    size_t arena_bytes;
    size_t unshared_bytes; /* of an arena without REUSE */
    double flops;        /* a batch of `rows` rows, all phases; a function counts as the flops that take as long */
    double stretch;      /* of these, a thread's at most between two moments at which a slice may end */
} bp_plan_info;
bp_plan_info bp_plan_describe(const bp_plan *plan);
int bp_plan_grad(const bp_plan *plan, int buffer);  /* number of the gradient's buffer, or -1 */
int bp_plan_cache(const bp_plan *plan, int buffer); /* what the operation that made `buffer` cached (df), or -1 */

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
    /* NULL, or of a sparse matrix by rows (CSR): row r has the entries data[k], col_stride apart, in the columns
     * indices[k], k from indptr[r] to indptr[r + 1], in any order; those of one column are added up, and what lies
     * outside the row or the n_values entries is passed over.  A buffer of BP_REAL has them as dense rows. */
    const void *indices, *indptr;
    int64_t n_values;
    int wide; /* indices and indptr are int64, else int32 */
    /* NULL, or of the elements of a row: x is read as (x - shift) * factor, computed in double and rounded once.  Whole
     * numbers and sparse matrices have none. */
    const double *shift, *factor;
} bp_array;

/* Finds the first element (in memory order) that is not finite once rounded to dtype, or lies outside low..high:
 * its row and column, or -1 when all is well. */
void bp_scan(const bp_array *array, bp_dtype dtype, double low, double high, int64_t *row, int64_t *col);

/* ---- rules ------------------------------------------------------------------------------------------------ */

/* A rule is an optimiser as C sees it; rules.h lists them, and says what each row means. */
typedef struct bp_rule bp_rule;
enum { BP_MAX_NUMBERS = 6, BP_MAX_STATES = 4 };

const bp_rule *bp_rule_find(const char *name); /* NULL for a name that is not there */
const char *bp_rule_name(int i);               /* NULL past the end */
const char *bp_rule_number(const bp_rule *rule, int i); /* names of its own numbers, beside lr and weight_decay */
/* Name of its state array i; *needs: the own number without which (at 0) it is not kept, or -1. */
const char *bp_rule_state(const bp_rule *rule, int i, int *needs);
int bp_rule_moves(const bp_rule *rule);        /* whether it moves theta; else it only writes to its state */
int bp_rule_leads(const bp_rule *rule);        /* whether theta is ahead of an average, which it needs: see rules.h */

/* One number, or one for each step of an epoch: steps[k] is that of the epoch's move k, from 0; a batch without weight
 * makes none. */
typedef struct {
    double value;
    const double *steps; /* or NULL */
} bp_number;

typedef struct {
    const bp_rule *rule;                  /* NULL: no gradient by the parameters is summed */
    bp_number lr, weight_decay;
    bp_number l2;         /* joins that of each parameter whose factor of the decay is not 0 */
    bp_number number[BP_MAX_NUMBERS];     /* its own, in its order */
    void *state[BP_MAX_STATES];           /* shaped as theta, or NULL where it is not kept */
    double clip_norm;  /* most that the norm of dC/dtheta may be, or it is scaled down to that; 0: no bound */
    double clip_value; /* most that an element of dC/dtheta may be; 0: no bound */
    void *average;     /* shaped as theta, or NULL: theta after the first move, then ema average + (1 - ema) theta; */
    double ema;        /* elements of what is frozen stay as they are; of a rule that leads: the network's parameters */
    int64_t t;         /* moves made so far */
    double weights;    /* their sum, of a rule that leads */
} bp_opt;

/* Flags that a plan must be compiled with for this optimiser: of BP_DO_MOVE, FUSE, BOUNDARY, AVERAGE, PENALTY. */
int bp_opt_flags(const bp_opt *opt);

/* ---- run -------------------------------------------------------------------------------------------------- */

typedef struct {
    int buffer;
    bp_array array;
} bp_in_port;
typedef struct {
    int buffer;
    void *data; /* (n, cols), contiguous, the plan's dtype; of a plan with cotangents see bp_run_cotangents */
    const double *shift, *factor; /* NULL, or (cols,): x goes out as x * factor + shift, computed in double */
} bp_out_port;

typedef struct bp_run bp_run;
typedef struct {
    double loss, weight, hits; /* sums over the batches done */
    int64_t steps;             /* moves since the run began */
    int64_t rows;              /* rows done in this epoch */
    int64_t batch;             /* batches done in this epoch */
} bp_progress;

/* An idle run may be bound again and given other ports; it keeps its arena, its safety copy's memory and its pace. */
bp_run *bp_run_new(const bp_plan *plan, const bp_blas *blas);
void bp_run_free(bp_run *run);
/* Begins anew with these parameters and this state (what layers keep from step to step beside theta, NULL for none),
 * without ports, optimiser or callback; BP_E_SHAPE where one is too short. */
bp_status bp_run_bind(bp_run *run, void *theta, int64_t n_params, void *state, int64_t n_state);
bp_status bp_run_ports(bp_run *run, int n_in, const bp_in_port *in, int n_out, const bp_out_port *out,
                       int weight_port); /* index into `in` of the weights, or -1 */
/* Row r of the data is row r / repeat % rows of this port's array, rather than row r or that of an order. */
void bp_run_repeat(bp_run *run, int port, int64_t repeat);
/* The plan's cotangents are the unit vectors from `first` on; what goes out is (n, apart, cols), of which a row fills
 * the first. */
void bp_run_cotangents(bp_run *run, int64_t first, int64_t apart);
/* Where a plan that does BP_DO_EACH writes the gradient of each row: (n, n_params), or with cotangents (n, apart,
 * n_params). */
void bp_run_each(bp_run *run, void *grads);
/* BP_E_SHAPE where the plan was compiled for another kind of optimiser: see bp_opt_flags. */
bp_status bp_run_optimizer(bp_run *run, const bp_opt *opt);
void bp_run_callback(bp_run *run, bp_callback_fn *fn, void *self);
/* Where each batch of an epoch leaves three numbers, in the order of batches: the sum of its losses, penalties among
 * them; its sum of weights; and its penalties alone, not times the weights.  NULL: nowhere. */
void bp_run_batch_losses(bp_run *run, double *to);
/* Seed of what training draws, and the network's count of steps at the run's beginning. */
void bp_run_random(bp_run *run, uint64_t seed, int64_t step);

/* What the hook of a boundary sees of a step: sums over this process's rows, which it may add to. */
typedef struct {
    bp_dtype dtype;
    void *grad;     /* (n_theta,): the sums; elements of frozen parameters mean nothing */
    int64_t n_theta;
    double *weight; /* the sum of weights, by which the gradient will be divided */
} bp_boundary;
typedef bp_status bp_boundary_fn(void *self, const bp_boundary *boundary);
/* Called by one thread at each step, when the gradient is known and nothing has moved.  What it returns other than
 * BP_OK ends the slice, and the step was not made.  BP_E_SHAPE where the plan does no BP_DO_BOUNDARY, or has tables
 * that move, of which other processes name other rows. */
bp_status bp_run_hook(bp_run *run, bp_boundary_fn *fn, void *self);

/* Begins an epoch over n rows in batches; order (n,) or NULL for 0..n-1. */
void bp_run_begin(bp_run *run, int64_t n, int64_t batch, const int64_t *order);
/* Goes on in the epoch whose rows are all done with n more, which the ports have by now.  Numbers by step are counted
 * from here on. */
void bp_run_go_on(bp_run *run, int64_t n, int64_t batch, const int64_t *order);
/* In the epoch that is begun, inputs and targets of its row i become share[i] x + (1 - share[i]) x', x those of the row
 * itself and x' those of row partner[i] of the ports' arrays; weights of rows likewise, by weight_share.  (n,) each,
 * partner[i] a row of all ports, shares in 0..1.  Whole numbers stay as they are. */
void bp_run_mix(bp_run *run, const int64_t *partner, const double *share, const double *weight_share);
/* Goes on where `from` is, after a whole step in the midst of an epoch over the same data: the ports are alike, the
 * plans differ in what their optimisers need. */
void bp_run_follow(bp_run *run, const bp_run *from);
/* Goes on in the midst of the epoch that has just begun: `done` and the sums of the losses are those of the batches
 * that another run has made, `steps` moves among them; the optimiser's t counts them already.  skipped: rows of the
 * epoch before the first of those that this run has begun. */
void bp_run_resume(bp_run *run, const bp_progress *done, const double (*loss_sum)[3], int64_t steps, int64_t skipped);
/* One slice: runs until the epoch ends, `seconds` have passed or `max_steps` batches are done (0 or less: as many as
 * there are).  `fresh`: theta may have been written since the last slice.  Blocks; may be called without the GIL. */
bp_status bp_epoch(bp_run *run, int n_threads, double seconds, int64_t max_steps, int fresh);
bp_progress bp_run_progress(const bp_run *run);
int bp_run_is_whole(const bp_run *run); /* between slices: whether theta and the states are those after a whole step */
/* Between slices: makes them so, where some of a step's moves are made; undoes the step, or ends it where moves are all
 * that is left. */
void bp_run_make_whole(bp_run *run);
/* (3,): loss, weight and hits of one of the losses over this epoch, the loss without its weight. */
const double *bp_run_loss(const bp_run *run, int loss);
int64_t bp_run_updates(const bp_run *run); /* the optimiser's t */
double bp_run_weights(const bp_run *run);  /* and its weights */
/* Of a rule that leads: n elements of theta, from `first` on, follow from the average and the lead, of which the caller
 * may have changed either; before a slice. */
void bp_run_follow_average(bp_run *run, int64_t first, int64_t n);

/* Epochs of a run, as bp_many goes on with them. */
enum { BP_JOB_COLS = 4 };
typedef struct {
    bp_run *run;         /* its epoch is begun */
    int64_t n, batch;    /* rows of an epoch and of a batch, as bp_run_begin takes them */
    const int64_t *rows; /* (n,): which rows of the ports'; NULL: as they lie */
    int64_t *order;      /* (n,): room for the next epoch's order, if shuffled; NULL: in the order of `rows` */
    uint64_t seed;       /* of the order, with `purpose` and the epoch's number */
    uint32_t purpose;
    int64_t epoch;       /* number of the epoch that is begun */
    int64_t epochs, done; /* how many to do in this call, and are done */
    double *log;         /* (epochs, BP_JOB_COLS + 2 n_losses): loss, weight, rows, seconds; loss and weight of each */
    int n_losses;
    double seconds;      /* spent so far on the epoch that is begun */
    int fresh;           /* see bp_epoch */
    bp_status status;    /* BP_DONE: all epochs are done, and none is begun; BP_PAUSED: call again to go on */
    int had_turn;        /* in the last call */
} bp_job;
/* Goes on with n runs, no two of them the same, for about `seconds`: on several threads, each job on one at a time,
 * small ones of one plan side by side (lanes.h); a single job on all.  A job ends with its epochs, or with a status of
 * bp_epoch's, and the others go on.  None may call the user's Python.  Where threads or time did not reach, jobs are as
 * they were.  Blocks; may be called without the GIL. */
bp_status bp_many(bp_job *const *jobs, int64_t n, int n_threads, double seconds);

/* Copies theta to where bp_answer reads it from then on, if the plan does BP_DO_STRIPS: wide weights of dense layers in
 * strips of columns, which a product reads from front to back, all else as it was. */
void bp_plan_pack(const bp_plan *plan, const void *theta, void *to);

/* Forward for all rows of the inputs, as many in each, to data of the outputs.  The plan, compiled to do nothing but
 * forward and without functions of the user's Python, theta and the state (NULL for none) are only read: callers may
 * share them.  The arena, bp_plan_describe(plan).arena_bytes, aligned to BP_ALIGN, is this call's alone. */
bp_status bp_answer(const bp_plan *plan, const void *theta, const void *state, void *arena, int n_in,
                    const bp_in_port *in, int n_out, const bp_out_port *out, int n_threads);

/* Members of an ensemble side by side: n networks of one plan, compiled as for bp_answer without strips, whose answers
 * are the mean of theirs.  It owns what it keeps of their parameters; the plan must outlive it. */
typedef struct bp_members bp_members;
/* *members: NULL, with BP_OK, where `out`, the plan's only output, is not that of a chain of dense layers, or where
 * calls of about so many rows gain nothing. */
bp_status bp_members_new(const bp_plan *plan, int out, int64_t n, int64_t rows, bp_members **members);
void bp_members_free(bp_members *members);
/* Copies a member's theta: those of all members, in their order, once, before the first answer. */
void bp_members_set(bp_members *members, int64_t member, const void *theta);
size_t bp_members_arena(const bp_members *members, int n_threads); /* bytes */
/* Mean and, unless NULL, spread (rows, n_out) of what the members answer to rows x (rows, n_in), of which first..end-1
 * are done: sums in double, in the order of members.  The arena, aligned to BP_ALIGN, is this call's alone. */
bp_status bp_members_answer(const bp_members *members, void *arena, const bp_array *x, int64_t first, int64_t end,
                            void *mean, void *spread, int n_threads);

/* ---- threads ---------------------------------------------------------------------------------------------- */

/* Tasks done by each thread of the pool since the last reset; for tests. */
void bp_pool_tasks(int64_t *count, int n);
void bp_pool_tasks_reset(void);
void bp_set_parallel_always(int on);
/* 0: auto, 1: blas, 2: native. */
void bp_set_backend(int mode);
/* How gradients are summed, 0: by shapes, 1: by owners of blocks, 2: by shards of rows. */
void bp_set_sums(int mode);
void bp_set_round_flops(double flops); /* work between two moments at which a slice may end; 0: as it comes */

/* ---- Philox4x32 (Salmon et al. 2011) ------------------------------------------------------------------------ */

void bp_philox(const uint32_t counter[4], const uint32_t key[2], int rounds, uint32_t out[4]);
/* n uniforms in [0, 1) of 53 bits, of elements first..first + n - 1; counter = (purpose, layer, step, element). */
void bp_uniform(double *out, int64_t first, int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t step);
/* A permutation of 0..n-1 (Fisher and Yates). */
void bp_permutation(int64_t *out, int64_t n, uint64_t seed, uint32_t purpose, uint32_t step);
/* A permutation of 0..first-1 in out becomes one of 0..end-1: n elements in parts give the bits of n at once. */
void bp_permutation_part(int64_t *out, int64_t first, int64_t end, uint64_t seed, uint32_t purpose, uint32_t layer,
                         uint32_t step);

#pragma GCC visibility pop

#endif

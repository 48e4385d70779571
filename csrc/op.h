/* For authors of operations and losses.
 *
 * An operation reads buffers and writes one, its output.  A file of kernels/ has all of it: what it declares once
 * (under BP_DECLARE) and its kernels, compiled for float and double and for each instruction set.  The contract:
 *
 *   declare(plan, op)            Checks op->in, op->param and op->detail, sets op->out, and op->aux with op->n_aux
 *                                for what is cached from forward to backward.  May set op->scope, op->positions,
 *                                op->terms.
 *   forward(x, op, cell)         Writes rows r0..r1, columns c0..c1 of the output; and the caches where x->cache.
 *   backward(x, op, cell)        Gets dC/dout, complete, and adds to (op->add[i]) or writes dC/din[i] on the cell's
 *                                rows; skips inputs without gradient.  The cell's columns are those of in[0].
 *   param_grad(x, op, slot, ...) Sums dC/dparam over rows r0..r1 of the buffers, for a block [r0..r1, c0..c1] of
 *                                parameter number `slot`.  Rows of G are ld apart; G is overwritten unless `add`.
 *                                Where `lost` is not NULL, it lies as G does, and the sum is G + lost: see sums.inc.
 *   step(x, op, ...)             The same for slot 0, not written but applied, theta -= rate (scale G), in one go.
 *                                Optional.  Returns whether a number is no longer finite.
 *   flops(plan, op)              Of forward, a row, by which work is cut and threads are chosen.
 *
 * Shapes: a buffer is (rows, cols), row-major, without gaps; AT(x, buffer, row) is where a row begins.  A parameter is
 * theta[offset : offset + rows * cols] as [rows, cols]; functions read it through x->theta and never write it.
 *
 * Threads: any function may be called by several threads at once, on cells (blocks) that share nothing.  It writes
 * what its cell (block) owns and nothing else, keeps no state, allocates nothing, takes no lock and calls no Python.
 * `scope` says what cells there are.  The bits of a row must not depend on the cell it comes in: a sum runs over the
 * columns of its row, in one order.  Sums over rows run in one order, too.
 *
 * Sums over positions and elements run in chains of at most 64 numbers, which are added in double (kernels/sums.inc).
 * A gradient may be one chain of at most BP_STEP_ROWS numbers; a batch with more, by op->terms, comes with `lost`.
 *
 * Memory: kernels of rows may read and write whole vectors, up to BP_ALIGN bytes behind the last row of a tile; the
 * last row of a chunk has that room as well.  Whatever `ignores` names may have been overwritten.
 *
 * Parts: where a cell takes long (round_flops in plan.h), forward and backward of an operation with `parts` are
 * called once for each part of the cell, in order, and other tasks, or the caller, come in between.  Parts are time
 * steps, rows of an image and the like (bp_part); one may be empty, and only the last of a tile writes behind its end.
 * What one part leaves for the next is in the operation's buffers, and a sum has the same order in any number of parts.
 * A loss has parts of its rows as well (rows.c).
 * An operation without `parts` is never interrupted: only the user's in Python, and hidden_jacobian, which is small.
 */
#ifndef BP_OP_H
#define BP_OP_H

#include "bp.h"

typedef struct bp_op bp_op;
typedef struct bp_context bp_context;

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

/* A row of a sparse matrix, as a buffer of BP_SPARSE holds it: entries first..end-1 of an array, times a factor.  A row
 * that is mixed with another (bp_run_mix) has two parts, others leave the second empty. */
typedef struct {
    const bp_array *array;
    struct {
        int64_t first, end;
        double factor;
    } part[2];
} bp_sparse_row;

/* An operation on sparse rows, in a run: the columns that the rows of a chunk name, and of each a chain of its entries,
 * in the order of rows; see columns.c.  A column's place in the list is its slot. */
typedef struct {
    int32_t *slot_of;               /* (columns of the matrix,), in the arena */
    int32_t *column, *first, *last; /* (room,): by slot, the column and the ends of its chain, or -1 */
    int32_t *next, *row;            /* (entry_room,): the entry behind it, or -1; its row of the chunk */
    void *value;                    /* (entry_room,) reals */
    char *grad, *lost;              /* (grad_room, units) reals, by slot, where a table keeps them */
    int64_t n_slots, before;        /* in use now, and before this chunk */
    int64_t n_entries;              /* of the chunk */
    int64_t room, entry_room, grad_room;
} bp_columns;

/* A parameter: a [rows, cols] block of theta, which is summed and moved in blocks. */
typedef struct {
    int64_t offset; /* in theta, elements */
    int64_t rows, cols;
    int flags;      /* a sum of BP_PARAM_... */
    double rate, decay;      /* factors of the learning rate and of the weight decay */
    double l1, l2;           /* penalties: l1 |w| + l2 w^2 / 2 of each element */
    double max_norm;         /* of a column (of a table: a row) once it has moved, at most; 0: any */
    int first_use, last_use; /* in plan order; a weight used twice has two; -1: none */
    int segment;    /* its gradient is summed as soon as backward has left this one; 0: when it has left all */
    int strips;     /* its columns lie in strips, one [rows, BP_STRIP_BYTES] after the other: see bp_plan_pack */
} bp_param;

/* Limits that cutting the work and the kernels have in common. */
enum {
    BP_STRIP_BYTES = 192, /* of a row in a strip; whole panels of every instruction set (gemm.inc) */
    BP_STEP_ROWS = 512,   /* rows times positions that one chain may sum; panels of `step` stay in L2 */
    BP_PACK_COLS = 240,   /* columns that a product packs at once: whole panels of every instruction set */
    BP_NEAR_BYTES = 2048, /* between rows of weights: beyond, a product packs them */
    BP_CUT_COLS = 16,     /* a product's columns are cut at multiples: whole vectors of every instruction set */
    BP_NORM_COLS = 64     /* columns whose norms are bounded together */
};

/* What an operation's tasks may be cut into. */
typedef enum {
    BP_SCOPE_CELLS, /* any block of rows and columns of what it writes; without parameters it reads no other cell */
    BP_SCOPE_ROWS,  /* any block of whole rows */
    BP_SCOPE_CHUNK, /* all rows at once, on the calling thread */
    BP_SCOPE_BLOCKS /* blocks of parameters: of gradients that are summed between the stages, no operation's */
} bp_scope;

/* Backward does not read the inputs, or the output; param_grad does not read the output. */
enum { BP_IGNORES_IN = 1, BP_IGNORES_OUT = 2, BP_GRAD_IGNORES_OUT = 4 };

/* Rows r0..r1 of the buffers, and columns c0..c1 of what is written; `row` is the number of r0 in its batch.  Of
 * `parts` parts number `part` is to be done; 0: all at once. */
typedef struct {
    int64_t r0, r1, c0, c1, row, part, parts;
} bp_cell;

/* What a part has of n things that are done one after the other: first..end-1. */
typedef struct {
    int64_t first, end;
} bp_range;
static inline bp_range bp_part(const bp_cell *cell, int64_t n) {
    if (!cell->parts) return (bp_range){0, n};
    return (bp_range){n * cell->part / cell->parts, n * (cell->part + 1) / cell->parts};
}
static inline int bp_begins(const bp_cell *cell) { return !cell->part; }
static inline int bp_ends(const bp_cell *cell) { return cell->part + 1 >= cell->parts; }

typedef bp_status bp_cell_fn(const bp_context *x, const bp_op *op, const bp_cell *cell);
/* Of an operation that trains on the whole batch: in plans that move theta (op->of_batch) each tile leaves sums before
 * forward, and before backward; when all have, one thread joins them, and then the tiles go on, with what it left in
 * op->joined.  Such a plan has all rows of a batch in one chunk. */
typedef struct {
    /* op->n_sums doubles of a tile, before forward and before backward; a part of a cell is some of them */
    bp_status (*sums[2])(const bp_context *x, const bp_op *op, const bp_cell *cell, double *sums);
    /* those of all tiles, one after the other, to op->n_joined doubles; BP_E_NONFINITE_LOSS where they overflow */
    bp_status (*join[2])(const bp_context *x, const bp_op *op, int64_t tiles, const double *sums);
    /* when the step is made: the state moves */
    void (*track)(const bp_context *x, const bp_op *op, void *state);
} bp_batch_fns;
typedef void bp_param_fn(const bp_context *x, const bp_op *op, int slot, int64_t r0, int64_t r1, const bp_cell *block,
                         void *G, void *lost, int64_t ld, int add);
typedef int bp_step_fn(const bp_context *x, const bp_op *op, int64_t r0, int64_t r1, const bp_cell *block, double rate,
                       double scale, void *theta);

struct bp_op_type {
    const char *name;
    bp_scope scope; /* unless `declare` sets another */
    int64_t tile; /* rows that it wants together, at least; 0: any */
    int ignores; /* a sum of BP_IGNORES_...: what backward does not read; aux and gradients it may */
    int by_row; /* of its parameter it reads only the rows that the whole numbers of its input name */
    int by_column; /* of its first parameter it reads only the rows that its input, sparse rows, names */
    int grad_in_place; /* backward may write the gradient of its only input over that of its output */
    int elementwise; /* backward is dz = df * da, with df cached */
    int prepares; /* where a context has a place for it, a product is prepared there, and not done */
    int fuses; /* its products do what an elementwise operation before or after it does; see bp_op.relu_df, factor_df */
    int takes_strips; /* forward reads its first parameter in strips of columns, too */
    int backward_first; /* param_grad needs what backward leaves, whether an input has a gradient or not */
    bp_status (*declare)(bp_plan *plan, bp_op *op);
    bp_cell_fn *forward[2]; /* by bp_dtype */
    bp_cell_fn *backward[2];
    bp_param_fn *param_grad[2];   /* NULL without parameters */
    bp_step_fn *step[2];          /* may be NULL */
    const bp_batch_fns *of_batch[2]; /* NULL: rows are independent */
    double (*flops)(const bp_plan *plan, const bp_op *op); /* NULL: one per output */
    int64_t (*parts)(const bp_plan *plan, const bp_op *op); /* at most, of forward and backward; NULL: 1 */
};

struct bp_op {
    const bp_op_type *type;
    int n_in, in[BP_MAX_OPERANDS], add[BP_MAX_OPERANDS];
    int out;
    bp_scope scope;
    int64_t positions; /* of a row that a dense layer takes one by one */
    int64_t terms; /* numbers that a row adds, one after the other, to an element of a parameter's gradient; 0: one */
    int aux;  /* the first of n_aux cached buffers (df), or -1 */
    int n_aux;
    int n_params, param[BP_MAX_OPERANDS];
    int native; /* products by bpcore's own kernels; else by BLAS */
    int of_batch; /* rows are not independent here: see bp_batch_fns */
    int64_t n_sums, n_joined; /* doubles: of each tile, and of all */
    size_t joined; /* where these are in the arena */
    int skip; /* forward is not needed: a fused loss works on the input */
    int segment; /* between checkpoints; the operations of each but the last are computed again in backward */
    int back;    /* the operation whose backward runs: itself, or its replica, which reads what is computed again */
    int again;   /* of a replica: its forward is needed once more */
    int stays;   /* it has no replica */
    int relu_df;   /* the buffer of df of the ReLU after it, whose output it writes in place of its own; or -1 */
    int factor_df; /* the buffer of df of the function before it, by which its backward multiplies; or -1 */
    int fused_forward, fused_backward; /* done by another operation */
    int columns;    /* by_column: its number among these operations; else -1 */
    size_t slot_of; /* where its bp_columns has that in the arena */
    int tag;  /* handed to the user's callback */
    const void *detail; /* what the type's functions need: an activation, a user's functions, bp_settings */
};

typedef bp_status bp_loss_fn(bp_loss_call *call);
enum { BP_EACH_NUMBER = 0 };
typedef struct {
    const char *name;
    const char *fused_with; /* the activation it is fused with, or NULL */
    int takes_labels;       /* (rows,) int32 as well as (rows, cols) */
    int n_numbers;          /* settings, at least */
    int parts;              /* outputs for each target; BP_EACH_NUMBER: one for each setting */
    bp_loss_fn *fn[2];
} bp_loss_type;

/* A product with its operands, prepared once and done at each step, its result `shift` bytes further than was said; fn
 * is NULL where there is none. */
typedef struct {
    void (*fn)(const void *operands, size_t shift);
    void *left; /* where its pointer to its left operand is */
    _Alignas(64) char operands[512];
} bp_prepared;

/* What the functions of an operation see. */
struct bp_context {
    const bp_buffer *buffers;
    const bp_param *params;
    const bp_blas *blas;
    char *arena;
    const char *theta;
    const char *state; /* of layers */
    const bp_columns *columns; /* by op->columns */
    int weights;       /* the buffer of the rows' weights, or -1; the loss scales those of positions in place */
    int cache;         /* df is wanted */
    int training;      /* a rule moves theta: Dropout drops */
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
static inline const bp_sparse_row *bp_sparse_rows(const bp_context *x, int buffer, int64_t row) {
    return (const bp_sparse_row *)((uintptr_t)x->arena + x->buffers[buffer].offset) + row;
}
/* Bytes of a row, of reals of so many bytes. */
static inline size_t bp_row_bytes(const bp_buffer *b, size_t real) {
    if (b->kind == BP_SPARSE) return sizeof(bp_sparse_row);
    return (size_t)b->cols * (b->kind == BP_REAL ? real : sizeof(int32_t));
}
/* Numbers that are read or written with a row; of a sparse one a guess, the same for all data. */
enum { BP_SPARSE_ENTRIES = 64 };
static inline int64_t bp_row_numbers(const bp_buffer *b) { return b->kind == BP_SPARSE ? BP_SPARSE_ENTRIES : b->cols; }
static inline int bp_grad_of(const bp_context *x, int buffer) { return x->buffers[buffer].grad; }

#endif

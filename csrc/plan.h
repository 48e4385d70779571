/* What a compiled plan holds.  It is made by plan.c and losses.c, cut by compile.c and its passes, and from then on
 * only read.
 *
 * The words, from data to theta:
 *
 *            columns                     batch    rows of one step of a rule
 *         +-----------+  -               chunk    rows of a batch that lie in the arena at once
 *         |           |  | tile          tile     rows that one task takes through a stage
 *   batch |-----------|  -  -            shard    tiles whose gradients are summed apart, in order; a fixed number
 *         |           |     | shard      item     an operation's forward or backward, a loss, reading, writing
 *         |     +--+  |     |            stage    items between two barriers: a task does all of them on its tile
 *         |-----|  |--|     -            cell     rows by columns of what an operation writes: a task of a wide layer
 *         |     +--+  |                  segment  operations between two checkpoints
 *         +-----------+
 *               cell
 *
 *   theta as [rows, cols]                block    rows by columns of a parameter, or small parameters in a row: what is
 *   +-------+-------+                             summed and moved together, by one thread
 *   | block | block |                    home     where the gradient of a block comes to, until it moves the block
 *   +-------+-------+                    strip    columns of weights, side by side, as predictors keep them
 *   | block | block |                    panel    columns of a product's right operand, as its kernel packs them
 *   +-------+-------+                    table    a parameter of which a batch names rows (Embedding; Dense, by the
 *                                                 columns of sparse rows)
 *                                        entry    a value of a sparse row, in its column
 *                                        slot     of a table: the place of a row in the list of those that were named
 *                                        lost     what rounding took from a gradient: beside it, where sums are long
 *
 * In time: a step has phases (rows, sums, moves, norms; `bp_phase` in run.h).  Between sums and moves there may be a
 * boundary, where the whole gradient is known and nothing has moved.  A phase is walked in rounds of whole tasks, or of
 * parts of tasks that take long; a slice, which is what the caller asks for at a time, may end after any round of a
 * long step, but not between its moves and its norms.  Where the caller goes no further, a step that has moved some of
 * its blocks is made whole: undone, or ended.
 *
 * A replica is the copy of an operation that backward computes again; a safety copy is the theta and state that a run
 * goes back to.  A cotangent is a unit vector that stands for dC/da^L where derivatives of outputs are wanted.
 */
#ifndef BP_PLAN_H
#define BP_PLAN_H

#include "op.h"

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* A use of a parameter: slot `slot` of an operation. */
typedef struct {
    int op, slot, next;
} bp_use;

typedef enum {
    BP_GATHER,
    BP_SUM_FORWARD, /* of a tile, before the forward of an operation that is of the batch; so is SUM_BACKWARD */
    BP_FORWARD,
    BP_LOSS,
    BP_SUM_BACKWARD,
    BP_BACKWARD,
    BP_PARAM_GRADS,
    BP_SCATTER
} bp_item_kind;
static inline int bp_is_sum(bp_item_kind kind) { return kind == BP_SUM_FORWARD || kind == BP_SUM_BACKWARD; }
typedef struct {
    bp_item_kind kind;
    int op;       /* or loss; of BP_PARAM_GRADS the parameters' segment */
    int64_t cols; /* of what an operation writes */
    int64_t parts; /* in which it is done on a tile, where the plan goes by_part */
    int stage;
    double flops; /* of a row and a cotangent; a byte counts, too */
    bp_cell_fn *call; /* FORWARD, BACKWARD: what is done on a cell, and for which operation */
    const bp_op *on;
} bp_item;

/* Items run one after another on each task's cell; a barrier follows the stage. */
typedef struct {
    bp_scope scope;
    int first, count;         /* items */
    int64_t row_tile;         /* a power of two, or all rows of a chunk */
    int64_t cols, cells;      /* columns of what the first item writes, and into how many cells they are cut */
    double flops_row;         /* of its items */
    int64_t parts;            /* of each task, one after another: of its only item, or of all items of a tile */
    int first_block, end_block; /* blocks */
} bp_stage;

/* Where the gradient of a block comes to, and what moves it then; blocks.c chooses. */
typedef enum {
    BP_HOME_FUSED,   /* nowhere: summed and applied in a product's registers */
    BP_HOME_SCRATCH, /* a thread's, in L1: summed and moved in one task */
    BP_HOME_SHARDS,  /* the first shard's array, to which the others' are added in order */
    BP_HOME_KEPT,    /* one array shaped as theta, over chunks, or until the boundary; early ones from backward on */
    BP_N_HOMES
} bp_home;           /* rows of tables are a home of their own: see tables.c */

/* A cell of parameter `param`, or the whole of param..end-1, small ones in a row. */
typedef struct {
    int param, end, whole;
    bp_home home;
    int early;               /* KEPT: summed in a stage of backward, when its segment is done */
    int waits;               /* KEPT: summed before others move, in rounds, since all at once would take too long */
    int one_rate, one_decay; /* its parameters have the same factors */
    bp_cell cell;            /* unless whole */
    int64_t at;              /* in theta, elements */
    int64_t rows, width, ld; /* as it lies there: whole ones are one row */
} bp_block;

/* A loss on an output. */
typedef struct {
    const bp_loss_type *type; /* NULL: the user's */
    int out, target, tag, fused;
    int in, grad; /* what it reads (z^L where it is fused) and writes */
    double weight, share; /* share: weight / positions */
    double *numbers;      /* its settings, the loss's own */
    bp_loss_call call;    /* what all its calls have in common */
} bp_loss;

/* A parameter of which a batch names some rows; see tables.c.  Offsets in the arena, of int32. */
typedef struct {
    int param;
    int columns;          /* of the only operation that uses it, which goes by_column: its run lists them; or -1 */
    int logged;           /* too large for the safety copy: old rows are logged instead */
    int keeps;            /* gradients wait in the arena: for other chunks, or for the boundary */
    int64_t most, calls;  /* rows that a batch can touch, and positions of a chunk */
    size_t slot_of;       /* (rows of the parameter,) */
    size_t row;           /* (most,): by slot, the row */
    size_t first, last;   /* (most,): by slot, ends of the chain of calls, or -1 */
    size_t next;          /* (calls,) */
    size_t grad;          /* (most, cols) reals, where it keeps them */
    size_t lost;          /* the same: what rounding took from them, where the plan keeps that */
} bp_table;

struct bp_plan {
    bp_dtype dtype;
    size_t size; /* of a real */
    int n_buffers, n_params, n_ops, n_uses;
    int n_columns;  /* operations that go by_column */
    int n_replicas; /* operations behind the n_ops: see bp_op's `back` */
    bp_buffer *buffers;
    bp_param *params;
    bp_use *uses;
    bp_op *ops;

    int n_losses;
    bp_loss *losses;

    int compiled, flags, n_threads, shards;
    int windowed;        /* each thread owns row_tile rows of every buffer, reused by tile after tile */
    int inference;       /* forward (and loss) alone */
    int by_part;         /* a tile takes longer than a round: stages are cut, and operations come in parts */
    int keeps_lost;      /* beside each gradient lies what rounding took from it: its sums are long */
    int undoes;          /* fused moves take longer than a round, since their sums do, and can be taken back: undo.c */
    int of_batch;        /* some operation is: all rows of a batch are one chunk */
    int by_tile;         /* cotangents or BP_DO_EACH: a tile goes forward and back by itself, nothing is summed */
    int64_t cotangents;  /* see bp_plan_cotangents */
    int64_t rows, chunk_rows, row_tile;
    int64_t n_tiles;     /* of a chunk */
    int64_t n_theta;     /* end of the last parameter */
    int64_t n_state;     /* the same of the state */
    double flops_row, flops;
    double round_flops;  /* between two moments at which a slice may end, at most */
    int64_t long_rows;   /* of a batch, from which on a slice may end within its step */
    int n_items, n_stages, n_blocks;
    int n_waiting;         /* blocks up to the last that waits */
    int64_t n_norms;       /* tasks behind the moves: see penalties.c */
    int after_sums;        /* something comes behind a batch's sums: penalties, a boundary, norms */
    bp_item *items;
    bp_stage *stages;
    bp_block *blocks;
    int64_t *work_before;  /* (n_blocks + 1,): what the sums of the blocks before take, about, in elements */
    int64_t *moved_before; /* (n_blocks + 1,): elements of the blocks before */
    int64_t most_work, most_moved; /* of these, a block's at most */
    int64_t scratch_size;  /* elements of the largest block whose home is a thread's scratch, or of a table's row */
    int n_tables;
    bp_table *tables;

    /* the arena, offsets in bytes */
    size_t arena_bytes, unshared_bytes;
    size_t scratch, scratch_bytes; /* thread 0's, and bytes of each thread's */
    size_t shard_grads;            /* (shards, n_theta) */
    size_t kept_grads;             /* of theta from kept_from on */
    int64_t kept_from;
    size_t lost[BP_N_HOMES];       /* where it keeps lost: how far behind a gradient it lies, by home */
    size_t each_lost;              /* the same, of EACH: (n_threads, n_theta) */
    size_t undo;                   /* where it undoes: (n_theta,), blocks as they were before they moved */
    size_t loss_sums;              /* (losses, tiles of a chunk, 3) doubles */
    size_t tile_sums;              /* (tiles of a chunk, n_sums) doubles, of one operation after the other */
    size_t squares;                /* (n_blocks + 1,) doubles: of blocks' gradients, where there is a boundary */
    size_t penalties;              /* doubles: of each task of sums, where it has penalties */
};

/* A step of so many flops is long, and runs on all threads; see pace.c. */
static const double BP_LONG_FLOPS = 1e9;

/* A byte that is read or written counts as so many flops, of a core that does 50 GFLOP/s: 10 GB/s within stages, whose
 * tiles are in caches in part, 5 GB/s where blocks move and are copied. */
static const double BP_FLOPS_A_BYTE = 5, BP_FLOPS_A_MOVED_BYTE = 10;

/* Of an element that moves: theta and up to three states are read and written, its gradient is read. */
static inline double bp_move_flops(const bp_plan *plan) { return 9 * BP_FLOPS_A_MOVED_BYTE * (double)plan->size; }

/* Flops of the block that takes longest, its sums over so many rows and its move. */
static inline double bp_largest_block(const bp_plan *plan, double rows) {
    return 2 * rows * (double)plan->most_work + bp_move_flops(plan) * (double)plan->most_moved;
}

enum { BP_TABLE_ROWS = 64 }; /* of a table, in one task of its sums */

/* Rows of a tile, at least, so that one of one column is whole cache lines. */
enum { BP_LEAST_TILE = 16 };

/* Rows of a loss, one a position, that a part has at least: together they are whole vectors. */
static inline int64_t bp_loss_rows(const bp_loss *loss) {
    int64_t rows = BP_LEAST_TILE;
    for (int64_t cols = loss->call.cols; rows > 1 && cols % 2 == 0; cols /= 2) rows /= 2;
    return rows;
}

/* Rows of a tile, at most: of one that is done by itself, times cotangents. */
static inline int64_t bp_tile_rows(const bp_plan *plan) {
    return plan->by_tile ? plan->row_tile : min64(plan->row_tile, plan->rows);
}

/* Rows of a task of a prediction, whose bits do not depend on them: fewer where some thread would have none. */
enum { BP_INFER_TILE = 32 };
static inline int64_t bp_infer_tile(const bp_plan *plan, int64_t rows, int n_threads) {
    int64_t share = (rows + n_threads - 1) / n_threads;
    return min64(plan->row_tile, (share + BP_INFER_TILE - 1) / BP_INFER_TILE * BP_INFER_TILE);
}

/* What tests force; see bp_set_backend, bp_set_sums, bp_set_parallel_always (which also cuts work smaller),
 * bp_set_round_flops. */
typedef struct {
    int backend, sums, parallel_always;
    double round_flops; /* unless forced, 50 ms of one core that does 50 GFLOP/s */
} bp_forces;
extern bp_forces bp_forced;

/* ---- what passes ask ---- */

/* Room for one more element; the array grows by doubling at powers of two. */
void *bp_grow(void *array, int n, size_t size);

/* The operation that writes a buffer, or NULL. */
static inline bp_op *bp_maker_of(const bp_plan *plan, int buffer) {
    int maker = buffer < 0 || buffer >= plan->n_buffers ? -1 : plan->buffers[buffer].maker;
    return maker < 0 ? NULL : &plan->ops[maker];
}

static inline int bp_is_frozen(const bp_param *p) { return p->flags & BP_PARAM_FROZEN; }
static inline int bp_is_table(const bp_param *p) { return p->flags & BP_PARAM_TABLE && !bp_is_frozen(p); }

/* Tasks that bound the norms of a parameter's columns; of a table each row is bounded as it moves. */
static inline int64_t bp_norm_tasks(const bp_plan *plan, const bp_param *p) {
    int bounded = p->max_norm > 0 && plan->flags & BP_DO_MOVE && !bp_is_frozen(p) && !bp_is_table(p);
    return bounded ? ceil_div(p->cols, BP_NORM_COLS) : 0;
}

static inline double bp_flops_of(const bp_plan *plan, const bp_op *op) {
    return op->type->flops ? op->type->flops(plan, op) : (double)plan->buffers[op->out].cols;
}

/* Whether a product packs its weights. */
static inline int bp_is_wide(const bp_plan *plan, const bp_param *p) {
    return p->cols * (int64_t)plan->size > BP_NEAR_BYTES;
}

/* What rounding took from a gradient G of this home, or NULL. */
static inline char *bp_lost_of(const bp_plan *plan, bp_home home, char *G) {
    return plan->keeps_lost ? G + plan->lost[home] : NULL;
}

/* Elements that a step moves, at most, or copies to be safe. */
int64_t bp_moved(const bp_plan *plan);

/* Whether an operation's backward has anything to do. */
int bp_wants_backward(const bp_plan *plan, const bp_op *op);

#endif

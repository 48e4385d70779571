/* What a compiled plan holds; shared by the files that make it (compile.h) and those that walk it (run.h). */
#ifndef BP_PLAN_H
#define BP_PLAN_H

#include "bp.h"

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

typedef enum { BP_GATHER, BP_FORWARD, BP_LOSS, BP_BACKWARD, BP_PARAM_GRADS, BP_SCATTER } bp_item_kind;
typedef struct {
    bp_item_kind kind;
    int op;       /* or loss; of BP_PARAM_GRADS the parameters' segment */
    int64_t cols; /* of what an operation writes */
    int stage;
    bp_cell_fn *call; /* FORWARD, BACKWARD: what is done on a cell, and for which operation */
    const bp_op *on;
} bp_item;

/* Items run one after another on each task's cell; a barrier follows the stage. */
typedef struct {
    bp_scope scope;
    int first, count;         /* items */
    int64_t row_tile;         /* a power of two, or all rows of a chunk */
    int64_t cols, cells;      /* columns of what the first item writes, and into how many cells they are cut */
    int first_block, end_block; /* blocks */
} bp_stage;

/* One task of phase 2: a cell of parameter `param`, or the whole of param..end-1, small ones in a row. */
typedef struct {
    int param, end, whole;
    int steps;               /* plain SGD is made with the gradient, in one go */
    bp_cell cell;            /* unless whole */
    int64_t at;              /* in theta, elements */
    int64_t rows, width, ld; /* as it lies there: whole ones are one row */
    int64_t part;            /* rows whose gradient waits for its update in a cache */
} bp_block;

/* A loss on an output. */
typedef struct {
    const bp_loss_type *type; /* NULL: the user's */
    int out, target, tag, fused;
    int in, grad; /* what it reads (z^L where it is fused) and writes */
    double weight, share; /* share: weight / positions */
    bp_loss_call call;    /* what all its calls have in common */
    double sum[3];        /* of the epoch so far, as bp_progress has them; without its weight */
} bp_cost;

/* A parameter of which a batch names some rows; see tables.c.  Offsets in the arena, of int32. */
typedef struct {
    int param;
    int logged;           /* too large for the safety copy: old rows are logged instead */
    int64_t most, calls;  /* rows that a batch can touch, and positions of a chunk */
    size_t slot_of;       /* (rows of the parameter,) */
    size_t row;           /* (most,): by slot, the row */
    size_t first, last;   /* (most,): by slot, ends of the chain of calls, or -1 */
    size_t next;          /* (calls,) */
    size_t grad;          /* (most, cols) reals: of earlier chunks, where a batch has several */
    int64_t touched, before; /* slots in use: now, and before this chunk */
} bp_table;

/* How fast a plan's steps were, whatever the network's calls. */
typedef struct {
    double row[2];  /* seconds a row, on one thread and on all; 0: not known */
    int64_t runs, next_trial;
} bp_pace;

struct bp_plan {
    bp_dtype dtype;
    size_t size; /* of a real */
    int n_buffers, n_params, n_ops, n_uses;
    int n_copies; /* operations behind the n_ops: see bp_op's `back` */
    bp_buffer *buffers;
    bp_param *params;
    bp_use *uses;
    bp_op *ops;

    int n_losses;
    bp_cost *losses;

    int flags, n_threads, shards;
    int windowed;        /* each thread owns row_tile rows of every buffer, reused by tile after tile */
    int inference;       /* forward (and loss) alone */
    int alone;           /* seeds or BP_DO_EACH: a tile goes back and forth by itself, nothing is summed over rows */
    int64_t seeds;       /* see bp_plan_seeds */
    int64_t rows, chunk_rows, row_tile;
    int64_t n_tiles;     /* of a chunk */
    int64_t n_theta;     /* end of the last parameter */
    double flops_row, flops;
    int n_items, n_stages, n_blocks;
    bp_item *items;
    bp_stage *stages;
    bp_block *blocks;
    int64_t *block_cost; /* (n_blocks + 1,): of those before */
    int64_t block_max;   /* elements of the largest part of a block */
    int n_dense;         /* blocks before those of tables */
    int n_tables;
    bp_table *tables;

    char *arena;
    size_t arena_bytes, unshared_bytes;
    size_t scratch, scratch_bytes; /* a thread's gradient block: offset of thread 0's, bytes each */
    size_t shard_grads;            /* (shards, n_theta) */
    size_t chunk_grad;             /* of theta from kept_from on: parts of gradients, of a chunk or a segment */
    int64_t kept_from;
    bp_pace pace;
    char *copy; /* memory for a run's safety copy, kept for the next run: fresh pages cost as much as the copy */
    size_t copy_bytes;
    size_t parts;                  /* (losses, tiles of a chunk, 3) doubles: sums of the loss */
};

/* Rows of a tile, at least, so that one of one column is whole cache lines. */
enum { BP_LEAST_TILE = 16 };

/* Rows of a task of a prediction, whose bits do not depend on them: fewer where some thread would have none. */
enum { BP_INFER_TILE = 32 };
static inline int64_t bp_infer_tile(const bp_plan *plan, int64_t rows, int n_threads) {
    int64_t share = (rows + n_threads - 1) / n_threads;
    return min64(plan->row_tile, (share + BP_INFER_TILE - 1) / BP_INFER_TILE * BP_INFER_TILE);
}

/* What tests force; see bp_set_backend, bp_set_phase2, bp_set_parallel_always (which also cuts work smaller). */
typedef struct {
    int backend, phase2, parallel_always;
} bp_forces;
extern bp_forces bp_forced;

/* Whether rows lie in the user's array as they would in the buffer, so that they can be read there. */
int bp_lies_as_held(const bp_array *a, const bp_plan *plan, const bp_buffer *b);

/* A batch begins; a chunk of so many rows has its gradients: its calls are listed. */
void bp_tables_begin(bp_plan *plan);
void bp_tables_collect(bp_plan *plan, int64_t rows);
int32_t bp_table_row(const bp_plan *plan, const bp_table *table, int64_t slot);
/* G (cols,) = the chunk's gradient of a slot's row; added, where the slot was in use before this chunk. */
void bp_table_gradient(const bp_plan *plan, const bp_table *table, int64_t slot, int64_t rows, void *G);

const bp_loss_type *bp_loss_find(const char *name);
/* The name that a loss of `width` columns may be fused with: "softmax", "logistic" and the like, or "". */
const char *bp_op_function(const bp_plan *plan, const bp_op *op, int64_t width);

#endif

/* A run: a plan that is walked over data, and all that moves on the way.  slice.c opens and closes a slice, epoch.c
 * walks, rows.c, sums.c and moves.c do the tasks; pace.c chooses the threads, snapshot.c keeps the safety copy. */
#ifndef BP_RUN_H
#define BP_RUN_H

#include "plan.h"
#include "pool.h"
#include "rules.h"
#include "tables.h"

/* Where the run stands; all that a safety copy needs besides the parameters. */
typedef struct {
    int64_t pos;             /* first row of the batch */
    int64_t t;               /* the optimiser's moves */
    double weights;          /* their sum, where the rule leads */
    bp_progress done;
} bp_position;

/* What all threads do until they meet. */
typedef enum {
    BP_SAVING, /* the safety copy */
    BP_ROWS,   /* a stage: forward, losses, backward */
    BP_AHEAD,  /* gradients of blocks that wait come to their homes */
    BP_SUMS,   /* gradients come to their homes; without a boundary, each block moves at once */
    BP_MOVES,  /* behind the boundary */
    BP_NORMS,  /* behind all moves: what spans blocks, the norms of columns */
    BP_TABLES  /* where an average is kept: that of all rows of tables, when those that were named have moved */
} bp_phase;

/* Tasks of a thread's share, beyond the first, that some thread has begun; a cache line each. */
typedef struct {
    _Alignas(64) atomic_llong tasks;
} bp_taken;

/* Old rows of a table, theta and state, since the safety copy; undone from the last to the first. */
typedef struct {
    int32_t *row; /* (most,): -1 where a step failed before it came to the row */
    char *old;    /* (most, arrays, cols) */
    int64_t n, most;
    int64_t at;   /* of this step's rows */
} bp_log;

/* A row tile: `count` rows of the chunk from `row` lie at row `at` of the buffers. */
typedef struct {
    int64_t number, row, at, count;
    int64_t cotangent, cotangents; /* of the plan's, in backward: the first, and how many together */
    int shard, add; /* shards: its gradients join (or begin) those of this one */
} bp_tile;

/* How fast steps were, whatever the network's calls. */
typedef struct {
    double row[2];  /* seconds a row, on one thread and on all; 0: not known */
    int64_t runs, next_trial;
} bp_pace;

typedef struct bp_call bp_call;
typedef struct bp_follower bp_follower;

struct bp_run {
    const bp_plan *plan;
    char *arena;
    bp_context x;
    char *theta, *state; /* state: of layers */
    int64_t n_params;
    int n_in, n_out, weight_port;
    bp_in_port *in;
    bp_out_port *out;
    int64_t *repeat;         /* by port; see bp_run_repeat */
    bp_buffer *buffers;      /* the plan's, but those read in the user's arrays, which move from chunk to chunk */
    char *in_place;          /* by port: whether it is one of these */
    int64_t first_cotangent, apart; /* see bp_run_cotangents */
    char *each;              /* see bp_run_each */
    bp_opt opt;
    bp_rule_fn *kernel;      /* of its rule, for the plan's dtype */
    char *live[2 + BP_MAX_STATES]; /* what a step moves: theta, the states that are kept, and the average */
    int n_live;
    int varies;              /* some of its numbers are one for each step */
    bp_boundary_fn *hook;
    void *hook_self;

    int64_t n, batch;
    const int64_t *order;
    const int64_t *partner;  /* see bp_run_mix; NULL: rows are not mixed */
    const double *share, *weight_share;
    bp_position at;
    int64_t epoch_t;         /* at.t when the epoch began: numbers by step are counted from here */
    int64_t first_step;      /* of the network, before this run */

    int64_t batch_rows;      /* of the current batch */
    int is_long;             /* its step: a slice may end within it */
    double sparse_flops;     /* of its chunk's sparse rows, by their entries, beyond what the plan counts for them */
    int64_t off, rows;       /* the current chunk within it */
    bp_phase phase;
    int stage;               /* of BP_ROWS */
    int64_t n_tasks;         /* of the phase, or of its stage */
    int64_t round, rounds;   /* its tasks are done in so many rounds, between which a slice may end */
    int n_threads;           /* of the slice: they share a round's work */
    double sum[3];           /* of the batch so far */
    double penalty;          /* of the batch */
    double *batch_losses;    /* or NULL; see bp_run_batch_losses */
    double (*loss_sum)[3];   /* by loss, of the epoch so far, as bp_progress has them; without its weight */
    bp_slots *slots;         /* by table */
    bp_columns *columns;     /* by the number of an operation that goes by_column */
    bp_move move;            /* of this step, set when the last chunk has its losses */

    char *copy;              /* memory for a safety copy, kept for the next: fresh pages cost as much as the copy */
    size_t copy_bytes;
    char *snapshot;          /* `copy`, in use: theta, optimiser state, without tables that are logged; then `state` */
    bp_log *logs;            /* by table */
    bp_position snapshot_at;
    double snapshot_time, snapshot_cost; /* the cost is estimated from its bytes */
    int has_snapshot;
    int64_t replay_left;     /* batches from the snapshot to the last finite step; -1: no replay */
    int64_t restored;        /* elements of theta that have gone back to the snapshot, or -1 where none are to */

    double deadline;
    double warm_time;        /* when the slice's first step was done, 0 before: the threads are awake by then */
    int64_t warm_rows;
    int64_t steps_left;
    int until_clock;         /* steps until the clock is read again */
    bp_pace pace;
    bp_status status;        /* what the slice ends with; BP_OK while it goes on */
    atomic_int failure;      /* a task's bp_status, or BP_OK */
    bp_barrier barrier;
    bp_taken *taken;         /* by thread */

    bp_call *calls;          /* of the tasks of a small step of call_rows rows; see calls.c */
    int *first_call;         /* by task, first those of rows */
    int64_t call_rows;       /* 0: they are to be listed */
    int64_t call_pos;        /* first row of the batch for which they were */
    bp_follower *followers;
    int n_followers;
    unsigned generation;     /* of the process: a fork begins a new one */
};

static inline int bp_moves(const bp_run *run) { return run->opt.rule && run->opt.rule->moves; }
static inline int bp_is_last_chunk(const bp_run *run) { return run->off + run->rows == run->batch_rows; }
static inline int64_t tiles_of(int64_t rows, int64_t tile) {
    return rows <= tile ? rows > 0 : (rows + tile - 1) / tile;
}

/* Sums of a loss over a tile of rows. */
static inline double *bp_loss_sums(bp_run *run, int loss, int64_t tile) {
    return (double *)(void *)(run->arena + run->plan->loss_sums) + 3 * (loss * run->plan->n_tiles + tile);
}

/* The shards in use in this batch: each has tiles in its first chunk. */
static inline int bp_shards_of(const bp_run *run) {
    int64_t tiles = tiles_of(min64(run->plan->chunk_rows, run->batch_rows), run->plan->row_tile);
    return (int)min64(run->plan->shards, tiles);
}

/* A row of table i, of theta or of the optimiser's state. */
static inline char *bp_row_of(const bp_run *run, const bp_param *p, int64_t row, void *array) {
    return (char *)array + (size_t)(p->offset + row * p->cols) * run->plan->size;
}

/* By slot of a table, the row. */
static inline const int32_t *bp_rows_of_table(const bp_run *run, const bp_table *t) {
    if (t->columns >= 0) return run->columns[t->columns].column;
    return (const int32_t *)(const void *)(run->arena + t->row);
}

/* Forgets the safety copy; its memory stays. */
void bp_drop_snapshot(bp_run *run);
/* Decides, as an epoch begins, which inputs are read where they lie. */
void bp_place_inputs(bp_run *run);

#endif

/* A run: a plan that is walked over data; shared by the files that walk it.  epoch.c: the walk itself; phase1.c and
 * phase2.c: the tasks; pace.c: on how many threads; snapshot.c: the safety copy. */
#ifndef BP_RUN_H
#define BP_RUN_H

#include "plan.h"
#include "pool.h"

/* Where the run stands; all that a snapshot needs besides the parameters. */
typedef struct {
    int64_t pos;             /* first row of the batch */
    int64_t t;               /* the optimiser's updates */
    bp_progress done;
} bp_position;

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
    int64_t seed, seeds; /* of the plan's, on the way back: the first, and how many together */
    int shard, add; /* shards: its gradients join (or begin) those of this one */
} bp_tile;

typedef struct bp_call bp_call;

/* A call's pointer to its left operand: what it was in the batch at call_pos, and the input whose rows these are. */
typedef struct {
    void *left;
    const char *first;
    int port;
} bp_moved;

struct bp_run {
    bp_plan *plan;
    bp_context x;
    char *theta;
    int64_t n_params;
    int n_in, n_out, weight_port;
    bp_in_port *in;
    int64_t *repeat;         /* by port; see bp_run_repeat */
    bp_buffer *buffers;      /* the plan's, but those read in the user's arrays, which move from chunk to chunk */
    char *in_place;          /* by port: whether it is one of these */
    int64_t first_seed, apart; /* see bp_run_seeds */
    bp_out_port *out;
    bp_opt opt;
    int plain;               /* SGD without momentum and decay */

    int64_t n, batch;
    const int64_t *order;
    bp_position at;
    int64_t first_step;      /* of the network, before this run */

    int64_t batch_rows;      /* of the current batch */
    int64_t off, rows;       /* the current chunk within it */
    int stage;
    int updating;            /* phase 2 */
    double sum[3];           /* of the batch so far */

    char *snapshot;          /* the plan's copy: theta, optimiser state; without the tables that are logged */
    int saving;              /* the next tasks make it */
    bp_log *logs;            /* by table */
    int n_logs;
    bp_position snapshot_at;
    double snapshot_time, snapshot_cost; /* the cost is estimated from its bytes */
    int has_snapshot;
    int64_t replay_left;     /* batches from the snapshot to the last finite step; -1: no replay */

    double deadline;
    double warm_time;        /* when the run's first step was done, 0 before: the threads are awake by then */
    int64_t warm_rows;
    int64_t steps_left;
    int until_clock;         /* steps until the clock is read again */
    bp_status status;        /* what the slice ends with; BP_OK while it goes on */
    atomic_int failure;      /* a task's bp_status, or BP_OK */
    bp_barrier barrier;
    bp_taken *taken;         /* by thread */
    bp_call *calls;          /* of the tasks of a small step of call_rows rows; see calls.c */
    int *first_call;         /* by task, first those of phase 1 */
    int64_t call_rows;       /* 0: they are to be listed */
    int64_t call_pos;        /* first row of the batch for which they were */
    bp_moved *moved;
    int n_moved;
    unsigned generation;     /* of the process: a fork begins a new one */
};

/* A step of so many flops runs on all threads; see pace.c. */
static const double PARALLEL_FLOPS = 1e9;

static inline int bp_trains(const bp_run *run) { return run->opt.kind == BP_OPT_SGD || run->opt.kind == BP_OPT_ADAM; }
static inline int64_t tiles_of(int64_t rows, int64_t tile) {
    return rows <= tile ? rows > 0 : (rows + tile - 1) / tile;
}

/* Sums of a loss over a tile of rows. */
static inline double *bp_loss_sums(bp_run *run, int loss, int64_t tile) {
    return (double *)(run->plan->arena + run->plan->parts) + 3 * (loss * run->plan->n_tiles + tile);
}

/* The shards in use in this batch: each has tiles in its first chunk. */
static inline int bp_shards_of(const bp_run *run) {
    int64_t tiles = tiles_of(min64(run->plan->chunk_rows, run->batch_rows), run->plan->row_tile);
    return (int)min64(run->plan->shards, tiles);
}

/* A row of table i, of theta or of the optimiser's state. */
static inline char *bp_row_of(const bp_run *run, int i, int64_t row, void *array) {
    const bp_param *p = &run->plan->params[run->plan->tables[i].param];
    return (char *)array + (size_t)(p->offset + row * p->cols) * run->plan->size;
}

/* run.c: decides, as an epoch begins, which inputs are read where they lie */
void bp_place_inputs(bp_run *run);

/* phase1.c */
bp_tile bp_tile_of(const bp_run *run, int64_t tile, int64_t height, int thread);
bp_status bp_do_item(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell);
/* What a loss is called with on a tile; and the call, whose sums go where the tile's are. */
bp_loss_call bp_loss_operands(const bp_run *run, int number, const bp_tile *t);
bp_status bp_do_loss(bp_run *run, int number, const bp_tile *t, bp_loss_call *call);
int64_t bp_stage_tasks(const bp_run *run, const bp_stage *stage);
bp_status bp_do_stage_task(bp_run *run, const bp_stage *stage, int64_t task, int thread);

/* phase2.c */
bp_update bp_update_of(const bp_run *run);
int64_t bp_update_tasks(const bp_run *run);
/* The first task of a thread: those before it make up its share of the cost. */
int64_t bp_first_update(const bp_run *run, int64_t n_tasks, int thread, int n_threads);
bp_status bp_do_update(bp_run *run, const bp_update *step, int64_t task, int thread);
bp_status bp_update_block(bp_run *run, const bp_update *step, const bp_block *block, const char *G, int64_t ld);
/* The chunk's part of a block's gradient, to where it waits for the update. */
void bp_sum_early(bp_run *run, const bp_block *block);
/* Phase 2 begins: the rows of tables that it will touch are listed, and have their places in the logs. */
void bp_begin_tables(bp_run *run);

/* calls.c: small steps.  The list is made before the first, and made anew once call_rows is set to 0. */
void bp_list_calls(bp_run *run);
static inline int bp_has_calls(const bp_run *run) {
    return run->call_rows == run->rows && run->rows == run->batch_rows;
}
void bp_move_calls(bp_run *run); /* to the rows of the batch at run->at */
bp_status bp_do_calls(bp_run *run, const bp_update *step, int64_t task, int thread);

/* epoch.c */
void bp_set_batch(bp_run *run); /* the batch at run->at begins, or begins anew */
/* Whole steps end at the deadline, but not before `fewest_steps`. */
void bp_run_until(bp_run *run, int n_threads, int fewest_steps, double deadline);

/* pace.c: as bp_epoch, without a safety copy */
bp_status bp_slice(bp_run *run, int n_threads, double seconds, int64_t max_steps);

/* snapshot.c */
/* Due at the start of a slice, unless the last is young beside what a copy costs; the slice's first tasks make it. */
bp_status bp_take_snapshot(bp_run *run, int fresh);
void bp_free_snapshot(bp_run *run);
/* Back to where it was taken. */
void bp_restore_snapshot(bp_run *run);
int64_t bp_save_tasks(const bp_run *run);
void bp_save_part(bp_run *run, int64_t task);
/* From the snapshot, with the same bits, to the last step that was finite; in slices, as training is. */
bp_status bp_replay(bp_run *run, int n_threads, double seconds);
/* Row `row` of the live arrays of table i to entry `entry` of the log, or back. */
void bp_copy_row(bp_run *run, int i, int64_t row, int64_t entry, int restore);
/* Whether the next batch may not find room in the logs: then the safety copy is due. */
int bp_logs_full(const bp_run *run);

#endif

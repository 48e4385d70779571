/* Walks a plan over data: batches, chunks of a batch, stages of a chunk, then the update.
 *
 * All threads execute their share of the same task list, then meet; the last to arrive advances the state alone
 * (`advance`), so every decision is made once and seen by all.  Between two meetings a thread writes only what its
 * tasks own. */
#include "kernels/kernels.h"
#include "plan.h"
#include "pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HELPED = 8 }; /* threads that one looks at for work */
/* A smaller step runs on one thread, a larger on all; in between the pace is measured. */
static const double SERIAL_FLOPS = 2e5, PARALLEL_FLOPS = 1e8;
static const double SLICED_FLOPS = 1e7; /* where parallel work is forced, a slice ends within steps from here on */
static const double PACE_SECONDS = 5e-3, RETRY_SECONDS = 2e-3; /* of a run the faster way, and of one the other */
enum { MAX_RUNS = 64 };                                        /* of the faster way between two of the other, at most */
enum { TABLE_ROWS = 64, TABLE_COST = 4096 }; /* of a table, in one task; what a task costs, in elements of a block */
enum { LOG_BYTES = 8 << 20 };             /* of a table's old rows, at least */
static const double SNAPSHOT_SHARE = 0.02; /* of the time may go into safety copies */
static const size_t SHARED_COPY_BYTES = 4 << 20; /* a copy is all threads' work from here on */

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

struct bp_run {
    bp_plan *plan;
    bp_context x;
    char *theta;
    int64_t n_params;
    int n_in, n_out, weight_port;
    bp_in_port *in;
    int64_t *repeat;         /* by port; see bp_run_repeat */
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
    bp_log *logs;            /* by table */
    int n_logs;
    bp_position snapshot_at;
    double snapshot_time, snapshot_cost;
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
    unsigned generation;     /* of the process: a fork begins a new one */
};

static int trains(const bp_run *run) { return run->opt.kind == BP_OPT_SGD || run->opt.kind == BP_OPT_ADAM; }
static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t tiles_of(int64_t rows, int64_t tile) { return rows <= tile ? rows > 0 : (rows + tile - 1) / tile; }

/* ---- setting up ---- */

bp_run *bp_run_new(bp_plan *plan, const bp_blas *blas, void *theta, int64_t n_params) {
    if (!plan->arena || n_params < plan->n_theta) return NULL;
    bp_run *run = calloc(1, sizeof *run);
    void *taken = NULL;
    if (!run || posix_memalign(&taken, sizeof(bp_taken), sizeof(bp_taken) * (size_t)plan->n_threads)) {
        free(run);
        return NULL;
    }
    run->taken = memset(taken, 0, sizeof(bp_taken) * (size_t)plan->n_threads);
    run->plan = plan;
    run->theta = theta;
    run->n_params = n_params;
    run->weight_port = -1;
    run->apart = plan->seeds ? plan->seeds : 1;
    run->replay_left = -1;
    run->x = (bp_context){.plan = plan,
                          .ops = plan->ops,
                          .buffers = plan->buffers,
                          .params = plan->params,
                          .blas = blas,
                          .arena = plan->arena,
                          .theta = theta,
                          .cache = !!(plan->flags & BP_DO_CACHE)};
    return run;
}

static void free_snapshot(bp_run *run) {
    for (int i = 0; i < run->n_logs && run->logs; i++) {
        free(run->logs[i].row);
        free(run->logs[i].old);
    }
    free(run->logs);
    run->logs = NULL;
    run->snapshot = NULL;
    run->has_snapshot = 0;
}

void bp_run_free(bp_run *run) {
    if (!run) return;
    free_snapshot(run);
    free(run->in);
    free(run->repeat);
    free(run->out);
    free(run->taken);
    free(run);
}

bp_status bp_run_ports(bp_run *run, int n_in, const bp_in_port *in, int n_out, const bp_out_port *out,
                       int weight_port) {
    bp_in_port *ins = malloc(sizeof *in * (size_t)(n_in + 1));
    bp_out_port *outs = malloc(sizeof *out * (size_t)(n_out + 1));
    int64_t *repeat = calloc((size_t)(n_in + 1), sizeof *repeat);
    if (!ins || !outs || !repeat) {
        free(ins);
        free(outs);
        free(repeat);
        return BP_E_NOMEM;
    }
    if (n_in) memcpy(ins, in, sizeof *in * (size_t)n_in);
    if (n_out) memcpy(outs, out, sizeof *out * (size_t)n_out);
    free(run->in);
    free(run->out);
    free(run->repeat);
    run->repeat = repeat;
    run->in = ins;
    run->out = outs;
    run->n_in = n_in;
    run->n_out = n_out;
    run->weight_port = weight_port;
    return BP_OK;
}

void bp_run_optimizer(bp_run *run, const bp_opt *opt) {
    free_snapshot(run);
    run->opt = *opt;
    run->plain = opt->kind == BP_OPT_SGD && !opt->state[0] && opt->weight_decay == 0;
    run->x.training = trains(run);
    run->at.t = opt->t;
}

void bp_run_repeat(bp_run *run, int port, int64_t repeat) { run->repeat[port] = repeat; }

void bp_run_seeds(bp_run *run, int64_t first, int64_t apart) {
    run->first_seed = first;
    run->apart = apart;
}

void bp_run_callback(bp_run *run, bp_callback_fn *fn, void *self) {
    run->x.callback = fn;
    run->x.callback_self = self;
}

void bp_run_random(bp_run *run, uint64_t seed, int64_t step) {
    run->x.seed = seed;
    run->first_step = step;
}

static void set_chunk(bp_run *run, int64_t off) {
    run->off = off;
    run->x.step = run->first_step + run->at.done.steps;
    run->rows = min64(run->plan->chunk_rows, run->batch_rows - off);
    run->x.online = run->rows == 1 && !run->plan->inference && !run->plan->alone;
    run->stage = 0;
    run->updating = 0;
}

static void set_batch(bp_run *run) {
    run->batch_rows = min64(run->batch, run->n - run->at.pos);
    memset(run->sum, 0, sizeof run->sum);
    bp_tables_begin(run->plan);
    set_chunk(run, 0);
}

void bp_run_begin(bp_run *run, int64_t n, int64_t batch, const int64_t *order) {
    run->n = n;
    run->batch = batch;
    run->order = order;
    run->at.pos = 0;
    run->at.done = (bp_progress){.steps = run->at.done.steps};
    for (int k = 0; k < run->plan->n_losses; k++) memset(run->plan->losses[k].sum, 0, 3 * sizeof(double));
    run->has_snapshot = 0;
    set_batch(run);
}

bp_progress bp_run_progress(const bp_run *run) { return run->at.done; }
const double *bp_run_loss(const bp_run *run, int loss) { return run->plan->losses[loss].sum; }
int64_t bp_run_updates(const bp_run *run) { return run->at.t; }

/* ---- tasks of phase 1 ---- */

/* Sums of a loss over a tile of rows. */
static double *part(bp_run *run, int loss, int64_t tile) {
    return (double *)(run->plan->arena + run->plan->parts) + 3 * (loss * run->plan->n_tiles + tile);
}

/* A row tile: `count` rows of the chunk from `row` lie at row `at` of the buffers. */
typedef struct {
    int64_t number, row, at, count;
    int64_t seed, seeds; /* of the plan's, on the way back: the first, and how many together */
    int shard, add; /* shards: its gradients join (or begin) those of this one */
} bp_tile;

static bp_tile tile_of(const bp_run *run, int64_t tile, int64_t height, int thread) {
    const bp_plan *plan = run->plan;
    int64_t row = tile * height;
    return (bp_tile){tile, row, plan->windowed ? thread * height : row, min64(height, run->rows - row), 0, 1, 0, 0};
}

/* Rows that repeat (see bp_run_repeat), from `first` on: what is there already is copied. */
static void gather_repeated(const bp_run *run, int i, int64_t first, int64_t count, size_t row, char *to) {
    const bp_array *array = &run->in[i].array;
    const bp_buffer *b = &run->plan->buffers[run->in[i].buffer];
    int64_t repeat = run->repeat[i], cycle = repeat * array->rows;
    for (int64_t r = 0; r < count; r++, to += row) {
        int64_t ago = r >= cycle ? cycle : r && (first + r) % repeat ? 1 : 0;
        if (ago) memcpy(to, to - (size_t)ago * row, row);
        else bp_gather(array, NULL, (first + r) / repeat % array->rows, 1, b, run->plan->dtype, to);
    }
}

static void gather(bp_run *run, const bp_tile *t) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < run->n_in; i++) {
        const bp_in_port *port = &run->in[i];
        const bp_buffer *b = &plan->buffers[port->buffer];
        size_t row = (size_t)b->cols * (b->kind == BP_REAL ? plan->size : sizeof(int32_t));
        char *to = plan->arena + b->offset + (size_t)t->at * row;
        int64_t first = run->at.pos + run->off + t->row;
        if (run->repeat[i]) gather_repeated(run, i, first, t->count, row, to);
        else bp_gather(&port->array, run->order, first, t->count, b, plan->dtype, to);
    }
}

/* Where row r of a tile (of seeds, rows) goes, in what goes out. */
static int64_t out_row(const bp_run *run, const bp_tile *t, int64_t r) {
    return (run->at.pos + run->off + t->row + r % t->count) * run->apart + t->seed + r / t->count;
}

static void scatter(bp_run *run, const bp_tile *t) {
    for (int i = 0; i < run->n_out; i++) {
        const bp_out_port *port = &run->out[i];
        size_t row = (size_t)run->plan->buffers[port->buffer].cols * run->plan->size;
        const char *from = bp_at(&run->x, port->buffer, t->at, run->plan->size);
        int64_t rows = t->seeds * t->count, run_of = run->apart == 1 ? rows : 1; /* rows in one run of memory */
        for (int64_t r = 0; r < rows; r += run_of)
            memcpy((char *)port->data + (size_t)out_row(run, t, r) * row, from + (size_t)r * row, (size_t)run_of * row);
    }
}

/* x *= factor, n reals */
static void multiply(bp_dtype dtype, void *x, int64_t n, double factor) {
    if (dtype == BP_F32)
        for (int64_t i = 0; i < n; i++) ((float *)x)[i] *= (float)factor;
    else
        for (int64_t i = 0; i < n; i++) ((double *)x)[i] *= factor;
}

/* Weights of positions, scaled to a mean of 1 in each row: its loss is the average of the positions that count. */
static void average_positions(const bp_plan *plan, int buffer, void *weights, int64_t rows) {
    int64_t n = plan->buffers[buffer].cols;
    for (int64_t r = 0; r < rows; r++) {
        void *row = (char *)weights + (size_t)(r * n) * plan->size;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += plan->dtype == BP_F32 ? (double)((float *)row)[i] : ((double *)row)[i];
        for (int64_t i = 0; i < n && sum > 0; i++) /* n / sum may overflow */
            if (plan->dtype == BP_F32) ((float *)row)[i] = (float)(((float *)row)[i] * (double)n / sum);
            else ((double *)row)[i] = ((double *)row)[i] * (double)n / sum;
    }
}

static bp_status loss(bp_run *run, int number, const bp_tile *t) {
    const bp_plan *plan = run->plan;
    const bp_cost *loss = &plan->losses[number];
    int weight = run->weight_port < 0 ? -1 : run->in[run->weight_port].buffer;
    bp_loss_call call = loss->call;
    call.rows = t->count * call.positions;
    call.out = bp_at(&run->x, loss->in, t->at, plan->size);
    call.target = bp_at(&run->x, loss->target, t->at, call.labels ? sizeof(int32_t) : plan->size);
    if (loss->grad >= 0) call.grad = bp_at(&run->x, loss->grad, t->at, plan->size);
    if (weight >= 0) {
        call.weight = bp_at(&run->x, weight, t->at, plan->size);
        if (plan->buffers[weight].cols > 1) {
            if (plan->buffers[weight].cols != call.positions) return BP_E_SHAPE;
            average_positions(plan, weight, bp_at(&run->x, weight, t->at, plan->size), t->count);
            call.positions = 1;
        }
    }
    bp_status status = loss->type ? loss->type->fn[plan->dtype](&call)
                                  : run->x.callback(run->x.callback_self, loss->tag, call.rows, call.cols, NULL, NULL,
                                                    NULL, &call, NULL);
    if (status) return status;
    double *sum = part(run, number, t->number);
    memcpy(sum, call.sum, sizeof call.sum);
    if (loss->call.positions == 1 && loss->weight == 1) return BP_OK;
    if (call.grad) multiply(plan->dtype, call.grad, call.rows * call.cols, loss->share);
    for (int j = 0; j < 3; j++) sum[j] /= (double)loss->call.positions;
    return BP_OK;
}

/* What the way back reads of a buffer, for each of the seeds that go it together. */
static void repeat_rows(bp_run *run, int buffer, const bp_tile *t) {
    const bp_buffer *b = &run->plan->buffers[buffer];
    size_t size = b->kind == BP_REAL ? run->plan->size : sizeof(int32_t), bytes = (size_t)(t->count * b->cols) * size;
    char *from = bp_at(&run->x, buffer, t->at, size);
    for (int64_t i = 1; i < t->seeds; i++) memcpy(from + (size_t)i * bytes, from, bytes);
}

/* dC/dout (seeds, rows, cols): unit vectors */
static void sow(bp_run *run, const bp_tile *t) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        if (plan->buffers[op->out].grad < 0 || (t->seed && !op->type->backward_first)) continue;
        for (int j = 0; j < op->n_aux; j++) repeat_rows(run, op->aux + j, t);
        int ignores = op->type->ignores;
        if (op->n_params && plan->flags & BP_DO_EACH) ignores &= ignores & BP_GRAD_IGNORES_OUT ? BP_IGNORES_OUT : 0;
        for (int j = 0; j < op->n_in && !(ignores & BP_IGNORES_IN); j++) repeat_rows(run, op->in[j], t);
        if (!(ignores & BP_IGNORES_OUT)) repeat_rows(run, op->out, t);
    }
    int grad = plan->losses[0].grad;
    int64_t cols = plan->buffers[grad].cols, n = t->seeds * t->count;
    char *to = bp_at(&run->x, grad, t->at, plan->size);
    memset(to, 0, (size_t)(n * cols) * plan->size);
    for (int64_t r = 0; r < n; r++) {
        int64_t at = r * cols + run->first_seed + t->seed + r / t->count;
        if (plan->dtype == BP_F32) ((float *)(void *)to)[at] = 1;
        else ((double *)(void *)to)[at] = 1;
    }
    memset(part(run, 0, t->number), 0, 3 * sizeof(double));
}

/* The gradient of rows r0..r1 of the buffers, shaped as theta. */
static void gradient_of_rows(bp_run *run, int segment, int64_t r0, int64_t r1, int add, char *grads) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        if (p->flags & BP_PARAM_FROZEN || p->segment != segment) continue;
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            op->type->param_grad[plan->dtype](&run->x, op, plan->uses[u].slot, r0, r1,
                                              &(bp_cell){0, p->rows, 0, p->cols, 0},
                                              grads + (size_t)p->offset * plan->size, p->cols,
                                              add || u != p->first_use);
        }
    }
}

static void param_grads(bp_run *run, int segment, const bp_tile *t) {
    const bp_plan *plan = run->plan;
    if (plan->shards) {
        char *grads = plan->arena + plan->shard_grads + (size_t)t->shard * (size_t)plan->n_theta * plan->size;
        gradient_of_rows(run, segment, t->at, t->at + t->count, t->add, grads);
    } else if (run->opt.kind == BP_OPT_EACH) {
        for (int64_t r = 0; r < t->seeds * t->count; r++) {
            size_t at = (size_t)(out_row(run, t, r) * run->n_params) * plan->size;
            gradient_of_rows(run, segment, t->at + r, t->at + r + 1, 0, (char *)run->opt.state[0] + at);
        }
    }
}

static bp_status do_item(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell) {
    if (item->call) return item->call(&run->x, item->on, cell);
    if (item->kind == BP_LOSS && !run->plan->seeds) return loss(run, item->op, t);
    if (item->kind == BP_LOSS) sow(run, t);
    else if (item->kind == BP_GATHER) gather(run, t);
    else if (item->kind == BP_PARAM_GRADS) param_grads(run, item->op, t);
    else scatter(run, t);
    return BP_OK;
}

/* The user's Python is called on the calling thread, with its floating-point environment. */
static bp_status do_outside(bp_run *run, const bp_item *item, const bp_tile *t, const bp_cell *cell) {
    bp_fpenv own = bp_fpenv_flush();
    bp_fpenv_restore(run->x.caller_fpenv);
    bp_status status = do_item(run, item, t, cell);
    bp_fpenv_restore(own);
    if (bp_pool_generation() != run->generation) { /* the user forked: this child is alone, the step ends here */
        bp_barrier_init(&run->barrier, 1);
        return BP_E_CALLBACK;
    }
    return status;
}

static int calls_python(const bp_plan *plan, const bp_item *item) {
    if (item->kind == BP_LOSS) return !plan->losses[item->op].type;
    if (item->kind != BP_FORWARD && item->kind != BP_BACKWARD) return 0;
    const bp_op *op = &plan->ops[item->op];
    return op->scope == BP_SCOPE_CHUNK && (item->kind == BP_FORWARD || op->aux < 0);
}

static bp_status do_tile(bp_run *run, const bp_stage *stage, const bp_tile *t) {
    const bp_item *item = &run->plan->items[stage->first], *end = item + stage->count;
    bp_cell cell = {.r0 = t->at, .r1 = t->at + t->count, .row = run->off + t->row};
    bp_status status = BP_OK;
    for (; item < end && !status; item++) {
        cell.c1 = item->cols;
        status = do_item(run, item, t, &cell);
    }
    return status;
}

/* One way forward, but for what the way back overwrites; then back from the seeds, as many together as have room. */
static bp_status do_alone(bp_run *run, const bp_stage *stage, bp_tile *t) {
    const bp_plan *plan = run->plan;
    int64_t seeds = plan->seeds ? plan->seeds : 1;
    const bp_item *first = &plan->items[stage->first], *end = first + stage->count;
    bp_status status = BP_OK;
    for (t->seed = 0; t->seed < seeds && !status; t->seed += t->seeds) {
        t->seeds = min64(plan->row_tile / t->count, seeds - t->seed);
        for (const bp_item *item = first; item < end && !status; item++) {
            if (t->seed && item->kind == BP_GATHER) continue;
            if (t->seed && item->kind == BP_FORWARD) {
                const bp_op *op = &plan->ops[item->op];
                if (!op->type->backward_first || plan->buffers[op->out].grad < 0) continue;
            }
            int64_t rows = item->kind == BP_BACKWARD ? t->seeds * t->count : t->count;
            bp_cell cell = {t->at, t->at + rows, 0, item->cols, run->off + t->row};
            status = (calls_python(plan, item) ? do_outside : do_item)(run, item, t, &cell);
        }
    }
    return status;
}

static bp_status do_cell(bp_run *run, const bp_stage *stage, int64_t task) {
    const bp_item *item = &run->plan->items[stage->first], *end = item + stage->count;
    int64_t down = tiles_of(run->rows, stage->row_tile), c0 = task / down * stage->col_tile;
    bp_tile t = tile_of(run, task % down, stage->row_tile, 0); /* cells of the same weights follow each other */
    bp_cell cell = {t.at, t.at + t.count, c0, min64(c0 + stage->col_tile, stage->cols), run->off + t.row};
    bp_status status = BP_OK;
    for (; item < end && !status; item++) status = do_item(run, item, &t, &cell);
    return status;
}

/* All rows at once. */
static bp_status do_chunk(bp_run *run, const bp_stage *stage) {
    const bp_item *item = &run->plan->items[stage->first];
    bp_tile t = {.count = run->rows};
    return do_outside(run, item, &t, &(bp_cell){0, t.count, 0, item->cols, run->off});
}

/* The shards in use in this batch: each has tiles in its first chunk. */
static int shards_of(const bp_run *run) {
    int64_t tiles = tiles_of(min64(run->plan->chunk_rows, run->batch_rows), run->plan->row_tile);
    return (int)min64(run->plan->shards, tiles);
}

static int64_t stage_tasks(const bp_run *run, const bp_stage *stage) {
    if (stage->scope == BP_SCOPE_CHUNK) return 1;
    if (stage->scope == BP_SCOPE_BLOCKS) return stage->end_block - stage->first_block;
    if (run->plan->shards) return shards_of(run);
    int64_t tiles = tiles_of(run->rows, stage->row_tile);
    return stage->scope == BP_SCOPE_CELLS ? tiles * tiles_of(stage->cols, stage->col_tile) : tiles;
}

static bp_status do_stage_task(bp_run *run, const bp_stage *stage, int64_t task, int thread) {
    if (stage->scope == BP_SCOPE_CHUNK) return do_chunk(run, stage);
    if (stage->scope == BP_SCOPE_CELLS) return do_cell(run, stage, task);
    int64_t first = task, end = task + 1;
    if (run->plan->shards) {
        int64_t tiles = tiles_of(run->rows, stage->row_tile), n = shards_of(run);
        first = tiles * task / n;
        end = tiles * (task + 1) / n;
    }
    bp_status status = BP_OK;
    for (int64_t tile = first; tile < end && !status; tile++) {
        bp_tile t = tile_of(run, tile, stage->row_tile, thread);
        t.shard = (int)task;
        t.add = run->off || tile > first;
        status = run->plan->alone ? do_alone(run, stage, &t) : do_tile(run, stage, &t);
    }
    return status;
}

/* ---- tasks of phase 2 ---- */

static bp_update update_of(const bp_run *run) {
    const bp_opt *o = &run->opt;
    bp_update u = {.lr = o->lr, .opt = o, .scale = 1 / run->sum[1]};
    if (o->kind == BP_OPT_ADAM) {
        u.correction1 = 1 - pow(o->beta1, (double)(run->at.t + 1));
        u.correction2 = sqrt(1 - pow(o->beta2, (double)(run->at.t + 1)));
    }
    return u;
}

/* The gradient of parameter i in this block, to G; rows of G are ld apart. */
static void block_gradient(bp_run *run, const bp_block *block, int i, char *G, int64_t ld) {
    const bp_plan *plan = run->plan;
    const bp_param *p = &plan->params[i];
    bp_cell cell = block->cell;
    if (block->whole) {
        cell = (bp_cell){0, p->rows, 0, p->cols, 0};
        G += (size_t)(p->offset - block->at) * plan->size;
        ld = p->cols;
    }
    if (p->first_use < 0) /* the loss does not depend on it */
        for (int64_t r = 0; r < cell.r1 - cell.r0; r++)
            memset(G + (size_t)(r * ld) * plan->size, 0, (size_t)(cell.c1 - cell.c0) * plan->size);
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        op->type->param_grad[plan->dtype](&run->x, op, plan->uses[u].slot, 0, run->rows, &cell, G, ld,
                                          run->off || u != p->first_use);
    }
}

/* Where a block's gradient waits, of which earlier stages or chunks have summed a part; rows are block->ld apart. */
static char *kept_gradient(const bp_run *run, const bp_block *block) {
    return run->plan->arena + run->plan->chunk_grad + (size_t)(block->at - run->plan->kept_from) * run->plan->size;
}

static void sum_block(bp_run *run, const bp_block *block, char *G, int64_t ld) {
    for (int i = block->param; i < block->end; i++) block_gradient(run, block, i, G, ld);
}

static bp_status update_block(bp_run *run, const bp_update *step, const bp_block *block, const char *G, int64_t ld) {
    const bp_plan *plan = run->plan;
    bp_update u = *step;
    int bad = 0;
    if (block->end - block->param > 1 && run->opt.weight_decay != 0) {
        for (int i = block->param; i < block->end; i++) {
            const bp_param *p = &plan->params[i];
            u.decay = p->flags & BP_PARAM_DECAY;
            bad |= bp_active->update[plan->dtype](&u, p->offset, p->rows * p->cols,
                                                  G + (size_t)(p->offset - block->at) * plan->size, run->theta);
        }
        return bad ? BP_E_NONFINITE_PARAM : BP_OK;
    }
    int flat = block->rows == 1 || (block->width == block->ld && ld == block->ld);
    int64_t rows = flat ? 1 : block->rows, n = flat ? block->rows * block->width : block->width;
    u.decay = plan->params[block->param].flags & BP_PARAM_DECAY;
    for (int64_t r = 0; r < rows; r++)
        bad |= bp_active->update[plan->dtype](&u, block->at + r * block->ld, n, G + (size_t)(r * ld) * plan->size,
                                              run->theta);
    return bad ? BP_E_NONFINITE_PARAM : BP_OK;
}

static bp_status do_block(bp_run *run, const bp_update *step, const bp_block *block, int thread) {
    const bp_plan *plan = run->plan;
    char *G = plan->arena + plan->scratch + (size_t)thread * plan->scratch_bytes;
    int64_t ld = block->width;
    if (block->steps && run->plain && run->batch_rows <= plan->chunk_rows) {
        const bp_op *op = &plan->ops[plan->uses[plan->params[block->param].first_use].op];
        int bad = op->type->step[plan->dtype](&run->x, op, 0, run->rows, &block->cell, step, run->theta);
        return bad ? BP_E_NONFINITE_PARAM : BP_OK;
    }
    if (plan->shards) { /* a block is whole rows: one run of memory */
        size_t bytes = (size_t)(block->rows * block->width) * plan->size;
        const char *grads = plan->arena + plan->shard_grads + (size_t)block->at * plan->size;
        memcpy(G, grads, bytes);
        for (int s = 1; s < shards_of(run); s++)
            bp_active->sum[plan->dtype](G, grads + (size_t)s * (size_t)plan->n_theta * plan->size,
                                        block->rows * block->width);
        for (int i = block->param; i < block->end; i++)
            if (plan->params[i].first_use < 0) block_gradient(run, block, i, G, ld);
    } else {
        int early = plan->params[block->param].segment > 0;
        if (early || run->batch_rows > plan->chunk_rows) {
            G = kept_gradient(run, block);
            ld = block->ld;
        }
        if (!early) sum_block(run, block, G, ld);
    }
    return run->off + run->rows == run->batch_rows ? update_block(run, step, block, G, ld) : BP_OK;
}

/* Blocks of phase 2, and after them the tasks of tables; gradients that are only written are whole. */
static int64_t n_blocks(const bp_run *run) { return trains(run) ? run->plan->n_dense : run->plan->n_blocks; }

static int64_t table_tasks(const bp_run *run) {
    int64_t n = 0;
    for (int i = 0; i < run->plan->n_tables && trains(run); i++)
        n += tiles_of(run->plan->tables[i].touched, TABLE_ROWS);
    return n;
}

/* A row of table i, of theta or of the optimiser's state. */
static char *row_of(const bp_run *run, int i, int64_t row, void *array) {
    const bp_param *p = &run->plan->params[run->plan->tables[i].param];
    return (char *)array + (size_t)(p->offset + row * p->cols) * run->plan->size;
}

/* Row `row` of the live arrays to entry `entry` of the log, or back. */
static void copy_row(bp_run *run, int i, int64_t row, int64_t entry, int restore) {
    size_t bytes = (size_t)run->plan->params[run->plan->tables[i].param].cols * run->plan->size;
    void *live[3] = {run->theta, run->opt.state[0], run->opt.state[1]};
    char *old = run->logs[i].old + (size_t)entry * bytes * (size_t)(1 + !!live[1] + !!live[2]);
    for (int k = 0; k < 3; k++) {
        if (!live[k]) continue;
        if (restore) memcpy(row_of(run, i, row, live[k]), old, bytes);
        else memcpy(old, row_of(run, i, row, live[k]), bytes);
        old += bytes;
    }
}

/* Gradient and update of some of the rows that the batch names. */
static bp_status do_table(bp_run *run, const bp_update *step, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    int i = 0;
    for (int64_t n; task >= (n = tiles_of(plan->tables[i].touched, TABLE_ROWS)); i++) task -= n;
    const bp_table *t = &plan->tables[i];
    const bp_param *p = &plan->params[t->param];
    size_t bytes = (size_t)p->cols * plan->size, scratch = plan->scratch + (size_t)thread * plan->scratch_bytes;
    bp_update u = *step;
    u.decay = p->flags & BP_PARAM_DECAY;
    int last_chunk = run->off + run->rows == run->batch_rows, bad = 0;
    int64_t end = min64(t->touched, (task + 1) * TABLE_ROWS);
    for (int64_t slot = task * TABLE_ROWS; slot < end; slot++) {
        size_t kept = run->batch_rows > plan->chunk_rows ? t->grad + (size_t)slot * bytes : scratch;
        char *G = plan->arena + kept;
        int64_t row = bp_table_row(plan, t, slot), ahead = bp_table_row(plan, t, min64(slot + 8, end - 1));
        __builtin_prefetch(row_of(run, i, ahead, run->theta), 1);
        if (run->opt.state[0]) __builtin_prefetch(row_of(run, i, ahead, run->opt.state[0]), 1);
        if (run->opt.state[1]) __builtin_prefetch(row_of(run, i, ahead, run->opt.state[1]), 1);
        bp_table_gradient(plan, t, slot, run->rows, G);
        if (!last_chunk) continue;
        if (t->logged) {
            copy_row(run, i, row, run->logs[i].at + slot, 0);
            run->logs[i].row[run->logs[i].at + slot] = (int32_t)row;
        }
        bad |= bp_active->update[plan->dtype](&u, p->offset + row * p->cols, p->cols, G, run->theta);
    }
    return bad ? BP_E_NONFINITE_PARAM : BP_OK;
}

/* Phase 2 begins: the rows that it will touch are listed, and have their places in the logs. */
static void begin_tables(bp_run *run) {
    bp_plan *plan = run->plan;
    if (!trains(run) || !plan->n_tables) return;
    bp_tables_collect(plan, run->rows);
    for (int i = 0; i < plan->n_tables && run->off + run->rows == run->batch_rows; i++) {
        bp_log *log = &run->logs[i];
        if (!plan->tables[i].logged) continue;
        int64_t touched = plan->tables[i].touched;
        log->at = log->n;
        log->n += touched;
        for (int64_t k = log->at; k < log->n; k++) log->row[k] = -1;
    }
}

/* Whether the next batch may not find room: then the safety copy is due. */
static int logs_full(const bp_run *run) {
    for (int i = 0; i < run->plan->n_tables && run->logs; i++)
        if (run->plan->tables[i].logged && run->logs[i].n + run->plan->tables[i].most > run->logs[i].most) return 1;
    return 0;
}

/* ---- advancing ---- */

/* The first block of a thread: the blocks before it make up its share of the cost. */
static int64_t first_block(const bp_run *run, int64_t n_tasks, int thread, int n_threads) {
    const bp_plan *plan = run->plan;
    if (thread == 0 || thread == n_threads) return thread ? n_tasks : 0;
    int64_t low = 0, high = n_blocks(run), dense = plan->block_cost[high];
    double before = (double)(dense + (n_tasks - high) * TABLE_COST) * thread / n_threads;
    if (before >= (double)dense) return high + (int64_t)((before - (double)dense) / TABLE_COST);
    while (low < high) {
        int64_t mid = (low + high) / 2;
        if ((double)(plan->block_cost[mid] + plan->block_cost[mid + 1]) < 2 * before) low = mid + 1;
        else high = mid;
    }
    return low;
}

static bp_status do_task(bp_run *run, const bp_update *step, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    const bp_stage *stage = &plan->stages[run->stage];
    if (!run->updating && stage->scope == BP_SCOPE_BLOCKS) {
        const bp_block *block = &plan->blocks[stage->first_block + task];
        sum_block(run, block, kept_gradient(run, block), block->ld);
        return BP_OK;
    }
    if (!run->updating) return do_stage_task(run, stage, task, thread);
    if (task >= n_blocks(run)) return do_table(run, step, task - n_blocks(run), thread);
    return do_block(run, step, &plan->blocks[task], thread);
}

/* The first task of a thread's share. */
static int64_t first_task(const bp_run *run, int64_t n_tasks, int thread, int n_threads) {
    if (run->updating) return first_block(run, n_tasks, thread, n_threads);
    if (run->plan->stages[run->stage].scope == BP_SCOPE_CHUNK) return thread > 0; /* on the calling thread */
    return n_tasks * thread / n_threads;
}

/* A thread does its own share, then helps others with theirs, but for the first task, which stays its owner's.
 * Returns how many tasks it did. */
static int64_t execute(bp_run *run, int thread, int n_threads) {
    bp_update step = run->updating ? update_of(run) : (bp_update){0};
    int64_t n_tasks =
        run->updating ? n_blocks(run) + table_tasks(run) : stage_tasks(run, &run->plan->stages[run->stage]);
    int64_t done = 0;
    bp_status failure = BP_OK;
    if (n_threads == 1) {
        for (; done < n_tasks && !failure; done++) failure = do_task(run, &step, done, thread);
    } else {
        for (int i = 0; i < n_threads && i <= MAX_HELPED; i++) {
            int owner = (thread + i) % n_threads;
            int64_t first = first_task(run, n_tasks, owner, n_threads), task = first;
            int64_t end = first_task(run, n_tasks, owner + 1, n_threads);
            if (i > 0) task += 1 + atomic_fetch_add_explicit(&run->taken[owner].tasks, 1, memory_order_relaxed);
            for (; task < end && !failure; done++) {
                failure = do_task(run, &step, task, thread);
                task = first + 1 + atomic_fetch_add_explicit(&run->taken[owner].tasks, 1, memory_order_relaxed);
            }
        }
    }
    if (failure) atomic_store_explicit(&run->failure, (int)failure, memory_order_relaxed);
    return done;
}

static void end_batch(bp_run *run, int updated) {
    bp_progress *done = &run->at.done;
    done->loss += run->sum[0];
    done->weight += run->sum[1];
    done->hits += run->sum[2];
    done->steps += updated;
    run->at.t += updated;
    done->rows += run->batch_rows;
    done->batch++;
    run->at.pos += run->batch_rows;
    if (run->at.pos >= run->n) run->status = BP_DONE;
    else set_batch(run);
    if ((--run->steps_left == 0 || logs_full(run)) && !run->status) run->status = BP_PAUSED;
    if (!run->warm_time) {
        run->warm_time = bp_now();
        run->warm_rows = done->rows;
    }
}

static void look_at_clock(bp_run *run, int step_ended) {
    if (run->status || (step_ended && --run->until_clock > 0)) return;
    double per_step = run->plan->flops_row * (double)run->batch_rows;
    /* a run whose pace is measured is whole steps */
    if (!step_ended && per_step < (bp_forced.parallel_always ? SLICED_FLOPS : PARALLEL_FLOPS)) return;
    run->until_clock = per_step > 1e6 ? 1 : (int)(1e6 / (per_step + 2e4)) + 1;
    if (bp_now() > run->deadline) run->status = BP_PAUSED;
}

/* Called by one thread while the others wait: sums up what was done and decides what comes next. */
static void advance(bp_run *run, int n_threads) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < n_threads && n_threads > 1; i++)
        atomic_store_explicit(&run->taken[i].tasks, 0, memory_order_relaxed);
    run->status = (bp_status)atomic_exchange(&run->failure, BP_OK);
    if (run->status) {
        set_batch(run); /* the batch begins anew */
        return;
    }
    int last_chunk = run->off + run->rows == run->batch_rows, trained = run->updating;
    if (!run->updating) {
        if (++run->stage < plan->n_stages) {
            look_at_clock(run, 0);
            return;
        }
        for (int k = 0; k < plan->n_losses && plan->flags & BP_DO_LOSS; k++) {
            bp_cost *loss = &plan->losses[k];
            int64_t tiles = loss->type ? tiles_of(run->rows, plan->row_tile) : 1;
            for (int64_t i = 0; i < tiles; i++) {
                const double *found = part(run, k, i);
                for (int j = 0; j < 3; j++) loss->sum[j] += found[j];
                for (int j = 0; j < (k ? 1 : 3); j++) run->sum[j] += j ? found[j] : loss->weight * found[0];
            }
        }
        if (plan->flags & BP_DO_BACKWARD && run->opt.kind != BP_OPT_NONE && !plan->alone) {
            if (trains(run) && !isfinite(run->sum[0])) {
                run->status = BP_E_NONFINITE_LOSS;
                set_batch(run);
                return;
            }
            if ((!plan->shards && !last_chunk) || (last_chunk && run->sum[1] != 0)) {
                run->updating = 1;
                run->stage = 0;
                begin_tables(run);
                return;
            }
        }
    }
    if (last_chunk) end_batch(run, trained);
    else set_chunk(run, run->off + run->rows);
    look_at_clock(run, last_chunk);
}

static void thread_main(void *arg, int thread, int n_threads) {
    bp_run *run = arg;
    int64_t tasks = 0;
    do {
        tasks += execute(run, thread, n_threads);
        if (n_threads == 1) {
            advance(run, n_threads);
        } else if (bp_barrier_arrive(&run->barrier)) {
            advance(run, n_threads);
            bp_barrier_release(&run->barrier);
        }
    } while (!run->status);
    bp_pool_count(thread, tasks);
}

/* ---- slices ---- */

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    bp_run *run = arg;
    run->x.caller_fpenv = caller;
    run->generation = bp_pool_generation();
    bp_barrier_init(&run->barrier, n_threads);
}

/* Runs on n threads until the deadline. */
static void run_until(bp_run *run, int n_threads, double deadline) {
    run->status = BP_OK;
    run->deadline = deadline;
    run->until_clock = 1;
    run->warm_time = 0;
    bp_pool_run(n_threads, thread_main, prepare, run);
    bp_barrier_destroy(&run->barrier);
}

/* The same; returns the seconds a row took once the threads were awake, or 0 where no whole step was done. */
static double timed_run(bp_run *run, int n_threads, double deadline) {
    int64_t rows = run->at.done.rows;
    double begun = bp_now();
    run_until(run, n_threads, deadline);
    if (run->warm_time && run->at.done.rows > run->warm_rows) {
        rows = run->warm_rows;
        begun = run->warm_time;
    }
    return run->at.done.rows > rows ? (bp_now() - begun) / (double)(run->at.done.rows - rows) : 0;
}

static double or_infinity(double seconds) { return seconds > 0 ? seconds : INFINITY; }

/* Whether a step is faster on all threads than on one is measured where it is in doubt: the faster way is taken, and
 * now and then the other is tried again.  The bits are the same. */
static bp_status slice(bp_run *run, int n_threads, double seconds, int64_t max_steps) {
    bp_pace *pace = &run->plan->pace;
    double flops = run->plan->flops_row * (double)run->batch_rows, now = bp_now(), end = now + seconds;
    if (n_threads > run->plan->n_threads) n_threads = run->plan->n_threads;
    if (flops < SERIAL_FLOPS && !bp_forced.parallel_always) n_threads = 1;
    run->steps_left = max_steps;
    if (n_threads == 1 || flops > PARALLEL_FLOPS || bp_forced.parallel_always) {
        run_until(run, n_threads, end);
        return run->status;
    }
    do {
        int faster = or_infinity(pace->row[1]) < or_infinity(pace->row[0]), retry = pace->runs >= pace->next_retry;
        int parallel = retry ? !faster : faster;
        double took = timed_run(run, parallel ? n_threads : 1, fmin(end, now + (retry ? RETRY_SECONDS : PACE_SECONDS)));
        double *row = &pace->row[parallel];
        if (took > 0) *row = *row == 0 || took < *row ? took : (*row + took) / 2; /* slow: another program's doing? */
        pace->runs++;
        if (retry) pace->next_retry = pace->runs + min64(pace->runs, MAX_RUNS);
        now = bp_now();
    } while (run->status == BP_PAUSED && run->steps_left != 0 && now < end && !logs_full(run));
    return run->status;
}

/* The end of a run of theta that is copied, from element `from`; *next: where the one after the logged table begins. */
static int64_t copied_until(const bp_run *run, int64_t from, int64_t *next) {
    const bp_plan *plan = run->plan;
    int64_t end = run->n_params;
    *next = run->n_params;
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_param *p = &plan->params[plan->tables[i].param];
        if (!plan->tables[i].logged || p->offset < from || p->offset >= end) continue;
        end = p->offset;
        *next = p->offset + p->rows * p->cols;
    }
    return end;
}

typedef struct {
    bp_run *run;
    int restore;
} bp_copying;

/* A thread's share of theta and the state arrays, one after the other, to or from the snapshot; without the logged
 * tables. */
static void copy_share(void *arg, int thread, int n_threads) {
    const bp_copying *job = arg;
    bp_run *run = job->run;
    size_t size = run->plan->size;
    char *live[3] = {run->theta, run->opt.state[0], run->opt.state[1]}, *saved = run->snapshot;
    for (int i = 0; i < 3; i++) {
        if (!live[i]) continue;
        for (int64_t from = 0, end, next; from < run->n_params; from = next) {
            end = copied_until(run, from, &next);
            int64_t n = end - from, first = n * thread / n_threads, last = n * (thread + 1) / n_threads;
            char *at = live[i] + (size_t)(from + first) * size, *copy = saved + (size_t)first * size;
            memcpy(job->restore ? at : copy, job->restore ? copy : at, (size_t)(last - first) * size);
            saved += (size_t)n * size;
        }
    }
}

static void prepare_copy(void *arg, int n_threads, bp_fpenv caller) { (void)arg, (void)n_threads, (void)caller; }

static void copy_parameters(bp_run *run, int restore, int n_threads) {
    bp_copying job = {run, restore};
    if (run->plan->copy_bytes < SHARED_COPY_BYTES) n_threads = 1;
    bp_pool_run(n_threads, copy_share, prepare_copy, &job);
    for (int i = 0; i < run->plan->n_tables; i++) {
        bp_log *log = &run->logs[i];
        for (int64_t k = log->n - 1; k >= 0 && restore; k--)
            if (log->row[k] >= 0) copy_row(run, i, log->row[k], k, 1);
        log->n = 0;
    }
}

/* Memory for a safety copy, and for as many old rows as it takes to be worth another copy. */
static bp_status new_snapshot(bp_run *run) {
    bp_plan *plan = run->plan;
    int64_t arrays = 1 + !!run->opt.state[0] + !!run->opt.state[1], elements = 0;
    for (int64_t from = 0, next; from < run->n_params; from = next) elements += copied_until(run, from, &next) - from;
    size_t bytes = (size_t)(arrays * elements) * plan->size;
    if (!plan->copy || plan->copy_bytes < bytes) {
        free(plan->copy);
        plan->copy = malloc(bytes + 1);
        plan->copy_bytes = plan->copy ? bytes : 0;
    }
    run->snapshot = plan->copy;
    run->logs = calloc((size_t)plan->n_tables + 1, sizeof *run->logs);
    run->n_logs = plan->n_tables;
    int lacking = !run->snapshot || !run->logs;
    for (int i = 0; i < plan->n_tables && !lacking; i++) {
        if (!plan->tables[i].logged) continue;
        bp_log *log = &run->logs[i];
        size_t row = (size_t)(arrays * plan->params[plan->tables[i].param].cols) * plan->size;
        size_t room = bp_forced.parallel_always ? 0 : bytes > LOG_BYTES ? bytes : LOG_BYTES;
        log->most = (int64_t)(room / row);
        if (log->most < 2 * plan->tables[i].most) log->most = 2 * plan->tables[i].most;
        log->row = malloc((size_t)log->most * sizeof *log->row + 1);
        log->old = malloc((size_t)log->most * row + 1);
        lacking = !log->row || !log->old;
    }
    if (!lacking) return BP_OK;
    free_snapshot(run);
    return BP_E_NOMEM;
}

/* Taken at the start of a slice, unless the last is young beside what a copy costs. */
static bp_status take_snapshot(bp_run *run, int n_threads, int fresh) {
    int between_steps = !run->off && !run->stage && !run->updating;
    double now = bp_now();
    if (!trains(run) || !between_steps) return BP_OK;
    int young = run->has_snapshot && !fresh && !logs_full(run);
    if (young && (now - run->snapshot_time) * SNAPSHOT_SHARE < run->snapshot_cost) return BP_OK;
    bp_status status = run->snapshot ? BP_OK : new_snapshot(run);
    if (status) return status;
    copy_parameters(run, 0, n_threads);
    run->snapshot_at = run->at;
    run->snapshot_time = bp_now();
    run->snapshot_cost = run->snapshot_time - now;
    run->has_snapshot = 1;
    return BP_OK;
}

/* From the snapshot, with the same bits, to the last step that was finite; in slices, as training is. */
static bp_status replay(bp_run *run, int n_threads, double seconds) {
    while (run->replay_left > 0) {
        int64_t before = run->at.done.batch;
        bp_status status = slice(run, n_threads, seconds, run->replay_left);
        run->replay_left -= run->at.done.batch - before;
        if (status == BP_PAUSED && run->replay_left) return BP_PAUSED;
        if (status == BP_PAUSED || status == BP_DONE) continue;
        /* a function of the user's answers otherwise than before: what is left is the copy itself */
        copy_parameters(run, 1, n_threads);
        run->at = run->snapshot_at;
        set_batch(run);
        break;
    }
    run->replay_left = -1;
    run->has_snapshot = 0;
    return BP_E_NONFINITE_PARAM;
}

bp_status bp_epoch(bp_run *run, int n_threads, double seconds, int64_t max_steps, int fresh) {
    if (run->replay_left >= 0) return replay(run, n_threads, seconds);
    bp_status status = take_snapshot(run, n_threads, fresh);
    if (status) return status;
    status = slice(run, n_threads, seconds, max_steps);
    if (status != BP_E_NONFINITE_PARAM || !trains(run)) return status;
    run->replay_left = run->at.done.batch - run->snapshot_at.done.batch;
    copy_parameters(run, 1, n_threads);
    run->at = run->snapshot_at;
    set_batch(run);
    return replay(run, n_threads, seconds);
}

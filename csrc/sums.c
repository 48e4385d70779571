/* Sums: the gradient of a block of theta, or of rows of a table, comes to its home.  Where there is no boundary, the
 * block moves in the same task, while its gradient is in registers or L1. */
#include "sums.h"

#include "dispatch.h"
#include "moves.h"
#include "penalties.h"
#include "snapshot.h"
#include "undo.h"

#include <math.h>
#include <string.h>

enum {
    TABLE_WORK = 4096 /* of a task on a table's rows, as blocks count it: elements times their uses in an example */
};

/* ---- blocks ---- */

/* The home of a block's gradient, whose rows are *ld apart. */
static char *home_of(const bp_run *run, const bp_block *block, int thread, int64_t *ld) {
    const bp_plan *plan = run->plan;
    *ld = block->ld;
    switch (block->home) {
    case BP_HOME_SHARDS:
        return run->arena + plan->shard_grads + (size_t)block->at * plan->size;
    case BP_HOME_KEPT:
        return run->arena + plan->kept_grads + (size_t)(block->at - plan->kept_from) * plan->size;
    default:
        *ld = block->width;
        return run->arena + plan->scratch + (size_t)thread * plan->scratch_bytes;
    }
}

static void set_to_zero(const bp_plan *plan, int64_t rows, int64_t cols, char *G, int64_t ld) {
    for (int64_t r = 0; r < rows; r++) memset(G + (size_t)(r * ld) * plan->size, 0, (size_t)cols * plan->size);
}

/* The gradient of parameter i in this block, to G. */
static void sum_param(bp_run *run, const bp_block *block, int i, char *G, int64_t ld) {
    const bp_plan *plan = run->plan;
    char *lost;
    const bp_param *p = &plan->params[i];
    bp_cell cell = block->cell;
    if (block->whole) {
        cell = (bp_cell){.r1 = p->rows, .c1 = p->cols};
        G += (size_t)(p->offset - block->at) * plan->size;
        ld = p->cols;
    }
    if (p->first_use < 0) set_to_zero(plan, cell.r1 - cell.r0, cell.c1 - cell.c0, G, ld); /* no loss depends on it */
    lost = bp_lost_of(plan, block->home, G);
    if (block->home == BP_HOME_SHARDS) return; /* it has been summed, tile by tile and shard by shard */
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        op->type->param_grad[plan->dtype](&run->x, op, plan->uses[u].slot, 0, run->rows, &cell, G, lost, ld,
                                          run->off || u != p->first_use);
    }
}

static void sum_block(bp_run *run, const bp_block *block, char *G, int64_t ld) {
    const bp_plan *plan = run->plan;
    int64_t n = block->rows * block->width; /* with shards a block is whole rows: one run of memory */
    char *lost = bp_lost_of(plan, block->home, G), *shard = G;
    for (int s = 1; s < bp_shards_of(run) && block->home == BP_HOME_SHARDS; s++) {
        shard += (size_t)plan->n_theta * plan->size;
        bp_active->sum[plan->dtype](G, lost, shard, n);
        if (lost) bp_active->sum[plan->dtype](G, lost, bp_lost_of(plan, BP_HOME_SHARDS, shard), n);
    }
    for (int i = block->param; i < block->end; i++) sum_param(run, block, i, G, ld);
}

void bp_sum_early(bp_run *run, const bp_block *block) {
    int64_t ld;
    char *G = home_of(run, block, 0, &ld); /* KEPT: no thread's */
    sum_block(run, block, G, ld);
}

void bp_sum_ahead(bp_run *run, int64_t task) {
    const bp_block *block = &run->plan->blocks[task];
    if (block->waits) bp_sum_early(run, block);
}

/* Summed and applied in one go: the rule is plain gradient descent. */
bp_status bp_do_fused(bp_run *run, const bp_block *block) {
    const bp_plan *plan = run->plan;
    const bp_param *p = &plan->params[block->param];
    const bp_op *op = &plan->ops[plan->uses[p->first_use].op];
    int spoilt = op->type->step[plan->dtype](&run->x, op, 0, run->rows, &block->cell, run->move.lr * p->rate,
                                             run->move.scale, run->theta);
    return spoilt ? BP_E_NONFINITE_PARAM : BP_OK;
}

/* Sum of G^2. */
static double squares(const bp_plan *plan, const bp_block *block, const char *G, int64_t ld) {
    double sum = 0;
    int flat = block->rows == 1 || (block->width == block->ld && ld == block->ld); /* one run of memory */
    int64_t rows = flat ? 1 : block->rows, n = flat ? block->rows * block->width : block->width;
    for (int64_t r = 0; r < rows; r++) sum += bp_active->squares[plan->dtype](G + (size_t)(r * ld) * plan->size, n);
    return sum;
}

static double *squares_of(const bp_run *run) { return (double *)(void *)(run->arena + run->plan->squares); }

static bp_status do_block(bp_run *run, int64_t number, int thread) {
    const bp_plan *plan = run->plan;
    const bp_block *block = &plan->blocks[number];
    if (run->round + 1 < run->rounds && plan->undoes) bp_keep_block(run, block);
    if (block->home == BP_HOME_FUSED) return bp_do_fused(run, block);
    int64_t ld;
    char *G = home_of(run, block, thread, &ld);
    if (!block->early && !block->waits) sum_block(run, block, G, ld);
    if (!bp_is_last_chunk(run)) return BP_OK;
    bp_status status = BP_OK;
    if (bp_penalises(run)) status = bp_note_penalty(run, number, bp_penalise_block(run, block, G, ld));
    if (status) return status;
    if (!(plan->flags & BP_DO_BOUNDARY)) return bp_move_block(run, block, G, ld);
    squares_of(run)[number] = squares(plan, block, G, ld);
    return BP_OK;
}

/* ---- rows of tables ---- */

static int64_t table_tasks(const bp_run *run) {
    int64_t n = 0;
    for (int i = 0; i < run->plan->n_tables; i++) n += tiles_of(run->slots[i].touched, BP_TABLE_ROWS);
    return n;
}

/* Some of the rows that a batch names: slots first..end-1 of table i. */
typedef struct {
    int i;
    const bp_table *table;
    const bp_param *param;
    const int32_t *row; /* by slot */
    int64_t first, end;
} some_slots;

static some_slots slots_of(const bp_run *run, int64_t task) {
    const bp_plan *plan = run->plan;
    int i = 0;
    for (int64_t n; task >= (n = tiles_of(run->slots[i].touched, BP_TABLE_ROWS)); i++) task -= n;
    const bp_table *t = &plan->tables[i];
    int64_t end = min64(run->slots[i].touched, (task + 1) * BP_TABLE_ROWS);
    const int32_t *row = bp_rows_of_table(run, t);
    return (some_slots){i, t, &plan->params[t->param], row, task * BP_TABLE_ROWS, end};
}

/* Where the gradient of a slot's row is: in the arena, or in a thread's scratch until it has moved. */
static char *slot_gradient(const bp_run *run, const some_slots *s, int64_t slot, int thread) {
    const bp_plan *plan = run->plan;
    size_t first = (size_t)(slot * s->param->cols) * plan->size;
    if (!s->table->keeps) return run->arena + plan->scratch + (size_t)thread * plan->scratch_bytes;
    if (s->table->columns >= 0) return run->columns[s->table->columns].grad + first;
    return run->arena + s->table->grad + first;
}

/* What rounding took from it, or NULL. */
static char *slot_lost(const bp_run *run, const some_slots *s, int64_t slot, char *G) {
    const bp_plan *plan = run->plan;
    size_t first = (size_t)(slot * s->param->cols) * plan->size;
    if (!plan->keeps_lost) return NULL;
    if (!s->table->keeps) return bp_lost_of(plan, BP_HOME_SCRATCH, G);
    if (s->table->columns >= 0) return run->columns[s->table->columns].lost + first;
    return run->arena + s->table->lost + first;
}

/* Its gradient, by what the chunk's rows name it for. */
static void sum_slot(const bp_run *run, const some_slots *s, int64_t slot, char *G, char *lost) {
    const bp_plan *plan = run->plan;
    if (s->table->columns < 0) {
        bp_table_gradient(plan, s->i, run->arena, run->slots, slot, run->rows, G, lost);
        return;
    }
    const bp_op *op = &plan->ops[plan->uses[s->param->first_use].op];
    const char *delta = run->arena + plan->buffers[plan->buffers[op->out].grad].offset;
    int64_t cols = s->param->cols;
    bp_active->sum_column[plan->dtype](&run->columns[op->columns], slot, delta, cols, cols, G, lost,
                                       slot < run->slots[s->i].before);
}

/* A row moves; of a large table, its old numbers go to the log. */
static inline bp_status move_slot(bp_run *run, const some_slots *s, int64_t slot, char *G) {
    int64_t row = s->row[slot];
    if (s->table->logged) {
        bp_log *log = &run->logs[s->i];
        bp_copy_row(run, s->i, row, log->at + slot, 0);
        log->row[log->at + slot] = (int32_t)row;
    }
    int64_t cols = s->param->cols;
    if (bp_move_run(run, s->param, s->param->offset + row * cols, cols, G)) return BP_E_NONFINITE_PARAM;
    return s->param->max_norm == 0 ? BP_OK : bp_bound_row(run, s->param, row);
}

/* The row of a slot that comes soon is fetched meanwhile; a macro, since gcc drops calls that do nothing else. */
#define FETCH_SOON(run, s, slot)                                                                                      \
    for (int k_ = 0; k_ < (run)->n_live; k_++)                                                                        \
    __builtin_prefetch(bp_row_of(run, (s).param, (s).row[min64((slot) + 8, (s).end - 1)], (run)->live[k_]), 1)

static bp_status do_slots(bp_run *run, int64_t task, int thread) {
    some_slots s = slots_of(run, task);
    int moves = bp_sums_move(run), penalises = bp_penalises(run);
    bp_status status = BP_OK, failure;
    double penalty = 0;
    for (int64_t slot = s.first; slot < s.end; slot++) {
        char *G = slot_gradient(run, &s, slot, thread);
        FETCH_SOON(run, s, slot);
        sum_slot(run, &s, slot, G, slot_lost(run, &s, slot, G));
        if (penalises) {
            int64_t at = s.param->offset + s.row[slot] * s.param->cols;
            penalty += bp_penalise(run, s.param, at, s.param->cols, G);
        }
        if (moves && (failure = move_slot(run, &s, slot, G))) status = failure;
    }
    if (penalises && (failure = bp_note_penalty(run, run->plan->n_blocks + task, penalty))) status = failure;
    return status;
}

void bp_begin_tables(bp_run *run) {
    const bp_plan *plan = run->plan;
    bp_tables_collect(plan, run->arena, run->slots, run->rows);
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_columns *c = &run->columns[max64(plan->tables[i].columns, 0)];
        if (plan->tables[i].columns >= 0) run->slots[i] = (bp_slots){c->n_slots, c->before};
    }
    for (int i = 0; i < plan->n_tables && bp_is_last_chunk(run); i++) {
        bp_log *log = &run->logs[i];
        if (!plan->tables[i].logged) continue;
        log->at = log->n;
        log->n += run->slots[i].touched;
        for (int64_t k = log->at; k < log->n; k++) log->row[k] = -1;
    }
}

/* ---- both ---- */

int64_t bp_sum_tasks(const bp_run *run) { return run->plan->n_blocks + table_tasks(run); }

bp_status bp_do_sum(bp_run *run, int64_t task, int thread) {
    int64_t n = run->plan->n_blocks;
    return task < n ? do_block(run, task, thread) : do_slots(run, task - n, thread);
}

/* What the tasks before one take: elements times their uses in an example. */
static int64_t work_before(const bp_run *run, int64_t task) {
    int64_t n = run->plan->n_blocks;
    return task <= n ? run->plan->work_before[task] : run->plan->work_before[n] + (task - n) * TABLE_WORK;
}

int64_t bp_first_sum(const bp_run *run, int64_t from, int64_t end, int64_t share, int64_t shares) {
    if (share == 0 || share == shares) return share ? end : from;
    double first = (double)work_before(run, from), last = (double)work_before(run, end);
    double before = first + (last - first) * (double)share / (double)shares;
    while (from < end) {
        int64_t mid = (from + end) / 2;
        if ((double)(work_before(run, mid) + work_before(run, mid + 1)) < 2 * before) from = mid + 1;
        else end = mid;
    }
    return from;
}

/* Of the rows that a chunk names: a position's gradient is read and added to its row's, and a row moves. */
static double table_flops(const bp_run *run) {
    const bp_plan *plan = run->plan;
    double sums = 0, moved = 0;
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_table *t = &plan->tables[i];
        double cols = (double)plan->params[t->param].cols, named = (double)(t->calls / plan->chunk_rows * run->rows);
        if (t->columns >= 0) named = (double)run->columns[t->columns].n_entries;
        sums += 3 * BP_FLOPS_A_MOVED_BYTE * (double)plan->size * cols * named;
        moved += cols * (double)run->slots[i].touched;
    }
    return (run->phase == BP_MOVES ? 0 : sums) + bp_move_flops(plan) * moved;
}

double bp_flops_before(const bp_run *run, int64_t task) {
    const bp_plan *plan = run->plan;
    int64_t n = min64(task, plan->n_blocks), ahead = run->phase == BP_SUMS ? min64(n, plan->n_waiting) : 0;
    double sums = run->phase == BP_MOVES ? 0 : (double)(plan->work_before[n] - plan->work_before[ahead]);
    double flops = 2 * (double)run->rows * sums + bp_move_flops(plan) * (double)plan->moved_before[n];
    if (task > n) flops += table_flops(run) * (double)(task - n) / (double)table_tasks(run);
    return flops;
}

int64_t bp_first_of_round(const bp_run *run, int64_t round) {
    int64_t first = 0, end = run->n_tasks;
    double before = bp_flops_before(run, end) * (double)round / (double)run->rounds;
    while (first < end) {
        int64_t mid = (first + end) / 2;
        if (bp_flops_before(run, mid) + bp_flops_before(run, mid + 1) < 2 * before) first = mid + 1;
        else end = mid;
    }
    return first;
}

/* ---- the boundary ---- */

/* The norm of dC/dtheta: blocks in their order, then rows of tables by slot. */
static double norm(bp_run *run) {
    const bp_plan *plan = run->plan;
    double sum = 0;
    for (int i = 0; i < plan->n_blocks; i++) sum += squares_of(run)[i];
    for (int64_t task = 0; task < table_tasks(run); task++) {
        some_slots s = slots_of(run, task);
        for (int64_t slot = s.first; slot < s.end; slot++)
            sum += bp_active->squares[plan->dtype](slot_gradient(run, &s, slot, 0), s.param->cols);
    }
    return sqrt(sum) * run->move.scale;
}

/* The hook of the run adds to the sums, and to the weight by which they are divided. */
static bp_status call_hook(bp_run *run) {
    const bp_plan *plan = run->plan;
    char *grad = run->arena + (plan->shards ? plan->shard_grads : plan->kept_grads);
    bp_boundary boundary = {.dtype = plan->dtype, .grad = grad, .n_theta = plan->n_theta, .weight = &run->sum[1]};
    bp_status status = run->hook(run->hook_self, &boundary);
    for (int i = 0; i < plan->n_blocks && !status; i++) {
        int64_t ld;
        char *G = home_of(run, &plan->blocks[i], 0, &ld);
        squares_of(run)[i] = squares(plan, &plan->blocks[i], G, ld);
    }
    run->move.scale = 1 / run->sum[1];
    return status;
}

bp_status bp_cross_boundary(bp_run *run) {
    bp_status status = run->hook ? call_hook(run) : BP_OK;
    if (status || run->sum[1] == 0 || !(run->opt.clip_norm > 0)) return status;
    double size = norm(run), most = run->opt.clip_norm / (size + 1e-6);
    if (!isfinite(size)) return BP_E_NONFINITE_PARAM;
    if (most < 1) run->move.scale *= most;
    return BP_OK;
}

bp_status bp_do_move(bp_run *run, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    bp_status status = BP_OK, failure;
    if (task < plan->n_blocks) {
        int64_t ld;
        char *G = home_of(run, &plan->blocks[task], thread, &ld);
        return bp_move_block(run, &plan->blocks[task], G, ld);
    }
    some_slots s = slots_of(run, task - plan->n_blocks);
    for (int64_t slot = s.first; slot < s.end; slot++) {
        FETCH_SOON(run, s, slot);
        if ((failure = move_slot(run, &s, slot, slot_gradient(run, &s, slot, thread)))) status = failure;
    }
    return status;
}

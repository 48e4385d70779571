/* Tasks of phase 2: the gradient of a block of the parameters, or of rows of a table, and their update. */
#include "kernels/kernels.h"
#include "run.h"

#include <math.h>
#include <string.h>

enum { TABLE_ROWS = 64, TABLE_COST = 4096 }; /* of a table, in one task; what a task costs, in elements of a block */

bp_update bp_update_of(const bp_run *run) {
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

bp_status bp_update_block(bp_run *run, const bp_update *step, const bp_block *block, const char *G, int64_t ld) {
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

static int is_last_chunk(const bp_run *run) { return run->off + run->rows == run->batch_rows; }

/* Rows of a block; `alone`: its step is made with the gradient, in one go. */
static bp_status do_part(bp_run *run, const bp_update *step, const bp_block *block, int alone, int thread) {
    const bp_plan *plan = run->plan;
    char *G = plan->arena + plan->scratch + (size_t)thread * plan->scratch_bytes;
    int64_t ld = block->width;
    if (alone) {
        const bp_op *op = &plan->ops[plan->uses[plan->params[block->param].first_use].op];
        int bad = op->type->step[plan->dtype](&run->x, op, 0, run->rows, &block->cell, step, run->theta);
        return bad ? BP_E_NONFINITE_PARAM : BP_OK;
    }
    if (plan->shards) { /* a block is whole rows: one run of memory */
        size_t bytes = (size_t)(block->rows * block->width) * plan->size;
        const char *grads = plan->arena + plan->shard_grads + (size_t)block->at * plan->size;
        memcpy(G, grads, bytes);
        for (int s = 1; s < bp_shards_of(run); s++)
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
    return is_last_chunk(run) ? bp_update_block(run, step, block, G, ld) : BP_OK;
}

static bp_status do_block(bp_run *run, const bp_update *step, int number, int thread) {
    const bp_block *block = &run->plan->blocks[number];
    int alone = block->steps && run->plain && run->batch_rows <= run->plan->chunk_rows;
    if (block->part == block->rows || alone) return do_part(run, step, block, alone, thread);
    bp_status status = BP_OK;
    bp_block part = *block;
    for (int64_t r = 0; r < block->rows && !status; r += part.rows) {
        part.rows = min64(block->part, block->rows - r);
        part.at = block->at + r * block->ld;
        part.cell.r0 = block->cell.r0 + r;
        part.cell.r1 = part.cell.r0 + part.rows;
        status = do_part(run, step, &part, alone, thread);
    }
    return status;
}

/* Blocks of phase 2, and after them the tasks of tables; gradients that are only written are whole. */
static int64_t n_blocks(const bp_run *run) { return bp_trains(run) ? run->plan->n_dense : run->plan->n_blocks; }

static int64_t table_tasks(const bp_run *run) {
    int64_t n = 0;
    for (int i = 0; i < run->plan->n_tables && bp_trains(run); i++)
        n += tiles_of(run->plan->tables[i].touched, TABLE_ROWS);
    return n;
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
    int last_chunk = is_last_chunk(run), bad = 0;
    int64_t end = min64(t->touched, (task + 1) * TABLE_ROWS);
    for (int64_t slot = task * TABLE_ROWS; slot < end; slot++) {
        size_t kept = run->batch_rows > plan->chunk_rows ? t->grad + (size_t)slot * bytes : scratch;
        char *G = plan->arena + kept;
        int64_t row = bp_table_row(plan, t, slot), ahead = bp_table_row(plan, t, min64(slot + 8, end - 1));
        __builtin_prefetch(bp_row_of(run, i, ahead, run->theta), 1);
        if (run->opt.state[0]) __builtin_prefetch(bp_row_of(run, i, ahead, run->opt.state[0]), 1);
        if (run->opt.state[1]) __builtin_prefetch(bp_row_of(run, i, ahead, run->opt.state[1]), 1);
        bp_table_gradient(plan, t, slot, run->rows, G);
        if (!last_chunk) continue;
        if (t->logged) {
            bp_copy_row(run, i, row, run->logs[i].at + slot, 0);
            run->logs[i].row[run->logs[i].at + slot] = (int32_t)row;
        }
        bad |= bp_active->update[plan->dtype](&u, p->offset + row * p->cols, p->cols, G, run->theta);
    }
    return bad ? BP_E_NONFINITE_PARAM : BP_OK;
}

bp_status bp_do_update(bp_run *run, const bp_update *step, int64_t task, int thread) {
    if (task >= n_blocks(run)) return do_table(run, step, task - n_blocks(run), thread);
    return do_block(run, step, (int)task, thread);
}

void bp_sum_early(bp_run *run, const bp_block *block) {
    sum_block(run, block, kept_gradient(run, block), block->ld);
}

int64_t bp_update_tasks(const bp_run *run) { return n_blocks(run) + table_tasks(run); }

int64_t bp_first_update(const bp_run *run, int64_t n_tasks, int thread, int n_threads) {
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

void bp_begin_tables(bp_run *run) {
    bp_plan *plan = run->plan;
    bp_tables_collect(plan, run->rows);
    for (int i = 0; i < plan->n_tables && is_last_chunk(run); i++) {
        bp_log *log = &run->logs[i];
        if (!plan->tables[i].logged) continue;
        int64_t touched = plan->tables[i].touched;
        log->at = log->n;
        log->n += touched;
        for (int64_t k = log->at; k < log->n; k++) log->row[k] = -1;
    }
}

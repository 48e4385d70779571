/* Walks a plan over data: batches, chunks of a batch, stages of a chunk, then sums and moves.
 *
 * All threads execute their share of the same task list, then meet; the last to arrive advances the state alone
 * (`advance`), so every decision is made once and seen by all.  Between two meetings a thread writes only what its
 * tasks own. */
#include "epoch.h"

#include "calls.h"
#include "dispatch.h"
#include "columns.h"
#include "moves.h"
#include "penalties.h"
#include "rows.h"
#include "snapshot.h"
#include "sums.h"

#include <math.h>
#include <string.h>

enum { MAX_HELPED = 8 }; /* threads that one looks at for work */

/* Cuts a phase of so many flops into rounds of at most so many: of whole tasks, or of one part of each. */
static void cut_rounds(bp_run *run, double flops, double most) {
    if (run->phase == BP_ROWS && run->plan->stages[run->stage].scope != BP_SCOPE_BLOCKS) { /* equal tasks */
        int64_t parts = run->plan->stages[run->stage].parts;
        int64_t together = max64((int64_t)(most * (double)(run->n_tasks * parts) / flops), 1);
        run->rounds = parts * ceil_div(run->n_tasks, together);
        run->n_tasks *= parts;
    } else { /* none of more than half a round, see block_shape in blocks.c: a round may have one too many */
        double largest = fmin(bp_largest_block(run->plan, (double)run->rows), most / 2);
        run->rounds = max64(min64((int64_t)ceil(flops / (most - largest)), run->n_tasks), 1);
    }
}

/* Whether a stage has the forward of an operation on sparse rows. */
static int reads_sparse(const bp_plan *plan, const bp_stage *stage) {
    for (int i = stage->first; i < stage->first + stage->count; i++)
        if (plan->items[i].kind == BP_FORWARD && plan->ops[plan->items[i].op].columns >= 0) return 1;
    return 0;
}

/* Of a chunk whose rows have more entries than the plan takes them to have; else 0. */
static double flops_of_entries(const bp_run *run) {
    double flops = 0;
    for (int k = 0; k < run->plan->n_ops; k++) {
        const bp_op *op = &run->plan->ops[k];
        int64_t entries = -run->rows * BP_SPARSE_ENTRIES;
        for (int i = 0; i < run->n_in && op->columns >= 0; i++) {
            const bp_array *a = &run->in[i].array;
            int64_t at = run->at.pos + run->off;
            for (int64_t r = at; r < at + run->rows && run->in[i].buffer == op->in[0]; r++) {
                int64_t row = run->order ? run->order[r] : r;
                entries += max64(bp_index(a, a->indptr, row + 1) - bp_index(a, a->indptr, row), 0);
            }
        }
        if (op->columns >= 0) flops += bp_flops_of(run->plan, op) / BP_SPARSE_ENTRIES * (double)entries;
    }
    return fmax(flops, 0);
}

/* The tasks of a phase, or of a stage of it, and in how many rounds they are done: of as much work as every thread does
 * in 50 ms. */
static void count_tasks(bp_run *run, bp_phase phase, int stage) {
    const bp_plan *plan = run->plan;
    double flops = 0, most = plan->round_flops * (double)run->n_threads;
    if (phase == BP_ROWS) {
        run->n_tasks = bp_stage_tasks(run, &plan->stages[stage]);
        flops = plan->stages[stage].flops_row * (double)run->rows;
        if (run->sparse_flops > 0 && reads_sparse(plan, &plan->stages[stage])) flops += run->sparse_flops;
    } else if (phase == BP_TABLES) {
        run->n_tasks = bp_average_tasks(run);
        flops = bp_average_flops(run);
    } else if (phase == BP_NORMS) {
        run->n_tasks = plan->n_norms;
    } else {
        run->n_tasks = phase == BP_AHEAD ? plan->n_waiting : bp_sum_tasks(run);
        if (run->is_long) flops = bp_flops_before(run, run->n_tasks);
    }
    if (flops >= most) cut_rounds(run, flops, most);
}

/* A phase begins, or a stage of it. */
static inline void begin_phase(bp_run *run, bp_phase phase, int stage) {
    const bp_plan *plan = run->plan;
    run->phase = phase;
    run->stage = stage;
    run->round = 0;
    run->rounds = 1;
    if (bp_has_calls(run)) run->n_tasks = phase == BP_ROWS ? tiles_of(run->rows, plan->row_tile) : plan->n_blocks;
    else count_tasks(run, phase, stage);
}

static void set_chunk(bp_run *run, int64_t off) {
    run->off = off;
    for (int i = 0; i < run->n_in; i++) {
        const bp_array *a = &run->in[i].array;
        if (!run->in_place[i]) continue;
        run->buffers[run->in[i].buffer].offset =
            (uintptr_t)a->data + (size_t)((run->at.pos + off) * a->row_stride) - (uintptr_t)run->arena;
    }
    if (run->call_rows) bp_follow_batch(run);
    run->x.step = run->first_step + run->at.done.steps;
    run->rows = min64(run->plan->chunk_rows, run->batch_rows - off);
    run->sparse_flops = run->plan->n_columns && run->n > 0 ? flops_of_entries(run) : 0;
    if (run->sparse_flops >= run->plan->round_flops) run->is_long = 1;
    run->x.online = run->rows == 1 && !run->plan->inference && !run->plan->by_tile;
    begin_phase(run, BP_ROWS, 0);
}

void bp_set_batch(bp_run *run) {
    run->batch_rows = min64(run->batch, run->n - run->at.pos);
    run->is_long = run->batch_rows >= run->plan->long_rows;
    memset(run->sum, 0, sizeof run->sum);
    run->penalty = 0;
    bp_tables_begin(run->plan, run->slots);
    bp_columns_begin(run);
    set_chunk(run, 0);
}

static bp_status do_task(bp_run *run, int64_t task, int thread) {
    const bp_stage *stage = &run->plan->stages[run->stage];
    switch (run->phase) {
    case BP_SAVING:
        bp_save_part(run, task);
        return BP_OK;
    case BP_ROWS:
        if (bp_has_calls(run)) return bp_do_calls(run, task, thread);
        if (stage->scope != BP_SCOPE_BLOCKS) return bp_do_stage_task(run, stage, task, thread);
        bp_sum_early(run, &run->plan->blocks[stage->first_block + task]);
        return BP_OK;
    case BP_AHEAD:
        bp_sum_ahead(run, task);
        return BP_OK;
    case BP_SUMS:
        return bp_has_calls(run) ? bp_do_calls(run, task, thread) : bp_do_sum(run, task, thread);
    case BP_NORMS:
        return bp_do_norm(run, task);
    case BP_TABLES:
        bp_average_part(run, task);
        return BP_OK;
    default:
        return bp_do_move(run, task, thread);
    }
}

/* The first task of a share, of `shares` of tasks from..end-1. */
static int64_t first_of_share(const bp_run *run, int64_t from, int64_t end, int64_t share, int64_t shares) {
    if (shares == 1) return share ? end : from; /* small steps have no time for a division */
    const bp_stage *stage = &run->plan->stages[run->stage];
    int64_t first = run->phase == BP_ROWS && stage->scope == BP_SCOPE_BLOCKS ? stage->first_block : 0;
    int alike = run->phase == BP_SAVING || run->phase == BP_NORMS || run->phase == BP_TABLES;
    if (alike || (run->phase == BP_ROWS && stage->scope != BP_SCOPE_BLOCKS))
        return from + (end - from) * share / shares;
    return bp_first_sum(run, first + from, first + end, share, shares) - first;
}

/* The first task of a round, of several. */
static int64_t first_of_round(const bp_run *run, int64_t round) {
    if (round == 0 || round == run->rounds) return round ? run->n_tasks : 0;
    int by_share = run->phase == BP_SAVING || run->phase == BP_ROWS || run->phase == BP_TABLES;
    return by_share ? first_of_share(run, 0, run->n_tasks, round, run->rounds) : bp_first_of_round(run, round);
}

/* A thread does its own share of a round, then helps others with theirs; the first task of a share stays its owner's.
 * A whole chunk is the calling thread's.  Returns how many tasks it did. */
static int64_t execute(bp_run *run, int thread, int n_threads) {
    int64_t begin = 0, finish = run->n_tasks, done = 0;
    if (run->rounds > 1) {
        begin = first_of_round(run, run->round);
        finish = first_of_round(run, run->round + 1);
    }
    bp_status failure = BP_OK;
    if (n_threads == 1) {
        for (int64_t task = begin; task < finish && !failure; task++, done++) failure = do_task(run, task, thread);
    } else if (run->phase == BP_ROWS && run->plan->stages[run->stage].scope == BP_SCOPE_CHUNK) {
        done = thread == 0 && begin < finish;
        if (done) failure = do_task(run, begin, thread);
    } else {
        for (int i = 0; i < n_threads && i <= MAX_HELPED; i++) {
            int owner = (thread + i) % n_threads;
            int64_t first = first_of_share(run, begin, finish, owner, n_threads), task = first;
            int64_t end = first_of_share(run, begin, finish, owner + 1, n_threads);
            if (i > 0) task += 1 + atomic_fetch_add_explicit(&run->taken[owner].tasks, 1, memory_order_relaxed);
            for (; task < end && !failure; done++) {
                failure = do_task(run, task, thread);
                task = first + 1 + atomic_fetch_add_explicit(&run->taken[owner].tasks, 1, memory_order_relaxed);
            }
        }
    }
    if (failure) atomic_store_explicit(&run->failure, (int)failure, memory_order_relaxed);
    return done;
}

static void note_losses(const bp_run *run, double to[3]) {
    to[0] = run->sum[0];
    to[1] = run->sum[1];
    to[2] = run->penalty;
}

static void end_batch(bp_run *run, int updated) {
    bp_progress *done = &run->at.done;
    if (updated && run->plan->of_batch) bp_track_batch(run);
    if (run->batch_losses) note_losses(run, run->batch_losses + 3 * done->batch);
    done->loss += run->sum[0];
    done->weight += run->sum[1];
    done->hits += run->sum[2];
    done->steps += updated;
    run->at.t += updated;
    run->at.weights += updated ? run->move.weight : 0;
    done->rows += run->batch_rows;
    done->batch++;
    run->at.pos += run->batch_rows;
    if (run->at.pos >= run->n) run->status = BP_DONE;
    else bp_set_batch(run);
    if ((--run->steps_left == 0 || bp_logs_full(run)) && !run->status) run->status = BP_PAUSED;
    if (run->warm_time == 0) {
        run->warm_time = bp_now();
        run->warm_rows = done->rows;
    }
}

/* At the end of a step, or within one that is long: a run whose pace is measured is whole steps. */
static void look_at_clock(bp_run *run, int step_ended) {
    if (run->status || (step_ended && --run->until_clock > 0)) return;
    double per_step = run->plan->flops_row * (double)run->batch_rows;
    run->until_clock = per_step > 1e6 ? 1 : (int)(1e6 / (per_step + 2e4)) + 1;
    if (bp_now() > run->deadline) run->status = BP_PAUSED;
}

/* The losses of a chunk, tile by tile. */
static void collect_losses(bp_run *run) {
    const bp_plan *plan = run->plan;
    for (int k = 0; k < plan->n_losses && plan->flags & BP_DO_LOSS; k++) {
        const bp_loss *loss = &plan->losses[k];
        int64_t tiles = loss->type ? tiles_of(run->rows, plan->row_tile) : 1;
        for (int64_t i = 0; i < tiles; i++) {
            const double *sum = bp_loss_sums(run, k, i);
            for (int j = 0; j < 3; j++) run->loss_sum[k][j] += sum[j];
            run->sum[0] += loss->weight * sum[0];
            for (int j = 1; j < 3 && !k; j++) run->sum[j] += sum[j];
        }
    }
}

/* Whether the gradients of this chunk are summed: shards add theirs up at the last, and a batch without weight makes no
 * step. */
static int wants_sums(const bp_run *run) {
    const bp_plan *plan = run->plan;
    if (!(plan->flags & BP_DO_BACKWARD) || !run->opt.rule || plan->by_tile) return 0;
    return bp_is_last_chunk(run) ? run->sum[1] != 0 || run->hook : !plan->shards;
}

/* The batch begins anew, in another slice. */
static void stop(bp_run *run, bp_status status) {
    run->status = status;
    bp_set_batch(run);
}

/* Behind the moves: whether norms are to be bounded; or rows have moved, and so must the average of all rows of their
 * tables. */
static int averages_tables(bp_run *run) {
    if (!run->opt.average || !run->plan->n_tables || !bp_is_last_chunk(run)) return 0;
    begin_phase(run, BP_TABLES, 0);
    return 1;
}

static int begin_norms(bp_run *run) {
    if (!run->plan->n_norms) return averages_tables(run);
    begin_phase(run, BP_NORMS, 0);
    return 1;
}

/* What follows a phase, or a stage of it, that all threads have done; returns whether the chunk goes on. */
static int next_phase(bp_run *run) {
    bp_status status;
    switch (run->phase) {
    case BP_SAVING:
        begin_phase(run, BP_ROWS, 0);
        return 1;
    case BP_ROWS:
        if (run->plan->of_batch && (status = bp_join_tiles(run))) {
            stop(run, status);
            return 1;
        }
        if (run->stage + 1 < run->plan->n_stages) {
            begin_phase(run, BP_ROWS, run->stage + 1);
            return 1;
        }
        collect_losses(run);
        if (!wants_sums(run)) return 0;
        if (bp_moves(run) && !isfinite(run->sum[0])) {
            stop(run, BP_E_NONFINITE_LOSS);
            return 1;
        }
        if (bp_is_last_chunk(run)) bp_prepare_move(run);
        if (run->plan->n_columns && (status = bp_list_columns(run))) {
            stop(run, status);
            return 1;
        }
        if (run->plan->n_tables) bp_begin_tables(run);
        begin_phase(run, run->plan->n_waiting ? BP_AHEAD : BP_SUMS, 0);
        return 1;
    case BP_AHEAD:
        begin_phase(run, BP_SUMS, 0);
        return 1;
    case BP_SUMS:
        if (!run->plan->after_sums || !bp_is_last_chunk(run)) return averages_tables(run);
        if (bp_penalises(run)) {
            bp_collect_penalties(run, run->n_tasks);
            run->move.cost = run->sum[0] * run->move.scale;
        }
        if (!(run->plan->flags & BP_DO_BOUNDARY)) return begin_norms(run);
        if ((status = bp_cross_boundary(run))) {
            stop(run, status);
            return 1;
        }
        if (run->sum[1] != 0) {
            begin_phase(run, BP_MOVES, 0);
            return 1;
        }
        run->phase = BP_ROWS; /* no process had a row of weight: nothing moves, and `advance` counts no step */
        return 0;
    case BP_MOVES:
        return begin_norms(run);
    case BP_NORMS:
        return averages_tables(run);
    default:
        return 0;
    }
}

/* Called by one thread while the others wait: sums up what was done and decides what comes next. */
static void advance(bp_run *run, int n_threads) {
    for (int i = 0; i < n_threads && n_threads > 1; i++)
        atomic_store_explicit(&run->taken[i].tasks, 0, memory_order_relaxed);
    bp_status failure = (bp_status)atomic_load_explicit(&run->failure, memory_order_relaxed);
    if (failure) {
        atomic_store_explicit(&run->failure, BP_OK, memory_order_relaxed);
        stop(run, failure);
        return;
    }
    int last_chunk = bp_is_last_chunk(run), saving = run->phase == BP_SAVING;
    if (++run->round < run->rounds || next_phase(run)) { /* a slice does more than save, or it would save for ever */
        int moved = run->phase == BP_NORMS; /* theta is not whole before its norms are */
        int is_long = run->is_long || (run->phase == BP_TABLES && run->rounds > 1);
        if (is_long && !moved && (!saving || run->phase == BP_SAVING)) look_at_clock(run, 0);
        return;
    }
    if (last_chunk) end_batch(run, run->phase != BP_ROWS);
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

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    bp_run *run = arg;
    run->x.caller_fpenv = caller;
    run->generation = bp_pool_generation();
    bp_barrier_init(&run->barrier, n_threads);
    if (run->n_threads == n_threads) return;
    run->n_threads = n_threads;
    if (run->round == 0 && run->phase != BP_SAVING) begin_phase(run, run->phase, run->stage); /* in other rounds */
}

void bp_run_until(bp_run *run, int n_threads, int fewest_steps, double deadline) {
    run->status = BP_OK;
    run->deadline = deadline;
    run->until_clock = fewest_steps;
    run->warm_time = 0;
    bp_list_calls(run);
    bp_pool_run(n_threads, thread_main, prepare, run);
    bp_barrier_destroy(&run->barrier);
}

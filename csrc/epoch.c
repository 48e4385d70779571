/* Walks a plan over data: batches, chunks of a batch, stages of a chunk, then the update.
 *
 * All threads execute their share of the same task list, then meet; the last to arrive advances the state alone
 * (`advance`), so every decision is made once and seen by all.  Between two meetings a thread writes only what its
 * tasks own. */
#include "kernels/kernels.h"
#include "run.h"

#include <math.h>
#include <string.h>

enum { MAX_HELPED = 8 }; /* threads that one looks at for work */
static const double SLICED_FLOPS = 1e7; /* where parallel work is forced, a slice ends within steps from here on */

static void set_chunk(bp_run *run, int64_t off) {
    run->off = off;
    for (int i = 0; i < run->n_in; i++) {
        const bp_array *a = &run->in[i].array;
        if (!run->in_place[i]) continue;
        run->buffers[run->in[i].buffer].offset =
            (uintptr_t)a->data + (size_t)((run->at.pos + off) * a->row_stride) - (uintptr_t)run->plan->arena;
    }
    if (run->call_rows) bp_move_calls(run);
    run->x.step = run->first_step + run->at.done.steps;
    run->rows = min64(run->plan->chunk_rows, run->batch_rows - off);
    run->x.online = run->rows == 1 && !run->plan->inference && !run->plan->alone;
    run->stage = 0;
    run->updating = 0;
}

void bp_set_batch(bp_run *run) {
    run->batch_rows = min64(run->batch, run->n - run->at.pos);
    memset(run->sum, 0, sizeof run->sum);
    bp_tables_begin(run->plan);
    set_chunk(run, 0);
}

void bp_run_begin(bp_run *run, int64_t n, int64_t batch, const int64_t *order) {
    run->n = n;
    run->batch = batch;
    if (!run->order != !order) run->call_rows = 0;
    run->order = order;
    if (!run->call_rows) bp_place_inputs(run);
    run->at.pos = 0;
    run->at.done = (bp_progress){.steps = run->at.done.steps};
    for (int k = 0; k < run->plan->n_losses; k++) memset(run->plan->losses[k].sum, 0, 3 * sizeof(double));
    run->has_snapshot = 0;
    bp_set_batch(run);
}

static bp_status do_task(bp_run *run, const bp_update *step, int64_t task, int thread) {
    const bp_plan *plan = run->plan;
    if (run->saving) {
        bp_save_part(run, task);
        return BP_OK;
    }
    const bp_stage *stage = &plan->stages[run->stage];
    if (bp_has_calls(run)) return bp_do_calls(run, step, task, thread);
    if (!run->updating && stage->scope == BP_SCOPE_BLOCKS) {
        bp_sum_early(run, &plan->blocks[stage->first_block + task]);
        return BP_OK;
    }
    if (!run->updating) return bp_do_stage_task(run, stage, task, thread);
    return bp_do_update(run, step, task, thread);
}

/* The first task of a thread's share. */
static int64_t first_task(const bp_run *run, int64_t n_tasks, int thread, int n_threads) {
    if (run->updating) return bp_first_update(run, n_tasks, thread, n_threads);
    int alone = !run->saving && run->plan->stages[run->stage].scope == BP_SCOPE_CHUNK;
    if (alone) return thread > 0; /* on the calling thread */
    return n_tasks * thread / n_threads;
}

static int64_t n_tasks_of(const bp_run *run) {
    if (run->saving) return bp_save_tasks(run);
    return run->updating ? bp_update_tasks(run) : bp_stage_tasks(run, &run->plan->stages[run->stage]);
}

/* A thread does its own share, then helps others with theirs, but for the first task, which stays its owner's.
 * Returns how many tasks it did. */
static int64_t execute(bp_run *run, int thread, int n_threads) {
    bp_update step = run->updating ? bp_update_of(run) : (bp_update){0};
    int64_t n_tasks = n_tasks_of(run);
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
    else bp_set_batch(run);
    if ((--run->steps_left == 0 || bp_logs_full(run)) && !run->status) run->status = BP_PAUSED;
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
    if (run->saving) {
        run->saving = 0;
        return;
    }
    run->status = (bp_status)atomic_load_explicit(&run->failure, memory_order_relaxed);
    if (run->status) {
        atomic_store_explicit(&run->failure, BP_OK, memory_order_relaxed);
        bp_set_batch(run); /* the batch begins anew */
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
                const double *found = bp_loss_sums(run, k, i);
                for (int j = 0; j < 3; j++) loss->sum[j] += found[j];
                run->sum[0] += loss->weight * found[0];
                for (int j = 1; j < 3 && !k; j++) run->sum[j] += found[j];
            }
        }
        if (plan->flags & BP_DO_BACKWARD && run->opt.kind != BP_OPT_NONE && !plan->alone) {
            if (bp_trains(run) && !isfinite(run->sum[0])) {
                run->status = BP_E_NONFINITE_LOSS;
                bp_set_batch(run);
                return;
            }
            if ((!plan->shards && !last_chunk) || (last_chunk && run->sum[1] != 0)) {
                run->updating = 1;
                run->stage = 0;
                if (plan->n_tables && bp_trains(run)) bp_begin_tables(run);
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

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    bp_run *run = arg;
    run->x.caller_fpenv = caller;
    run->generation = bp_pool_generation();
    bp_barrier_init(&run->barrier, n_threads);
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

bp_status bp_epoch(bp_run *run, int n_threads, double seconds, int64_t max_steps, int fresh) {
    if (run->replay_left >= 0) return bp_replay(run, n_threads, seconds);
    bp_status status = bp_take_snapshot(run, fresh);
    if (status) return status;
    status = bp_slice(run, n_threads, seconds, max_steps);
    if (status != BP_E_NONFINITE_PARAM || !bp_trains(run)) return status;
    run->replay_left = run->at.done.batch - run->snapshot_at.done.batch;
    bp_restore_snapshot(run);
    return bp_replay(run, n_threads, seconds);
}

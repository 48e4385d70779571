/* The safety copy: a step whose parameters are not finite is undone, to the last bit.  Theta and the optimiser's state
 * are copied now and then; of large tables the old rows are logged instead. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

enum { LOG_BYTES = 8 << 20 };             /* of a table's old rows, at least */
static const double SNAPSHOT_SHARE = 0.02; /* of the time may go into safety copies */
static const size_t SHARED_COPY_BYTES = 4 << 20; /* a copy is all threads' work from here on */

void bp_free_snapshot(bp_run *run) {
    for (int i = 0; i < run->n_logs && run->logs; i++) {
        free(run->logs[i].row);
        free(run->logs[i].old);
    }
    free(run->logs);
    run->logs = NULL;
    run->snapshot = NULL;
    run->has_snapshot = 0;
}

void bp_copy_row(bp_run *run, int i, int64_t row, int64_t entry, int restore) {
    size_t bytes = (size_t)run->plan->params[run->plan->tables[i].param].cols * run->plan->size;
    void *live[3] = {run->theta, run->opt.state[0], run->opt.state[1]};
    char *old = run->logs[i].old + (size_t)entry * bytes * (size_t)(1 + !!live[1] + !!live[2]);
    for (int k = 0; k < 3; k++) {
        if (!live[k]) continue;
        if (restore) memcpy(bp_row_of(run, i, row, live[k]), old, bytes);
        else memcpy(old, bp_row_of(run, i, row, live[k]), bytes);
        old += bytes;
    }
}

int bp_logs_full(const bp_run *run) {
    for (int i = 0; i < run->plan->n_tables && run->logs; i++)
        if (run->plan->tables[i].logged && run->logs[i].n + run->plan->tables[i].most > run->logs[i].most) return 1;
    return 0;
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
            if (log->row[k] >= 0) bp_copy_row(run, i, log->row[k], k, 1);
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
    bp_free_snapshot(run);
    return BP_E_NOMEM;
}

bp_status bp_take_snapshot(bp_run *run, int n_threads, int fresh) {
    int between_steps = !run->off && !run->stage && !run->updating;
    double now = bp_now();
    if (!bp_trains(run) || !between_steps) return BP_OK;
    int young = run->has_snapshot && !fresh && !bp_logs_full(run);
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

void bp_restore_snapshot(bp_run *run, int n_threads) {
    copy_parameters(run, 1, n_threads);
    run->at = run->snapshot_at;
    bp_set_batch(run);
}

bp_status bp_replay(bp_run *run, int n_threads, double seconds) {
    while (run->replay_left > 0) {
        int64_t before = run->at.done.batch;
        bp_status status = bp_slice(run, n_threads, seconds, run->replay_left);
        run->replay_left -= run->at.done.batch - before;
        if (status == BP_PAUSED && run->replay_left) return BP_PAUSED;
        if (status == BP_PAUSED || status == BP_DONE) continue;
        /* a function of the user's answers otherwise than before: what is left is the copy itself */
        bp_restore_snapshot(run, n_threads);
        break;
    }
    run->replay_left = -1;
    run->has_snapshot = 0;
    return BP_E_NONFINITE_PARAM;
}

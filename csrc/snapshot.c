/* The safety copy: a step whose parameters are not finite is undone, to the last bit.  Theta and the optimiser's state
 * are copied now and then, before a step, by all threads.  Of large tables the old rows are logged instead. */
#include "snapshot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOG_BYTES = 8 << 20, /* of a table's old rows, at least */
    SAVED = 1 << 16,     /* elements that a task copies */
    RESTORED = 1 << 20   /* elements that go back between two looks at the clock */
};
static const double SNAPSHOT_SHARE = 0.01; /* of the time may go into safety copies */
static const double COPY_SPEED = 1e10;     /* bytes a second, about */

void bp_copy_row(bp_run *run, int i, int64_t row, int64_t entry, int restore) {
    const bp_param *p = &run->plan->params[run->plan->tables[i].param];
    size_t bytes = (size_t)p->cols * run->plan->size;
    char *old = run->logs[i].old + (size_t)entry * bytes * (size_t)run->n_live;
    for (int k = 0; k < run->n_live; k++, old += bytes) {
        char *at = bp_row_of(run, p, row, run->live[k]);
        memcpy(restore ? at : old, restore ? old : at, bytes);
    }
}

int bp_logs_full(const bp_run *run) {
    for (int i = 0; i < run->plan->n_tables && run->logs; i++)
        if (run->plan->tables[i].logged && run->logs[i].n + run->plan->tables[i].most > run->logs[i].most) return 1;
    return 0;
}

static int is_logged(const bp_plan *plan, int param) {
    for (int i = 0; i < plan->n_tables; i++)
        if (plan->tables[i].param == param) return plan->tables[i].logged;
    return 0;
}

/* Elements of logged tables, of the first `before` elements of theta. */
static int64_t logged_before(const bp_run *run, int64_t before) {
    const bp_plan *plan = run->plan;
    int64_t n = 0;
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_param *p = &plan->params[plan->tables[i].param];
        if (plan->tables[i].logged && p->offset < before) n += p->rows * p->cols;
    }
    return n;
}

/* Elements first..end-1 of theta and the state arrays, to or from the copy. */
static void copy_range(bp_run *run, int64_t first, int64_t end, int restore) {
    size_t size = run->plan->size, array = (size_t)(run->n_params - logged_before(run, run->n_params)) * size;
    for (int i = 0; i < run->plan->n_params; i++) {
        const bp_param *p = &run->plan->params[i];
        int64_t from = first > p->offset ? first : p->offset, n = min64(end, p->offset + p->rows * p->cols) - from;
        if (n <= 0 || bp_is_frozen(p) || is_logged(run->plan, i)) continue;
        char *saved = run->snapshot + (size_t)(from - logged_before(run, from)) * size;
        for (int k = 0; k < run->n_live; k++, saved += array) {
            char *at = run->live[k] + (size_t)from * size;
            memcpy(restore ? at : saved, restore ? saved : at, (size_t)n * size);
        }
    }
}

/* Bytes of theta and the optimiser's state, without tables that are logged. */
static size_t theta_bytes(const bp_run *run) {
    return (size_t)(run->n_live * (run->n_params - logged_before(run, run->n_params))) * run->plan->size;
}

/* The state of layers, which is small, to or from the copy, behind theta. */
static void copy_state(bp_run *run, int restore) {
    char *saved = run->snapshot + theta_bytes(run);
    size_t bytes = (size_t)run->plan->n_state * run->plan->size;
    if (bytes) memcpy(restore ? run->state : saved, restore ? saved : run->state, bytes);
}

int64_t bp_save_tasks(const bp_run *run) { return tiles_of(run->plan->n_theta, SAVED); }
void bp_save_part(bp_run *run, int64_t task) { copy_range(run, task * SAVED, (task + 1) * SAVED, 0); }

/* Memory for a safety copy, and for as many old rows as it takes to be worth another copy. */
static bp_status new_snapshot(bp_run *run) {
    const bp_plan *plan = run->plan;
    int64_t arrays = run->n_live;
    size_t bytes = theta_bytes(run) + (size_t)plan->n_state * plan->size;
    if (!run->copy || run->copy_bytes < bytes) {
        free(run->copy);
        run->copy = bp_large_alloc(bytes);
        run->copy_bytes = run->copy ? bytes : 0;
    }
    run->snapshot = run->copy;
    run->snapshot_cost = (double)bytes / COPY_SPEED;
    run->logs = calloc((size_t)plan->n_tables + 1, sizeof *run->logs);
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
    bp_drop_snapshot(run);
    return BP_E_NOMEM;
}

bp_status bp_take_snapshot(bp_run *run, int fresh) {
    const bp_plan *plan = run->plan;
    int between_steps = run->phase == BP_ROWS && !run->off && !run->stage && !run->round;
    int outdated = run->phase == BP_SAVING && (fresh || !run->has_snapshot); /* a copy that is half made */
    if (!bp_moves(run) || !(between_steps || outdated)) return BP_OK;
    double now = bp_now();
    int young = run->has_snapshot && !fresh && !bp_logs_full(run);
    if (young && (now - run->snapshot_time) * SNAPSHOT_SHARE < run->snapshot_cost) return BP_OK;
    bp_status status = run->snapshot ? BP_OK : new_snapshot(run);
    if (status) return status;
    for (int i = 0; i < plan->n_tables; i++) run->logs[i].n = 0;
    run->phase = BP_SAVING;
    run->n_tasks = bp_save_tasks(run);
    run->round = 0;
    double flops = 2 * BP_FLOPS_A_MOVED_BYTE * run->snapshot_cost * COPY_SPEED; /* a byte is read and written */
    run->rounds = run->is_long ? max64(min64((int64_t)ceil(flops / plan->round_flops), run->n_tasks), 1) : 1;
    copy_state(run, 0);
    run->snapshot_at = run->at;
    run->snapshot_time = now;
    run->has_snapshot = 1;
    return BP_OK;
}

int bp_restore_some(bp_run *run) {
    const bp_plan *plan = run->plan;
    int64_t end = min64(run->restored + RESTORED, plan->n_theta), rows = RESTORED;
    copy_range(run, run->restored, end, 1);
    run->restored = end;
    for (int i = 0; i < plan->n_tables && end == plan->n_theta; i++) {
        bp_log *log = &run->logs[i];
        for (; log->n > 0 && rows > 0; rows -= plan->params[plan->tables[i].param].cols) {
            int64_t k = --log->n;
            if (log->row[k] >= 0) bp_copy_row(run, i, log->row[k], k, 1);
        }
    }
    if (end < plan->n_theta || rows <= 0) return 1;
    run->restored = -1;
    copy_state(run, 1);
    run->at = run->snapshot_at;
    return 0;
}

/* Opens and closes an epoch and its slices: where they begin, the safety copy before, and what an overflow undoes. */
#include "epoch.h"
#include "pace.h"
#include "snapshot.h"
#include "sums.h"
#include "undo.h"

#include <string.h>

void bp_run_go_on(bp_run *run, int64_t n, int64_t batch, const int64_t *order) {
    run->n = n;
    run->batch = batch;
    if (!run->order != !order || run->partner) run->call_rows = 0;
    run->order = order;
    run->partner = NULL;
    if (!run->call_rows) bp_place_inputs(run);
    run->at.pos = 0;
    run->epoch_t = run->at.t;
    run->has_snapshot = 0;
    bp_set_batch(run);
}

void bp_run_begin(bp_run *run, int64_t n, int64_t batch, const int64_t *order) {
    run->at.done = (bp_progress){.steps = run->at.done.steps};
    memset(run->loss_sum, 0, sizeof *run->loss_sum * (size_t)run->plan->n_losses);
    bp_run_go_on(run, n, batch, order);
}

void bp_run_mix(bp_run *run, const int64_t *partner, const double *share, const double *weight_share) {
    run->partner = partner;
    run->share = share;
    run->weight_share = weight_share;
    run->call_rows = 0;
    bp_place_inputs(run);
}

void bp_run_follow(bp_run *run, const bp_run *from) {
    int64_t t = run->at.t;
    double weights = run->at.weights;
    bp_run_begin(run, from->n, from->batch, from->order);
    if (from->partner) bp_run_mix(run, from->partner, from->share, from->weight_share);
    run->at = from->at;
    run->at.t = t;
    run->at.weights = weights;
    run->epoch_t = t - (from->at.t - from->epoch_t);
    run->first_step = from->first_step;
    run->x.seed = from->x.seed;
    memcpy(run->loss_sum, from->loss_sum, sizeof *run->loss_sum * (size_t)run->plan->n_losses);
    bp_set_batch(run);
}

void bp_run_resume(bp_run *run, const bp_progress *done, const double (*loss_sum)[3], int64_t steps, int64_t skipped) {
    int64_t before = run->at.done.steps;
    run->at.pos = done->rows - skipped;
    run->at.done = *done;
    run->at.done.steps = before;
    run->epoch_t = run->at.t - steps;
    memcpy(run->loss_sum, loss_sum, sizeof *run->loss_sum * (size_t)run->plan->n_losses);
    bp_set_batch(run);
}

/* Back to the safety copy, then with the same bits to the last step that was finite; in slices, as training is. */
static bp_status replay(bp_run *run, int n_threads, double seconds) {
    double end = bp_now() + seconds;
    for (;;) {
        while (run->restored >= 0) {
            if (!bp_restore_some(run)) bp_set_batch(run);
            else if (bp_now() > end) return BP_PAUSED;
        }
        if (run->replay_left <= 0) break;
        int64_t before = run->at.done.batch;
        bp_status status = bp_slice(run, n_threads, seconds, run->replay_left);
        run->replay_left -= run->at.done.batch - before;
        if (status == BP_PAUSED && run->replay_left) return BP_PAUSED;
        if (status == BP_PAUSED || status == BP_DONE) continue;
        /* a function of the user's answers otherwise than before: what is left is the copy itself */
        run->replay_left = run->restored = 0;
    }
    run->replay_left = -1;
    run->has_snapshot = 0;
    return BP_E_NONFINITE_PARAM;
}

bp_status bp_epoch(bp_run *run, int n_threads, double seconds, int64_t max_steps, int fresh) {
    if (run->replay_left >= 0) return replay(run, n_threads, seconds);
    bp_status status = bp_take_snapshot(run, fresh);
    if (status) return status;
    status = bp_slice(run, n_threads, seconds, max_steps);
    if (status != BP_E_NONFINITE_PARAM || !bp_moves(run)) return status;
    run->replay_left = run->at.done.batch - run->snapshot_at.done.batch;
    run->restored = 0;
    return replay(run, n_threads, seconds);
}

int bp_run_is_whole(const bp_run *run) {
    if (run->restored >= 0) return 0;
    if (run->phase == BP_NORMS || run->phase == BP_TABLES) return run->round == run->rounds; /* behind all moves */
    int moves = run->phase == BP_MOVES || (run->phase == BP_SUMS && bp_sums_move(run));
    return !moves || run->round == 0 || run->round == run->rounds;
}

void bp_run_make_whole(bp_run *run) {
    if (bp_run_is_whole(run)) return;
    int64_t moved = run->plan->undoes ? bp_first_of_round(run, run->round) : 0;
    if (run->plan->undoes && moved <= run->plan->n_blocks) { /* rows of tables are not put back */
        bp_put_back(run, moved);
        bp_set_batch(run);
    }
    while (!bp_run_is_whole(run)) bp_epoch(run, run->plan->n_threads, 0, 1, 0);
}

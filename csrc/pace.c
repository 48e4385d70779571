/* One thread or all: the pace of steps is measured where it is in doubt. */
#include "pace.h"

#include "epoch.h"
#include "rows.h"
#include "snapshot.h"
#include "sums.h"

#include <math.h>

static const double SERIAL_FLOPS = 2e5; /* a smaller step runs on one thread */
static const double PACE_SECONDS = 5e-3, TRIAL_SECONDS = 5e-4; /* of a run the faster way, and of one to try a way */
static const double WORTHWHILE = 0.95;                         /* of one thread's time: less of it is faster */
enum { FIRST_TRIALS = 6, MAX_RUNS = 64 };                      /* both ways in turn; most runs between later trials */

/* Runs until the deadline; returns the seconds a row took once the threads were awake, or 0 where no whole step was
 * done. */
static double timed_run(bp_run *run, int n_threads, double deadline) {
    int64_t rows = run->at.done.rows;
    double begun = bp_now();
    bp_run_until(run, n_threads, 2, deadline);
    if (run->warm_time > 0 && run->at.done.rows > run->warm_rows) {
        rows = run->warm_rows;
        begun = run->warm_time;
    }
    return run->at.done.rows > rows ? (bp_now() - begun) / (double)(run->at.done.rows - rows) : 0;
}

/* Whether a second thread would have something to do. */
static int is_divisible(const bp_run *run) {
    const bp_plan *plan = run->plan;
    for (int i = 0; i < plan->n_stages; i++)
        if (bp_stage_tasks(run, &plan->stages[i]) > 1) return 1;
    return plan->n_tables || bp_sum_tasks(run) > 1; /* rows of tables are listed later */
}

/* Whether a step is faster on all threads than on one is measured where it is in doubt: the faster way is taken, and
 * now and then the other is tried again.  The bits are the same. */
bp_status bp_slice(bp_run *run, int n_threads, double seconds, int64_t max_steps) {
    bp_pace *pace = &run->pace;
    double flops = run->plan->flops_row * (double)run->batch_rows, now = bp_now(), end = now + seconds;
    if (n_threads > run->plan->n_threads) n_threads = run->plan->n_threads;
    if ((flops < SERIAL_FLOPS || !is_divisible(run)) && !bp_forced.parallel_always) n_threads = 1;
    run->steps_left = max_steps;
    if (n_threads == 1 || run->is_long || bp_forced.parallel_always) {
        bp_run_until(run, n_threads, 1, end);
        return run->status;
    }
    do {
        int trial = pace->runs >= pace->next_trial, faster = pace->row[1] < WORTHWHILE * pace->row[0];
        int parallel = pace->runs < FIRST_TRIALS ? (int)(pace->runs % 2) : faster != trial;
        double took = timed_run(run, parallel ? n_threads : 1, fmin(end, now + (trial ? TRIAL_SECONDS : PACE_SECONDS)));
        double *row = &pace->row[parallel];
        if (took > 0) *row = *row == 0 || took < *row ? took : (*row + took) / 2; /* slow: another program's doing? */
        pace->runs++;
        if (trial && pace->runs >= FIRST_TRIALS) pace->next_trial = pace->runs + min64(2 * pace->runs, MAX_RUNS);
        now = bp_now();
    } while (run->status == BP_PAUSED && run->steps_left != 0 && now < end && !bp_logs_full(run));
    return run->status;
}

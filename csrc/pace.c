/* One thread or all: the pace of steps is measured where it is in doubt. */
#include "run.h"

#include <math.h>

static const double SERIAL_FLOPS = 2e5; /* a smaller step runs on one thread */
static const double PACE_SECONDS = 5e-3, RETRY_SECONDS = 2e-3; /* of a run the faster way, and of one the other */
enum { MAX_RUNS = 64 };                                        /* of the faster way between two of the other, at most */

/* Runs until the deadline; returns the seconds a row took once the threads were awake, or 0 where no whole step was
 * done. */
static double timed_run(bp_run *run, int n_threads, double deadline) {
    int64_t rows = run->at.done.rows;
    double begun = bp_now();
    bp_run_until(run, n_threads, deadline);
    if (run->warm_time && run->at.done.rows > run->warm_rows) {
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
    return plan->n_tables || bp_update_tasks(run) > 1; /* rows of tables are listed after phase 1 */
}

static double or_infinity(double seconds) { return seconds > 0 ? seconds : INFINITY; }

/* Whether a step is faster on all threads than on one is measured where it is in doubt: the faster way is taken, and
 * now and then the other is tried again.  The bits are the same. */
bp_status bp_slice(bp_run *run, int n_threads, double seconds, int64_t max_steps) {
    bp_pace *pace = &run->plan->pace;
    double flops = run->plan->flops_row * (double)run->batch_rows, now = bp_now(), end = now + seconds;
    if (n_threads > run->plan->n_threads) n_threads = run->plan->n_threads;
    if ((flops < SERIAL_FLOPS || !is_divisible(run)) && !bp_forced.parallel_always) n_threads = 1;
    run->steps_left = max_steps;
    if (n_threads == 1 || flops > PARALLEL_FLOPS || bp_forced.parallel_always) {
        bp_run_until(run, n_threads, end);
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
    } while (run->status == BP_PAUSED && run->steps_left != 0 && now < end && !bp_logs_full(run));
    return run->status;
}

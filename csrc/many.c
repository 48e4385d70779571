/* Many runs at once, one thread a run: a queue of jobs, epochs of a run each, of which every thread takes the next.
 * Threads share no sums and meet only at the end; what a job computes are the steps that the run makes alone. */
#include "bp.h"

#include "pool.h"

static const double SLICE_SECONDS = 2e-3; /* between two looks at whether a thread is idle */

typedef struct {
    bp_job *const *jobs;
    int64_t n;
    double end;       /* when threads stop taking jobs */
    bp_fpenv caller;  /* what functions of the user's find */
    atomic_llong next;
    atomic_int idle;  /* a thread found no job: the others return at their next slice's end */
} queue;

static void begin_epoch(bp_job *job) {
    const int64_t *order = job->rows;
    if (job->order) {
        bp_permutation(job->order, job->n, job->seed, job->purpose, (uint32_t)job->epoch);
        for (int64_t i = 0; i < job->n && job->rows; i++) job->order[i] = job->rows[job->order[i]];
        order = job->order;
    }
    bp_run_begin(job->run, job->n, job->batch, order);
    job->fresh = 1;
}

/* An epoch's line of the log. */
static void log_epoch(bp_job *job) {
    bp_progress p = bp_run_progress(job->run);
    double *line = job->log + job->done * (BP_JOB_COLS + 2 * job->n_losses);
    line[0] = p.loss;
    line[1] = p.weight;
    line[2] = (double)p.rows;
    line[3] = job->seconds;
    for (int i = 0; i < job->n_losses; i++) {
        line[BP_JOB_COLS + 2 * i] = bp_run_loss(job->run, i)[0];
        line[BP_JOB_COLS + 2 * i + 1] = bp_run_loss(job->run, i)[1];
    }
    job->seconds = 0;
    job->epoch++;
    job->done++;
}

static void go_on(queue *q, bp_job *job, int n_threads) {
    double now = bp_now();
    do {
        double begun = now, left = q->end - now;
        job->status = bp_epoch(job->run, n_threads, left < SLICE_SECONDS ? left : SLICE_SECONDS, -1, job->fresh);
        job->fresh = 0;
        now = bp_now();
        job->seconds += now - begun;
        if (job->status == BP_DONE) {
            log_epoch(job);
            if (job->done == job->epochs) return;
            begin_epoch(job);
            job->status = BP_PAUSED;
        }
    } while (job->status == BP_PAUSED && now < q->end && !atomic_load_explicit(&q->idle, memory_order_relaxed));
}

static void prepare(void *arg, int n_threads, bp_fpenv caller) {
    (void)n_threads;
    ((queue *)arg)->caller = caller;
}

static void thread_main(void *arg, int thread, int n_threads) {
    queue *q = arg;
    int64_t i, taken = 0;
    (void)n_threads;
    bp_fpenv_restore(q->caller); /* each slice flushes subnormals for itself */
    while (bp_now() < q->end && (i = atomic_fetch_add(&q->next, 1)) < q->n) {
        go_on(q, q->jobs[i], 1);
        taken++;
    }
    atomic_store_explicit(&q->idle, 1, memory_order_relaxed);
    bp_fpenv_flush();
    bp_pool_count(thread, taken);
}

int64_t bp_many(bp_job *const *jobs, int64_t n, int n_threads, double seconds) {
    queue q = {.jobs = jobs, .n = n, .end = bp_now() + seconds};
    if (n == 1) {
        go_on(&q, jobs[0], n_threads);
        return 1;
    }
    bp_pool_run(n < n_threads ? (int)n : n_threads, thread_main, prepare, &q);
    int64_t taken = atomic_load(&q.next);
    return taken < n ? taken : n;
}

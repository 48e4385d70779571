/* Many runs at once: a queue of jobs, epochs of a run each, of which every thread takes the next; or the next group of
 * small ones, which go on side by side.  Threads share no sums and meet only at the end; what a job computes are the
 * steps that the run makes alone. */
#include "lanes.h"

#include <stdlib.h>

static const double SLICE_SECONDS = 2e-3; /* between two looks at whether a thread is idle */

/* What a thread takes: jobs that go on side by side, or one. */
typedef struct {
    bp_job *jobs[BP_MAX_LANES];
    int n;
} group;

typedef struct {
    group *groups;
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

/* After a slice; whether the job goes on. */
static int take_stock(bp_job *job, bp_status status, double seconds) {
    job->status = status;
    job->seconds += seconds;
    if (status != BP_DONE) return status == BP_PAUSED;
    log_epoch(job);
    if (job->done == job->epochs) return 0;
    begin_epoch(job);
    job->status = BP_PAUSED;
    return 1;
}

static int has_time(queue *q, double now) {
    return now < q->end && !atomic_load_explicit(&q->idle, memory_order_relaxed);
}

static double slice_seconds(const queue *q, double now) {
    return q->end - now < SLICE_SECONDS ? q->end - now : SLICE_SECONDS;
}

static void go_on(queue *q, bp_job *job, int n_threads) {
    double now = bp_now(), begun;
    bp_status status;
    do {
        begun = now;
        status = bp_epoch(job->run, n_threads, slice_seconds(q, now), -1, job->fresh);
        job->fresh = 0;
        now = bp_now();
    } while (take_stock(job, status, now - begun) && has_time(q, now));
}

/* Networks whose steps in the group were thrown away make them alone, and the group ends; so it does where one is done
 */
static void go_on_together(queue *q, group *together) {
    bp_run *runs[BP_MAX_LANES];
    for (int i = 0; i < together->n; i++) runs[i] = together->jobs[i]->run;
    bp_lanes *lanes = bp_lanes_new(runs, together->n);
    uint32_t bad = lanes ? 0 : ~0u;
    double now = bp_now(), begun;
    for (int goes_on = lanes != NULL; goes_on; goes_on &= has_time(q, now)) {
        begun = now;
        bad = bp_lanes_slice(lanes, now + slice_seconds(q, now));
        now = bp_now();
        goes_on = !bad;
        for (int i = 0; i < together->n; i++) {
            bp_job *job = together->jobs[i];
            job->fresh = 1;
            if (bad >> i & 1) continue;
            bp_status status = runs[i]->at.pos < runs[i]->n ? BP_PAUSED : BP_DONE;
            goes_on &= take_stock(job, status, (now - begun) / together->n);
        }
    }
    bp_lanes_free(lanes);
    for (int i = 0; i < together->n; i++)
        if (bad >> i & 1) go_on(q, together->jobs[i], 1);
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
        group *next = &q->groups[i];
        if (next->n > 1) go_on_together(q, next);
        else go_on(q, next->jobs[0], 1);
        for (int k = 0; k < next->n; k++) next->jobs[k]->had_turn = 1;
        taken++;
    }
    atomic_store_explicit(&q->idle, 1, memory_order_relaxed);
    bp_fpenv_flush();
    bp_pool_count(thread, taken);
}

/* Those of `left` that are like the one at i, which is among them: their places, to `alike`; returns how many. */
static int64_t find_alike(bp_job *const *left, int64_t n, int64_t i, int64_t *alike) {
    int64_t count = 0;
    for (int64_t k = i; k < n; k++)
        if (left[k] && bp_lanes_alike(left[i]->run, left[k]->run) && bp_lanes_of(left[k]->run).most) alike[count++] = k;
    return count;
}

/* Cuts the jobs into groups: those that are alike side by side, at most a thread's share of all in each, unless that is
 * too few.  left and alike: room for n.  Returns how many groups there are. */
static int64_t form_groups(bp_job *const *jobs, int64_t n, int n_threads, group *groups, bp_job **left,
                           int64_t *alike) {
    int64_t n_groups = 0;
    for (int64_t i = 0; i < n; i++) {
        left[i] = jobs[i];
        jobs[i]->had_turn = 0;
    }
    for (int64_t i = 0; i < n; i++) {
        if (!left[i]) continue;
        bp_lane_range size = bp_lanes_of(left[i]->run);
        int64_t count = size.most ? find_alike(left, n, i, alike) : 0, taken = 0;
        int64_t each = min64(ceil_div(n, n_threads), size.most); /* of all jobs: groups that part are not cut again */
        for (; each >= size.least && count - taken >= size.least && size.most; n_groups++) {
            group *g = &groups[n_groups];
            g->n = (int)min64(each, count - taken);
            for (int k = 0; k < g->n; k++, taken++) {
                g->jobs[k] = left[alike[taken]];
                left[alike[taken]] = NULL;
            }
        }
        if (!left[i]) continue;
        groups[n_groups].jobs[0] = left[i];
        groups[n_groups++].n = 1;
    }
    return n_groups;
}

bp_status bp_many(bp_job *const *jobs, int64_t n, int n_threads, double seconds) {
    queue q = {.end = bp_now() + seconds};
    if (n == 1) {
        go_on(&q, jobs[0], n_threads);
        jobs[0]->had_turn = 1;
        return BP_OK;
    }
    q.groups = malloc(sizeof(group) * (size_t)(n + 1));
    bp_job **left = malloc(sizeof *left * (size_t)(n + 1));
    int64_t *alike = malloc(sizeof *alike * (size_t)(n + 1));
    bp_status status = q.groups && left && alike ? BP_OK : BP_E_NOMEM;
    if (!status) {
        q.n = form_groups(jobs, n, n_threads, q.groups, left, alike);
        bp_pool_run(q.n < n_threads ? (int)q.n : n_threads, thread_main, prepare, &q);
    }
    free(q.groups);
    free(left);
    free(alike);
    return status;
}

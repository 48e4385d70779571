/* What a barrier of bpcore's pool costs. Usage: barrier THREADS TRIALS SECONDS. Built with csrc/pool.c. Prints lines
   "barrier seconds", a meeting of all threads with nothing done between, and "step work alone together": seconds of
   work in a step, and what the step takes on one thread and on all, each with half of the work before either of two
   barriers. */
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>

enum { BARRIERS = 2, SIZES = 32, WARM = 100 };
static const double FIRST = 1e-7, GROWTH = 1.189207115; /* 2^(1/4) */

struct job {
    bp_barrier barrier;
    long steps, turns; /* of the work of a step on one thread */
    double seconds;    /* of a step */
};

static volatile double sink;

static void work(long turns) {
    double x = sink;
    for (long i = 0; i < turns; i++) x = x * 0.999 + 0.001; /* a chain: it takes as long beside any neighbour */
    sink = x;
}

static void meet(struct job *job, int n) {
    if (n > 1 && bp_barrier_arrive(&job->barrier)) bp_barrier_release(&job->barrier);
}

static void prepare(void *arg, int n, bp_fpenv caller) {
    (void)caller;
    bp_barrier_init(&((struct job *)arg)->barrier, n);
}

static void run(void *arg, int thread, int n) {
    struct job *job = arg;
    double start = 0;
    for (long i = -WARM; i < job->steps; i++) {
        if (i == 0 && thread == 0) start = bp_now();
        for (int b = 0; b < BARRIERS; b++) {
            if (job->turns) work(job->turns / BARRIERS / n);
            meet(job, n);
        }
    }
    if (thread == 0) job->seconds = (bp_now() - start) / (double)job->steps;
}

/* Seconds of a step. */
static double timed(int n, long turns, long steps) {
    struct job job = {.turns = turns, .steps = steps};
    bp_pool_run(n, run, prepare, &job);
    bp_barrier_destroy(&job.barrier);
    return job.seconds;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int n = atoi(argv[1]), trials = atoi(argv[2]);
    double seconds = atof(argv[3]);
    double turn = 1;
    for (int t = 0; t < 20; t++) { /* the least of several: other programs hold some up */
        double one = timed(1, 100000, 10) / 1e5;
        if (one < turn) turn = one;
    }
    for (int t = 0; t < trials; t++) printf("barrier %.4e\n", timed(n, 0, (long)(seconds / 2e-7)) / BARRIERS);
    double size = FIRST;
    for (int s = 0; s < SIZES; s++, size *= GROWTH)
        for (int t = 0; t < trials; t++) {
            long turns = (long)(size / turn), steps = (long)(seconds / size);
            double alone = timed(1, turns, steps), together = timed(n, turns, steps);
            printf("step %.4e %.4e %.4e\n", size, alone, together);
        }
    return 0;
}

/* Float32 FMA peak and memory bandwidth of N threads at once. Usage: peak N. Prints lines "what bytes rate":
   fma in flop/s; read (sum of x) and update (y += s x) in bytes/s, for the bytes of one thread's working set. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
enum { VECTOR = 64, CHAINS = 24 };
#elif defined(__AVX__)
enum { VECTOR = 32, CHAINS = 12 };
#elif defined(__aarch64__)
enum { VECTOR = 16, CHAINS = 24 };
#else
enum { VECTOR = 16, CHAINS = 12 };
#endif
enum { LANES = VECTOR / sizeof(float), STREAMS = 8, TRIALS = 7, MAX_THREADS = 256 };
typedef float vec __attribute__((vector_size(VECTOR)));

struct job {
    double (*kernel)(vec *data, size_t bytes, size_t repeats); /* returns the work done: flops or bytes */
    size_t bytes, repeats; /* the same repeats in every thread, or the faster would stop early */
    int threads;
    atomic_int arrived;
};

struct thread {
    struct job *job;
    pthread_t id;
    double work[TRIALS], start[TRIALS], stop[TRIALS];
};

static volatile float sink, near_one = 0.9999f, small = 1e-4f;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double fma_kernel(vec *data, size_t bytes, size_t repeats) {
    (void)data, (void)bytes;
    vec sum[CHAINS], scale = (vec){0} + near_one, shift = (vec){0} + small;
    for (int c = 0; c < CHAINS; c++) sum[c] = shift * (float)c;
    for (size_t r = 0; r < repeats; r++)
#pragma GCC unroll 24
        for (int c = 0; c < CHAINS; c++) sum[c] = sum[c] * scale + shift;
    for (int c = 1; c < CHAINS; c++) sum[0] += sum[c];
    sink = sum[0][0];
    return 2.0 * LANES * CHAINS * (double)repeats;
}

static double read_kernel(vec *data, size_t bytes, size_t repeats) {
    size_t n = bytes / VECTOR;
    vec sum[STREAMS] = {{0}};
    for (size_t r = 0; r < repeats; r++)
        for (size_t i = 0; i < n; i += STREAMS)
#pragma GCC unroll 8
            for (int s = 0; s < STREAMS; s++) sum[s] += data[i + (size_t)s];
    for (int s = 1; s < STREAMS; s++) sum[0] += sum[s];
    sink = sum[0][0];
    return (double)bytes * (double)repeats;
}

/* Half of the working set is y, half is x; two reads and a write an element. */
static double update_kernel(vec *data, size_t bytes, size_t repeats) {
    size_t n = bytes / VECTOR / 2;
    vec scale = (vec){0} + small, *y = data, *x = data + n;
    for (size_t r = 0; r < repeats; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < n; i++) y[i] += scale * x[i];
    sink = y[0][0];
    return 1.5 * (double)bytes * (double)repeats;
}

static void meet(struct job *job, int round) {
    atomic_fetch_add(&job->arrived, 1);
    while (atomic_load(&job->arrived) < job->threads * (round + 1)) {}
}

static vec *filled(size_t bytes) {
    vec *data = NULL;
    if (posix_memalign((void **)&data, 4096, bytes)) exit(1);
    for (size_t i = 0; i < bytes / VECTOR; i++) data[i] = (vec){0} + small;
    return data;
}

static size_t repeats_of(const struct job *job, double seconds) {
    vec *data = filled(job->bytes);
    size_t repeats = 1;
    for (double begin = now(); job->kernel(data, job->bytes, repeats), now() - begin < seconds; begin = now())
        repeats *= 2;
    free(data);
    return repeats;
}

static void *run(void *argument) {
    struct thread *t = argument;
    struct job *job = t->job;
    vec *data = filled(job->bytes);
    for (int trial = 0; trial < TRIALS; trial++) {
        meet(job, trial);
        t->start[trial] = now();
        t->work[trial] = job->kernel(data, job->bytes, job->repeats);
        t->stop[trial] = now();
    }
    free(data);
    return NULL;
}

/* The best trial: all the work over the time from the first start to the last stop. */
static double best_rate(const struct thread *threads, int n) {
    double best = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        double work = 0, start = threads[0].start[trial], stop = threads[0].stop[trial];
        for (int i = 0; i < n; i++) {
            work += threads[i].work[trial];
            if (threads[i].start[trial] < start) start = threads[i].start[trial];
            if (threads[i].stop[trial] > stop) stop = threads[i].stop[trial];
        }
        if (work / (stop - start) > best) best = work / (stop - start);
    }
    return best;
}

static void measure(const char *what, double (*kernel)(vec *, size_t, size_t), size_t bytes, int n) {
    static struct thread threads[MAX_THREADS];
    struct job job = {.kernel = kernel, .bytes = bytes, .threads = n};
    job.repeats = repeats_of(&job, 0.02);
    for (int i = 0; i < n; i++) {
        threads[i].job = &job;
        if (pthread_create(&threads[i].id, NULL, run, &threads[i])) exit(1);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i].id, NULL);
    printf("%s %zu %.6g\n", what, bytes, best_rate(threads, n));
}

int main(int argc, char **argv) {
    const size_t sets[] = {16u << 10, 256u << 10, 4u << 20, 128u << 20};
    int n = argc > 1 ? atoi(argv[1]) : 1;
    if (n < 1 || n > MAX_THREADS) return 2;
    measure("fma", fma_kernel, 4096, n);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        measure("read", read_kernel, sets[i], n);
        measure("update", update_kernel, sets[i], n);
    }
    return 0;
}

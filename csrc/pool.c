#include "pool.h"

#include "bp.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Some 20 to 80 us: a wake through the kernel costs several. */
enum { SPIN = 2000 };
enum { LARGE_PAGE = 2 << 20, LARGE_BYTES = 4 << 20 }; /* below, what is not touched of a large page would show */

static inline void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

double bp_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *bp_large_alloc(size_t bytes) {
    size_t large = bytes >= LARGE_BYTES ? LARGE_PAGE : BP_ALIGN;
    void *p = NULL;
    if (posix_memalign(&p, large, bytes ? bytes : BP_ALIGN)) return NULL;
#if defined(MADV_HUGEPAGE)
    if (large == LARGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE); /* a wish */
#endif
    return p;
}

/* The default environment but for FTZ and DAZ: neither the caller's rounding nor its traps are the kernels'. */
bp_fpenv bp_fpenv_flush(void) {
#if defined(__x86_64__)
    unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1F80u | 0x8040u);
    return saved;
#elif defined(__aarch64__)
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24)); /* FZ */
    return saved;
#else
    return 0;
#endif
}

void bp_fpenv_restore(bp_fpenv saved) {
#if defined(__x86_64__)
    /* flags raised meanwhile are not the caller's */
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

static int allowed_cpus(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* ---- barrier ---- */

void bp_barrier_init(bp_barrier *b, int n) {
    atomic_init(&b->arrived, 0);
    atomic_init(&b->phase, 0);
    atomic_init(&b->asleep, 0);
    b->n = n;
    b->spin = n <= allowed_cpus() ? SPIN : 0; /* with more threads than CPUs, waiting is best done asleep */
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->turned, NULL);
}

void bp_barrier_destroy(bp_barrier *b) {
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->turned);
}

int bp_barrier_arrive(bp_barrier *b) {
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 == b->n) return 1;
    for (int i = 0; i < b->spin; i++) {
        if (atomic_load_explicit(&b->phase, memory_order_acquire) != phase) return 0;
        relax();
    }
    pthread_mutex_lock(&b->lock);
    atomic_fetch_add(&b->asleep, 1); /* before it looks at the phase again: see bp_barrier_release */
    while (atomic_load(&b->phase) == phase) pthread_cond_wait(&b->turned, &b->lock);
    atomic_fetch_sub(&b->asleep, 1);
    pthread_mutex_unlock(&b->lock);
    return 0;
}

void bp_barrier_release(bp_barrier *b) {
    atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&b->phase, 1);
    if (!atomic_load(&b->asleep)) return; /* whoever comes later sees the new phase */
    pthread_mutex_lock(&b->lock);
    pthread_cond_broadcast(&b->turned);
    pthread_mutex_unlock(&b->lock);
}

/* ---- pool ---- */

static struct {
    pthread_mutex_t owner; /* held by the one caller that runs on the pool */
    pthread_mutex_t lock;  /* guards what follows; the atomics are read without it while spinning */
    pthread_cond_t wake, done;
    int n_workers;         /* started */
    int n_active;          /* workers 1..n_active take part in the current job; 0 between jobs */
    int n_last;            /* in the last one: these spin before they park */
    atomic_int n_left;     /* of those, still at work */
    atomic_uint job;
    int spin;              /* 0 where threads outnumber CPUs */
    bp_pool_fn *fn;
    void *arg;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static atomic_llong tasks[BP_MAX_THREADS];

static void *worker(void *number) {
    int self = (int)(intptr_t)number;
    unsigned seen = 0;
    bp_fpenv_flush();
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.job == seen || self > pool.n_active) {
            seen = pool.job;
            if (pool.spin && self <= pool.n_last) {
                pthread_mutex_unlock(&pool.lock);
                for (int i = 0; i < SPIN && atomic_load_explicit(&pool.job, memory_order_relaxed) == seen; i++) relax();
                pthread_mutex_lock(&pool.lock);
            }
            if (pool.job == seen) pthread_cond_wait(&pool.wake, &pool.lock);
        }
        seen = pool.job;
        bp_pool_fn *fn = pool.fn;
        void *arg = pool.arg;
        int n = pool.n_active + 1;
        pthread_mutex_unlock(&pool.lock);
        fn(arg, self, n);
        pthread_mutex_lock(&pool.lock);
        if (atomic_fetch_sub(&pool.n_left, 1) == 1) pthread_cond_signal(&pool.done);
    }
    return NULL;
}

static unsigned generation;
unsigned bp_pool_generation(void) { return generation; }

/* The child of a fork has only the thread that forked: the pool begins anew, and a lock held by a lost thread with
 * it. */
static void after_fork_in_child(void) {
    generation++;
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.n_workers = pool.n_active = pool.n_last = 0;
    atomic_store(&pool.n_left, 0);
}

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }

/* Starts workers up to n; signals stay with the caller's threads.  Called with pool.owner held. */
static int start_workers(int n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_workers < n) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)(pool.n_workers + 1))) break;
        pthread_detach(thread);
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.n_workers < n ? pool.n_workers : n;
}

void bp_pool_run(int n, bp_pool_fn *fn, bp_pool_prepare *prepare, void *arg) {
    bp_fpenv saved = bp_fpenv_flush();
    unsigned before = generation;
    int own = n > 1 && !pthread_mutex_trylock(&pool.owner);
    int helpers = own ? start_workers(n - 1) : 0;
    prepare(arg, helpers + 1, saved);
    if (helpers) {
        pthread_mutex_lock(&pool.lock);
        pool.fn = fn;
        pool.arg = arg;
        pool.n_active = pool.n_last = helpers;
        pool.spin = helpers < allowed_cpus();
        atomic_store(&pool.n_left, helpers);
        atomic_fetch_add(&pool.job, 1);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    fn(arg, 0, helpers + 1);
    if (helpers) {
        for (int i = 0; i < SPIN && pool.spin && atomic_load(&pool.n_left); i++) relax();
        pthread_mutex_lock(&pool.lock);
        while (atomic_load(&pool.n_left)) pthread_cond_wait(&pool.done, &pool.lock);
        pool.n_active = 0;
        pthread_mutex_unlock(&pool.lock);
    }
    if (own && before == generation) pthread_mutex_unlock(&pool.owner); /* a child's own pool is free */
    bp_fpenv_restore(saved);
}

void bp_pool_count(int thread, int64_t n) { atomic_fetch_add_explicit(&tasks[thread], n, memory_order_relaxed); }

void bp_pool_tasks(int64_t *count, int n) {
    for (int i = 0; i < n; i++) count[i] = atomic_load_explicit(&tasks[i], memory_order_relaxed);
}

void bp_pool_tasks_reset(void) {
    for (int i = 0; i < BP_MAX_THREADS; i++) atomic_store_explicit(&tasks[i], 0, memory_order_relaxed);
}

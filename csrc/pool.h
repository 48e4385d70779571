/* One pool of threads a process: started lazily, spinning shortly before it parks, rebuilt after a fork.  The only
 * file, with dispatch, that calls the platform. */
#ifndef BP_POOL_H
#define BP_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    atomic_int arrived, asleep;
    atomic_uint phase;
    int n, spin;
    pthread_mutex_t lock;
    pthread_cond_t turned;
} bp_barrier;

void bp_barrier_init(bp_barrier *b, int n);
void bp_barrier_destroy(bp_barrier *b);
/* 1 for the last to arrive, who works alone until it calls bp_barrier_release; 0 for the others, once released. */
int bp_barrier_arrive(bp_barrier *b);
void bp_barrier_release(bp_barrier *b);

/* Subnormals are flushed to zero inside C entry points; what was there comes back. */
typedef uint64_t bp_fpenv;
bp_fpenv bp_fpenv_flush(void);
void bp_fpenv_restore(bp_fpenv saved);

typedef void bp_pool_prepare(void *arg, int n_threads, bp_fpenv caller);
typedef void bp_pool_fn(void *arg, int thread, int n_threads);
/* Runs fn on up to n threads, the caller being thread 0, and returns once all are back.  A caller that finds the pool
 * taken runs fn alone.  `prepare` is told the number of threads, and the caller's floating-point environment, before
 * they start. */
void bp_pool_run(int n, bp_pool_fn *fn, bp_pool_prepare *prepare, void *arg);
void bp_pool_count(int thread, int64_t tasks);
unsigned bp_pool_generation(void); /* forks since the pool's threads were first started */

double bp_now(void); /* seconds of a monotonic clock */

/* Aligned to BP_ALIGN at least, of large pages where it is large and the system has them; NULL or to be freed. */
void *bp_large_alloc(size_t bytes);

#endif

/* Seconds a call of a function that bp.export_c wrote: NETWORK names the header, N_IN and N_OUT its sizes.
 *
 *     export_c SECONDS
 *
 * Each call reads what the last one gave, so that no two overlap.  Prints seconds a call. */
#include NETWORK

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int n, char **arguments) {
    static float x[N_IN], y[N_OUT];
    double seconds = n > 1 ? atof(arguments[1]) : 0.1, begin = now(), end = begin;
    long calls = 0;
    for (int i = 0; i < N_IN; i++) x[i] = (float)(i % 17) / 17 - 0.5f;
    while (end - begin < seconds) {
        for (int i = 0; i < 100; i++) {
            x[0] += 1e-9f * y[0];
            net_predict(x, y);
        }
        calls += 100;
        end = now();
    }
    printf("%.6g\n", (end - begin) / (double)calls);
    return 0;
}

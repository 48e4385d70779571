/* Drives the whole C API with a naive BLAS, under sanitizers; prints the number of checks, or what failed. */
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long passed, failed;
static char said[256];

void context(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof said, format, arguments);
    va_end(arguments);
}

void check(int ok, const char *condition, const char *file, int line) {
    if (ok) {
        passed++;
        return;
    }
    failed++;
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, said, condition);
    if (failed >= 20) exit(1);
}

double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-52 - 1;
}

void *zeros(size_t n, size_t size) {
    void *p = calloc(n + 1, size);
    if (!p) abort();
    return p;
}

/* Arguments name the parts to run; without any, all. */
int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } parts[] = {{"philox", test_philox}, {"data", test_data},     {"gradients", test_gradients},
                 {"graphs", test_graphs}, {"runs", test_runs},     {"rules", test_rules},
                 {"status", test_status}, {"memory", test_memory}, {"threads", test_threads},
                 {"members", test_members}, {"functions", test_functions}, {"digests", test_digests}};
    if (bp_isa_use(getenv("BPCORE_ISA"))) return 2;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        long before = passed;
        int wanted = argc == 1;
        for (int j = 1; j < argc; j++) wanted |= !strcmp(argv[j], parts[i].name);
        if (!wanted) continue;
        context("%s", parts[i].name);
        parts[i].run();
        printf("%s: %ld checks\n", parts[i].name, passed - before);
        fflush(stdout);
    }
    printf("harness: %ld checks passed, %ld failed\n", passed, failed);
    return failed != 0;
}

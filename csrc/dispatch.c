/* Chooses the kernels once, at load. */
#include "kernels/kernels.h"

#include <string.h>

_Thread_local char bp_panels[BP_PANEL_BYTES] __attribute__((aligned(64)));
const bp_kernels *bp_active = &bp_kernels_portable_table; /* until bp_isa_use */

/* Best first. */
static const bp_kernels *candidate(int i) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") && n++ == i)
        return &bp_kernels_avx512_table;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && n++ == i) return &bp_kernels_avx2_table;
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt") && n++ == i) return &bp_kernels_v2_table;
#elif defined(__aarch64__)
    if (n++ == i) return &bp_kernels_neon_table;
#endif
    return n == i ? &bp_kernels_portable_table : NULL;
}

const char *bp_isa_name(int i) {
    const bp_kernels *found = candidate(i);
    return found ? found->isa : NULL;
}

bp_status bp_isa_use(const char *name) {
    for (int i = 0; candidate(i); i++) {
        if (name && strcmp(name, candidate(i)->isa)) continue;
        bp_active = candidate(i);
        bp_ops_bind(bp_active);
        return BP_OK;
    }
    return BP_E_SHAPE;
}

const char *bp_isa(void) { return bp_active->isa; }

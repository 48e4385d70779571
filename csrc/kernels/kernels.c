/* What the kernels of all instruction sets share. */
#include "kernels.h"

_Thread_local char bp_panels[BP_PANEL_BYTES] __attribute__((aligned(64)));

int64_t bp_source_size(bp_source type) {
    static const int8_t size[BP_N_SOURCES] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, sizeof(long double)};
    return size[type];
}

/* IEEE 754 binary16 */
float bp_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    float value;
    if (exponent == 31) {
        bits = sign | 0x7F800000u | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

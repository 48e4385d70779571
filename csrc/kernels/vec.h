/* A thin layer over the vectors of one instruction set and one type: load, store, splat, fused multiply-add.
 * An instruction set brings its width and, where it can, loads and stores of a part of a vector. */

#ifdef BP_SINGLE
#define LANES (BP_VECTOR_BYTES / 4)
#else
#define LANES (BP_VECTOR_BYTES / 8)
#endif

typedef REAL FN(vec) __attribute__((vector_size(BP_VECTOR_BYTES)));
typedef REAL FN(vec_anywhere) __attribute__((vector_size(BP_VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define VEC FN(vec)

static inline VEC FN(load)(const REAL *p) { return *(const FN(vec_anywhere) *)p; }
static inline void FN(store)(REAL *p, VEC v) { *(FN(vec_anywhere) *)p = v; }

#if BP_VECTOR_BYTES == 64 /* AVX-512 */
#ifdef BP_SINGLE
#define INTRINSIC(name) _mm512_##name##_ps
#define MASK(n) ((__mmask16)((1u << (n)) - 1))
#else
#define INTRINSIC(name) _mm512_##name##_pd
#define MASK(n) ((__mmask8)((1u << (n)) - 1))
#endif
static inline VEC FN(splat)(REAL x) { return INTRINSIC(set1)(x); }
static inline VEC FN(fma)(VEC a, VEC b, VEC c) { return INTRINSIC(fmadd)(a, b, c); }
static inline VEC FN(load_part)(const REAL *p, int n) { return INTRINSIC(maskz_loadu)(MASK(n), p); }
static inline void FN(store_part)(REAL *p, VEC v, int n) { INTRINSIC(mask_storeu)(p, MASK(n), v); }
#undef INTRINSIC
#undef MASK

#else /* a part of a vector goes through memory */
static inline VEC FN(splat)(REAL x) {
    VEC v;
    for (int i = 0; i < LANES; i++) v[i] = x;
    return v;
}
static inline VEC FN(fma)(VEC a, VEC b, VEC c) {
#if !BP_FMA
    return a * b + c;
#elif defined(__x86_64__) && defined(BP_SINGLE)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__x86_64__)
    return _mm256_fmadd_pd(a, b, c);
#elif defined(BP_SINGLE)
    return vfmaq_f32(c, a, b);
#else
    return vfmaq_f64(c, a, b);
#endif
}
static inline VEC FN(load_part)(const REAL *p, int n) {
    VEC v = FN(splat)(0);
    for (int i = 0; i < LANES; i++)
        if (i < n) v[i] = p[i];
    return v;
}
static inline void FN(store_part)(REAL *p, VEC v, int n) {
    for (int i = 0; i < LANES; i++)
        if (i < n) p[i] = v[i];
}
#endif

/* A square of LANES by LANES, turned in registers: log2(LANES) rounds of exchanges at distance s. */
#if LANES == 16
#define EVERY_LANE(X, s) X(0, s), X(1, s), X(2, s), X(3, s), X(4, s), X(5, s), X(6, s), X(7, s), X(8, s), X(9, s),    \
        X(10, s), X(11, s), X(12, s), X(13, s), X(14, s), X(15, s)
#elif LANES == 8
#define EVERY_LANE(X, s) X(0, s), X(1, s), X(2, s), X(3, s), X(4, s), X(5, s), X(6, s), X(7, s)
#elif LANES == 4
#define EVERY_LANE(X, s) X(0, s), X(1, s), X(2, s), X(3, s)
#else
#define EVERY_LANE(X, s) X(0, s), X(1, s)
#endif
#define FROM_FIRST(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define FROM_SECOND(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define EXCHANGE(s)                                                                                                   \
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) if (!(i & (s)) && (s) < LANES) {                         \
        VEC a = row[i], b = row[i + (s)];                                                                             \
        row[i] = __builtin_shufflevector(a, b, EVERY_LANE(FROM_FIRST, (s) % LANES));                                  \
        row[i + (s)] = __builtin_shufflevector(a, b, EVERY_LANE(FROM_SECOND, (s) % LANES));                           \
    }
static inline void FN(turn)(const REAL *from, int64_t from_ld, REAL *to, int64_t to_ld) {
    VEC row[LANES];
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) row[i] = FN(load)(from + i * from_ld);
    EXCHANGE(1)
    EXCHANGE(2)
    EXCHANGE(4)
    EXCHANGE(8)
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) FN(store)(to + i * to_ld, row[i]);
}
#undef EVERY_LANE
#undef FROM_FIRST
#undef FROM_SECOND
#undef EXCHANGE

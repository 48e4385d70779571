/* gemm, gemv and ger as their definitions say, column-major, in one fixed order: injected for SciPy's. */
#include "harness.h"

#define BLAS(REAL, p)                                                                                                 \
    static void p##gemm(char *ta, char *tb, int *m, int *n, int *k, void *alpha, void *a, int *lda, void *b, int *ldb,\
                        void *beta, void *c, int *ldc) {                                                              \
        const REAL *A = a, *B = b;                                                                                    \
        for (int j = 0; j < *n; j++)                                                                                  \
            for (int i = 0; i < *m; i++) {                                                                            \
                REAL sum = 0, *to = (REAL *)c + i + (ptrdiff_t)j * *ldc;                                              \
                for (int l = 0; l < *k; l++)                                                                          \
                    sum += A[*ta == 'N' ? i + (ptrdiff_t)l * *lda : l + (ptrdiff_t)i * *lda] *                        \
                           B[*tb == 'N' ? l + (ptrdiff_t)j * *ldb : j + (ptrdiff_t)l * *ldb];                         \
                sum *= *(REAL *)alpha;                                                                                \
                *to = *(REAL *)beta == 0 ? sum : *(REAL *)beta * *to + sum;                                           \
            }                                                                                                         \
    }                                                                                                                 \
    static void p##gemv(char *t, int *m, int *n, void *alpha, void *a, int *lda, void *x, int *incx, void *beta,      \
                        void *y, int *incy) {                                                                         \
        const REAL *A = a, *X = x;                                                                                    \
        int plain = *t == 'N', rows = plain ? *m : *n, terms = plain ? *n : *m;                                       \
        for (int i = 0; i < rows; i++) {                                                                              \
            REAL sum = 0, *to = (REAL *)y + (ptrdiff_t)i * *incy;                                                     \
            for (int l = 0; l < terms; l++)                                                                           \
                sum += A[plain ? i + (ptrdiff_t)l * *lda : l + (ptrdiff_t)i * *lda] * X[(ptrdiff_t)l * *incx];        \
            sum *= *(REAL *)alpha;                                                                                    \
            *to = *(REAL *)beta == 0 ? sum : *(REAL *)beta * *to + sum;                                               \
        }                                                                                                             \
    }                                                                                                                 \
    static void p##ger(int *m, int *n, void *alpha, void *x, int *incx, void *y, int *incy, void *a, int *lda) {      \
        const REAL *X = x, *Y = y;                                                                                    \
        for (int j = 0; j < *n; j++)                                                                                  \
            for (int i = 0; i < *m; i++)                                                                              \
                ((REAL *)a)[i + (ptrdiff_t)j * *lda] +=                                                               \
                    *(REAL *)alpha * X[(ptrdiff_t)i * *incx] * Y[(ptrdiff_t)j * *incy];                               \
    }
BLAS(float, s)
BLAS(double, d)

const bp_blas naive_blas = {{sgemm, dgemm}, {sgemv, dgemv}, {sger, dger}};

/* Operations of a user's for tests/test_function.py, in float and in double. */
#include "../../bpcore/include/bpcore.h"

#include <math.h>

int own_blend_forward(bp_function_call *call);
int own_blend_backward(bp_function_call *call);
int own_softmax_forward(bp_function_call *call);
int own_softmax_backward(bp_function_call *call);
int own_refuse(bp_function_call *call);

/* out = s a b^2, s behind data (1 without): da = s b^2 dout, db = 2 s a b dout */
#define BLEND(T)                                                                                                      \
    static int blend_##T(const bp_function_call *call) {                                                              \
        int64_t n = call->rows * call->out_cols;                                                                      \
        const T *a = call->in[0], *b = call->in[1], s = (T)(call->data ? *(const double *)call->data : 1);             \
        const T *dout = call->out_grad;                                                                               \
        T *out = call->out;                                                                                           \
        if (call->n_in != 2 || call->cols[0] != call->out_cols || call->cols[1] != call->out_cols) return 5;          \
        if (!dout) {                                                                                                  \
            for (int64_t i = 0; i < n; i++) out[i] = s * a[i] * b[i] * b[i];                                          \
            return 0;                                                                                                 \
        }                                                                                                             \
        T *da = call->in_grad[0], *db = call->in_grad[1];                                                             \
        for (int64_t i = 0; i < n && da; i++) da[i] += s * b[i] * b[i] * dout[i];                                     \
        for (int64_t i = 0; i < n && db; i++) db[i] += 2 * s * a[i] * b[i] * dout[i];                                 \
        return 0;                                                                                                     \
    }
BLEND(float)
BLEND(double)

/* A row's softmax: da_i = out_i (dout_i - sum_j out_j dout_j), from the output alone. */
#define SOFTMAX(T)                                                                                                    \
    static int softmax_##T(const bp_function_call *call) {                                                            \
        int64_t n = call->out_cols;                                                                                   \
        for (int64_t r = 0; r < call->rows; r++) {                                                                    \
            const T *a = (const T *)call->in[0] + r * n;                                                              \
            const T *dout = call->out_grad ? (const T *)call->out_grad + r * n : 0;                                   \
            T *out = (T *)call->out + r * n, *da = call->in_grad[0], sum = 0;                                         \
            for (int64_t i = 0; i < n; i++) sum += dout ? out[i] * dout[i] : (T)exp((double)a[i]);                     \
            for (int64_t i = 0; i < n && !dout; i++) out[i] = (T)exp((double)a[i]) / sum;                              \
            for (int64_t i = 0; i < n && dout && da; i++) da[r * n + i] += out[i] * (dout[i] - sum);                   \
        }                                                                                                             \
        return 0;                                                                                                     \
    }
SOFTMAX(float)
SOFTMAX(double)

int own_blend_forward(bp_function_call *call) {
    return call->real_size == sizeof(float) ? blend_float(call) : blend_double(call);
}
int own_blend_backward(bp_function_call *call) { return own_blend_forward(call); }
int own_softmax_forward(bp_function_call *call) {
    return call->real_size == sizeof(float) ? softmax_float(call) : softmax_double(call);
}
int own_softmax_backward(bp_function_call *call) { return own_softmax_forward(call); }

/* The identity; fails with the code behind data where a number of a row is above the limit there: {code, limit}. */
int own_refuse(bp_function_call *call) {
    const double *rule = call->data;
    for (int64_t i = 0; i < call->rows * call->out_cols; i++) {
        const double *a = call->in[0], *dout = call->out_grad;
        double *out = call->out, *da = call->in_grad[0];
        if (a[i] > rule[1] || call->real_size != sizeof(double)) return (int)rule[0];
        if (!dout) out[i] = a[i];
        else if (da) da[i] += dout[i];
    }
    return 0;
}

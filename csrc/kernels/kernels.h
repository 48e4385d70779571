/* The functions compiled once per type: name_f32 in f32.c, name_f64 in f64.c. */
#ifndef BP_KERNELS_H
#define BP_KERNELS_H

#include "../bp.h"

typedef struct {
    const char *name;
    void (*fn[2])(const void *z, void *a, void *df, int64_t n); /* df NULL where it is not wanted */
} bp_activation;
extern const bp_activation bp_activations[];
extern const bp_loss_type bp_losses[];

#define BP_EVERY_ACTIVATION(X)                                                                                        \
    X(logistic) X(tanh) X(relu) X(leaky_relu) X(elu) X(selu) X(gelu) X(silu) X(softplus) X(softsign) X(hard_sigmoid)  \
        X(hard_tanh) X(exp)
#define BP_DECLARE(name)                                                                                              \
    void bp_f_##name##_f32(const void *z, void *a, void *df, int64_t n);                                              \
    void bp_f_##name##_f64(const void *z, void *a, void *df, int64_t n);
BP_EVERY_ACTIVATION(BP_DECLARE)
#undef BP_DECLARE

typedef struct {
    double lr, correction1, correction2; /* Adam: 1 - beta1^t, sqrt(1 - beta2^t) */
    const bp_opt *opt;
    double scale;  /* of the gradient: 1 / sum of weights */
    int decay;
} bp_update;

#define BP_DECLARE(S)                                                                                                 \
    bp_status bp_dense_forward_##S(const bp_context *, const bp_op *, bp_cell);                                       \
    bp_status bp_dense_backward_##S(const bp_context *, const bp_op *, bp_cell);                                      \
    void bp_dense_param_grad_##S(const bp_context *, const bp_op *, int, int64_t, int64_t, int64_t, int64_t, void *,  \
                                 int);                                                                                \
    bp_status bp_activation_forward_##S(const bp_context *, const bp_op *, bp_cell);                                  \
    bp_status bp_elementwise_backward_##S(const bp_context *, const bp_op *, bp_cell);                                \
    bp_status bp_softmax_forward_##S(const bp_context *, const bp_op *, bp_cell);                                     \
    bp_status bp_softmax_backward_##S(const bp_context *, const bp_op *, bp_cell);                                    \
    bp_status bp_user_forward_##S(const bp_context *, const bp_op *, bp_cell);                                        \
    bp_status bp_python_forward_##S(const bp_context *, const bp_op *, bp_cell);                                      \
    bp_status bp_add_forward_##S(const bp_context *, const bp_op *, bp_cell);                                         \
    bp_status bp_add_backward_##S(const bp_context *, const bp_op *, bp_cell);                                        \
    bp_status bp_squared_error_##S(bp_loss_call *);                                                                   \
    bp_status bp_mse_##S(bp_loss_call *);                                                                             \
    bp_status bp_huber_##S(bp_loss_call *);                                                                           \
    bp_status bp_binary_cross_entropy_##S(bp_loss_call *);                                                            \
    bp_status bp_cross_entropy_##S(bp_loss_call *);                                                                   \
    /* Elements of one row, or of one column where `stride` walks down: n values to the real type. */                 \
    void bp_convert_##S(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, void *out);       \
    /* theta, state: n elements from `at`; G its gradient.  Returns 0 when all of theta stayed finite. */             \
    int bp_update_##S(const bp_update *u, int64_t at, int64_t n, const void *G, void *theta);                         \
    void bp_sum_##S(void *sum, const void *term, int64_t n);
BP_DECLARE(f32)
BP_DECLARE(f64)
#undef BP_DECLARE

#define BP_BOTH(name) {name##_f32, name##_f64}

/* n integers of any source type; values beyond int32 become -1, as a label outside every range does. */
void bp_convert_int32(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, int32_t *out);
int64_t bp_source_size(bp_source type);
float bp_from_half(uint16_t half);

#endif

/* The list of operations: OPERATION(type, forward, backward, param_grad, step).  What a type declares stands in its
 * file beside the kernels; operations.inc lists the files. */
#ifndef BP_OPERATIONS_H
#define BP_OPERATIONS_H

#define BP_OPERATIONS(OPERATION)                                                                                      \
    OPERATION(dense, BOTH(dense_forward), BOTH(dense_backward), BOTH(dense_param_grad), BOTH(dense_step))             \
    OPERATION(sparse_dense, BOTH(sparse_dense_forward), NONE, BOTH(sparse_dense_param_grad), NONE)                    \
    OPERATION(activation, BOTH(activation_forward), BOTH(elementwise_backward), NONE, NONE)                           \
    OPERATION(user_function, BOTH(user_forward), BOTH(elementwise_backward), NONE, NONE)                              \
    OPERATION(python_function, BOTH(python_forward), BOTH(elementwise_backward), NONE, NONE)                          \
    OPERATION(softmax, BOTH(softmax_forward), BOTH(softmax_backward), NONE, NONE)                                     \
    OPERATION(masked_softmax, BOTH(masked_softmax_forward), BOTH(masked_softmax_backward), NONE, NONE)                \
    OPERATION(softmax_product, BOTH(softmax_product_forward), BOTH(softmax_product_backward), NONE, NONE)             \
    OPERATION(add, BOTH(add_forward), BOTH(add_backward), NONE, NONE)                                                 \
    OPERATION(multiply, BOTH(multiply_forward), BOTH(multiply_backward), NONE, NONE)                                  \
    OPERATION(scale, BOTH(scale_forward), BOTH(scale_backward), BOTH(scale_param_grad), NONE)                         \
    OPERATION(shift, BOTH(shift_forward), BOTH(shift_backward), BOTH(shift_param_grad), NONE)                         \
    OPERATION(concat, BOTH(concat_forward), BOTH(concat_backward), NONE, NONE)                                        \
    OPERATION(permute, BOTH(permute_forward), BOTH(permute_backward), NONE, NONE)                                     \
    OPERATION(conv, BOTH(conv_forward), BOTH(conv_backward), BOTH(conv_param_grad), NONE)                             \
    OPERATION(max_pool, BOTH(max_pool_forward), BOTH(max_pool_backward), NONE, NONE)                                  \
    OPERATION(max_pool_at, BOTH(max_pool_at_forward), BOTH(max_pool_at_backward), NONE, NONE)                         \
    OPERATION(average_pool, BOTH(average_pool_forward), BOTH(average_pool_backward), NONE, NONE)                      \
    OPERATION(masked_average, BOTH(average_pool_forward), BOTH(average_pool_backward), NONE, NONE)                    \
    OPERATION(recurrent, BOTH(recurrent_forward), BOTH(recurrent_backward), BOTH(recurrent_param_grad), NONE)         \
    OPERATION(linear_recurrence, BOTH(linear_recurrence_forward), BOTH(linear_recurrence_backward),                   \
              BOTH(linear_recurrence_param_grad), NONE)                                                               \
    OPERATION(delay, BOTH(delay_forward), BOTH(delay_backward), NONE, NONE)                                           \
    OPERATION(embedding, BOTH(embedding_forward), NONE, BOTH(embedding_param_grad), NONE)                             \
    OPERATION(layer_norm, BOTH(layer_norm_forward), BOTH(layer_norm_backward), BOTH(layer_norm_param_grad), NONE)      \
    OPERATION(normalise, BOTH(normalise_forward), BOTH(normalise_backward), NONE, NONE)                               \
    OPERATION(layer_norm_product, BOTH(layer_norm_product_forward), BOTH(layer_norm_product_backward), NONE, NONE)    \
    OPERATION(batch_norm, BOTH(batch_norm_forward), BOTH(batch_norm_backward), BOTH(batch_norm_param_grad), NONE)      \
    OPERATION(dropout, BOTH(dropout_forward), BOTH(elementwise_backward), NONE, NONE)                                 \
    OPERATION(noise, BOTH(noise_forward), BOTH(shift_backward), NONE, NONE)                                           \
    OPERATION(mask, BOTH(mask_forward), BOTH(mask_backward), NONE, NONE)                                              \
    OPERATION(matmul, BOTH(matmul_forward), BOTH(matmul_backward), NONE, NONE)                                        \
    OPERATION(function, BOTH(function_forward), BOTH(function_backward), NONE, NONE)                                  \
    OPERATION(c_function, BOTH(function_forward), BOTH(function_backward), NONE, NONE)                                \
    OPERATION(hidden_jacobian, BOTH(hidden_jacobian_forward), NONE, NONE, NONE)

#define BP_NUMBER(type, ...) BP_OP_##type,
enum { BP_OPERATIONS(BP_NUMBER) BP_N_OPERATIONS };
#undef BP_NUMBER

#endif

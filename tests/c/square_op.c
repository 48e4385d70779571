/* Two operations that only the tests know, as a library of their own would bring them.
 *
 *   test_square        out = x^2, elementwise; 2x is cached
 *   test_column_scale  out = x s, a factor s [cols, 1] for each column */
#include "plan.h"

#define OPERATIONS(REAL, S)                                                                                           \
    static REAL *at_##S(const bp_context *x, int buffer, int64_t row) { return bp_at(x, buffer, row, sizeof(REAL)); } \
    static bp_status square_forward_##S(const bp_context *x, const bp_op *op, const bp_cell *cell) {                  \
        for (int64_t r = cell->r0; r < cell->r1; r++)                                                                 \
            for (int64_t c = cell->c0; c < cell->c1; c++) {                                                           \
                REAL v = at_##S(x, op->in[0], r)[c];                                                                  \
                at_##S(x, op->out, r)[c] = v * v;                                                                     \
                if (x->cache) at_##S(x, op->aux, r)[c] = 2 * v;                                                       \
            }                                                                                                         \
        return BP_OK;                                                                                                 \
    }                                                                                                                 \
    static bp_status square_backward_##S(const bp_context *x, const bp_op *op, const bp_cell *cell) {                 \
        for (int64_t r = cell->r0; r < cell->r1; r++) {                                                               \
            REAL *dx = at_##S(x, bp_grad_of(x, op->in[0]), r);                                                        \
            const REAL *dout = at_##S(x, bp_grad_of(x, op->out), r), *df = at_##S(x, op->aux, r);                     \
            for (int64_t c = cell->c0; c < cell->c1; c++) dx[c] = (op->add[0] ? dx[c] : 0) + df[c] * dout[c];         \
        }                                                                                                             \
        return BP_OK;                                                                                                 \
    }                                                                                                                 \
    static bp_status scale_forward_##S(const bp_context *x, const bp_op *op, const bp_cell *cell) {                   \
        const REAL *s = (const REAL *)x->theta + x->params[op->param[0]].offset;                                      \
        for (int64_t r = cell->r0; r < cell->r1; r++)                                                                 \
            for (int64_t c = cell->c0; c < cell->c1; c++)                                                             \
                at_##S(x, op->out, r)[c] = s[c] * at_##S(x, op->in[0], r)[c];                                         \
        return BP_OK;                                                                                                 \
    }                                                                                                                 \
    static bp_status scale_backward_##S(const bp_context *x, const bp_op *op, const bp_cell *cell) {                  \
        const REAL *s = (const REAL *)x->theta + x->params[op->param[0]].offset;                                      \
        for (int64_t r = cell->r0; r < cell->r1; r++) {                                                               \
            REAL *dx = at_##S(x, bp_grad_of(x, op->in[0]), r);                                                        \
            const REAL *dout = at_##S(x, bp_grad_of(x, op->out), r);                                                  \
            for (int64_t c = cell->c0; c < cell->c1; c++) dx[c] = (op->add[0] ? dx[c] : 0) + s[c] * dout[c];          \
        }                                                                                                             \
        return BP_OK;                                                                                                 \
    }                                                                                                                 \
    static void scale_param_grad_##S(const bp_context *x, const bp_op *op, int slot, int64_t r0, int64_t r1,          \
                                     const bp_cell *block, void *G, void *lost, int64_t ld, int add) {                \
        REAL *ds = G, *rest = lost;                                                                                   \
        (void)slot;                                                                                                   \
        for (int64_t k = block->r0; k < block->r1; k++) {                                                             \
            int64_t to = (k - block->r0) * ld;                                                                        \
            double sum = !add ? 0 : rest ? (double)ds[to] + (double)rest[to] : (double)ds[to];                        \
            for (int64_t r = r0; r < r1; r++)                                                                         \
                sum += (double)at_##S(x, op->in[0], r)[k] * (double)at_##S(x, bp_grad_of(x, op->out), r)[k];          \
            ds[to] = (REAL)sum;                                                                                       \
            if (rest) rest[to] = (REAL)(sum - (double)ds[to]);                                                        \
        }                                                                                                             \
    }
OPERATIONS(float, f32)
OPERATIONS(double, f64)

static bp_status declare_square(bp_plan *plan, bp_op *op) {
    const bp_buffer x = plan->buffers[op->in[0]];
    if (op->n_in != 1 || op->n_params || x.kind != BP_REAL) return BP_E_SHAPE;
    op->out = bp_plan_buffer(plan, BP_REAL, x.cols);
    op->aux = bp_plan_buffer(plan, BP_REAL, x.cols);
    return op->out < 0 || op->aux < 0 ? BP_E_NOMEM : BP_OK;
}

static bp_status declare_scale(bp_plan *plan, bp_op *op) {
    const bp_buffer x = plan->buffers[op->in[0]];
    if (op->n_in != 1 || op->n_params != 1 || x.kind != BP_REAL) return BP_E_SHAPE;
    const bp_param *s = &plan->params[op->param[0]];
    if (s->rows != x.cols || s->cols != 1) return BP_E_SHAPE;
    op->out = bp_plan_buffer(plan, BP_REAL, x.cols);
    return op->out < 0 ? BP_E_NOMEM : BP_OK;
}

__attribute__((visibility("default"))) const bp_op_type test_square = {
    .name = "test_square",
    .scope = BP_SCOPE_CELLS,
    .grad_in_place = 1,
    .declare = declare_square,
    .forward = {square_forward_f32, square_forward_f64},
    .backward = {square_backward_f32, square_backward_f64}};

__attribute__((visibility("default"))) const bp_op_type test_column_scale = {
    .name = "test_column_scale",
    .scope = BP_SCOPE_CELLS,
    .declare = declare_scale,
    .forward = {scale_forward_f32, scale_forward_f64},
    .backward = {scale_backward_f32, scale_backward_f64},
    .param_grad = {scale_param_grad_f32, scale_param_grad_f64}};

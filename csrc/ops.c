/* The tables: operations, activations, losses. */
#include "kernels/kernels.h"
#include "plan.h"

#include <string.h>

/* ---- operations ---- */

static bp_status same_shape(bp_plan *plan, bp_op *op, int cached) {
    const bp_buffer *z = &plan->buffers[op->in[0]];
    int64_t cols = z->cols;
    if (op->n_params || z->kind != BP_REAL) return BP_E_SHAPE;
    for (int i = 1; i < op->n_in; i++)
        if (plan->buffers[op->in[i]].cols != cols || plan->buffers[op->in[i]].kind != BP_REAL) return BP_E_SHAPE;
    op->out = bp_plan_buffer(plan, BP_REAL, cols);
    if (cached) op->aux = bp_plan_buffer(plan, BP_REAL, cols);
    return op->out < 0 || (cached && op->aux < 0) ? BP_E_NOMEM : BP_OK;
}

static bp_status declare_elementwise(bp_plan *plan, bp_op *op) {
    return op->n_in == 1 && op->detail ? same_shape(plan, op, 1) : BP_E_SHAPE;
}
static bp_status declare_python(bp_plan *plan, bp_op *op) {
    return op->n_in == 1 ? same_shape(plan, op, 1) : BP_E_SHAPE;
}
static bp_status declare_softmax(bp_plan *plan, bp_op *op) {
    return op->n_in == 1 ? same_shape(plan, op, 0) : BP_E_SHAPE;
}
static bp_status declare_add(bp_plan *plan, bp_op *op) { return same_shape(plan, op, 0); }

/* W [n_in, n_out] and, where there is a bias, b [n_out, 1] */
static bp_status declare_dense(bp_plan *plan, bp_op *op) {
    if (op->n_in != 1 || op->n_params < 1 || op->n_params > 2) return BP_E_SHAPE;
    const bp_param *W = &plan->params[op->param[0]];
    if (plan->buffers[op->in[0]].kind != BP_REAL || plan->buffers[op->in[0]].cols != W->rows) return BP_E_SHAPE;
    if (op->n_params == 2) {
        const bp_param *b = &plan->params[op->param[1]];
        if (b->rows != W->cols || b->cols != 1) return BP_E_SHAPE;
    }
    op->out = bp_plan_buffer(plan, BP_REAL, W->cols);
    return op->out < 0 ? BP_E_NOMEM : BP_OK;
}

static double dense_flops(const bp_plan *plan, const bp_op *op) {
    const bp_param *W = &plan->params[op->param[0]];
    return 2.0 * (double)W->rows * (double)W->cols;
}

static double activation_flops(const bp_plan *plan, const bp_op *op) {
    return ((const bp_activation *)op->detail)->cost * (double)plan->buffers[op->out].cols;
}
static double user_flops(const bp_plan *plan, const bp_op *op) { return 4000.0 * (double)plan->buffers[op->out].cols; }
static double softmax_flops(const bp_plan *plan, const bp_op *op) {
    return 400.0 * (double)plan->buffers[op->out].cols;
}

/* The kernels' places are filled in by bp_ops_bind. */
enum { DENSE, ACTIVATION, USER_FUNCTION, PYTHON_FUNCTION, SOFTMAX, ADD, N_BUILTIN };
static bp_op_type builtin[N_BUILTIN] = {
    [DENSE] = {.name = "dense", .scope = BP_SCOPE_CELLS, .declare = declare_dense, .flops = dense_flops},
    [ACTIVATION] = {.name = "activation", .scope = BP_SCOPE_CELLS, .grad_in_place = 1, .declare = declare_elementwise,
                    .flops = activation_flops},
    [USER_FUNCTION] = {.name = "user_function", .scope = BP_SCOPE_CELLS, .grad_in_place = 1,
                       .declare = declare_elementwise, .flops = user_flops},
    [PYTHON_FUNCTION] = {.name = "python_function", .scope = BP_SCOPE_CHUNK, .grad_in_place = 1,
                         .declare = declare_python},
    [SOFTMAX] = {.name = "softmax", .scope = BP_SCOPE_ROWS, .grad_in_place = 1, .declare = declare_softmax,
                 .flops = softmax_flops},
    [ADD] = {.name = "add", .scope = BP_SCOPE_CELLS, .declare = declare_add},
};

void bp_ops_bind(const bp_kernels *k) {
    for (int t = 0; t < 2; t++) {
        builtin[DENSE].forward[t] = k->dense_forward[t];
        builtin[DENSE].backward[t] = k->dense_backward[t];
        builtin[DENSE].param_grad[t] = k->dense_param_grad[t];
        builtin[DENSE].param_update[t] = k->dense_param_update[t];
        builtin[ACTIVATION].forward[t] = k->activation_forward[t];
        builtin[USER_FUNCTION].forward[t] = k->user_forward[t];
        builtin[PYTHON_FUNCTION].forward[t] = k->python_forward[t];
        for (int i = ACTIVATION; i <= PYTHON_FUNCTION; i++) builtin[i].backward[t] = k->elementwise_backward[t];
        builtin[SOFTMAX].forward[t] = k->softmax_forward[t];
        builtin[SOFTMAX].backward[t] = k->softmax_backward[t];
        builtin[ADD].forward[t] = k->add_forward[t];
        builtin[ADD].backward[t] = k->add_backward[t];
    }
}

enum { MAX_REGISTERED = 64 };
static const bp_op_type *registered[MAX_REGISTERED];
static int n_registered;

const bp_op_type *bp_op_find(const char *name) {
    for (int i = 0; i < N_BUILTIN; i++)
        if (!strcmp(builtin[i].name, name)) return &builtin[i];
    for (int i = 0; i < n_registered; i++)
        if (!strcmp(registered[i]->name, name)) return registered[i];
    return NULL;
}

bp_status bp_op_register(const bp_op_type *type) {
    if (n_registered == MAX_REGISTERED || bp_op_find(type->name)) return BP_E_LIMIT;
    registered[n_registered++] = type;
    return BP_OK;
}

/* ---- activations and losses ---- */

const char *bp_activation_name(int i) { return bp_active->activations[i].name; }

const void *bp_activation_detail(const char *name) {
    for (const bp_activation *f = bp_active->activations; f->name; f++)
        if (!strcmp(f->name, name)) return f;
    return NULL;
}

const char *bp_op_function(const bp_op *op) {
    return op->type == &builtin[ACTIVATION] ? ((const bp_activation *)op->detail)->name : op->type->name;
}

const char *bp_loss_name(int i) { return bp_active->losses[i].name; }

const bp_loss_type *bp_loss_find(const char *name) {
    for (const bp_loss_type *loss = bp_active->losses; loss->name; loss++)
        if (!strcmp(loss->name, name)) return loss;
    return NULL;
}

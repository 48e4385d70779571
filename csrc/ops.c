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

static const bp_op_type builtin[] = {
    {"dense", BP_SCOPE_CELLS, 0, declare_dense, BP_BOTH(bp_dense_forward), BP_BOTH(bp_dense_backward),
     BP_BOTH(bp_dense_param_grad), dense_flops},
    {"activation", BP_SCOPE_CELLS, 1, declare_elementwise, BP_BOTH(bp_activation_forward),
     BP_BOTH(bp_elementwise_backward), {NULL, NULL}, NULL},
    {"user_function", BP_SCOPE_CELLS, 1, declare_elementwise, BP_BOTH(bp_user_forward),
     BP_BOTH(bp_elementwise_backward), {NULL, NULL}, NULL},
    {"python_function", BP_SCOPE_CHUNK, 1, declare_python, BP_BOTH(bp_python_forward),
     BP_BOTH(bp_elementwise_backward), {NULL, NULL}, NULL},
    {"softmax", BP_SCOPE_ROWS, 1, declare_softmax, BP_BOTH(bp_softmax_forward), BP_BOTH(bp_softmax_backward),
     {NULL, NULL}, NULL},
    {"add", BP_SCOPE_CELLS, 0, declare_add, BP_BOTH(bp_add_forward), BP_BOTH(bp_add_backward), {NULL, NULL}, NULL},
};

enum { N_BUILTIN = sizeof builtin / sizeof *builtin, MAX_REGISTERED = 64 };
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

/* ---- activations ---- */

#define ACTIVATION(name) {#name, {bp_f_##name##_f32, bp_f_##name##_f64}},
const bp_activation bp_activations[] = {BP_EVERY_ACTIVATION(ACTIVATION){NULL, {NULL, NULL}}};

const char *bp_activation_name(int i) { return bp_activations[i].name; }

const void *bp_activation_detail(const char *name) {
    for (const bp_activation *f = bp_activations; f->name; f++)
        if (!strcmp(f->name, name)) return f;
    return NULL;
}

const char *bp_op_function(const bp_op *op) {
    return op->type == bp_op_find("activation") ? ((const bp_activation *)op->detail)->name : op->type->name;
}

/* ---- losses ---- */

const bp_loss_type bp_losses[] = {
    {"squared_error", NULL, 0, BP_BOTH(bp_squared_error)},
    {"mse", NULL, 0, BP_BOTH(bp_mse)},
    {"binary_cross_entropy", "logistic", 0, BP_BOTH(bp_binary_cross_entropy)},
    {"cross_entropy", "softmax", 1, BP_BOTH(bp_cross_entropy)},
    {"huber", NULL, 0, BP_BOTH(bp_huber)},
    {NULL, NULL, 0, {NULL, NULL}},
};

const char *bp_loss_name(int i) { return bp_losses[i].name; }

const bp_loss_type *bp_loss_find(const char *name) {
    for (const bp_loss_type *loss = bp_losses; loss->name; loss++)
        if (!strcmp(loss->name, name)) return loss;
    return NULL;
}

/* The catalogue: operations, activations, losses. */
#include "ops.h"

#include "dispatch.h"

#include <string.h>

/* ---- operations ---- */

/* Real inputs of one shape, and an output like them. */
static bp_status like_first(bp_plan *plan, bp_op *op) {
    int64_t cols = plan->buffers[op->in[0]].cols;
    for (int i = 0; i < op->n_in; i++)
        if (plan->buffers[op->in[i]].cols != cols || plan->buffers[op->in[i]].kind != BP_REAL) return BP_E_SHAPE;
    if (op->n_params) return BP_E_SHAPE;
    op->out = bp_plan_buffer(plan, BP_REAL, cols);
    return op->out < 0 ? BP_E_NOMEM : BP_OK;
}

#define BP_DECLARE
#include "kernels/operations.inc"
#undef BP_DECLARE

#define TYPE(name, ...) [BP_OP_##name] = &name##_type,
static bp_op_type *const builtin[BP_N_OPERATIONS] = {BP_OPERATIONS(TYPE)};
#undef TYPE

/* Into the catalogue. */
static void bind(const bp_kernels *k) {
    for (int i = 0; i < BP_N_OPERATIONS; i++) {
        memcpy(builtin[i]->forward, k->operations[i].forward, sizeof builtin[i]->forward);
        memcpy(builtin[i]->backward, k->operations[i].backward, sizeof builtin[i]->backward);
        memcpy(builtin[i]->param_grad, k->operations[i].param_grad, sizeof builtin[i]->param_grad);
        memcpy(builtin[i]->step, k->operations[i].step, sizeof builtin[i]->step);
    }
    for (int i = 0; i < 2; i++) batch_norm_type.of_batch[i] = &k->batch_norm[i];
}

const char *bp_isa_name(int i) {
    const bp_kernels *kernels = bp_kernels_of(i);
    return kernels ? kernels->isa : NULL;
}

bp_status bp_isa_use(const char *name) {
    for (int i = 0; bp_kernels_of(i); i++) {
        if (name && strcmp(name, bp_isa_name(i))) continue;
        bp_active = bp_kernels_of(i);
        bind(bp_active);
        return BP_OK;
    }
    return BP_E_SHAPE;
}

const char *bp_isa(void) { return bp_active->isa; }

enum { MAX_REGISTERED = 64 };
static const bp_op_type *registered[MAX_REGISTERED];
static int n_registered;

const bp_op_type *bp_op_find(const char *name) {
    for (int i = 0; i < BP_N_OPERATIONS; i++)
        if (!strcmp(builtin[i]->name, name)) return builtin[i];
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

const char *bp_op_function(const bp_plan *plan, const bp_op *op, int64_t width) {
    if (op->type == &activation_type) return ((const bp_activation *)op->detail)->name;
    int64_t own = op->detail ? ((const bp_settings *)op->detail)->n[SOFTMAX_WIDTH] : plan->buffers[op->out].cols;
    return op->type == &softmax_type && own == width ? "softmax" : "";
}

const char *bp_loss_name(int i) { return bp_active->losses[i].name; }

const bp_loss_type *bp_loss_find(const char *name) {
    for (const bp_loss_type *loss = bp_active->losses; loss->name; loss++)
        if (!strcmp(loss->name, name)) return loss;
    return NULL;
}

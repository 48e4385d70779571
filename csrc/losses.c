/* The losses of a plan: on which outputs, and what they read in place of these. */
#include "ops.h"

#include <string.h>

bp_status bp_plan_loss(bp_plan *plan, const char *name, int out, int target, const double *numbers, int n_numbers,
                       int tag, int64_t positions, double weight) {
    if (out < 0 || out >= plan->n_buffers || target < 0 || target >= plan->n_buffers) return BP_E_SHAPE;
    const bp_loss_type *type = name ? bp_loss_find(name) : NULL;
    const bp_buffer *a = &plan->buffers[out], *y = &plan->buffers[target];
    if (positions < 1 || (name && !type) || a->kind != BP_REAL) return BP_E_SHAPE;
    if (a->cols % positions || y->cols % positions) return BP_E_SHAPE;
    int labels = y->kind == BP_INT32;
    if (n_numbers < (type ? type->n_numbers : 0)) return BP_E_SHAPE;
    int parts = !type ? 1 : type->parts == BP_EACH_NUMBER ? n_numbers : type->parts;
    if (type && (labels ? y->cols != positions || !type->takes_labels : parts * y->cols != a->cols)) return BP_E_SHAPE;
    for (int i = 0; i < plan->n_losses; i++)
        if (plan->losses[i].out == out) return BP_E_SHAPE;
    bp_loss *grown = bp_grow(plan->losses, plan->n_losses, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->losses = grown;
    double *own = bp_grow(NULL, 0, ((size_t)n_numbers + 1) * sizeof *own);
    if (!own) return BP_E_NOMEM;
    if (n_numbers) memcpy(own, numbers, (size_t)n_numbers * sizeof *own);
    const bp_op *last = bp_maker_of(plan, out);
    int fused = last && type && type->fused_with && !a->consumers && plan->buffers[last->in[0]].consumers == 1 &&
                !strcmp(bp_op_function(plan, last, a->cols / positions), type->fused_with);
    for (int i = 0; i < plan->n_losses; i++) { /* what two losses read has one gradient, and each would write it */
        bp_loss *other = &plan->losses[i];
        if (other->out == (last ? last->in[0] : -1)) fused = 0;
        if (other->fused && other->in == out) {
            other->fused = 0;
            other->in = other->out;
        }
    }
    int in = fused ? last->in[0] : out;
    bp_loss_call call = {.labels = y->kind == BP_INT32,
                         .cols = a->cols / positions,
                         .target_cols = y->cols / positions,
                         .positions = positions,
                         .numbers = own,
                         .n_numbers = n_numbers};
    grown[plan->n_losses++] =
        (bp_loss){type, out, target, tag, fused, in, -1, weight, weight / (double)positions, own, call};
    return BP_OK;
}

/* Strips: how predictors keep wide weights. */
#include "strips.h"

#include <string.h>

enum { STRIPS_FROM = 1024 }; /* bytes of a row of weights */

static int in_strips(const bp_plan *plan, const bp_param *p) {
    int all = p->cols * (int64_t)plan->size >= STRIPS_FROM && p->first_use >= 0;
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next)
        all = all && !plan->uses[u].slot && plan->ops[plan->uses[u].op].type->takes_strips;
    return all;
}

void bp_find_strips(bp_plan *plan) {
    for (int i = 0; i < plan->n_params; i++) plan->params[i].strips = in_strips(plan, &plan->params[i]);
}

void bp_plan_pack(const bp_plan *plan, const void *theta, void *to) {
    memcpy(to, theta, (size_t)plan->n_theta * plan->size);
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        if (!p->strips) continue;
        size_t first = (size_t)p->offset * plan->size, rows = (size_t)p->rows, row = (size_t)p->cols * plan->size;
        const char *from = (const char *)theta + first;
        for (size_t r = 0; r < rows; r++, from += row)
            for (size_t c = 0, wide; c < row; c += wide) {
                wide = row - c < BP_STRIP_BYTES ? row - c : BP_STRIP_BYTES;
                memcpy((char *)to + first + c * rows + r * wide, from + c, wide);
            }
    }
}

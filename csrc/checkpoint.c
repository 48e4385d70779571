/* Checkpoints: cuts the operations into segments, and adds replicas of those that backward computes again. */
#include "blocks.h"
#include "checkpoint.h"

#include <stdlib.h>

static int is_trained(const bp_plan *plan, const bp_op *op, int slot) {
    return !bp_is_frozen(&plan->params[op->param[slot]]) && plan->buffers[op->out].grad >= 0;
}

/* With owners a gradient that is summed early is kept until the update: that pays where it is smaller than the operands
 * whose memory it sets free. */
static int sums_early(const bp_plan *plan, const bp_op *op) {
    if (op->type->by_column) return 0; /* columns are listed when backward has left all */
    double numbers = 0, cols = (double)(plan->buffers[op->in[0]].cols + plan->buffers[op->out].cols);
    for (int i = 0; i < op->n_params; i++)
        numbers += (double)plan->params[op->param[i]].rows * (double)plan->params[op->param[i]].cols;
    if (plan->shards || plan->rows > plan->chunk_rows) return 1; /* there is room for all gradients anyway */
    if (bp_takes_step(plan, op)) return 0; /* it would round otherwise */
    return numbers <= (double)plan->rows * cols;
}

/* Whether an operation's values stay where they are: those of the last segment, which is walked back at once; of one
 * that runs the user's Python, which is called once, or of the batch, for which tiles would meet again; of one
 * whose parameters' gradients are summed later, and of a function that would need what stays. */
static int stays(const bp_plan *plan, const bp_op *op, int last) {
    const bp_op *before = bp_maker_of(plan, op->in[0]);
    if (op->segment == last || op->skip || op->scope == BP_SCOPE_CHUNK || op->of_batch) return 1;
    for (int i = 0; i < op->n_params; i++)
        if (is_trained(plan, op, i) && plan->params[op->param[i]].segment < op->segment) return 1;
    return op->type->elementwise && before && before->segment == op->segment && before->stays;
}

/* Cuts the operations into segments; a parameter's is the first that it is used in, or 0. */
void bp_find_segments(bp_plan *plan) {
    int segment = 0, all = BP_DO_FORWARD | BP_DO_BACKWARD | BP_DO_REUSE;
    for (int i = 0; i < plan->n_ops; i++) {
        plan->ops[i].segment = segment;
        segment += (plan->flags & all) == all && plan->buffers[plan->ops[i].out].checkpoint;
    }
    for (int i = 0; i < plan->n_params; i++) {
        bp_param *p = &plan->params[i];
        if (p->first_use < 0 || p->flags & (BP_PARAM_FROZEN | BP_PARAM_TABLE)) continue;
        p->segment = plan->ops[plan->uses[p->first_use].op].segment;
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next)
            if (!sums_early(plan, &plan->ops[plan->uses[u].op])) p->segment = 0;
    }
    for (int i = 0; i < plan->n_ops; i++)
        plan->ops[i].stays = stays(plan, &plan->ops[i], plan->ops[plan->n_ops - 1].segment);
}

/* Marks the operations whose forward is needed again, from the last to the first.  kept: buffers that are not written
 * again, because they stay, or are read in a later segment; `needed` is all zero. */
static void find_again(bp_plan *plan, char *kept, char *needed) {
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        int fixed = op->stays;
        kept[op->out] |= (char)fixed;
        for (int j = 0; j < op->n_in; j++) {
            int maker = plan->buffers[op->in[j]].maker;
            kept[op->in[j]] |= (char)(fixed || maker < 0 || plan->ops[maker].segment < op->segment);
        }
    }
    for (int i = plan->n_ops - 1; i >= 0; i--) {
        bp_op *op = &plan->ops[i];
        int ignores = op->type->ignores, back = bp_wants_backward(plan, op), trained = 0;
        for (int j = 0; j < op->n_params; j++) trained |= is_trained(plan, op, j);
        int reads_in = (back && !(ignores & BP_IGNORES_IN)) || trained;
        int reads_out = (back && !(ignores & BP_IGNORES_OUT)) || (trained && !(ignores & BP_GRAD_IGNORES_OUT));
        if (op->stays) continue;
        op->again = (op->n_aux && (back || trained)) || (!kept[op->out] && (needed[op->out] || reads_out));
        for (int j = 0; j < op->n_in && (op->again || reads_in); j++) needed[op->in[j]] = 1;
    }
}

/* A buffer for what `of` holds, computed again; its gradient is the same. */
static int buffer_again(bp_plan *plan, int of, int maker) {
    int number = bp_plan_buffer(plan, plan->buffers[of].kind, plan->buffers[of].cols);
    if (number < 0) return -1;
    plan->buffers[number].grad = plan->buffers[of].grad;
    plan->buffers[number].maker = maker;
    return number;
}

/* Adds a replica of an operation; in_place_of[b]: the buffer that stands for b in backward. */
static bp_status add_replica(bp_plan *plan, int i, const char *kept, int *in_place_of) {
    int number = plan->n_ops + plan->n_replicas;
    bp_op *grown = bp_grow(plan->ops, number, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->ops = grown;
    bp_op *op = &plan->ops[i], *replica = &plan->ops[number];
    *replica = *op;
    op->back = replica->back = number;
    op->again = 0;
    plan->n_replicas++;
    for (int j = 0; j < op->n_in; j++) replica->in[j] = in_place_of[op->in[j]];
    if (!replica->again) return BP_OK;
    if (!kept[op->out]) {
        replica->out = buffer_again(plan, op->out, number);
        if (replica->out < 0) return BP_E_NOMEM;
        in_place_of[op->out] = replica->out;
    }
    for (int j = 0; j < op->n_aux; j++) {
        int aux = buffer_again(plan, op->aux + j, number);
        if (aux < 0) return BP_E_NOMEM;
        if (j == 0) replica->aux = aux;
        in_place_of[op->aux + j] = aux;
    }
    return BP_OK;
}

/* Of all segments but the last; backward and the parameters' gradients are then the replicas'. */
bp_status bp_add_replicas(bp_plan *plan) {
    int n = plan->n_buffers;
    if (!plan->n_ops || !plan->ops[plan->n_ops - 1].segment) return BP_OK;
    char *kept = calloc((size_t)n, 1), *needed = calloc((size_t)n, 1);
    int *in_place_of = malloc(sizeof(int) * (size_t)n);
    bp_status status = kept && needed && in_place_of ? BP_OK : BP_E_NOMEM;
    for (int i = 0; i < n && !status; i++) in_place_of[i] = i;
    if (!status) find_again(plan, kept, needed);
    for (int i = 0; i < plan->n_ops && !status; i++)
        if (!plan->ops[i].stays) status = add_replica(plan, i, kept, in_place_of);
    for (int i = plan->n_ops; i < plan->n_ops + plan->n_replicas && !status; i++) {
        bp_op *replica = &plan->ops[i];
        if (replica->relu_df >= 0) replica->relu_df = in_place_of[replica->relu_df];
        if (replica->factor_df >= 0) replica->factor_df = in_place_of[replica->factor_df];
    }
    for (int i = 0; i < plan->n_uses; i++) plan->uses[i].op = plan->ops[plan->uses[i].op].back;
    free(kept);
    free(needed);
    free(in_place_of);
    return status;
}

/* The list of operations that a plan is made of, and what may be asked of it. */
#include "plan.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BP_ROUND_FLOPS 2.5e9

bp_forces bp_forced = {.round_flops = BP_ROUND_FLOPS};
void bp_set_backend(int mode) { bp_forced.backend = mode; }
void bp_set_sums(int mode) { bp_forced.sums = mode; }
void bp_set_parallel_always(int on) { bp_forced.parallel_always = on; }
void bp_set_round_flops(double flops) { bp_forced.round_flops = flops > 0 ? flops : BP_ROUND_FLOPS; }

bp_plan *bp_plan_new(bp_dtype dtype) {
    bp_plan *plan = calloc(1, sizeof *plan);
    if (!plan) return NULL;
    plan->dtype = dtype;
    plan->size = dtype == BP_F32 ? sizeof(float) : sizeof(double);
    return plan;
}

void bp_plan_free(bp_plan *plan) {
    if (!plan) return;
    free(plan->buffers);
    free(plan->params);
    free(plan->uses);
    free(plan->ops);
    for (int i = 0; i < plan->n_losses; i++) free(plan->losses[i].numbers);
    free(plan->losses);
    free(plan->items);
    free(plan->stages);
    free(plan->blocks);
    free(plan->work_before);
    free(plan->moved_before);
    free(plan->tables);
    free(plan);
}

void *bp_grow(void *array, int n, size_t size) {
    if (n & (n - 1)) return array;
    return realloc(array, (size_t)(n ? 2 * n : 1) * size);
}

int bp_plan_buffer(bp_plan *plan, bp_kind kind, int64_t cols) {
    if (cols < 1) return -1;
    bp_buffer *grown = bp_grow(plan->buffers, plan->n_buffers, sizeof *grown);
    if (!grown) return -1;
    plan->buffers = grown;
    grown[plan->n_buffers] = (bp_buffer){.kind = kind, .cols = cols, .grad = -1, .maker = BP_GATHERED};
    return plan->n_buffers++;
}

int bp_plan_param(bp_plan *plan, int64_t offset, int64_t rows, int64_t cols, int flags, double rate, double decay) {
    int64_t end;
    if (!(rate >= 0 && rate <= DBL_MAX && decay >= 0 && decay <= DBL_MAX)) return -1;
    if (offset < 0 || rows < 1 || cols < 1 || __builtin_mul_overflow(rows, cols, &end) ||
        __builtin_add_overflow(end, offset, &end))
        return -1;
    bp_param *grown = bp_grow(plan->params, plan->n_params, sizeof *grown);
    if (!grown) return -1;
    plan->params = grown;
    if (flags & BP_PARAM_STATE) flags |= BP_PARAM_FROZEN;
    grown[plan->n_params] = (bp_param){.offset = offset, .rows = rows, .cols = cols, .flags = flags, .rate = rate,
                                       .decay = decay, .first_use = -1, .last_use = -1};
    if (flags & BP_PARAM_STATE) plan->n_state = max64(plan->n_state, end);
    else plan->n_theta = max64(plan->n_theta, end);
    return plan->n_params++;
}

bp_status bp_plan_regularise(bp_plan *plan, int param, double l1, double l2, double max_norm) {
    const double numbers[] = {l1, l2, max_norm};
    if (param < 0 || param >= plan->n_params) return BP_E_SHAPE;
    for (int i = 0; i < 3; i++)
        if (!(numbers[i] >= 0 && numbers[i] <= DBL_MAX)) return BP_E_SHAPE;
    bp_param *p = &plan->params[param];
    p->l1 = l1;
    p->l2 = l2;
    p->max_norm = max_norm;
    return BP_OK;
}

bp_status bp_plan_op(bp_plan *plan, const bp_op_type *type, int n_in, const int *in, int n_params, const int *param,
                     const void *detail, int tag, int *out) {
    if (n_in < 1 || n_in > BP_MAX_OPERANDS || n_params > BP_MAX_OPERANDS) return BP_E_LIMIT;
    for (int i = 0; i < n_in; i++)
        if (in[i] < 0 || in[i] >= plan->n_buffers) return BP_E_SHAPE;
    for (int i = 0; i < n_params; i++)
        if (param[i] < 0 || param[i] >= plan->n_params) return BP_E_SHAPE;
    bp_op *grown = bp_grow(plan->ops, plan->n_ops, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->ops = grown;
    bp_op op = {.type = type, .n_in = n_in, .n_params = n_params, .out = -1, .scope = type->scope, .aux = -1,
                .relu_df = -1, .factor_df = -1, .columns = -1, .tag = tag, .back = plan->n_ops, .detail = detail};
    memcpy(op.in, in, (size_t)n_in * sizeof *in);
    if (n_params) memcpy(op.param, param, (size_t)n_params * sizeof *param);
    bp_status status = type->declare(plan, &op);
    if (status) return status;
    if (op.out < 0) return BP_E_NOMEM;
    if (op.aux >= 0 && !op.n_aux) op.n_aux = 1;
    for (int i = 0; i < n_params; i++) {
        bp_use *uses = bp_grow(plan->uses, plan->n_uses, sizeof *uses);
        if (!uses) return BP_E_NOMEM;
        plan->uses = uses;
        uses[plan->n_uses] = (bp_use){plan->n_ops, i, -1};
        bp_param *p = &plan->params[param[i]];
        if (p->first_use < 0) p->first_use = plan->n_uses;
        else uses[p->last_use].next = plan->n_uses;
        p->last_use = plan->n_uses++;
    }
    for (int i = 0; i < n_in; i++) plan->buffers[in[i]].consumers++;
    plan->buffers[op.out].maker = plan->n_ops;
    for (int i = 0; i < op.n_aux; i++) plan->buffers[op.aux + i].maker = plan->n_ops;
    plan->ops[plan->n_ops++] = op;
    *out = op.out;
    return BP_OK;
}

void bp_plan_cotangents(bp_plan *plan, int64_t n) { plan->cotangents = n; }

void bp_plan_keep(bp_plan *plan, int buffer) {
    if (buffer >= 0 && buffer < plan->n_buffers) plan->buffers[buffer].kept = 1;
}

void bp_plan_checkpoint(bp_plan *plan, int buffer) {
    if (buffer >= 0 && buffer < plan->n_buffers) plan->buffers[buffer].checkpoint = 1;
}

int64_t bp_moved(const bp_plan *plan) {
    int64_t n = plan->n_blocks ? plan->moved_before[plan->n_blocks] : 0;
    for (int i = 0; i < plan->n_tables; i++) {
        const bp_table *t = &plan->tables[i];
        n += plan->params[t->param].cols * (t->logged ? t->most : plan->params[t->param].rows);
    }
    return n;
}

/* Flops of the longest stretch in a phase of so many equal tasks. */
static double stretch_of(const bp_plan *plan, double flops, int64_t tasks) {
    if (flops < plan->round_flops) return flops;
    return flops / (double)tasks * fmax(floor(plan->round_flops * (double)tasks / flops), 1);
}

/* The same of a tile that is done by parts of items. */
static double stretch_by_tile(const bp_plan *plan) {
    double longest = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const bp_item *item = &plan->items[i];
        if (item->kind != BP_PARAM_GRADS)
            longest = fmax(longest, item->flops * (double)plan->row_tile / (double)item->parts);
        for (int k = 0; k < plan->n_ops && item->kind == BP_PARAM_GRADS; k++) /* a parameter of a row */
            longest = fmax(longest, plan->ops[k].n_params ? bp_flops_of(plan, &plan->ops[k]) : 0);
    }
    int64_t elements = 0; /* of a gradient that is written */
    for (int i = 0; i < plan->n_params && plan->flags & BP_DO_EACH; i++)
        elements = max64(elements, plan->params[i].rows * plan->params[i].cols);
    return fmax(longest, BP_FLOPS_A_MOVED_BYTE * (double)plan->size * (double)elements);
}

/* The same of a plan: of its stages, then of its sums.  A stage of the user's Python is none. */
static double longest_stretch(const bp_plan *plan) {
    double longest = 0, rows = (double)min64(plan->rows, plan->chunk_rows);
    if (plan->by_tile && plan->by_part) return stretch_by_tile(plan);
    for (int i = 0; i < plan->n_stages; i++) {
        const bp_stage *stage = &plan->stages[i];
        int64_t tiles = plan->shards ? plan->shards : ceil_div((int64_t)rows, stage->row_tile);
        int64_t tasks = tiles * stage->parts * (stage->scope == BP_SCOPE_CELLS ? stage->cells : 1);
        if (stage->scope == BP_SCOPE_ROWS || stage->scope == BP_SCOPE_CELLS)
            longest = fmax(longest, stretch_of(plan, stage->flops_row * rows, tasks));
    }
    int64_t work[2] = {0, 0}; /* of sums, and of those that are made ahead */
    for (int i = 0; i < plan->n_blocks && !plan->shards; i++)
        if (!plan->blocks[i].early) work[plan->blocks[i].waits] += plan->work_before[i + 1] - plan->work_before[i];
    double sums = 2 * rows * (double)max64(work[0], work[1]);
    double most = plan->round_flops, largest = bp_largest_block(plan, rows); /* see cut_rounds */
    double all = sums + bp_move_flops(plan) * (double)bp_moved(plan);
    return fmax(longest, fmin(all, fmax(most, most / 2 + largest)));
}

bp_plan_info bp_plan_describe(const bp_plan *plan) {
    int calls_blas = 0, recomputed = 0;
    for (int i = 0; i < plan->n_ops; i++) calls_blas |= plan->ops[i].n_params && !plan->ops[i].native;
    for (int i = 0; i < plan->n_replicas; i++) recomputed += plan->ops[plan->n_ops + i].again;
    return (bp_plan_info){.shards = plan->shards,
                          .n_stages = plan->n_stages,
                          .calls_blas = calls_blas,
                          .recomputed = recomputed,
                          .chunk_rows = plan->chunk_rows,
                          .arena_bytes = plan->arena_bytes,
                          .unshared_bytes = plan->unshared_bytes,
                          .flops = plan->flops,
                          .stretch = longest_stretch(plan)};
}

int bp_wants_backward(const bp_plan *plan, const bp_op *op) {
    if (op->skip || plan->buffers[op->out].grad < 0) return 0;
    if (op->type->backward_first || op->of_batch) return 1;
    for (int j = 0; j < op->n_in; j++)
        if (plan->buffers[op->in[j]].grad >= 0) return 1;
    return 0;
}

int bp_plan_grad(const bp_plan *plan, int buffer) {
    return buffer < 0 || buffer >= plan->n_buffers ? -1 : plan->buffers[buffer].grad;
}

int bp_plan_cache(const bp_plan *plan, int buffer) {
    const bp_op *op = bp_maker_of(plan, buffer);
    return op ? op->aux : -1;
}

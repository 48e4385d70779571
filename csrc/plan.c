/* Compiles a list of operations into stages of tasks and lays out the arena. */
#include "plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How the work is cut: fixed numbers, so that the bits depend on shapes alone. */
enum {
    INFER_TILE = 32,
    TRAIN_TILE = 64,
    PYTHON_TILE = 1024,       /* of tiles that are alone, where the user's Python is called: less often */
    SEARCHED = 256,           /* places that a buffer may take over */
    LEAST_TILE = 16, /* so that a tile of one column is whole cache lines */
    GRID_ROWS = 256,          /* a cell of a large layer */
    GRID_COLS = 240,           /* whole panels of every instruction set: 48 or 24 columns */
    GRID_COLS_MIN = 48,
    GRID_WEIGHT_BYTES = 2 << 20, /* a layer is large from here on: its weights outgrow L2 */
    GRID_FORCED_BYTES = 256 << 10, /* the same where parallel work is forced */
    BLOCK_BYTES = 16 << 10,   /* of a gradient block in phase 2: it waits in L1 for its update */
    BLOCK_ROWS = 64,          /* at least, so that what a product packs is used often enough */
    BLOCK_COST = 256,         /* of a block itself, in elements */
    WIDE_BYTES = 2 << 10,     /* a row: from here on blocks are cut by columns, too */
    WIDE_ROWS = 256,
    BUSY = 8,                 /* uses of a number in an example: from here on blocks are cut for all threads */
    BUSY_ROWS = 16,
    LOGGED_BYTES = 1 << 20,   /* a table is left out of the safety copy from here on */
    LOGGED_FORCED_BYTES = 256, /* the same where parallel work is forced */
    MIN_BLOCKS = 8,           /* of a matrix worth splitting */
    MAX_CHUNK_ROWS = 16384
};
/* Between barriers a signal is not heard: at most so much work, 10 to 80 ms of one core that does 200 GFLOP/s. */
static const double ROWS_FLOPS = 2e9, GRID_FLOPS = 6e9, UPDATE_FLOPS = 16e9;

bp_forces bp_forced;
void bp_set_backend(int mode) { bp_forced.backend = mode; }
void bp_set_phase2(int mode) { bp_forced.phase2 = mode; }
void bp_set_parallel_always(int on) { bp_forced.parallel_always = on; }

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

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
    free(plan->losses);
    free(plan->items);
    free(plan->stages);
    free(plan->blocks);
    free(plan->block_cost);
    free(plan->tables);
    free(plan->arena);
    free(plan->copy);
    free(plan);
}

/* Room for one more element; the array grows by doubling at powers of two. */
static void *grow(void *array, int n, size_t size) {
    if (n & (n - 1)) return array;
    return realloc(array, (size_t)(n ? 2 * n : 1) * size);
}

int bp_plan_buffer(bp_plan *plan, bp_kind kind, int64_t cols) {
    if (cols < 1) return -1;
    bp_buffer *grown = grow(plan->buffers, plan->n_buffers, sizeof *grown);
    if (!grown) return -1;
    plan->buffers = grown;
    grown[plan->n_buffers] = (bp_buffer){.kind = kind, .cols = cols, .grad = -1, .maker = BP_GATHERED};
    return plan->n_buffers++;
}

int bp_plan_param(bp_plan *plan, int64_t offset, int64_t rows, int64_t cols, int flags) {
    int64_t end;
    if (offset < 0 || rows < 1 || cols < 1 || __builtin_mul_overflow(rows, cols, &end) ||
        __builtin_add_overflow(end, offset, &end))
        return -1;
    bp_param *grown = grow(plan->params, plan->n_params, sizeof *grown);
    if (!grown) return -1;
    plan->params = grown;
    grown[plan->n_params] = (bp_param){
        .offset = offset, .rows = rows, .cols = cols, .flags = flags, .first_use = -1, .last_use = -1};
    plan->n_theta = max64(plan->n_theta, end);
    return plan->n_params++;
}

bp_status bp_plan_op(bp_plan *plan, const bp_op_type *type, int n_in, const int *in, int n_params, const int *param,
                     const void *detail, int tag, int *out) {
    if (n_in < 1 || n_in > BP_MAX_OPERANDS || n_params > BP_MAX_OPERANDS) return BP_E_LIMIT;
    for (int i = 0; i < n_in; i++)
        if (in[i] < 0 || in[i] >= plan->n_buffers) return BP_E_SHAPE;
    for (int i = 0; i < n_params; i++)
        if (param[i] < 0 || param[i] >= plan->n_params) return BP_E_SHAPE;
    bp_op *grown = grow(plan->ops, plan->n_ops, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->ops = grown;
    bp_op op = {.type = type, .n_in = n_in, .n_params = n_params, .out = -1, .scope = type->scope, .aux = -1,
                .relu = -1, .factor = -1, .tag = tag, .back = plan->n_ops, .detail = detail};
    memcpy(op.in, in, (size_t)n_in * sizeof *in);
    if (n_params) memcpy(op.param, param, (size_t)n_params * sizeof *param);
    bp_status status = type->declare(plan, &op);
    if (status) return status;
    if (op.out < 0) return BP_E_NOMEM;
    if (op.aux >= 0 && !op.n_aux) op.n_aux = 1;
    for (int i = 0; i < n_params; i++) {
        bp_use *uses = grow(plan->uses, plan->n_uses, sizeof *uses);
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

static bp_op *maker_of(const bp_plan *plan, int buffer) {
    int maker = buffer < 0 || buffer >= plan->n_buffers ? -1 : plan->buffers[buffer].maker;
    return maker < 0 ? NULL : &plan->ops[maker];
}

bp_status bp_plan_loss(bp_plan *plan, const char *name, int out, int target, double attr, int tag, int64_t positions,
                       double weight) {
    if (out < 0 || out >= plan->n_buffers || target < 0 || target >= plan->n_buffers) return BP_E_SHAPE;
    const bp_loss_type *type = name ? bp_loss_find(name) : NULL;
    const bp_buffer *a = &plan->buffers[out], *y = &plan->buffers[target];
    if (positions < 1 || (name && !type) || a->kind != BP_REAL) return BP_E_SHAPE;
    if (a->cols % positions || y->cols % positions) return BP_E_SHAPE;
    int labels = y->kind == BP_INT32;
    if (type && (labels ? y->cols != positions || !type->takes_labels : y->cols != a->cols)) return BP_E_SHAPE;
    for (int i = 0; i < plan->n_losses; i++)
        if (plan->losses[i].out == out) return BP_E_SHAPE;
    bp_cost *grown = grow(plan->losses, plan->n_losses, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->losses = grown;
    const bp_op *last = maker_of(plan, out);
    int fused = last && type && type->fused_with && !a->consumers && plan->buffers[last->in[0]].consumers == 1 &&
                !strcmp(bp_op_function(plan, last, a->cols / positions), type->fused_with);
    for (int i = 0; i < plan->n_losses; i++) { /* what two losses read has one gradient, and each would write it */
        bp_cost *other = &plan->losses[i];
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
                         .attr = attr};
    grown[plan->n_losses++] =
        (bp_cost){type, out, target, tag, fused, in, -1, weight, weight / (double)positions, call, {0}};
    return BP_OK;
}

/* A parameter's uses in operations that the loss does not depend on are no terms of its gradient. */
static void drop_dead_uses(bp_plan *plan) {
    for (int i = 0; i < plan->n_params; i++) {
        bp_param *p = &plan->params[i];
        int u = p->first_use, next;
        for (p->first_use = p->last_use = -1; u >= 0; u = next) {
            next = plan->uses[u].next;
            plan->uses[u].next = -1;
            if (plan->buffers[plan->ops[plan->uses[u].op].out].grad < 0) continue;
            if (p->first_use < 0) p->first_use = u;
            else plan->uses[p->last_use].next = u;
            p->last_use = u;
        }
    }
}

static int gradient_buffer(bp_plan *plan, int64_t cols) {
    int grad = bp_plan_buffer(plan, BP_REAL, cols);
    if (grad >= 0) plan->buffers[grad].maker = BP_GRADIENT;
    return grad;
}

/* Gives a gradient to every buffer on a way from a parameter (or from the input, where that is wanted) to the loss,
 * and says which contribution to it is the first (written) and which come later (added). */
static bp_status declare_gradients(bp_plan *plan) {
    int n = plan->n_buffers, want_input = !!(plan->flags & BP_DO_INPUT_GRAD);
    char *needs = calloc((size_t)n + 1, 1), *reaches = calloc((size_t)n + 1, 1), *seen = calloc((size_t)n + 1, 1);
    bp_status status = needs && reaches && seen ? BP_OK : BP_E_NOMEM;
    for (int i = 0; i < n && !status; i++)
        needs[i] = (char)(want_input && plan->buffers[i].kind == BP_REAL && !maker_of(plan, i));
    for (int i = 0; i < plan->n_ops && !status; i++) {
        bp_op *op = &plan->ops[i];
        for (int j = 0; j < op->n_in; j++) needs[op->out] |= needs[op->in[j]];
        for (int j = 0; j < op->n_params; j++)
            needs[op->out] |= !(plan->params[op->param[j]].flags & BP_PARAM_FROZEN);
    }
    for (int i = 0; i < plan->n_losses && !status; i++) reaches[plan->losses[i].out] = 1;
    for (int i = plan->n_ops - 1; i >= 0 && !status; i--)
        for (int j = 0; j < plan->ops[i].n_in; j++) reaches[plan->ops[i].in[j]] |= reaches[plan->ops[i].out];
    for (int i = 0; i < n && !status; i++) {
        if (!needs[i] || !reaches[i]) continue;
        int grad = gradient_buffer(plan, plan->buffers[i].cols);
        if (grad < 0) status = BP_E_NOMEM;
        plan->buffers[i].grad = grad;
    }
    if (!status) {
        drop_dead_uses(plan);
        for (int i = 0; i < plan->n_losses; i++) seen[plan->losses[i].in] = 1;
        for (int i = plan->n_ops - 1; i >= 0; i--) {
            bp_op *op = &plan->ops[i];
            if (op->skip || plan->buffers[op->out].grad < 0) continue;
            for (int j = 0; j < op->n_in; j++) {
                op->add[j] = seen[op->in[j]];
                seen[op->in[j]] = 1;
            }
        }
    }
    free(needs);
    free(reaches);
    free(seen);
    return status;
}

/* A loss of bpcore's writes its gradient, wanted or not. */
static bp_status place_losses(bp_plan *plan) {
    for (int i = 0; i < plan->n_losses; i++) {
        bp_cost *loss = &plan->losses[i];
        loss->call.fused = loss->fused;
        loss->grad = plan->buffers[loss->in].grad;
        if (loss->grad >= 0 || !loss->type) continue;
        loss->grad = gradient_buffer(plan, plan->buffers[loss->in].cols);
        if (loss->grad < 0) return BP_E_NOMEM;
    }
    return BP_OK;
}

static int wants_backward(const bp_plan *plan, const bp_op *op) {
    if (op->skip || plan->buffers[op->out].grad < 0) return 0;
    if (op->type->backward_first) return 1;
    for (int j = 0; j < op->n_in; j++)
        if (plan->buffers[op->in[j]].grad >= 0) return 1;
    return 0;
}

/* ---- checkpoints ---- */

static int is_trained(const bp_plan *plan, const bp_op *op, int slot) {
    return !(plan->params[op->param[slot]].flags & BP_PARAM_FROZEN) && plan->buffers[op->out].grad >= 0;
}

/* Whether plain SGD can be made with an operation's first gradient, in one go; not where a batch may have several
 * chunks, for one that happens to have a single chunk is as the others. */
static int takes_step(const bp_plan *plan, const bp_op *op) {
    return op->type->step[plan->dtype] && op->native && plan->rows <= plan->chunk_rows &&
           op->positions * plan->chunk_rows <= BP_STEP_ROWS;
}

/* With owners a gradient that is summed early is kept until the update: that pays where it is smaller than the operands
 * whose memory it sets free. */
static int sums_early(const bp_plan *plan, const bp_op *op) {
    double numbers = 0, cols = (double)(plan->buffers[op->in[0]].cols + plan->buffers[op->out].cols);
    for (int i = 0; i < op->n_params; i++)
        numbers += (double)plan->params[op->param[i]].rows * (double)plan->params[op->param[i]].cols;
    if (plan->shards || plan->rows > plan->chunk_rows) return 1; /* there is room for all gradients anyway */
    if (takes_step(plan, op)) return 0; /* it would round otherwise */
    return numbers <= (double)plan->rows * cols;
}

/* Whether an operation's values stay where they are: those of the last segment, which is walked back at once; of one
 * that runs the user's Python, which is called once; of one whose parameters' gradients are summed later, and of a
 * function that would need what stays. */
static int stays(const bp_plan *plan, const bp_op *op, int last) {
    const bp_op *before = maker_of(plan, op->in[0]);
    if (op->segment == last || op->skip || op->scope == BP_SCOPE_CHUNK) return 1;
    for (int i = 0; i < op->n_params; i++)
        if (is_trained(plan, op, i) && plan->params[op->param[i]].segment < op->segment) return 1;
    return op->type->elementwise && before && before->segment == op->segment && before->stays;
}

/* Cuts the operations into segments; a parameter's is the first that it is used in, or 0. */
static void find_segments(bp_plan *plan) {
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
        int ignores = op->type->ignores, back = wants_backward(plan, op), trained = 0;
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

/* Copies an operation; in_place_of[b]: the buffer that stands for b on the way back. */
static bp_status copy_operation(bp_plan *plan, int i, const char *kept, int *in_place_of) {
    int number = plan->n_ops + plan->n_copies;
    bp_op *grown = grow(plan->ops, number, sizeof *grown);
    if (!grown) return BP_E_NOMEM;
    plan->ops = grown;
    bp_op *op = &plan->ops[i], *copy = &plan->ops[number];
    *copy = *op;
    op->back = copy->back = number;
    op->again = 0;
    plan->n_copies++;
    for (int j = 0; j < op->n_in; j++) copy->in[j] = in_place_of[op->in[j]];
    if (!copy->again) return BP_OK;
    if (!kept[op->out]) {
        copy->out = buffer_again(plan, op->out, number);
        if (copy->out < 0) return BP_E_NOMEM;
        in_place_of[op->out] = copy->out;
    }
    for (int j = 0; j < op->n_aux; j++) {
        int aux = buffer_again(plan, op->aux + j, number);
        if (aux < 0) return BP_E_NOMEM;
        if (j == 0) copy->aux = aux;
        in_place_of[op->aux + j] = aux;
    }
    return BP_OK;
}

/* Copies the operations of all segments but the last; their parameters' gradients and the way back are the copies'. */
static bp_status copy_operations(bp_plan *plan) {
    int n = plan->n_buffers;
    if (!plan->n_ops || !plan->ops[plan->n_ops - 1].segment) return BP_OK;
    char *kept = calloc((size_t)n, 1), *needed = calloc((size_t)n, 1);
    int *in_place_of = malloc(sizeof(int) * (size_t)n);
    bp_status status = kept && needed && in_place_of ? BP_OK : BP_E_NOMEM;
    for (int i = 0; i < n && !status; i++) in_place_of[i] = i;
    if (!status) find_again(plan, kept, needed);
    for (int i = 0; i < plan->n_ops && !status; i++)
        if (!plan->ops[i].stays) status = copy_operation(plan, i, kept, in_place_of);
    for (int i = plan->n_ops; i < plan->n_ops + plan->n_copies && !status; i++) {
        bp_op *copy = &plan->ops[i];
        if (copy->relu >= 0) copy->relu = in_place_of[copy->relu];
        if (copy->factor >= 0) copy->factor = in_place_of[copy->factor];
    }
    for (int i = 0; i < plan->n_uses; i++) plan->uses[i].op = plan->ops[plan->uses[i].op].back;
    free(kept);
    free(needed);
    free(in_place_of);
    return status;
}

/* ---- stages ---- */

/* Whether an operation can take a function along: it has to be where the function is on the way back, too. */
static int takes_along(const bp_op *product, const bp_op *f) {
    return product->type->fuses && product->native && product->segment == f->segment && product->stays == f->stays;
}

/* Products take elementwise functions along while their tiles are in registers: a ReLU after them, and the factor f' of
 * any function before them.  z then has no place of its own. */
static void fuse_products(bp_plan *plan) {
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_REUSE; i++) {
        bp_op *f = &plan->ops[i], *before = maker_of(plan, f->in[0]);
        const bp_buffer *z = &plan->buffers[f->in[0]], *a = &plan->buffers[f->out];
        if (!f->type->elementwise || f->skip || f->aux < 0) continue;
        f->fused_forward = before && takes_along(before, f) && z->consumers == 1 && !z->kept &&
                           !strcmp(bp_op_function(plan, f, 0), "relu");
        for (int k = 0; k < plan->n_losses; k++)
            if (plan->losses[k].in == f->in[0]) f->fused_forward = 0;
        if (f->fused_forward) before->relu = f->aux;
        if (a->grad < 0 || z->grad < 0 || a->consumers != 1 || z->consumers != 1 || a->kept || f->add[0]) continue;
        for (int k = i + 1; k < plan->n_ops; k++) {
            bp_op *after = &plan->ops[k];
            if (after->in[0] != f->out || !takes_along(after, f) || after->add[0]) continue;
            if (plan->buffers[after->out].grad < 0) continue; /* the loss does not depend on it */
            after->factor = f->aux;
            f->fused_backward = 1;
        }
    }
}

static bp_scope item_scope(const bp_plan *plan, const bp_item *item) {
    if (plan->alone) return BP_SCOPE_ROWS;
    switch (item->kind) {
    case BP_FORWARD:
    case BP_BACKWARD:
        /* what the user's function computed backward is cached: only its forward needs the whole chunk */
        if (item->kind == BP_BACKWARD && plan->ops[item->op].scope == BP_SCOPE_CHUNK && plan->ops[item->op].aux >= 0)
            return BP_SCOPE_CELLS;
        return plan->ops[item->op].scope;
    case BP_LOSS:
        return plan->losses[item->op].type ? BP_SCOPE_ROWS : BP_SCOPE_CHUNK;
    case BP_PARAM_GRADS:
        return plan->shards ? BP_SCOPE_ROWS : BP_SCOPE_BLOCKS;
    default:
        return BP_SCOPE_ROWS;
    }
}

/* A product whose weights are many runs on a grid of cells; so do the elementwise items after it. */
static int is_grid(const bp_plan *plan, const bp_item *item) {
    if (plan->windowed || plan->inference || (item->kind != BP_FORWARD && item->kind != BP_BACKWARD)) return 0;
    const bp_op *op = &plan->ops[item->op];
    if (op->scope != BP_SCOPE_CELLS || !op->n_params) return 0;
    const bp_param *p = &plan->params[op->param[0]];
    int64_t large = bp_forced.parallel_always ? GRID_FORCED_BYTES : GRID_WEIGHT_BYTES;
    return p->rows * p->cols * (int64_t)plan->size >= large;
}

static int joins_grid(const bp_plan *plan, const bp_stage *stage, const bp_item *item) {
    return (item->kind == BP_FORWARD || item->kind == BP_BACKWARD) && item_scope(plan, item) == BP_SCOPE_CELLS &&
           !plan->ops[item->op].n_params && item->cols == stage->cols;
}

static int has_gradients(const bp_plan *plan, int segment) {
    for (int i = 0; i < plan->n_params; i++)
        if (plan->params[i].segment == segment) return 1;
    return 0;
}

/* The way back through the segments, the last one first; n: items so far.  Returns how many there are then. */
static int walk_back(bp_plan *plan, int n) {
    for (int end = plan->n_ops, first; end > 0; end = first) {
        int segment = plan->ops[end - 1].segment;
        for (first = end; first > 0 && plan->ops[first - 1].segment == segment; first--) {}
        for (int i = first; i < end; i++) {
            int back = plan->ops[i].back;
            if (plan->ops[back].again && !plan->ops[back].fused_forward)
                plan->items[n++] =
                    (bp_item){.kind = BP_FORWARD, .op = back, .cols = plan->buffers[plan->ops[i].out].cols};
        }
        for (int i = end - 1; i >= first; i--)
            if (wants_backward(plan, &plan->ops[i]) && !plan->ops[i].fused_backward)
                plan->items[n++] = (bp_item){.kind = BP_BACKWARD,
                                             .op = plan->ops[i].back,
                                             .cols = plan->buffers[plan->ops[i].in[0]].cols};
        if (segment && has_gradients(plan, segment))
            plan->items[n++] = (bp_item){.kind = BP_PARAM_GRADS, .op = segment};
    }
    return n;
}

static bp_status cut_stages(bp_plan *plan) {
    size_t most = (size_t)(3 * plan->n_ops + plan->n_copies + plan->n_losses + 3);
    plan->items = malloc(sizeof(bp_item) * most);
    plan->stages = calloc(most, sizeof(bp_stage));
    if (!plan->items || !plan->stages) return BP_E_NOMEM;
    int n = 0;
    plan->items[n++] = (bp_item){.kind = BP_GATHER};
    for (int i = 0; i < plan->n_ops && plan->flags & BP_DO_FORWARD; i++)
        if (!plan->ops[i].skip && !plan->ops[i].fused_forward)
            plan->items[n++] = (bp_item){.kind = BP_FORWARD, .op = i, .cols = plan->buffers[plan->ops[i].out].cols};
    for (int i = 0; i < plan->n_losses && plan->flags & BP_DO_LOSS; i++)
        plan->items[n++] = (bp_item){.kind = BP_LOSS, .op = i};
    if (plan->flags & BP_DO_BACKWARD) n = walk_back(plan, n);
    if (plan->shards || plan->flags & BP_DO_EACH) plan->items[n++] = (bp_item){.kind = BP_PARAM_GRADS};
    plan->items[n++] = (bp_item){.kind = BP_SCATTER};
    plan->n_items = n;
    for (int i = 0; i < n; i++) {
        bp_item *item = &plan->items[i];
        const bp_op *op = &plan->ops[item->op];
        if (item->kind != BP_FORWARD && item->kind != BP_BACKWARD) continue;
        item->on = op;
        item->call = (item->kind == BP_FORWARD ? op->type->forward : op->type->backward)[plan->dtype];
    }

    bp_stage *stage = NULL;
    int segment = 0;
    for (int i = 0; i < n; i++) {
        const bp_item *item = &plan->items[i];
        bp_scope scope = item_scope(plan, item);
        if (!plan->windowed && (item->kind == BP_FORWARD || item->kind == BP_BACKWARD)) {
            if (plan->ops[item->op].segment != segment) stage = NULL; /* behind a barrier all sizes can share memory */
            segment = plan->ops[item->op].segment;
        }
        if (is_grid(plan, item)) {
            stage = &plan->stages[plan->n_stages++];
            int64_t cols = item->cols;
            int64_t tile = min64(GRID_COLS, max64(GRID_COLS_MIN, round_up(ceil_div(cols, MIN_BLOCKS), GRID_COLS_MIN)));
            *stage = (bp_stage){BP_SCOPE_CELLS, i, 1, GRID_ROWS, cols, tile, 0, 0};
        } else if (scope == BP_SCOPE_CHUNK || scope == BP_SCOPE_BLOCKS) {
            stage = &plan->stages[plan->n_stages++];
            *stage = (bp_stage){scope, i, 1, plan->chunk_rows, 0, 0, 0, 0};
        } else if (stage && stage->scope == BP_SCOPE_CELLS && joins_grid(plan, stage, item)) {
            stage->count++;
        } else if (stage && stage->scope == BP_SCOPE_ROWS) {
            stage->count++;
        } else {
            stage = &plan->stages[plan->n_stages++];
            *stage = (bp_stage){BP_SCOPE_ROWS, i, 1, plan->row_tile, 0, 0, 0, 0};
        }
        plan->items[i].stage = plan->n_stages - 1;
    }
    return BP_OK;
}

static int is_table(const bp_plan *plan, int param) {
    return plan->params[param].flags & BP_PARAM_TABLE && !(plan->params[param].flags & BP_PARAM_FROZEN);
}

/* Parameters that are read by whole numbers alone. */
static bp_status find_tables(bp_plan *plan) {
    plan->tables = calloc((size_t)plan->n_params + 1, sizeof *plan->tables);
    if (!plan->tables) return BP_E_NOMEM;
    for (int i = 0; i < plan->n_params; i++) {
        bp_param *p = &plan->params[i];
        int64_t calls = 0, named = 0;
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
            const bp_op *op = &plan->ops[plan->uses[u].op];
            if (!op->type->by_row) p->flags &= ~BP_PARAM_TABLE;
            else calls += plan->buffers[op->in[0]].cols;
        }
        if (!is_table(plan, i)) continue;
        if (__builtin_mul_overflow(calls, plan->rows, &named)) return BP_E_LIMIT;
        calls *= plan->chunk_rows;
        if (calls > INT32_MAX) return BP_E_LIMIT;
        int64_t most = min64(p->rows, named), bytes = p->rows * p->cols * (int64_t)plan->size;
        int64_t large = bp_forced.parallel_always ? LOGGED_FORCED_BYTES : LOGGED_BYTES;
        plan->tables[plan->n_tables++] =
            (bp_table){.param = i, .logged = bytes >= large && p->rows / 4 >= most, .most = most, .calls = calls};
    }
    return BP_OK;
}

static double flops_of(const bp_plan *plan, const bp_op *op) {
    return op->type->flops ? op->type->flops(plan, op) : (double)plan->buffers[op->out].cols;
}

/* How often an example uses each number of a parameter, by the flops of its operations: once in a dense layer, at every
 * position of a convolution or a sequence. */
static double uses_of(const bp_plan *plan, const bp_param *p) {
    double uses = 1;
    for (int u = p->first_use; u >= 0; u = plan->uses[u].next) {
        const bp_op *op = &plan->ops[plan->uses[u].op];
        double numbers = 0;
        for (int j = 0; j < op->n_params; j++)
            numbers += (double)plan->params[op->param[j]].rows * (double)plan->params[op->param[j]].cols;
        uses = fmax(uses, flops_of(plan, op) / (2 * numbers));
    }
    return uses;
}

/* A parameter is cut into cells: whole rows where a row is short; of a wide one columns as well, and taller, so that
 * what the product packs is used by many rows. */
static void block_shape(const bp_plan *plan, const bp_param *p, int64_t *rows, int64_t *cols) {
    int64_t size = (int64_t)plan->size;
    if (!plan->shards && p->cols * size > WIDE_BYTES) {
        *rows = min64(p->rows, WIDE_ROWS);
        *cols = min64(p->cols, GRID_COLS);
        return;
    }
    int busy = uses_of(plan, p) >= BUSY;
    int64_t least = min64(p->rows, busy ? BUSY_ROWS : BLOCK_ROWS);
    *cols = p->cols;
    *rows = min64(p->rows, max64(least, BLOCK_BYTES / (p->cols * size)));
    if (busy || p->rows * p->cols * size >= BLOCK_BYTES)
        *rows = min64(*rows, max64(least, ceil_div(p->rows, MIN_BLOCKS)));
}

/* Blocks of the parameters of a segment (with shards: of all) that are tables, or are none. */
static void cut_parameters(bp_plan *plan, int segment, int tables) {
    bp_block *small = NULL; /* the last one, where others may join it */
    int64_t rows, cols;
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        int64_t n = p->rows * p->cols;
        if (p->flags & BP_PARAM_FROZEN || is_table(plan, i) != tables) continue;
        if (!plan->shards && p->segment != segment) continue;
        int busy = uses_of(plan, p) >= BUSY;
        if (busy) small = NULL;
        if (small && !bp_forced.parallel_always && small->at + small->width == p->offset &&
            (small->width + n) * (int64_t)plan->size <= BLOCK_BYTES) {
            small->end++;
            small->width = small->ld += n;
            continue;
        }
        small = NULL;
        if (!busy && n * (int64_t)plan->size <= BLOCK_BYTES) {
            small = &plan->blocks[plan->n_blocks++];
            *small = (bp_block){.param = i, .end = i + 1, .whole = 1, .at = p->offset, .rows = 1, .width = n, .ld = n};
            continue;
        }
        block_shape(plan, p, &rows, &cols);
        for (int64_t c = 0; c < p->cols; c += cols)
            for (int64_t k = 0; k < p->rows; k += rows) {
                bp_cell cell = {k, min64(k + rows, p->rows), c, min64(c + cols, p->cols), 0};
                plan->blocks[plan->n_blocks++] =
                    (bp_block){i, i + 1, 0, 0, cell, p->offset + k * p->cols + c, cell.r1 - k, cell.c1 - c, p->cols};
            }
    }
}

/* Whether plain SGD can be made with a parameter's gradient: one operation makes that, in one go.  (Small parameters
 * lie next to each other: parts of vectors stored there would make their neighbours wait.) */
static int has_step(const bp_plan *plan, const bp_block *block) {
    const bp_param *p = &plan->params[block->param];
    if (plan->shards || block->whole || p->first_use < 0 || p->first_use != p->last_use) return 0;
    const bp_use *use = &plan->uses[p->first_use];
    const bp_op *op = &plan->ops[use->op];
    return !use->slot && takes_step(plan, op);
}

static bp_status cut_blocks(bp_plan *plan) {
    int64_t total = 0, rows, cols;
    for (int i = 0; i < plan->n_params; i++) {
        block_shape(plan, &plan->params[i], &rows, &cols);
        total += ceil_div(plan->params[i].rows, rows) * ceil_div(plan->params[i].cols, cols);
    }
    if (total > INT32_MAX) return BP_E_LIMIT;
    plan->blocks = malloc(sizeof(bp_block) * (size_t)(total + 1));
    plan->block_cost = calloc((size_t)total + 1, sizeof *plan->block_cost);
    if (!plan->blocks || !plan->block_cost) return BP_E_NOMEM;
    cut_parameters(plan, 0, 0);
    for (int i = 0; i < plan->n_stages; i++) {
        bp_stage *stage = &plan->stages[i];
        if (stage->scope != BP_SCOPE_BLOCKS) continue;
        stage->first_block = plan->n_blocks;
        cut_parameters(plan, plan->items[stage->first].op, 0);
        stage->end_block = plan->n_blocks;
    }
    plan->n_dense = plan->n_blocks;
    cut_parameters(plan, 0, 1);
    for (int i = 0; i < plan->n_blocks; i++) {
        plan->blocks[i].steps = has_step(plan, &plan->blocks[i]);
        int64_t n = plan->blocks[i].rows * plan->blocks[i].width;
        double uses = plan->blocks[i].whole ? 1 : uses_of(plan, &plan->params[plan->blocks[i].param]);
        plan->block_cost[i + 1] = plan->block_cost[i] + (int64_t)((double)n * uses) + BLOCK_COST;
        plan->block_max = max64(plan->block_max, n);
    }
    for (int i = 0; i < plan->n_tables; i++)
        plan->block_max = max64(plan->block_max, plan->params[plan->tables[i].param].cols);
    return BP_OK;
}

/* Takes `rows * bytes` from the arena, aligned; -1 (and *total = SIZE_MAX) once the address space is used up. */
static size_t take(size_t *total, int64_t rows, size_t bytes) {
    size_t at = *total, need;
    if (at == SIZE_MAX || __builtin_mul_overflow((size_t)rows, bytes, &need) || need > PTRDIFF_MAX - 2 * BP_ALIGN ||
        at > PTRDIFF_MAX - 2 * BP_ALIGN - need) {
        *total = SIZE_MAX;
        return 0;
    }
    *total = at + (need + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
    return at;
}

/* When a buffer's values are needed: from the first item that touches it to the last. */
typedef struct {
    int first, last; /* items; last is INT32_MAX for phase 2 and beyond */
    int holder;      /* the buffer in whose place it lies, for good: itself, or that of delta */
} bp_life;

static void touch(bp_life *lives, int buffer, int item) {
    if (buffer < 0) return;
    bp_life *life = &lives[lives[buffer].holder];
    if (item < life->first) life->first = item;
    if (item > life->last) life->last = item;
}

/* What an operation's forward or backward, or its parameters' gradients, read and write at an item; values of the way
 * forward serve all seeds. */
static void touch_op(const bp_plan *plan, bp_life *lives, const bp_op *op, bp_item_kind kind, int item) {
    int ignores = kind == BP_BACKWARD && !(plan->seeds && op->type->backward_first) ? op->type->ignores : 0;
    int last = kind != BP_FORWARD && plan->seeds ? plan->n_items - 1 : item;
    for (int j = 0; j < op->n_in; j++) {
        if (!(ignores & BP_IGNORES_IN)) touch(lives, op->in[j], last);
        if (kind == BP_BACKWARD) touch(lives, plan->buffers[op->in[j]].grad, item);
    }
    int out_ignored = kind == BP_PARAM_GRADS ? op->type->ignores & BP_GRAD_IGNORES_OUT : ignores & BP_IGNORES_OUT;
    if (!out_ignored) touch(lives, op->out, last);
    for (int j = 0; j < op->n_aux; j++) touch(lives, op->aux + j, last);
    if (kind == BP_FORWARD) touch(lives, op->relu, item);
    if (kind == BP_BACKWARD) touch(lives, op->factor, last);
    if (kind != BP_FORWARD) touch(lives, plan->buffers[op->out].grad, item);
}

static void touch_gradients(const bp_plan *plan, bp_life *lives, int segment, int item) {
    for (int i = 0; i < plan->n_params; i++) {
        const bp_param *p = &plan->params[i];
        if (p->segment != segment || p->flags & BP_PARAM_FROZEN) continue;
        for (int u = p->first_use; u >= 0; u = plan->uses[u].next)
            touch_op(plan, lives, &plan->ops[plan->uses[u].op], BP_PARAM_GRADS, item);
    }
}

static void find_lives(const bp_plan *plan, bp_life *lives) {
    for (int i = 0; i < plan->n_buffers; i++) lives[i] = (bp_life){INT32_MAX, -1, i};
    for (int i = plan->n_ops - 1; i >= 0; i--) {
        const bp_op *op = &plan->ops[i];
        int from = plan->buffers[op->out].grad, to = plan->buffers[op->in[0]].grad;
        if (op->type->grad_in_place && from >= 0 && to >= 0 && plan->buffers[op->in[0]].consumers == 1 && !op->add[0])
            lives[to].holder = lives[from].holder;
    }
    for (int i = 0; i < plan->n_ops + plan->n_copies; i++)
        if (plan->ops[i].fused_forward) lives[plan->ops[i].in[0]].holder = plan->ops[i].out;
    for (int i = 0; i < plan->n_items; i++) {
        const bp_item *item = &plan->items[i];
        const bp_op *op = &plan->ops[item->op];
        if (item->kind == BP_FORWARD || item->kind == BP_BACKWARD) touch_op(plan, lives, op, item->kind, i);
        if (item->kind == BP_LOSS) {
            const bp_cost *loss = &plan->losses[item->op];
            touch(lives, loss->in, i);
            touch(lives, loss->target, i);
            touch(lives, loss->grad, i);
        }
        if (item->kind == BP_PARAM_GRADS) touch_gradients(plan, lives, item->op, i);
    }
    if (plan->flags & BP_DO_BACKWARD && !plan->shards && !plan->alone) touch_gradients(plan, lives, 0, INT32_MAX);
    for (int i = 0; i < plan->n_buffers; i++) {
        const bp_buffer *b = &plan->buffers[i];
        if (b->kept || (b->maker == BP_GATHERED && plan->flags & BP_DO_INPUT_GRAD)) {
            touch(lives, i, INT32_MAX);
            touch(lives, b->grad, INT32_MAX);
        }
        if (b->maker == BP_GATHERED && lives[i].last >= 0) touch(lives, i, 0); /* what is never read has no life */
    }
}

/* Buffers in the order of their first items, and of their numbers; `count` has room for n_items + 2. */
static void sort_by_first(const bp_life *lives, int n, int n_items, int *count, int *order) {
    memset(count, 0, sizeof *count * (size_t)(n_items + 2));
    for (int i = 0; i < n; i++) count[(lives[i].first < n_items ? lives[i].first : n_items) + 1]++;
    for (int i = 0; i < n_items; i++) count[i + 1] += count[i];
    for (int i = 0; i < n; i++) order[count[lives[i].first < n_items ? lives[i].first : n_items]++] = i;
}

/* A place of the arena, which one buffer has after the other. */
typedef struct {
    int last;   /* the buffer that has it last */
    size_t row; /* bytes, of the widest that has it */
} bp_place;

static size_t row_bytes(const bp_plan *plan, const bp_buffer *b) {
    return (size_t)b->cols * (b->kind == BP_REAL ? plan->size : sizeof(int32_t));
}

/* Finds a place whose last buffer has died: before a barrier, or in the same stage of row tiles with rows of the same
 * size, so that a row's task alone touches both.  The smallest that is wide enough; else the widest, which will be
 * widened.  Only the SEARCHED youngest places are looked at. */
static int find_place(const bp_plan *plan, const bp_life *lives, const bp_place *places, int n_places, int buffer) {
    size_t row = row_bytes(plan, &plan->buffers[buffer]);
    int stage = plan->items[lives[buffer].first].stage, best = -1;
    for (int i = n_places - 1; i >= 0 && i >= n_places - SEARCHED; i--) {
        const bp_place *place = &places[i];
        int last = lives[place->last].last;
        if (last < 0 || last >= lives[buffer].first) continue;
        if (plan->items[last].stage == stage && (row_bytes(plan, &plan->buffers[place->last]) != row ||
                                                 plan->stages[stage].scope != BP_SCOPE_ROWS))
            continue;
        size_t other = best < 0 ? 0 : places[best].row;
        if (other < row ? place->row > other : place->row >= row && place->row < other) best = i;
    }
    return best;
}

static bp_status place_buffers(bp_plan *plan, size_t *total, int64_t capacity) {
    int n = plan->n_buffers, n_places = 0;
    bp_life *lives = malloc(sizeof *lives * (size_t)(n + 1));
    bp_place *places = malloc(sizeof *places * (size_t)(n + 1));
    int *place_of = malloc(sizeof *place_of * (size_t)(n + 1)); /* by buffer that is its own holder */
    int *order = malloc(sizeof *order * (size_t)(n + 1)), *count = malloc(sizeof *count * (size_t)(plan->n_items + 2));
    bp_status status = lives && places && place_of && order && count ? BP_OK : BP_E_NOMEM;
    size_t apart = 0;
    if (!status) {
        find_lives(plan, lives);
        sort_by_first(lives, n, plan->n_items, count, order);
    }
    for (int k = 0; k < n && !status; k++) {
        int i = order[k];
        size_t row = row_bytes(plan, &plan->buffers[i]);
        if (lives[i].holder != i) continue;
        take(&apart, capacity, row);
        /* the weights of rows have no life here, nor a gradient that no item touches a first item */
        int shares = plan->flags & BP_DO_REUSE && lives[i].last >= 0 && lives[i].first < plan->n_items;
        int place = shares ? find_place(plan, lives, places, n_places, i) : -1;
        if (place < 0) places[place = n_places++] = (bp_place){i, row};
        if (row > places[place].row) places[place].row = row;
        places[place].last = i;
        place_of[i] = place;
    }
    for (int i = 0; i < n_places && !status; i++) {
        size_t at = take(total, capacity, places[i].row);
        places[i].row = at;
    }
    for (int i = 0; i < n && !status; i++) plan->buffers[i].offset = places[place_of[lives[i].holder]].row;
    plan->unshared_bytes = apart;
    free(lives);
    free(places);
    free(place_of);
    free(order);
    free(count);
    return status;
}

static bp_status lay_out(bp_plan *plan) {
    size_t total = 0;
    bp_status status =
        place_buffers(plan, &total, plan->windowed ? plan->row_tile * plan->n_threads : plan->chunk_rows);
    if (status) return status;
    size_t buffers = total;
    plan->parts = take(&total, plan->n_losses * plan->n_tiles, 3 * sizeof(double));
    if (plan->flags & BP_DO_BACKWARD && !plan->alone) {
        plan->scratch_bytes = ((size_t)plan->block_max * plan->size + BP_ALIGN - 1) / BP_ALIGN * BP_ALIGN;
        plan->scratch = take(&total, plan->n_threads, plan->scratch_bytes);
        if (plan->shards) plan->shard_grads = take(&total, plan->shards, (size_t)plan->n_theta * plan->size);
        plan->kept_from = plan->rows > plan->chunk_rows && !plan->shards ? 0 : plan->n_theta;
        for (int i = 0; i < plan->n_params && !plan->shards; i++)
            if (plan->params[i].segment) plan->kept_from = min64(plan->kept_from, plan->params[i].offset);
        plan->chunk_grad = take(&total, plan->n_theta - plan->kept_from, plan->size);
    }
    for (int i = 0; i < plan->n_tables; i++) {
        bp_table *t = &plan->tables[i];
        const bp_param *p = &plan->params[t->param];
        t->slot_of = take(&total, p->rows, sizeof(int32_t));
        t->row = take(&total, t->most, sizeof(int32_t));
        t->first = take(&total, t->most, sizeof(int32_t));
        t->last = take(&total, t->most, sizeof(int32_t));
        t->next = take(&total, t->calls, sizeof(int32_t));
        if (plan->rows > plan->chunk_rows) t->grad = take(&total, t->most, (size_t)p->cols * plan->size);
    }
    if (total == SIZE_MAX) return BP_E_LIMIT;
    plan->arena_bytes = total;
    plan->unshared_bytes += total - buffers;
    void *arena = NULL;
    if (posix_memalign(&arena, BP_ALIGN, total ? total : BP_ALIGN)) return BP_E_NOMEM;
    plan->arena = arena;
    return BP_OK;
}

/* Shards pay where many rows meet few weights: a tile's activations outweigh the gradient it is added to. */
static int choose_shards(const bp_plan *plan, int64_t units, int has_chunk_op) {
    int none = !(plan->flags & BP_DO_BACKWARD) || plan->alone || has_chunk_op || !plan->n_theta;
    if (none || bp_forced.phase2 == 1) return 0;
    int64_t tiles = ceil_div(plan->rows, plan->row_tile);
    if (bp_forced.phase2 == 2 || (tiles >= 4 && plan->n_theta <= TRAIN_TILE * units))
        return (int)min64(BP_MAX_SHARDS, tiles);
    return 0;
}

/* Rows of a tile: many where a tile reads all weights once, fewer where weights are used many times a row, or where a
 * second thread would have nothing to do; a small rest costs as much as a whole tile. */
static int64_t choose_tile(const bp_plan *plan, int calls_python) {
    if (plan->alone && calls_python) return PYTHON_TILE;
    int64_t tile = plan->rows >= 2 * TRAIN_TILE ? TRAIN_TILE : TRAIN_TILE / 2, least = 0;
    if (plan->rows <= 2 * LEAST_TILE && plan->rows > 2 * LEAST_TILE - 8) tile = LEAST_TILE;
    if (plan->inference) tile = INFER_TILE;
    double flops = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        if (plan->ops[i].n_params && !plan->ops[i].type->by_row) flops += flops_of(plan, &plan->ops[i]);
        least = max64(least, plan->ops[i].type->tile);
    }
    double uses = flops / (2 * (double)plan->n_theta + 1); /* of a weight, in a row */
    while (tile > LEAST_TILE && tile > least && uses * (double)tile > 2 * TRAIN_TILE) tile /= 2;
    return max64(tile, least);
}

/* Flops of a row, and the rows of a chunk: as many as keep every stage and the update short. */
static void size_chunks(bp_plan *plan) {
    double together = 1, apart = 1; /* of the operations that share a stage of row tiles; of the largest on a grid */
    plan->flops_row = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        double flops = flops_of(plan, op);
        plan->flops_row += flops;
        if (!is_grid(plan, &(bp_item){.kind = BP_FORWARD, .op = i})) together += flops;
        else if (flops > apart) apart = flops;
    }
    int back = !(plan->flags & BP_DO_BACKWARD) ? 0 : plan->seeds && !(plan->flags & BP_DO_EACH) ? 1 : 2;
    /* forward, to the inputs, to the parameters */
    double passes = 1 + back * (plan->seeds ? (double)plan->seeds : 1);
    double most = fmin(ROWS_FLOPS / (together * passes), GRID_FLOPS / apart);
    if (back && !plan->alone) most = fmin(most, UPDATE_FLOPS / plan->flops_row);
    plan->flops_row *= passes;
    plan->flops = plan->flops_row * (double)plan->rows;
    int64_t limit = max64((int64_t)fmin(most, MAX_CHUNK_ROWS) / plan->row_tile, 1) * plan->row_tile;
    plan->chunk_rows = round_up(ceil_div(plan->rows, ceil_div(plan->rows, limit)), plan->row_tile);
    plan->n_tiles = ceil_div(plan->chunk_rows, plan->row_tile);
}

bp_status bp_plan_compile(bp_plan *plan, int flags, int64_t rows, int n_threads) {
    if (plan->arena || rows < 1 || n_threads < 1 || n_threads > BP_MAX_THREADS) return BP_E_SHAPE;
    if (flags & (BP_DO_LOSS | BP_DO_BACKWARD) && !plan->n_losses) return BP_E_SHAPE;
    if ((plan->seeds || flags & BP_DO_EACH) && !(flags & BP_DO_BACKWARD)) return BP_E_SHAPE;
    if (plan->seeds && (plan->n_losses != 1 || plan->losses[0].fused)) return BP_E_SHAPE;
    plan->flags = flags;
    plan->alone = plan->seeds || flags & BP_DO_EACH;
    plan->rows = rows;
    plan->n_threads = n_threads;
    int has_chunk_op = 0, has_table = 0;
    for (int i = 0; i < plan->n_params; i++) has_table |= is_table(plan, i);
    for (int i = 0; i < plan->n_losses && flags & BP_DO_LOSS; i++) {
        if (plan->losses[i].fused) maker_of(plan, plan->losses[i].out)->skip = 1;
        has_chunk_op |= !plan->losses[i].type;
    }

    plan->inference = !(flags & BP_DO_BACKWARD);
    int64_t units = 0;
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        has_chunk_op |= op->scope == BP_SCOPE_CHUNK && flags & BP_DO_FORWARD;
        units += op->n_params ? plan->buffers[op->out].cols : 0;
    }
    if (plan->n_ops) units += plan->buffers[plan->ops[0].in[0]].cols;
    if (plan->alone && has_chunk_op) plan->n_threads = 1; /* the calling thread */
    plan->row_tile = choose_tile(plan, has_chunk_op);
    plan->shards = choose_shards(plan, units, has_chunk_op || has_table);
    plan->windowed = plan->shards || plan->alone || (plan->inference && !has_chunk_op);
    size_chunks(plan);

    /* BLAS may treat the rows of a product differently; a prediction must not */
    for (int i = 0; i < plan->n_ops; i++)
        plan->ops[i].native = bp_forced.backend != 1 || plan->inference || plan->alone;
    bp_status status = flags & BP_DO_BACKWARD ? declare_gradients(plan) : BP_OK;
    if (!status && flags & BP_DO_LOSS) status = place_losses(plan);
    int trains = flags & BP_DO_BACKWARD && !plan->alone;
    if (!status && trains) status = find_tables(plan);
    if (!status && trains) find_segments(plan);
    if (!status) fuse_products(plan);
    if (!status && trains) status = copy_operations(plan);
    if (!status) status = cut_stages(plan);
    if (!status && trains) status = cut_blocks(plan);
    if (!status) status = lay_out(plan);
    return status;
}

void bp_plan_seeds(bp_plan *plan, int64_t n) { plan->seeds = n; }

void bp_plan_keep(bp_plan *plan, int buffer) {
    if (buffer >= 0 && buffer < plan->n_buffers) plan->buffers[buffer].kept = 1;
}

void bp_plan_checkpoint(bp_plan *plan, int buffer) {
    if (buffer >= 0 && buffer < plan->n_buffers) plan->buffers[buffer].checkpoint = 1;
}

bp_plan_info bp_plan_describe(const bp_plan *plan) {
    int calls_blas = 0, recomputed = 0;
    for (int i = 0; i < plan->n_ops; i++) calls_blas |= plan->ops[i].n_params && !plan->ops[i].native;
    for (int i = 0; i < plan->n_copies; i++) recomputed += plan->ops[plan->n_ops + i].again;
    return (bp_plan_info){.shards = plan->shards,
                          .n_stages = plan->n_stages,
                          .calls_blas = calls_blas,
                          .recomputed = recomputed,
                          .chunk_rows = plan->chunk_rows,
                          .arena_bytes = plan->arena_bytes,
                          .unshared_bytes = plan->unshared_bytes,
                          .flops = plan->flops};
}

int bp_plan_grad(const bp_plan *plan, int buffer) {
    return buffer < 0 || buffer >= plan->n_buffers ? -1 : plan->buffers[buffer].grad;
}

int bp_plan_cache(const bp_plan *plan, int buffer) {
    const bp_op *op = maker_of(plan, buffer);
    return op ? op->aux : -1;
}

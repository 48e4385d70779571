/* Sets a run up: what it owns and borrows, and what it is to do. */
#include "run.h"

#include "data.h"
#include "dispatch.h"

#include <stdlib.h>
#include <string.h>

bp_run *bp_run_new(const bp_plan *plan, const bp_blas *blas) {
    if (!plan->compiled || plan->flags & BP_DO_STRIPS) return NULL;
    bp_run *run = calloc(1, sizeof *run);
    if (!run) return NULL;
    size_t taken = sizeof(bp_taken) * (size_t)plan->n_threads;
    void *aligned = NULL;
    run->plan = plan;
    run->n_threads = 1;
    run->arena = bp_large_alloc(plan->arena_bytes);
    run->buffers = malloc(sizeof *run->buffers * (size_t)(plan->n_buffers + 1));
    run->loss_sum = calloc((size_t)plan->n_losses + 1, sizeof *run->loss_sum);
    run->slots = calloc((size_t)plan->n_tables + 1, sizeof *run->slots);
    run->columns = calloc((size_t)plan->n_columns + 1, sizeof *run->columns);
    int lacking = !run->arena || !run->buffers || !run->loss_sum || !run->slots || !run->columns;
    if (lacking || posix_memalign(&aligned, sizeof(bp_taken), taken)) {
        bp_run_free(run);
        return NULL;
    }
    run->taken = memset(aligned, 0, taken);
    run->x = (bp_context){.buffers = plan->buffers,
                          .params = plan->params,
                          .blas = blas,
                          .arena = run->arena,
                          .columns = run->columns,
                          .cache = !!(plan->flags & BP_DO_CACHE)};
    for (int i = 0; i < plan->n_ops; i++) {
        const bp_op *op = &plan->ops[i];
        if (op->columns >= 0) run->columns[op->columns].slot_of = (int32_t *)(void *)(run->arena + op->slot_of);
    }
    return run;
}

void bp_drop_snapshot(bp_run *run) {
    for (int i = 0; i < run->plan->n_tables && run->logs; i++) {
        free(run->logs[i].row);
        free(run->logs[i].old);
    }
    free(run->logs);
    run->logs = NULL;
    run->snapshot = NULL;
    run->has_snapshot = 0;
}

static void free_ports(bp_run *run) {
    free(run->in);
    free(run->out);
    free(run->repeat);
    free(run->in_place);
    run->in = NULL;
    run->out = NULL;
    run->repeat = NULL;
    run->in_place = NULL;
    run->n_in = run->n_out = 0;
}

static void free_columns(bp_columns *c) {
    void *owned[] = {c->column, c->first, c->last, c->next, c->row, c->value, c->grad, c->lost};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

void bp_run_free(bp_run *run) {
    if (!run) return;
    bp_drop_snapshot(run);
    free_ports(run);
    free(run->copy);
    free(run->calls);
    free(run->first_call);
    free(run->followers);
    free(run->loss_sum);
    free(run->slots);
    for (int i = 0; i < run->plan->n_columns && run->columns; i++) free_columns(&run->columns[i]);
    free(run->columns);
    free(run->buffers);
    free(run->taken);
    free(run->arena);
    free(run);
}

bp_status bp_run_bind(bp_run *run, void *theta, int64_t n_params, void *state, int64_t n_state) {
    if (n_params < run->plan->n_theta || n_state < run->plan->n_state) return BP_E_SHAPE;
    bp_drop_snapshot(run);
    free_ports(run);
    run->theta = theta;
    run->state = state;
    run->n_params = n_params;
    run->weight_port = -1;
    run->first_cotangent = 0;
    run->apart = run->plan->cotangents ? run->plan->cotangents : 1;
    run->each = NULL;
    run->opt = (bp_opt){0};
    run->hook = NULL;
    run->at = (bp_position){0};
    run->first_step = 0;
    run->replay_left = run->restored = -1;
    run->call_rows = 0;
    run->x.theta = theta;
    run->x.state = state;
    run->x.weights = -1;
    run->x.buffers = run->plan->buffers;
    run->x.training = 0;
    run->batch_losses = NULL;
    run->x.seed = 0;
    run->x.callback = NULL;
    return BP_OK;
}

bp_status bp_run_ports(bp_run *run, int n_in, const bp_in_port *in, int n_out, const bp_out_port *out,
                       int weight_port) {
    for (int i = 0; i < n_in; i++) {
        const bp_array *a = &in[i].array;
        bp_kind kind = run->plan->buffers[in[i].buffer].kind;
        if ((a->indices && a->shift) || (a->shift && kind != BP_REAL) || (a->indices && kind == BP_INT32) ||
            (!a->indices && kind == BP_SPARSE))
            return BP_E_SHAPE;
    }
    bp_in_port *ins = malloc(sizeof *in * (size_t)(n_in + 1));
    bp_out_port *outs = malloc(sizeof *out * (size_t)(n_out + 1));
    int64_t *repeat = calloc((size_t)(n_in + 1), sizeof *repeat);
    char *in_place = calloc((size_t)(n_in + 1), 1);
    if (!ins || !outs || !repeat || !in_place) {
        free(ins);
        free(outs);
        free(repeat);
        free(in_place);
        return BP_E_NOMEM;
    }
    if (n_in) memcpy(ins, in, sizeof *in * (size_t)n_in);
    if (n_out) memcpy(outs, out, sizeof *out * (size_t)n_out);
    free_ports(run);
    run->repeat = repeat;
    run->in_place = in_place;
    run->in = ins;
    run->out = outs;
    run->n_in = n_in;
    run->n_out = n_out;
    run->weight_port = weight_port;
    run->x.weights = weight_port < 0 ? -1 : in[weight_port].buffer;
    run->call_rows = 0;
    return BP_OK;
}

/* Whether the rows of an input share memory with an array that is shaped as theta. */
static int overlaps(const bp_run *run, const bp_in_port *port, const void *array) {
    uintptr_t theta = (uintptr_t)array, X = (uintptr_t)port->array.data;
    return array && X < theta + (size_t)run->n_params * run->plan->size &&
           theta < X + (size_t)(port->array.rows * port->array.row_stride);
}

/* Rows of an input are read where they lie, if they lie as the plan would hold them, only products read them, and they
 * are not theta, which the step changes. */
static int reads_in_place(const bp_run *run, const bp_in_port *port) {
    const bp_plan *plan = run->plan;
    if (overlaps(run, port, run->theta) || overlaps(run, port, run->opt.average)) return 0;
    for (int i = 0; i < plan->n_ops + plan->n_replicas; i++)
        for (int j = 0; j < plan->ops[i].n_in; j++)
            if (plan->ops[i].in[j] == port->buffer && !plan->ops[i].type->prepares) return 0;
    for (int i = 0; i < plan->n_losses; i++)
        if (plan->losses[i].in == port->buffer || plan->losses[i].out == port->buffer) return 0;
    const bp_buffer *b = &plan->buffers[port->buffer];
    return b->consumers && !b->kept && bp_lies_as_held(&port->array, b, plan->dtype);
}

void bp_place_inputs(bp_run *run) {
    const bp_plan *plan = run->plan;
    int copied = run->order || run->partner || plan->windowed || !bp_moves(run), any = 0;
    for (int i = 0; i < plan->n_stages; i++) /* the user's Python may write there */
        copied |= plan->stages[i].scope == BP_SCOPE_CHUNK;
    for (int i = 0; i < run->n_in; i++)
        any |= run->in_place[i] = (char)(!copied && i != run->weight_port && reads_in_place(run, &run->in[i]));
    if (any) memcpy(run->buffers, plan->buffers, sizeof *run->buffers * (size_t)plan->n_buffers);
    run->x.buffers = any ? run->buffers : plan->buffers;
}

bp_status bp_run_optimizer(bp_run *run, const bp_opt *opt) {
    int needs = bp_opt_flags(opt), has = run->plan->flags;
    if (opt->rule && (run->plan->by_tile || !(has & BP_DO_BACKWARD))) return BP_E_SHAPE;
    if ((has ^ needs) & BP_DO_MOVE && opt->rule) return BP_E_SHAPE;
    int asked = BP_DO_BOUNDARY | BP_DO_AVERAGE | BP_DO_PENALTY;
    if (opt->rule && (has & ~needs & BP_DO_FUSE || needs & ~has & asked)) return BP_E_SHAPE;
    if (opt->rule && opt->rule->leads && !opt->average) return BP_E_SHAPE;
    bp_drop_snapshot(run);
    run->call_rows = 0;
    run->opt = *opt;
    run->x.training = bp_moves(run);
    run->epoch_t += opt->t - run->at.t; /* the steps made in this epoch stay as many */
    run->at.t = opt->t;
    run->at.weights = opt->weights;
    if (!opt->rule) return BP_OK;
    run->n_live = 0;
    run->live[run->n_live++] = run->theta;
    for (int i = 0; i < BP_MAX_STATES; i++)
        if (opt->state[i]) run->live[run->n_live++] = opt->state[i];
    if (opt->average) run->live[run->n_live++] = opt->average;
    run->kernel = bp_active->rules[opt->rule->number][run->plan->dtype];
    run->varies = bp_opt_varies(opt);
    run->move = (bp_move){.clip_value = opt->clip_value};
    bp_move_numbers(&run->move, opt, 0);
    return BP_OK;
}

bp_status bp_run_hook(bp_run *run, bp_boundary_fn *fn, void *self) {
    if (!(run->plan->flags & BP_DO_BOUNDARY) || run->plan->n_tables) return BP_E_SHAPE;
    run->hook = fn;
    run->hook_self = self;
    return BP_OK;
}

void bp_run_each(bp_run *run, void *grads) { run->each = grads; }

void bp_run_repeat(bp_run *run, int port, int64_t repeat) { run->repeat[port] = repeat; }

void bp_run_cotangents(bp_run *run, int64_t first, int64_t apart) {
    run->first_cotangent = first;
    run->apart = apart;
}

void bp_run_callback(bp_run *run, bp_callback_fn *fn, void *self) {
    run->x.callback = fn;
    run->x.callback_self = self;
}

void bp_run_batch_losses(bp_run *run, double *to) { run->batch_losses = to; }

void bp_run_random(bp_run *run, uint64_t seed, int64_t step) {
    run->x.seed = seed;
    run->first_step = step;
}

bp_progress bp_run_progress(const bp_run *run) { return run->at.done; }
const double *bp_run_loss(const bp_run *run, int loss) { return run->loss_sum[loss]; }
int64_t bp_run_updates(const bp_run *run) { return run->at.t; }
double bp_run_weights(const bp_run *run) { return run->at.weights; }

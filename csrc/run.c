/* Sets a run up: what it borrows, and what it is to do. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

bp_run *bp_run_new(bp_plan *plan, const bp_blas *blas, void *theta, int64_t n_params) {
    if (!plan->arena || n_params < plan->n_theta) return NULL;
    bp_run *run = calloc(1, sizeof *run);
    void *taken = NULL;
    bp_buffer *buffers = malloc(sizeof *buffers * (size_t)(plan->n_buffers + 1));
    if (!run || !buffers || posix_memalign(&taken, sizeof(bp_taken), sizeof(bp_taken) * (size_t)plan->n_threads)) {
        free(buffers);
        free(run);
        return NULL;
    }
    run->buffers = buffers;
    run->taken = memset(taken, 0, sizeof(bp_taken) * (size_t)plan->n_threads);
    run->plan = plan;
    run->theta = theta;
    run->n_params = n_params;
    run->weight_port = -1;
    run->apart = plan->seeds ? plan->seeds : 1;
    run->replay_left = -1;
    run->x = (bp_context){.plan = plan,
                          .ops = plan->ops,
                          .buffers = plan->buffers,
                          .params = plan->params,
                          .blas = blas,
                          .arena = plan->arena,
                          .theta = theta,
                          .cache = !!(plan->flags & BP_DO_CACHE)};
    return run;
}

void bp_run_free(bp_run *run) {
    if (!run) return;
    bp_free_snapshot(run);
    free(run->calls);
    free(run->first_call);
    free(run->moved);
    free(run->in);
    free(run->repeat);
    free(run->in_place);
    free(run->buffers);
    free(run->out);
    free(run->taken);
    free(run);
}

bp_status bp_run_ports(bp_run *run, int n_in, const bp_in_port *in, int n_out, const bp_out_port *out,
                       int weight_port) {
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
    free(run->in);
    free(run->out);
    free(run->repeat);
    free(run->in_place);
    run->repeat = repeat;
    run->in_place = in_place;
    run->in = ins;
    run->out = outs;
    run->n_in = n_in;
    run->n_out = n_out;
    run->weight_port = weight_port;
    run->call_rows = 0;
    return BP_OK;
}

/* Rows of an input are read where they lie, if they lie as the plan would hold them, only products read them, and they
 * are not theta, which the step changes. */
static int reads_in_place(const bp_run *run, const bp_in_port *port) {
    const bp_plan *plan = run->plan;
    uintptr_t theta = (uintptr_t)run->theta, X = (uintptr_t)port->array.data;
    if (X < theta + (size_t)run->n_params * plan->size &&
        theta < X + (size_t)(port->array.rows * port->array.row_stride))
        return 0;
    for (int i = 0; i < plan->n_ops + plan->n_copies; i++)
        for (int j = 0; j < plan->ops[i].n_in; j++)
            if (plan->ops[i].in[j] == port->buffer && !plan->ops[i].type->prepares) return 0;
    for (int i = 0; i < plan->n_losses; i++)
        if (plan->losses[i].in == port->buffer || plan->losses[i].out == port->buffer) return 0;
    const bp_buffer *b = &plan->buffers[port->buffer];
    return b->consumers && !b->kept && bp_lies_as_held(&port->array, plan, b);
}

void bp_place_inputs(bp_run *run) {
    const bp_plan *plan = run->plan;
    int copied = run->order || plan->windowed || !bp_trains(run), any = 0;
    for (int i = 0; i < plan->n_stages; i++) /* the user's Python may write there */
        copied |= plan->stages[i].scope == BP_SCOPE_CHUNK;
    for (int i = 0; i < run->n_in; i++)
        any |= run->in_place[i] = (char)(!copied && i != run->weight_port && reads_in_place(run, &run->in[i]));
    if (any) memcpy(run->buffers, plan->buffers, sizeof *run->buffers * (size_t)plan->n_buffers);
    run->x.buffers = any ? run->buffers : plan->buffers;
}

void bp_run_optimizer(bp_run *run, const bp_opt *opt) {
    bp_free_snapshot(run);
    run->call_rows = 0;
    run->opt = *opt;
    run->plain = opt->kind == BP_OPT_SGD && !opt->state[0] && opt->weight_decay == 0;
    run->x.training = bp_trains(run);
    run->at.t = opt->t;
}

void bp_run_repeat(bp_run *run, int port, int64_t repeat) { run->repeat[port] = repeat; }

void bp_run_seeds(bp_run *run, int64_t first, int64_t apart) {
    run->first_seed = first;
    run->apart = apart;
}

void bp_run_callback(bp_run *run, bp_callback_fn *fn, void *self) {
    run->x.callback = fn;
    run->x.callback_self = self;
}

void bp_run_random(bp_run *run, uint64_t seed, int64_t step) {
    run->x.seed = seed;
    run->first_step = step;
}

bp_progress bp_run_progress(const bp_run *run) { return run->at.done; }
const double *bp_run_loss(const bp_run *run, int loss) { return run->plan->losses[loss].sum; }
int64_t bp_run_updates(const bp_run *run) { return run->at.t; }

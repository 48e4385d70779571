#include "harness.h"
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t size_of(const spec *s) { return s->dtype == BP_F32 ? sizeof(float) : sizeof(double); }

int64_t n_theta(const spec *s) {
    int64_t n = 0;
    for (int l = 1; l <= s->depth; l++) n += s->width[l] * (s->width[l - 1] + !s->no_bias);
    return n;
}

/* The user's C function in both of its signatures: atan(z), and its derivative with data. */
static double inverse_square(double z, void *one) { return *(double *)one / (1 + z * z); }
static double one = 1;
static const bp_user_function arctangent = {{atan, NULL, NULL}, {NULL, inverse_square, &one}};

static bp_status add_layer(net *n, const spec *s, int l, int64_t *offset) {
    int params[2], n_params = s->no_bias ? 1 : 2;
    params[0] = bp_plan_param(n->plan, *offset, s->width[l - 1], s->width[l], 0, 1, 1);
    *offset += s->width[l - 1] * s->width[l];
    params[1] = s->no_bias ? 0 : bp_plan_param(n->plan, *offset, s->width[l], 1, 0, 1, 0);
    *offset += s->no_bias ? 0 : s->width[l];
    if (params[0] < 0 || params[1] < 0) return BP_E_NOMEM;
    bp_status status =
        bp_plan_op(n->plan, bp_op_find("dense"), 1, &n->a[l - 1], n_params, params, NULL, -1, &n->z[l]);
    n->a[l] = n->z[l];
    if (status || !strcmp(s->f[l], "identity")) return status;
    const void *detail = bp_activation_detail(s->f[l]);
    const char *name = detail ? "activation" : s->f[l];
    if (!strcmp(name, "user_function")) detail = &arctangent;
    return bp_plan_op(n->plan, bp_op_find(name), 1, &n->z[l], 0, NULL, detail, 10 + l, &n->a[l]);
}

/* Columns of y: several outputs belong to one where the loss says so; of levels there is one. */
static int64_t target_width(const spec *s) {
    const bp_loss_type *type = s->loss ? bp_loss_find(s->loss) : NULL;
    int parts = type && type->parts != BP_EACH_NUMBER ? type->parts : 1;
    return s->width[s->depth] / parts;
}

bp_status net_open(net *n, const spec *s, int flags, int64_t rows, int n_threads) {
    int64_t offset = 0;
    *n = (net){.plan = bp_plan_new(s->dtype)};
    if (!n->plan) return BP_E_NOMEM;
    n->x = n->a[0] = bp_plan_buffer(n->plan, BP_REAL, s->width[0]);
    bp_status status = n->x < 0 ? BP_E_NOMEM : BP_OK;
    for (int l = 1; l <= s->depth && !status; l++) status = add_layer(n, s, l, &offset);
    if (status) return status;
    n->target = bp_plan_buffer(n->plan, s->labels ? BP_INT32 : BP_REAL, s->labels ? 1 : target_width(s));
    n->weight = s->weighted ? bp_plan_buffer(n->plan, BP_REAL, 1) : 0;
    if (n->target < 0 || n->weight < 0) return BP_E_NOMEM;
    if (flags & (BP_DO_LOSS | BP_DO_BACKWARD)) {
        const bp_loss_type *type = s->loss ? bp_loss_find(s->loss) : NULL;
        const double numbers[2] = {0.3, 0.7};
        int n_numbers = type ? type->n_numbers : 0;
        status = bp_plan_loss(n->plan, s->loss, n->a[s->depth], n->target, numbers, n_numbers, 1, 1, 1);
        if (status) return status;
    }
    for (int l = 1; l < s->depth && flags & BP_DO_REUSE; l++) bp_plan_checkpoint(n->plan, n->a[l]);
    return bp_plan_compile(n->plan, flags, rows, n_threads);
}

void net_close(net *n) { bp_plan_free(n->plan); }

/* ---- callbacks ---- */

double get(bp_dtype dtype, const void *from, int64_t i) {
    return dtype == BP_F32 ? (double)((const float *)from)[i] : ((const double *)from)[i];
}

void set(bp_dtype dtype, void *to, int64_t i, double value) {
    if (dtype == BP_F32) ((float *)to)[i] = (float)value;
    else ((double *)to)[i] = value;
}

static void squared_error(const user *u, bp_loss_call *call) {
    memset(call->sum, 0, sizeof call->sum);
    for (int64_t r = 0; r < call->rows; r++) {
        double w = call->weight ? get(u->dtype, call->weight, r) : 1;
        for (int64_t i = r * call->cols; i < (r + 1) * call->cols; i++) {
            double error = get(u->dtype, call->out, i) - get(u->dtype, call->target, i);
            call->sum[0] += w * error * error / 2;
            if (call->grad) set(u->dtype, call->grad, i, w * error);
        }
        call->sum[1] += w;
    }
}

bp_status callback(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                   bp_loss_call *loss, bp_function_call *function) {
    (void)function;
    user *u = self;
    if (++u->calls == u->fail_at) return BP_E_CALLBACK;
    if (loss) {
        squared_error(u, loss);
        return tag == 1 && loss->rows == rows && loss->cols == cols ? BP_OK : BP_E_CALLBACK;
    }
    for (int64_t i = 0; i < rows * cols; i++) {
        double t = tanh(get(u->dtype, z, i));
        set(u->dtype, a, i, t);
        if (df) set(u->dtype, df, i, 1 - t * t);
    }
    return tag > 10 && tag <= 10 + MAX_DEPTH ? BP_OK : BP_E_CALLBACK;
}

/* ---- data ---- */

data data_new(const spec *s, int64_t rows) {
    uint64_t state = 7;
    int64_t n_in = s->width[0], n_out = s->width[s->depth];
    data d = {rows, zeros((size_t)(rows * n_in), sizeof(double)), zeros((size_t)(rows * n_out), sizeof(double)),
              zeros((size_t)rows, sizeof(double)), zeros((size_t)rows, sizeof(int64_t))};
    for (int64_t i = 0; i < rows * n_in; i++) d.X[i] = uniform(&state);
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < n_out; c++) sum += d.y[r * n_out + c] = 0.55 + 0.45 * uniform(&state);
        for (int64_t c = 0; c < n_out && n_out > 1; c++) d.y[r * n_out + c] /= sum;
        d.w[r] = r % 5 == 3 ? 0 : 1.5 + uniform(&state);
        d.labels[r] = (r * 7 + r / 3) % n_out;
    }
    return d;
}

void data_free(data *d) {
    free(d->X);
    free(d->y);
    free(d->w);
    free(d->labels);
}

bp_array plain_array(const void *from, int64_t rows, int64_t cols, bp_source type) {
    int64_t size = type == BP_DOUBLE || type == BP_I64 ? 8 : type == BP_FLOAT ? 4 : 1;
    return (bp_array){.data = from, .rows = rows, .cols = cols, .row_stride = cols * size, .col_stride = size,
                      .type = type};
}

void *theta_new(const spec *s) {
    uint64_t state = 3;
    void *theta = zeros((size_t)n_theta(s), size_of(s));
    int64_t at = 0;
    for (int l = 1; l <= s->depth; l++) {
        int64_t n_W = s->width[l - 1] * s->width[l], n_b = s->no_bias ? 0 : s->width[l];
        double limit = sqrt(6.0 / (double)(s->width[l - 1] + s->width[l]));
        for (int64_t i = 0; i < n_W; i++) set(s->dtype, theta, at++, limit * uniform(&state));
        for (int64_t i = 0; i < n_b; i++) set(s->dtype, theta, at++, 0.2 * uniform(&state));
    }
    return theta;
}

bp_run *run_new(const bp_plan *plan, void *theta, int64_t n) {
    bp_run *run = bp_run_new(plan, &naive_blas);
    if (!run || !bp_run_bind(run, theta, n, NULL, 0)) return run;
    bp_run_free(run);
    return NULL;
}

bp_run *run_open(const net *n, const spec *s, const data *d, void *theta, user *u, int n_out, const bp_out_port *out) {
    bp_run *run = run_new(n->plan, theta, n_theta(s));
    if (!run) return NULL;
    bp_in_port in[3] = {{n->x, plain_array(d->X, d->rows, s->width[0], BP_DOUBLE)},
                        {n->target, plain_array(d->y, d->rows, target_width(s), BP_DOUBLE)},
                        {n->weight, plain_array(d->w, d->rows, 1, BP_DOUBLE)}};
    if (s->labels) in[1].array = plain_array(d->labels, d->rows, 1, BP_I64);
    if (bp_run_ports(run, 2 + s->weighted, in, n_out, out, s->weighted ? 2 : -1)) {
        bp_run_free(run);
        return NULL;
    }
    *u = (user){.dtype = s->dtype};
    bp_run_callback(run, callback, u);
    return run;
}

/* ---- optimisers ---- */

bp_opt opt_new(const optimizer *o, size_t bytes) {
    bp_opt opt = {.rule = bp_rule_find(o->rule),
                  .lr = {o->lr, NULL},
                  .weight_decay = {o->weight_decay, NULL},
                  .clip_norm = o->clip_norm,
                  .clip_value = o->clip_value};
    if (!opt.rule) abort();
    for (int i = 0; i < BP_MAX_NUMBERS; i++) opt.number[i].value = o->number[i];
    for (int i = 0, needs; bp_rule_state(opt.rule, i, &needs); i++)
        if (needs < 0 || o->number[needs] != 0) opt.state[i] = zeros(bytes, 1);
    return opt;
}

void states_free(bp_opt *opt) {
    for (int i = 0; i < BP_MAX_STATES; i++) free(opt->state[i]);
}

bp_opt gradient_to(void *to) { return (bp_opt){.rule = to ? bp_rule_find("gradient") : NULL, .state = {to}}; }

/* ---- what a run computes ---- */

/* As the plan of a step is cut when its sums are forced: what needs the whole chunk rules shards out. */
static void open_forced(net *n, const spec *s, int flags, int64_t rows, int n_threads, int sums) {
    int whole = !s->loss;
    for (int l = 1; l <= s->depth; l++) whole |= !strcmp(s->f[l], "python_function");
    bp_set_sums(sums);
    bp_set_backend(1 + (int)(s->width[0] % 2)); /* BLAS for even widths, bpcore's products for odd */
    CHECK(!net_open(n, s, flags, rows, n_threads));
    bp_set_sums(0);
    bp_set_backend(0);
    int shards = bp_plan_describe(n->plan).shards;
    CHECK(sums == 1 || whole ? !shards : sums == 0 || !(flags & BP_DO_BACKWARD) || shards > 0);
}

double cost(const spec *s, const data *d, const void *theta, void *grad, int sums, int n_threads) {
    net n;
    user u;
    int flags = BP_DO_FORWARD | BP_DO_LOSS | (grad ? BP_DO_CACHE | BP_DO_BACKWARD : 0);
    open_forced(&n, s, flags, d->rows, n_threads, sums);
    bp_run *run = run_open(&n, s, d, (void *)theta, &u, 0, NULL);
    bp_opt opt = gradient_to(grad);
    CHECK(!bp_run_optimizer(run, &opt));
    bp_run_begin(run, d->rows, d->rows, NULL);
    CHECK(bp_epoch(run, n_threads, INFINITY, -1, 1) == BP_DONE);
    bp_progress p = bp_run_progress(run);
    bp_run_free(run);
    net_close(&n);
    return p.loss / p.weight;
}

outcome train(const spec *s, const data *d, const regime *r) {
    net n;
    user u;
    outcome o = {.theta = theta_new(s), .bytes = (size_t)n_theta(s) * size_of(s)};
    o.opt = opt_new(&r->opt, o.bytes);
    if (r->numbers) {
        o.opt.lr = r->numbers[0];
        o.opt.weight_decay = r->numbers[1];
        for (int i = 0; bp_rule_number(o.opt.rule, i); i++) o.opt.number[i] = r->numbers[2 + i];
    }
    int flags = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | bp_opt_flags(&o.opt);
    open_forced(&n, s, flags | (r->hook ? BP_DO_BOUNDARY : 0), r->batch, r->n_threads, r->sums);
    bp_run *run = run_open(&n, s, d, o.theta, &u, 0, NULL);
    CHECK(run != NULL);
    CHECK(!bp_run_optimizer(run, &o.opt));
    if (r->hook) CHECK(!bp_run_hook(run, r->hook, r->hook_self));
    int64_t *order = zeros((size_t)d->rows, sizeof *order);
    for (int64_t i = 0; i < d->rows; i++) order[i] = d->rows - 1 - i;
    for (int epoch = 0; epoch < r->epochs && o.status <= BP_DONE; epoch++) {
        bp_run_begin(run, d->rows, r->batch, r->reversed ? order : NULL);
        do {
            o.status = bp_epoch(run, r->n_threads, r->seconds, r->max_steps, 0);
            o.slices++;
        } while (o.status == BP_PAUSED);
    }
    o.progress = bp_run_progress(run);
    o.updates = bp_run_updates(run);
    free(order);
    bp_run_free(run);
    net_close(&n);
    return o;
}

int same_bits(const outcome *a, const outcome *b) {
    int same = a->bytes == b->bytes && a->status == b->status && a->updates == b->updates &&
               !memcmp(&a->progress, &b->progress, sizeof a->progress) && !memcmp(a->theta, b->theta, a->bytes);
    for (int i = 0; i < BP_MAX_STATES; i++) {
        const void *p = a->opt.state[i], *q = b->opt.state[i];
        same = same && !p == !q && (!p || !memcmp(p, q, a->bytes));
    }
    return same;
}

void outcome_free(outcome *o) {
    free(o->theta);
    states_free(&o->opt);
}

/* Moves: the rule of the run changes parameters, given their gradient. */
#ifndef BP_MOVES_H
#define BP_MOVES_H

#include "dispatch.h"
#include "run.h"

#include <float.h>

/* The last chunk of a batch has its losses: the numbers of this step, for all its blocks. */
static inline void bp_prepare_move(bp_run *run) {
    const bp_rule *rule = run->opt.rule;
    run->move.scale = 1 / run->sum[1];
    run->move.ema = run->at.t ? run->opt.ema : 0;
    run->move.cost = run->sum[0] * run->move.scale;
    if (run->varies) bp_move_numbers(&run->move, &run->opt, run->at.t - run->epoch_t);
    if (rule->leads) bp_weigh_step(&run->move, (double)(run->at.t + 1), run->at.weights);
    if (rule->prepare) rule->prepare(&run->move, run->at.t + 1);
}
/* n elements from `at` on have moved, and so does their average, and theta, where the rule leads: of a table that is a
 * task of BP_TABLES, of what has a max_norm of BP_NORMS. */
void bp_average(bp_run *run, int64_t at, int64_t n);

/* n elements of theta and the states, whose sums are G, of a parameter with these factors; whether some are spoilt: see
 * rules.h.  G may be overwritten. */
static inline int bp_move_elements(bp_rule_fn *kernel, const bp_move *m, bp_dtype dtype, double rate, double decay,
                                   int64_t n, void *G, void *theta, void *const state[BP_MAX_STATES]) {
    bp_move clipped;
    if (m->clip_value > 0 || m->scale < FLT_MIN) {
        bp_active->clip[dtype](G, n, m->scale, m->clip_value > 0 ? m->clip_value : INFINITY);
        clipped = *m;
        clipped.scale = 1;
        m = &clipped;
    }
    return kernel(m, m->lr * rate, m->weight_decay * decay, n, G, theta, state);
}

/* The same for theta[at : at + n] of a run, all of parameters with the factors of p; and their average. */
static inline int bp_move_run(bp_run *run, const bp_param *p, int64_t at, int64_t n, char *G) {
    size_t first = (size_t)at * run->plan->size;
    void *state[BP_MAX_STATES];
    for (int i = 0; i < BP_MAX_STATES; i++) state[i] = run->opt.state[i] ? (char *)run->opt.state[i] + first : NULL;
    int spoilt = bp_move_elements(run->kernel, &run->move, run->plan->dtype, p->rate, p->decay, n, G,
                                  run->theta + first, state);
    if (run->opt.average && !bp_is_table(p) && p->max_norm == 0) bp_average(run, at, n);
    return spoilt;
}

/* A block, whose rows of sums are ld apart. */
bp_status bp_move_block(bp_run *run, const bp_block *block, char *G, int64_t ld);
/* Tasks of BP_TABLES: the average of some elements of all tables. */
int64_t bp_average_tasks(const bp_run *run);
double bp_average_flops(const bp_run *run);
void bp_average_part(bp_run *run, int64_t task);

#endif

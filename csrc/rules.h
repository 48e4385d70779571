/* Rules: how a block of parameters moves, given its gradient.  A rule is an optimiser as C sees it: one row of the
 * list below, and a kernel of its name in kernels/rules.inc.  The contract:
 *
 *   RULE(name, moves, fuses, prepare, NUMBERS(...), STATES(...))
 *
 *   name      what bp_rule_find looks for; the kernel is rule_<name>
 *   moves     MOVES: it changes theta.  All that training needs follows from it: safety copy, the stop at a loss that
 *             is not finite, tables that move the rows of a batch, Dropout.  BY_COST: so, and it reads the batch's
 *             cost, so that sums are made apart, and networks have no step in common (lanes.c).  LEADS: so, and theta
 *             is ahead of an average that is the network's parameters: see below.  WRITES: it writes to its state alone
 *   fuses     FUSES: where it keeps no state, and decay and clip_value are 0, it is theta -= lr (scale G), which a
 *             product may do in its registers (bp_op_type.step).  APART: it never is
 *   prepare   NULL, or a function of rules.c that computes, from the numbers of step t and their logarithms, what all
 *             its blocks share
 *   NUMBERS   names of its own numbers, at most BP_MAX_NUMBERS, beside lr and weight_decay, which every rule
 *             has; or NO_NUMBERS
 *   STATES    its state arrays, at most BP_MAX_STATES, shaped as theta: ALWAYS(name), or WITH(name, number), kept only
 *             where that number is not 0
 *
 *   kernel(m, lr, decay, n, G, theta, state)   moves n elements: theta (n,), their gradient's sums G (n,), and
 *             state[i] (n,), NULL where it is not kept.  lr and decay are this step's, times the parameter's factors;
 *             G times m->scale is dC/dtheta.  It returns whether an element of theta, or of a state that could not
 *             recover, is no longer finite.  Several threads call it at once, on elements of their own; each element is
 *             moved by itself, whatever n is.
 *
 * A rule that LEADS (Defazio et al. 2024) has three points: x, the average, which is what the network shows; x + lead,
 * which the kernel moves, by state 0 alone; and theta = x + (1 - number 0) lead, where gradients are taken.  Once it
 * has moved, of tables in all rows, x += share lead and lead = (1 - share) lead, and theta follows (moves.c).  share is
 * the step's weight, t^r lr^weight_lr_power with numbers 1 and 2, by the sum of those so far.
 *
 * Nothing else in C knows which rules there are.  docs/extending.md adds one. */
#ifndef BP_RULES_H
#define BP_RULES_H

#include "bp.h"

#define BP_RULES(RULE)                                                                                                \
    RULE(gradient, WRITES, APART, NULL, NO_NUMBERS, STATES(ALWAYS("gradient")))                                        \
    RULE(sgd, MOVES, FUSES, NULL, NUMBERS("momentum", "nesterov"), STATES(WITH("velocity", "momentum")))              \
    RULE(adam, MOVES, APART, prepare_adam, NUMBERS("beta1", "beta2", "eps", "amsgrad"),                               \
         STATES(ALWAYS("mean"), ALWAYS("variance"), WITH("largest", "amsgrad")))                                      \
    RULE(adamw, MOVES, APART, prepare_adam, NUMBERS("beta1", "beta2", "eps", "amsgrad"),                              \
         STATES(ALWAYS("mean"), ALWAYS("variance"), WITH("largest", "amsgrad")))                                      \
    RULE(nadam, MOVES, APART, prepare_nadam, NUMBERS("beta1", "beta2", "eps", "momentum_decay"),                      \
         STATES(ALWAYS("mean"), ALWAYS("variance")))                                                                  \
    RULE(adamax, MOVES, APART, prepare_adam, NUMBERS("beta1", "beta2", "eps"),                                        \
         STATES(ALWAYS("mean"), ALWAYS("largest")))                                                                   \
    RULE(rmsprop, MOVES, APART, NULL, NUMBERS("rho", "eps", "momentum", "centered"),                                  \
         STATES(ALWAYS("square"), WITH("mean", "centered"), WITH("velocity", "momentum")))                            \
    RULE(adagrad, MOVES, APART, NULL, NUMBERS("eps"), STATES(ALWAYS("sum")))                                          \
    RULE(adadelta, MOVES, APART, NULL, NUMBERS("rho", "eps"), STATES(ALWAYS("square"), ALWAYS("moved")))              \
    RULE(lion, MOVES, APART, NULL, NUMBERS("beta1", "beta2"), STATES(ALWAYS("mean")))                                  \
    RULE(schedule_free_sgd, LEADS, APART, NULL, NUMBERS("momentum", "r", "weight_lr_power"), STATES(ALWAYS("lead")))  \
    RULE(schedule_free_adamw, LEADS, APART, prepare_schedule_free_adamw,                                              \
         NUMBERS("beta1", "r", "weight_lr_power", "beta2", "eps"), STATES(ALWAYS("lead"), ALWAYS("variance")))        \
    RULE(rprop, BY_COST, APART, NULL, NUMBERS("eta_minus", "eta_plus", "min_step", "max_step", "improved"),           \
         STATES(ALWAYS("gradient"), ALWAYS("step"), WITH("cost", "improved")))

#define BP_RULE_NUMBER(name, ...) BP_RULE_##name,
enum { BP_RULES(BP_RULE_NUMBER) BP_N_RULES };
#undef BP_RULE_NUMBER

/* What all blocks of a step share. */
typedef struct {
    double lr, weight_decay;        /* before the parameters' factors */
    double l2;                      /* joins that of weights */
    double number[BP_MAX_NUMBERS];
    double log_number[BP_MAX_NUMBERS]; /* of a rule that prepares; 0: to be computed */
    double prepared[BP_MAX_NUMBERS];
    double scale;                   /* of the sums: 1 / sum of weights, times what clip_norm leaves */
    double clip_value;
    double ema;                     /* what the average keeps of itself */
    double weight, share;           /* of a rule that leads: this step's, and by the sum of those so far */
    double cost;                    /* of the batch, before the step */
} bp_move;

struct bp_rule {
    int number;    /* of its row, and of its kernel in bp_kernels */
    const char *name;
    int moves, by_cost, leads, fuses;
    void (*prepare)(bp_move *m, int64_t t);
    const char *numbers[BP_MAX_NUMBERS + 1]; /* closed by NULL */
    struct {
        const char *name, *needs;           /* NULL: always */
    } states[BP_MAX_STATES + 1];            /* closed by a NULL name */
};

typedef int bp_rule_fn(const bp_move *m, double lr, double decay, int64_t n, const void *G, void *theta,
                       void *const state[BP_MAX_STATES]);

/* Whether some number is one for each step. */
int bp_opt_varies(const bp_opt *opt);
/* The numbers of the epoch's `step`, from 0. */
void bp_move_numbers(bp_move *m, const bp_opt *opt, int64_t step);
/* Of a rule that leads: the weight and share of step t, from 1, after steps of these weights. */
void bp_weigh_step(bp_move *m, double t, double weights);
#endif

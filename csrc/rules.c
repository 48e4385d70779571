/* The list of rules, and what is computed once a step. */
#include "rules.h"
#include "functions.h"

#include <math.h>
#include <string.h>

/* 1 - beta^t = -(e^(t log beta) - 1), which cancels nothing where beta is near 1 */
static double correction(double log_beta, int64_t t) { return -bp_expm1((double)t * log_beta); }

/* 1 - beta1^t, sqrt(1 - beta2^t) */
static void prepare_adam(bp_move *m, int64_t t) {
    m->prepared[0] = correction(m->log_number[0], t);
    m->prepared[1] = sqrt(correction(m->log_number[1], t));
}

static const double log_decay = -0.040821994520255166; /* log 0.96 */

/* mu_t = beta1 (1 - 0.96^(psi t) / 2), what Nadam takes in place of beta1 in step t */
static double nadam_mu(double beta1, double psi, double t) { return beta1 * (1 - bp_exp(psi * log_decay * t) / 2); }

/* mu_1 mu_2 ... mu_t.  With q = 0.96^psi and log(1 - x) = -sum_k x^k / k, the log of the product of (1 - q^i / 2) is
 * -sum_k 2^-k / k (q^k + q^2k + ... + q^tk), of which 60 terms are enough. */
static double nadam_product(double log_beta1, double psi, double t) {
    double log_power = t * log_beta1, log_q = psi * log_decay, sum = 0;
    if (log_power < -46) return 0; /* 1 is all that is left of 1 - product */
    for (int k = 60; k > 0; k--) {
        double terms = log_q == 0 ? t : bp_exp(k * log_q) * bp_expm1(k * log_q * t) / bp_expm1(k * log_q);
        sum += ldexp(terms, -k) / k;
    }
    return bp_exp(log_power - sum);
}

/* (1 - mu_t) / (1 - mu_1 ... mu_t), mu_(t+1) / (1 - mu_1 ... mu_(t+1)), sqrt(1 - beta2^t) */
static void prepare_nadam(bp_move *m, int64_t step) {
    double beta1 = m->number[0], psi = m->number[3], t = (double)step, next = nadam_mu(beta1, psi, t + 1);
    double product = nadam_product(m->log_number[0], psi, t);
    m->prepared[0] = (1 - nadam_mu(beta1, psi, t)) / (1 - product);
    m->prepared[1] = next / (1 - product * next);
    m->prepared[2] = sqrt(correction(m->log_number[1], step));
}

/* sqrt(1 - beta2^t) */
static void prepare_schedule_free_adamw(bp_move *m, int64_t t) {
    m->prepared[0] = sqrt(correction(m->log_number[3], t));
}

enum { WRITES, MOVES, BY_COST, LEADS, APART = 0, FUSES };
#define NUMBERS(...) {__VA_ARGS__}
#define NO_NUMBERS {NULL}
#define STATES(...) {__VA_ARGS__}
#define ALWAYS(name) {name, NULL}
#define WITH(name, number) {name, number}
#define RULE(name, moves, fuses, prepare, numbers, states)                                                            \
    {BP_RULE_##name, #name, moves != WRITES, moves == BY_COST, moves == LEADS, fuses, prepare, numbers, states},
static const bp_rule rules[BP_N_RULES] = {BP_RULES(RULE)};
#undef RULE

const bp_rule *bp_rule_find(const char *name) {
    for (int i = 0; i < BP_N_RULES; i++)
        if (!strcmp(rules[i].name, name)) return &rules[i];
    return NULL;
}

const char *bp_rule_name(int i) { return i < BP_N_RULES ? rules[i].name : NULL; }
const char *bp_rule_number(const bp_rule *rule, int i) { return rule->numbers[i]; }
int bp_rule_moves(const bp_rule *rule) { return rule->moves; }
int bp_rule_leads(const bp_rule *rule) { return rule->leads; }

const char *bp_rule_state(const bp_rule *rule, int i, int *needs) {
    *needs = -1;
    for (int k = 0; rule->states[i].needs && rule->numbers[k]; k++)
        if (!strcmp(rule->numbers[k], rule->states[i].needs)) *needs = k;
    return rule->states[i].name;
}

static double at_step(bp_number number, int64_t step) { return number.steps ? number.steps[step] : number.value; }

int bp_opt_varies(const bp_opt *opt) {
    int varies = opt->lr.steps || opt->weight_decay.steps || opt->l2.steps;
    for (int i = 0; opt->rule && opt->rule->numbers[i]; i++) varies |= opt->number[i].steps != NULL;
    return varies;
}

void bp_move_numbers(bp_move *m, const bp_opt *opt, int64_t step) {
    m->lr = at_step(opt->lr, step);
    m->weight_decay = at_step(opt->weight_decay, step);
    m->l2 = at_step(opt->l2, step);
    for (int i = 0; opt->rule->numbers[i]; i++) {
        double number = at_step(opt->number[i], step);
        if (opt->rule->prepare && (number != m->number[i] || m->log_number[i] == 0)) m->log_number[i] = bp_log(number);
        m->number[i] = number;
    }
}

/* x^a of x >= 0 */
static double power(double x, double a) { return a == 0 ? 1 : x == 0 ? 0 : bp_exp(a * bp_log(x)); }

void bp_weigh_step(bp_move *m, double t, double weights) {
    m->weight = power(t, m->number[1]) * power(m->lr, m->number[2]);
    m->share = m->weight > 0 ? m->weight / (weights + m->weight) : 0;
}

int bp_opt_flags(const bp_opt *opt) {
    if (!opt->rule) return 0;
    int penalty = opt->l2.value > 0 || opt->l2.steps;
    int bare = opt->weight_decay.value == 0 && !opt->weight_decay.steps && opt->clip_value == 0 && !penalty;
    bare = bare && !opt->average;
    for (int i = 0; i < BP_MAX_STATES; i++) bare = bare && !opt->state[i];
    return (opt->rule->moves ? BP_DO_MOVE : 0) | (opt->rule->fuses && bare ? BP_DO_FUSE : 0) |
           (opt->clip_norm > 0 || opt->rule->by_cost ? BP_DO_BOUNDARY : 0) | (penalty ? BP_DO_PENALTY : 0) |
           (opt->average ? BP_DO_AVERAGE : 0);
}

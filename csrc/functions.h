/* exp, expm1 and log of doubles, at most 2 ulp off (tests/c/test_functions.c): the same bits with every compiler, C
 * library and instruction set, where libm's differ.  For what is computed once a step; kernels have their own. */
#ifndef BP_FUNCTIONS_H
#define BP_FUNCTIONS_H

double bp_exp(double x);
double bp_expm1(double x); /* e^x - 1 */
double bp_log(double x);

#endif

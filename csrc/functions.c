/* The functions of math.inc, compiled for doubles on any machine. */
#include "functions.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define REAL double
#define R(function) function
#define FN(name) any_##name
#define BP_FMA 0
#include "math.inc"

double bp_exp(double x) { return any_exp(x); }

double bp_expm1(double x) {
    if (x < -40) return -1;
    return x > 40 ? any_exp(x) : any_expm1(x); /* 1 is less than half an ulp of e^40 */
}

double bp_log(double x) { return any_log(x, x - 1); }

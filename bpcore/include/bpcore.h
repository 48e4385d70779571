/* Operations of your own in C, for bpcore.Function.  The folder of this file: bpcore.get_include().
 *
 *     int forward(bp_function_call *call);
 *     int backward(bp_function_call *call);
 *
 * come to bpcore.Function as scipy.LowLevelCallable of signature "int (bp_function_call *)".  They return 0, or any
 * other number where they fail.  They are called from several threads at once, each call on some rows of its own, and
 * treat each row alike, whatever rows come with it. */
#ifndef BPCORE_H
#define BPCORE_H

#include <stdint.h>

/* One call.  A row of an array is an example, rows follow each other without gaps; arrays are of float where real_size
 * is 4, of double where it is 8.  Later versions add fields at the end. */
typedef struct {
    int real_size;
    int n_in;
    int64_t rows;
    const int64_t *cols;   /* (n_in,): numbers of an example of each input */
    int64_t out_cols;
    const void *const *in; /* (n_in,): inputs, (rows, cols[i]) each */
    void *out;             /* (rows, out_cols): forward writes it, backward reads it */
    const void *out_grad;  /* (rows, out_cols): dE/d out; forward: NULL */
    void *const *in_grad;  /* (n_in,): backward adds to each, which begins at zero or at what others added, dE/d in[i],
                              (rows, cols[i]); NULL where it is not wanted */
    void *data;            /* the LowLevelCallable's user_data, or NULL */
} bp_function_call;

#endif

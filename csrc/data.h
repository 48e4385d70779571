/* Reading the user's arrays: any strides, byte order and type, or sparse, to the rows of a buffer. */
#ifndef BP_DATA_H
#define BP_DATA_H

#include "op.h"

/* Rows first.. of an array, or of its rows in that order, to a buffer's rows. */
void bp_gather(const bp_array *a, const int64_t *order, int64_t first, int64_t rows, const bp_buffer *b, bp_dtype dtype,
               char *to);
/* A row of an array is mixed with what is there: x = share row + (1 - share) x.  Of real numbers. */
void bp_mix(const bp_array *a, int64_t row, double share, const bp_buffer *b, bp_dtype dtype, char *to);
/* Rows of a buffer, which go to those of the user's from `to` on. */
void bp_give(const bp_out_port *port, int64_t cols, bp_dtype dtype, const char *from, int64_t rows, char *to);
/* Whether its elements are as the buffer holds them, next to each other; whether rows of `cols` are one run. */
int bp_is_copied(const bp_array *a, const bp_buffer *b, bp_dtype dtype);
int bp_is_run(const bp_array *a, int64_t cols);
/* Whether rows lie in the user's array as they would in the buffer, so that they can be read there. */
int bp_lies_as_held(const bp_array *a, const bp_buffer *b, bp_dtype dtype);

#endif

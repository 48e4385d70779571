/* Reading the user's arrays. */
#include "data.h"

#include "dispatch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void convert_int32(const char *source, int64_t stride, bp_source type, int swapped, int64_t n, int32_t *out) {
    if (type == BP_I64 && !swapped) { /* NumPy's own */
        for (int64_t i = 0; i < n; i++) {
            int64_t v;
            memcpy(&v, source + i * stride, sizeof v);
            out[i] = v < INT32_MIN || v > INT32_MAX ? -1 : (int32_t)v;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        char bytes[8] = {0};
        int64_t size = bp_source_size(type), value = -1;
        if (size <= 8)
            for (int64_t j = 0; j < size; j++) bytes[j] = source[i * stride + (swapped ? size - 1 - j : j)];
#define CASE(tag, type_)                                                                                              \
    case tag: {                                                                                                       \
        type_ v;                                                                                                      \
        memcpy(&v, bytes, sizeof v);                                                                                  \
        value = (int64_t)v; /* beyond int64 it wraps to a negative number */                                          \
        break;                                                                                                        \
    }
        switch (type) {
            CASE(BP_BOOL, uint8_t)
            CASE(BP_I8, int8_t)
            CASE(BP_U8, uint8_t)
            CASE(BP_I16, int16_t)
            CASE(BP_U16, uint16_t)
            CASE(BP_I32, int32_t)
            CASE(BP_U32, uint32_t)
            CASE(BP_I64, int64_t)
            CASE(BP_U64, uint64_t)
        default:
            break;
        }
#undef CASE
        out[i] = value < INT32_MIN || value > INT32_MAX ? -1 : (int32_t)value;
    }
}

/* n elements of a row, from element `at` on, each by its own shift and factor. */
static void convert_scaled(const bp_array *a, const char *from, int64_t at, int64_t n, int64_t stride, bp_dtype dtype,
                           char *to) {
    enum { BLOCK = 256 };
    double x[BLOCK];
    size_t size = dtype == BP_F32 ? sizeof(float) : sizeof(double);
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t some = n - i < BLOCK ? n - i : BLOCK;
        bp_active->convert[BP_F64](from + i * stride, stride, a->type, a->swapped, some, x);
        bp_active->scaled_in[dtype](x, a->shift + at + i, a->factor + at + i, some, to + (size_t)i * size);
    }
}

/* n elements of a row, from element `at` on. */
static void convert(const bp_array *a, const char *from, int64_t at, int64_t n, int64_t stride, const bp_buffer *b,
                    bp_dtype dtype, char *to) {
    if (b->kind == BP_INT32) convert_int32(from, stride, a->type, a->swapped, n, (int32_t *)to);
    else if (a->shift) convert_scaled(a, from, at, n, stride, dtype, to);
    else bp_active->convert[dtype](from, stride, a->type, a->swapped, n, to);
}

enum { MIX_BLOCK = 256 };

/* The same, mixed with what is there. */
static void mix(const bp_array *a, const char *from, int64_t at, int64_t n, int64_t stride, const bp_buffer *b,
                bp_dtype dtype, double share, char *to) {
    double block[MIX_BLOCK]; /* or float */
    size_t size = dtype == BP_F32 ? sizeof(float) : sizeof(double);
    for (int64_t i = 0; i < n; i += MIX_BLOCK) {
        int64_t some = n - i < MIX_BLOCK ? n - i : MIX_BLOCK;
        convert(a, from + i * stride, at + i, some, stride, b, dtype, (char *)block);
        bp_active->mix[dtype](block, share, some, to + (size_t)i * size);
    }
}

/* The runs of a row of more than one axis: outer axes, the last innermost, count up like an odometer.  share: see
 * bp_mix; 1: what is there is overwritten. */
static void gather_runs(const bp_array *a, const char *from, const bp_buffer *b, bp_dtype dtype, size_t size,
                        double share, char *to) {
    int64_t at[BP_MAX_OUTER] = {0}, done = 0;
    for (;;) {
        if (share == 1) convert(a, from, done, a->cols, a->col_stride, b, dtype, to);
        else mix(a, from, done, a->cols, a->col_stride, b, dtype, share, to);
        done += a->cols;
        to += (size_t)a->cols * size;
        int axis = 0;
        while (axis < a->n_outer && ++at[axis] == a->outer[axis]) {
            from -= (a->outer[axis] - 1) * a->outer_stride[axis];
            at[axis++] = 0;
        }
        if (axis == a->n_outer) return;
        from += a->outer_stride[axis];
    }
}

/* Where the entries of a row of a sparse matrix are; none, where that lies outside. */
static bp_sparse_row sparse_row(const bp_array *a, int64_t row) {
    bp_sparse_row found = {.array = a};
    int64_t first = bp_index(a, a->indptr, row), end = bp_index(a, a->indptr, row + 1);
    if (first < 0 || end > a->n_values || first > end) return found;
    found.part[0].first = first;
    found.part[0].end = end;
    found.part[0].factor = 1;
    return found;
}

/* The rows of a sparse matrix, each made dense. */
static void gather_sparse(const bp_array *a, const int64_t *order, int64_t first, int64_t rows, int64_t cols,
                          bp_dtype dtype, size_t size, char *to) {
    for (int64_t r = 0; r < rows; r++, to += (size_t)cols * size) {
        int64_t row = order ? order[first + r] : first + r;
        bp_sparse_row found = sparse_row(a, row);
        memset(to, 0, (size_t)cols * size);
        bp_active->scatter[dtype](a, found.part[0].first, found.part[0].end, cols, 1, to);
    }
}

int bp_is_copied(const bp_array *a, const bp_buffer *b, bp_dtype dtype) {
    int alike = a->type == (b->kind == BP_INT32 ? BP_I32 : dtype == BP_F32 ? BP_FLOAT : BP_DOUBLE);
    int64_t stride = b->cols == 1 ? a->row_stride : a->col_stride;
    return alike && !a->swapped && !a->n_outer && !a->indices && !a->shift && stride == bp_source_size(a->type);
}

int bp_lies_as_held(const bp_array *a, const bp_buffer *b, bp_dtype dtype) {
    int64_t size = bp_source_size(a->type);
    return b->kind == BP_REAL && bp_is_copied(a, b, dtype) && a->row_stride == b->cols * size &&
           (uintptr_t)a->data % (uintptr_t)size == 0;
}

int bp_is_run(const bp_array *a, int64_t cols) {
    return !a->n_outer && (cols == 1 || a->row_stride == cols * a->col_stride);
}

/* Rows of `bytes` each, next to each other from `to` on; short ones without a call. */
static void copy_rows(const bp_array *a, const int64_t *order, int64_t first, int64_t rows, size_t bytes, char *to) {
#define COPY(bytes)                                                                                                   \
    for (int64_t r = first; r < first + rows; r++, to += (bytes))                                                     \
        memcpy(to, a->data + (order ? order[r] : r) * a->row_stride, bytes)
    switch (bytes) {
    case 4:
        COPY(4);
        break;
    case 8:
        COPY(8);
        break;
    case 16:
        COPY(16);
        break;
    default:
        COPY(bytes);
    }
#undef COPY
}

void bp_gather(const bp_array *a, const int64_t *order, int64_t first, int64_t rows, const bp_buffer *b, bp_dtype dtype,
               char *to) {
    int64_t cols = b->cols, stride = cols == 1 ? a->row_stride : a->col_stride;
    size_t size = b->kind == BP_INT32 ? sizeof(int32_t) : dtype == BP_F32 ? sizeof(float) : sizeof(double);
    if (b->kind == BP_SPARSE) {
        bp_sparse_row *found = (bp_sparse_row *)(void *)to;
        for (int64_t r = 0; r < rows; r++) found[r] = sparse_row(a, order ? order[first + r] : first + r);
        return;
    }
    if (a->indices) {
        gather_sparse(a, order, first, rows, cols, dtype, size, to);
        return;
    }
    if (!order && !a->shift && bp_is_run(a, cols)) {
        cols *= rows;
        rows = 1;
    }
    size_t bytes = (size_t)cols * size;
    if (bp_is_copied(a, b, dtype)) {
        copy_rows(a, order, first, rows, bytes, to);
        return;
    }
    for (int64_t r = 0; r < rows; r++, to += bytes) {
        const char *from = a->data + (order ? order[first + r] : first + r) * a->row_stride;
        if (a->n_outer) gather_runs(a, from, b, dtype, size, 1, to);
        else convert(a, from, 0, cols, stride, b, dtype, to);
    }
}

void bp_mix(const bp_array *a, int64_t row, double share, const bp_buffer *b, bp_dtype dtype, char *to) {
    static const double zeros[MIX_BLOCK];
    size_t size = dtype == BP_F32 ? sizeof(float) : sizeof(double);
    const char *from = a->data + row * a->row_stride;
    if (share == 1) {
        bp_gather(a, &row, 0, 1, b, dtype, to);
    } else if (b->kind == BP_SPARSE) {
        bp_sparse_row *mixed = (bp_sparse_row *)(void *)to, own = sparse_row(a, row);
        mixed->part[1] = mixed->part[0];
        mixed->part[1].factor = 1 - share;
        mixed->part[0] = own.part[0];
        mixed->part[0].factor = share;
    } else if (a->indices) {
        bp_sparse_row found = sparse_row(a, row);
        for (int64_t i = 0; i < b->cols; i += MIX_BLOCK) {
            int64_t some = b->cols - i < MIX_BLOCK ? b->cols - i : MIX_BLOCK;
            bp_active->mix[dtype](zeros, share, some, to + (size_t)i * size);
        }
        bp_active->scatter[dtype](a, found.part[0].first, found.part[0].end, b->cols, share, to);
    } else if (a->n_outer) {
        gather_runs(a, from, b, dtype, size, share, to);
    } else {
        mix(a, from, 0, b->cols, b->cols == 1 ? a->row_stride : a->col_stride, b, dtype, share, to);
    }
}

void bp_give(const bp_out_port *port, int64_t cols, bp_dtype dtype, const char *from, int64_t rows, char *to) {
    size_t row = (size_t)cols * (dtype == BP_F32 ? sizeof(float) : sizeof(double));
    if (!port->shift) memcpy(to, from, (size_t)rows * row);
    for (int64_t r = 0; r < rows && port->shift; r++, from += row, to += row)
        bp_active->scaled_out[dtype](from, port->shift, port->factor, cols, to);
}

void bp_scan(const bp_array *array, bp_dtype dtype, double low, double high, int64_t *row, int64_t *col) {
    enum { BLOCK = 256 };
    float f32[BLOCK];
    double f64[BLOCK];
    /* the shorter stride is the inner loop */
    int turned = llabs(array->row_stride) < llabs(array->col_stride);
    int flat = array->row_stride == array->cols * array->col_stride; /* one run of memory */
    int64_t outer = flat ? 1 : turned ? array->cols : array->rows;
    int64_t inner = flat ? array->rows * array->cols : turned ? array->rows : array->cols;
    int64_t outer_stride = turned ? array->col_stride : array->row_stride;
    int64_t inner_stride = turned && !flat ? array->row_stride : array->col_stride;
    *row = *col = -1;
    for (int64_t i = 0; i < outer; i++)
        for (int64_t j = 0; j < inner; j += BLOCK) {
            int64_t n = inner - j < BLOCK ? inner - j : BLOCK;
            const char *source = array->data + i * outer_stride + j * inner_stride;
            int bad = 0;
            if (dtype == BP_F32) {
                float lowest = fmaxf((float)low, -3.402823466e+38f), highest = fminf((float)high, 3.402823466e+38f);
                bp_active->convert[BP_F32](source, inner_stride, array->type, array->swapped, n, f32);
                for (int64_t k = 0; k < n; k++) bad |= !(f32[k] >= lowest) | !(f32[k] <= highest);
            } else {
                double lowest = fmax(low, -1.7976931348623157e+308), highest = fmin(high, 1.7976931348623157e+308);
                bp_active->convert[BP_F64](source, inner_stride, array->type, array->swapped, n, f64);
                for (int64_t k = 0; k < n; k++) bad |= !(f64[k] >= lowest) | !(f64[k] <= highest);
            }
            if (!bad) continue;
            for (int64_t k = 0; k < n; k++) {
                double v = dtype == BP_F32 ? (double)f32[k] : f64[k];
                if (v >= low && v <= high && isfinite(v)) continue;
                *row = flat ? (j + k) / array->cols : turned ? j + k : i;
                *col = flat ? (j + k) % array->cols : turned ? i : j + k;
                return;
            }
        }
}

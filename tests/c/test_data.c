/* Reading arrays of every type, stride and byte order; finding what is not finite. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 37, COLS = 5 };

/* 16 bits of IEEE 754 for a small whole number */
static uint16_t half_of(int value) {
    unsigned sign = value < 0 ? 0x8000 : 0;
    unsigned m = (unsigned)abs(value), exponent = 25;
    if (!m) return 0;
    while (m < 1024) m <<= 1, exponent--;
    return (uint16_t)(sign | exponent << 10 | (m & 1023));
}

static size_t write_value(char *to, bp_source type, int value) {
#define CASE(tag, type_)                                                                                              \
    case tag: {                                                                                                       \
        type_ v = (type_)value;                                                                                       \
        memcpy(to, &v, sizeof v);                                                                                     \
        return sizeof v;                                                                                              \
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
        CASE(BP_FLOAT, float)
        CASE(BP_DOUBLE, double)
        CASE(BP_LONGDOUBLE, long double)
    default: {
        uint16_t half = half_of(value);
        memcpy(to, &half, sizeof half);
        return sizeof half;
    }
    }
#undef CASE
}

static int value_at(bp_source type, int64_t r, int64_t c) {
    if (type == BP_BOOL) return (int)((r + c) % 2);
    int value = (int)((r * 11 + c * 5) % 127);
    return type == BP_U8 || type == BP_U16 || type == BP_U32 || type == BP_U64 ? value : value - 60;
}

/* A layout of ROWS x COLS elements: packed rows, packed columns, both backwards, or with odd gaps. */
static bp_array lay(char *memory, bp_source type, int layout, int swapped) {
    char bytes[16];
    int64_t size = (int64_t)write_value(bytes, type, 0), row = COLS * size, col = size, start = 0;
    if (layout == 1) row = size, col = ROWS * size;
    if (layout == 2) row = -COLS * size, col = -size, start = (ROWS * COLS - 1) * size;
    if (layout == 3) row = 2 * COLS * size + 3, col = 2 * size - 1 + (size == 1), start = 1;
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < COLS; c++) {
            write_value(bytes, type, value_at(type, r, c));
            for (int64_t j = 0; j < size; j++)
                memory[start + r * row + c * col + j] = bytes[swapped ? size - 1 - j : j];
        }
    return (bp_array){.data = memory + start, .rows = ROWS, .cols = COLS, .row_stride = row, .col_stride = col,
                      .type = type, .swapped = swapped};
}

/* Column `labels` of the array comes back as int32 through a plan that only gathers; all of it as reals. */
/* What a plan holds of the rows, as doubles (ROWS, COLS). */
static void read_rows(bp_dtype dtype, const bp_array *array, const int64_t *order, double *values) {
    bp_plan *plan = bp_plan_new(dtype);
    int real = bp_plan_buffer(plan, BP_REAL, COLS);
    char *out = zeros(ROWS * COLS, sizeof(double));
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD, 8, 2));
    bp_run *run = run_new(plan, NULL, 0);
    bp_in_port in = {real, *array};
    bp_out_port port = {.buffer = real, .data = out};
    CHECK(!bp_run_ports(run, 1, &in, 1, &port, -1));
    bp_run_begin(run, ROWS, ROWS, order);
    CHECK(bp_epoch(run, 2, INFINITY, -1, 1) == BP_DONE);
    for (int i = 0; i < ROWS * COLS; i++)
        values[i] = dtype == BP_F32 ? (double)((float *)(void *)out)[i] : ((double *)(void *)out)[i];
    bp_run_free(run);
    bp_plan_free(plan);
    free(out);
}

static void check_read(bp_dtype dtype, const bp_array *array, const int64_t *order) {
    double values[ROWS * COLS];
    int equal = 1;
    read_rows(dtype, array, order, values);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < COLS; c++)
            equal &= values[r * COLS + c] == value_at(array->type, order ? order[r] : r, c);
    CHECK(equal);
}

static void test_reading(void) {
    int64_t order[ROWS];
    bp_permutation(order, ROWS, 1, 2, 3);
    for (int type = 0; type < BP_N_SOURCES; type++)
        for (int layout = 0; layout < 4; layout++)
            for (int swapped = 0; swapped < 2; swapped++) {
                context("source %d, layout %d, swapped %d", type, layout, swapped);
                char *memory = zeros(ROWS * COLS * 3 + ROWS, 16);
                bp_array array = lay(memory, (bp_source)type, layout, swapped);
                check_read(BP_F32, &array, order);
                check_read(BP_F64, &array, NULL);
                int64_t row, col;
                bp_scan(&array, BP_F64, -INFINITY, INFINITY, &row, &col);
                CHECK(row == -1 && col == -1);
                bp_scan(&array, BP_F32, -1000, 1000, &row, &col);
                CHECK(row == -1 && col == -1);
                free(memory);
            }
}

enum { MANY = 300 };

/* Row 0 has its column 2 in many parts, others each column but one, from the last to the first; an index of each row
 * leads out. */
static void fill_sparse(char *memory, bp_source type, int swapped, int64_t *indices, int64_t *indptr) {
    int64_t size = 0, k = 0;
    for (int64_t r = 0; r < ROWS; r++) {
        indptr[r] = k;
        for (int64_t i = 0; i < (r ? COLS : MANY); i++, k++) {
            char bytes[16];
            int64_t c = r ? COLS - 1 - i : 2;
            size = (int64_t)write_value(bytes, type, r ? value_at(type, r, c) : 1);
            for (int64_t b = 0; b < size; b++) memory[k * size + b] = bytes[swapped ? size - 1 - b : b];
            indices[k] = r && c == r % COLS ? (r % 2 ? -1 : COLS) : c;
        }
    }
    indptr[ROWS] = k;
}

static void test_sparse(void) {
    enum { N = MANY + (ROWS - 1) * COLS };
    int64_t wide[N], wide_ptr[ROWS + 1], order[ROWS];
    int32_t indices[N], indptr[ROWS + 1];
    char memory[N * 16];
    double values[ROWS * COLS];
    bp_permutation(order, ROWS, 1, 2, 3);
    for (int type = 0; type < BP_N_SOURCES; type++)
        for (int turn = 0; turn < 8; turn++) {
            context("sparse, source %d, turn %d", type, turn);
            char bytes[16];
            int swapped = turn & 1, is_wide = turn >> 1 & 1, ordered = turn >> 2;
            fill_sparse(memory, (bp_source)type, swapped, wide, wide_ptr);
            wide_ptr[ROWS] += 5 * (turn == 7); /* the last row leads out */
            for (int i = 0; i < N; i++) indices[i] = (int32_t)wide[i];
            for (int i = 0; i <= ROWS; i++) indptr[i] = (int32_t)wide_ptr[i];
            bp_array array = {.data = memory, .rows = ROWS, .cols = COLS, .type = (bp_source)type, .swapped = swapped,
                              .col_stride = (int64_t)write_value(bytes, (bp_source)type, 0), .n_values = N,
                              .indices = is_wide ? (void *)wide : (void *)indices,
                              .indptr = is_wide ? (void *)wide_ptr : (void *)indptr, .wide = is_wide};
            for (int dtype = 0; dtype < 2; dtype++) {
                int equal = 1;
                read_rows((bp_dtype)dtype, &array, ordered ? order : NULL, values);
                for (int64_t i = 0; i < ROWS * COLS; i++) {
                    int64_t r = ordered ? order[i / COLS] : i / COLS, c = i % COLS;
                    double want = r ? value_at((bp_source)type, r, c) : c == 2 ? MANY : 0;
                    if (r && (c == r % COLS || (turn == 7 && r == ROWS - 1))) want = 0;
                    equal &= values[i] == want;
                }
                CHECK(equal);
            }
        }
    bp_plan *plan = bp_plan_new(BP_F32);
    bp_in_port in = {bp_plan_buffer(plan, BP_INT32, COLS),
                     {.data = memory, .rows = 1, .cols = COLS, .indices = wide, .indptr = wide_ptr, .wide = 1}};
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD, 8, 1));
    bp_run *run = run_new(plan, NULL, 0);
    CHECK(bp_run_ports(run, 1, &in, 0, NULL, -1) == BP_E_SHAPE);
    bp_run_free(run);
    bp_plan_free(plan);
}

/* Theta after two epochs of a dense layer over sparse rows, read as such or made dense. */
static void train_sparse(const bp_array *rows, bp_kind kind, bp_dtype dtype, const optimizer *o, int flags,
                         int64_t batch, int n_threads, double *theta) {
    enum { UNITS = 3, N = COLS * UNITS + UNITS };
    size_t size = dtype == BP_F32 ? sizeof(float) : sizeof(double);
    const int64_t order[] = {5, 36, 0, 1, 0, 7, 36, 20, 3, 3};
    int z, params[2], x, target;
    double y[ROWS * UNITS], number = 0;
    void *moved = zeros(N, size);
    for (int i = 0; i < ROWS * UNITS; i++) y[i] = sin(i);
    for (int i = 0; i < N; i++) set(dtype, moved, i, cos(i));
    bp_plan *plan = bp_plan_new(dtype);
    x = bp_plan_buffer(plan, kind, COLS);
    target = bp_plan_buffer(plan, BP_REAL, UNITS);
    params[0] = bp_plan_param(plan, 0, COLS, UNITS, flags, 1, 1);
    params[1] = bp_plan_param(plan, COLS * UNITS, UNITS, 1, 0, 1, 0);
    const bp_op_type *type = bp_op_find(kind == BP_SPARSE ? "sparse_dense" : "dense");
    CHECK(!bp_plan_op(plan, type, 1, &x, 2, params, NULL, -1, &z));
    CHECK(!bp_plan_loss(plan, "squared_error", z, target, &number, 0, -1, 1, 1));
    bp_opt opt = opt_new(o, N * size);
    int steps = BP_DO_FORWARD | BP_DO_CACHE | BP_DO_LOSS | BP_DO_BACKWARD | BP_DO_REUSE;
    CHECK(!bp_plan_compile(plan, steps | bp_opt_flags(&opt), batch, n_threads));
    bp_run *run = run_new(plan, moved, N);
    bp_in_port in[] = {{x, *rows}, {target, plain_array(y, ROWS, UNITS, BP_DOUBLE)}};
    CHECK(!bp_run_ports(run, 2, in, 0, NULL, -1) && !bp_run_optimizer(run, &opt));
    for (int epoch = 0; epoch < 2; epoch++) {
        int ordered = !epoch;
        bp_run_begin(run, ordered ? 10 : ROWS, batch, ordered ? order : NULL);
        CHECK(bp_epoch(run, n_threads, INFINITY, -1, 1) == BP_DONE);
    }
    for (int i = 0; i < N; i++) theta[i] = get(dtype, moved, i);
    states_free(&opt);
    bp_run_free(run);
    bp_plan_free(plan);
    free(moved);
}

/* Rows with many entries in a place, and indices that lead out; steps on all of W, and on rows that a batch names. */
static void test_sparse_steps(void) {
    enum { N = MANY + (ROWS - 1) * COLS, UNITS = 3, THETA = COLS * UNITS + UNITS };
    static const optimizer optimizers[] = {{.rule = "sgd", .lr = 1e-5},
                                           {.rule = "sgd", .lr = 1e-5, .clip_norm = 0.5},
                                           {.rule = "adam", .lr = 1e-3, .number = {0.9, 0.999, 1e-8}}};
    int64_t indices[N], indptr[ROWS + 1];
    char memory[N * 16], bytes[16];
    double dense[THETA], sparse[THETA], one[THETA];
    fill_sparse(memory, BP_I32, 0, indices, indptr);
    bp_array rows = {.data = memory, .rows = ROWS, .cols = COLS, .type = BP_I32, .n_values = N, .indices = indices,
                     .col_stride = (int64_t)write_value(bytes, BP_I32, 0), .indptr = indptr, .wide = 1};
    for (int turn = 0; turn < 2 * 2 * 3 * 2; turn++) {
        context("sparse steps, turn %d", turn);
        bp_dtype dtype = (bp_dtype)(turn & 1);
        int lazy = turn >> 1 & 1, flags = lazy ? BP_PARAM_LAZY : 0;
        const optimizer *o = &optimizers[turn / 4 % 3];
        int64_t batch = turn >= 12 ? ROWS : 4;
        bp_set_parallel_always(turn % 3 > 0);
        train_sparse(&rows, BP_REAL, dtype, o, 0, batch, 1, dense);
        train_sparse(&rows, BP_SPARSE, dtype, o, flags, batch, 1, one);
        train_sparse(&rows, BP_SPARSE, dtype, o, flags, batch, 3, sparse);
        double apart = 0;
        for (int i = 0; i < THETA; i++) apart = fmax(apart, fabs(dense[i] - sparse[i]));
        CHECK(!memcmp(one, sparse, sizeof one));
        /* adam and lazy: a column rests in a batch that does not name it */
        if (!lazy || o->rule[0] == 's') CHECK(apart < (dtype == BP_F32 ? 2e-3 : 1e-9));
    }
    bp_set_parallel_always(0);
}

/* Every half, against ldexp. */
static void test_half(void) {
    enum { N = 65536 };
    uint16_t *halves = zeros(N, sizeof *halves);
    double *out = zeros(N, sizeof *out);
    for (int i = 0; i < N; i++) halves[i] = (uint16_t)i;
    bp_plan *plan = bp_plan_new(BP_F64);
    bp_array from = {.data = (char *)halves, .rows = N, .cols = 1, .row_stride = 2, .col_stride = 2, .type = BP_F16};
    bp_in_port in = {bp_plan_buffer(plan, BP_REAL, 1), from};
    bp_out_port port = {.buffer = in.buffer, .data = out};
    CHECK(!bp_plan_compile(plan, BP_DO_FORWARD, 1024, 1));
    bp_run *run = run_new(plan, NULL, 0);
    CHECK(!bp_run_ports(run, 1, &in, 1, &port, -1));
    bp_run_begin(run, N, N, NULL);
    CHECK(bp_epoch(run, 1, INFINITY, -1, 1) == BP_DONE);
    int wrong = 0;
    for (int i = 0; i < N; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31) value = fraction ? NAN : INFINITY;
        value = i & 0x8000 ? -value : value;
        wrong += isnan(value) ? !isnan(out[i]) : out[i] != value || signbit(out[i]) != signbit(value);
    }
    CHECK(!wrong);
    bp_run_free(run);
    bp_plan_free(plan);
    free(halves);
    free(out);
}

static void check_scan(const bp_array *array, bp_dtype dtype, double low, double high, int64_t r, int64_t c) {
    int64_t row = 7, col = 7;
    bp_scan(array, dtype, low, high, &row, &col);
    CHECK(row == r && col == c);
}

static void test_scan(void) {
    enum { R = 300, C = 3 };
    double *v = zeros(R * C, sizeof *v);
    bp_array rows = plain_array(v, R, C, BP_DOUBLE);
    bp_array cols = {.data = (char *)v, .rows = C, .cols = R, .row_stride = sizeof(double),
                     .col_stride = C * sizeof(double), .type = BP_DOUBLE};
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++)
        for (int64_t at = 0; at < R * C; at += 97) {
            context("scan %d, element %d", i, (int)at);
            v[at] = v[R * C - 1] = bad[i];
            for (int dtype = BP_F32; dtype <= BP_F64; dtype++) {
                check_scan(&rows, (bp_dtype)dtype, -INFINITY, INFINITY, at / C, at % C);
                check_scan(&cols, (bp_dtype)dtype, -INFINITY, INFINITY, at % C, at / C);
            }
            v[at] = v[R * C - 1] = 0;
        }
    context("scan of what becomes infinite in float32, and of ranges");
    v[5] = -1e39;
    check_scan(&rows, BP_F32, -INFINITY, INFINITY, 1, 2);
    check_scan(&rows, BP_F64, -INFINITY, INFINITY, -1, -1);
    v[5] = 3.4028234663852886e38; /* the largest float32 */
    check_scan(&rows, BP_F32, -INFINITY, INFINITY, -1, -1);
    v[5] = 3.5;
    check_scan(&rows, BP_F32, 0, 3, 1, 2);
    check_scan(&rows, BP_F64, 0, 3.5, -1, -1);
    check_scan(&rows, BP_F64, 1, 4, 0, 0);
    free(v);

    uint16_t half[4] = {0x3c00, 0x7bff, 0x7c00, 0x7e00};
    bp_array halves = {.data = (char *)half, .rows = 2, .cols = 2, .row_stride = 4, .col_stride = 2, .type = BP_F16};
    check_scan(&halves, BP_F64, -INFINITY, INFINITY, 1, 0);
    uint64_t labels[3] = {2, 0, UINT64_MAX};
    bp_array classes = {.data = (char *)labels, .rows = 3, .cols = 1, .row_stride = 8, .col_stride = 8, .type = BP_U64};
    check_scan(&classes, BP_F64, 0, 2, 2, 0);
}

void test_data(void) {
    test_reading();
    test_sparse();
    test_sparse_steps();
    test_half();
    test_scan();
}

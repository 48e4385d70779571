# The C API: csrc/bp.h.

cdef extern from "kernels/settings.h" nogil:
    enum:
        BP_HIDDEN_ROOM

cdef extern from "bp.h" nogil:
    ctypedef enum bp_status:
        BP_OK, BP_PAUSED, BP_DONE, BP_E_NONFINITE_LOSS, BP_E_NONFINITE_PARAM, BP_E_LABEL, BP_E_CALLBACK, BP_E_NOMEM
        BP_E_SHAPE, BP_E_LIMIT, BP_E_FUNCTION
    ctypedef enum bp_dtype:
        BP_F32, BP_F64
    ctypedef enum bp_kind:
        BP_REAL, BP_INT32, BP_SPARSE
    ctypedef enum bp_source:
        BP_BOOL, BP_I8, BP_U8, BP_I16, BP_U16, BP_I32, BP_U32, BP_I64, BP_U64, BP_F16, BP_FLOAT, BP_DOUBLE
        BP_LONGDOUBLE
    enum:
        BP_MAX_OPERANDS, BP_MAX_THREADS, BP_MAX_SETTINGS, BP_MAX_OUTER, BP_MAX_NUMBERS, BP_MAX_STATES, BP_PARAM_FROZEN
        BP_PARAM_STATE, BP_PARAM_LAZY
        BP_JOB_COLS
        BP_DO_FORWARD, BP_DO_CACHE, BP_DO_LOSS, BP_DO_BACKWARD, BP_DO_INPUT_GRAD, BP_DO_REUSE, BP_DO_EACH
        BP_DO_MOVE, BP_DO_FUSE, BP_DO_BOUNDARY, BP_DO_STRIPS, BP_DO_AVERAGE, BP_DO_PENALTY
    ctypedef struct bp_plan
    ctypedef struct bp_run
    ctypedef struct bp_op_type
    ctypedef struct bp_rule
    # BLAS functions are only carried from capsule to struct: their type does not matter here
    ctypedef void (*bp_gemm_fn)()
    ctypedef void (*bp_gemv_fn)()
    ctypedef void (*bp_ger_fn)()
    ctypedef struct bp_blas:
        pass
    ctypedef struct bp_scalar_function:
        double (*plain)(double)
        double (*with_data)(double, void *)
        void *data
    ctypedef struct bp_user_function:
        bp_scalar_function f, df
    ctypedef struct bp_loss_call:
        const void *out
        const void *target
        const void *weight
        void *grad
        int labels
        int64_t rows, cols, target_cols
        double sum[3]
    ctypedef struct bp_plan_info:
        int shards, n_stages, calls_blas, recomputed
        int64_t chunk_rows
        size_t arena_bytes, unshared_bytes
        double flops, stretch
    ctypedef struct bp_array:
        const char *data
        int64_t rows, cols, row_stride, col_stride
        int n_outer
        int64_t outer[4]
        int64_t outer_stride[4]
        bp_source type
        int swapped
        const void *indices
        const void *indptr
        int64_t n_values
        int wide
        const double *shift
        const double *factor
    ctypedef struct bp_number:
        double value
        const double *steps
    ctypedef struct bp_opt:
        const bp_rule *rule
        bp_number lr, weight_decay, l2
        bp_number number[6]
        void *state[4]
        double clip_norm, clip_value, ema
        void *average
        int64_t t
        double weights
    ctypedef struct bp_in_port:
        int buffer
        bp_array array
    ctypedef struct bp_out_port:
        int buffer
        void *data
        const double *shift
        const double *factor
    ctypedef struct bp_progress:
        double loss, weight, hits
        int64_t steps, rows, batch
    ctypedef struct bp_settings:
        int64_t n[16]
        double x[9]
    ctypedef struct bp_function_call:
        int n_in
        int64_t rows, out_cols
        const int64_t *cols
        const void **input "in"
        void *out
        const void *out_grad
        void **in_grad
    ctypedef int bp_operation_fn(bp_function_call *)
    ctypedef struct bp_c_function:
        int64_t out_cols
        bp_operation_fn *fn[2]
        void *data[2]
        int *code
    ctypedef bp_status (*bp_callback_fn)(void *, int, int64_t, int64_t, const void *, void *, void *,
                                         bp_loss_call *, bp_function_call *) noexcept

    ctypedef struct bp_job:
        bp_run *run
        int64_t n, batch
        const int64_t *rows
        int64_t *order
        uint64_t seed
        uint32_t purpose
        int64_t epoch, epochs, done
        double *log
        int n_losses
        double seconds
        int fresh
        bp_status status
        int had_turn

    const bp_op_type *bp_op_find(const char *)
    bp_status bp_op_register(const bp_op_type *)
    const char *bp_activation_name(int)
    const char *bp_loss_name(int)
    const void *bp_activation_detail(const char *)
    bp_plan *bp_plan_new(bp_dtype)
    void bp_plan_free(bp_plan *)
    int bp_plan_buffer(bp_plan *, bp_kind, int64_t)
    int bp_plan_param(bp_plan *, int64_t, int64_t, int64_t, int, double, double)
    bp_status bp_plan_regularise(bp_plan *, int, double, double, double)
    double bp_penalty(bp_dtype, const void *, int64_t, double, double)
    bp_status bp_plan_op(bp_plan *, const bp_op_type *, int, const int *, int, const int *, const void *, int, int *)
    bp_status bp_plan_loss(bp_plan *, const char *, int, int, const double *, int, int, int64_t, double)
    void bp_plan_keep(bp_plan *, int)
    void bp_plan_cotangents(bp_plan *, int64_t)
    void bp_plan_checkpoint(bp_plan *, int)
    bp_status bp_plan_compile(bp_plan *, int, int64_t, int)
    bp_plan_info bp_plan_describe(const bp_plan *)
    int bp_plan_grad(const bp_plan *, int)
    int bp_plan_cache(const bp_plan *, int)
    void bp_scan(const bp_array *, bp_dtype, double, double, int64_t *, int64_t *)
    const bp_rule *bp_rule_find(const char *)
    const char *bp_rule_name(int)
    const char *bp_rule_number(const bp_rule *, int)
    const char *bp_rule_state(const bp_rule *, int, int *)
    int bp_rule_moves(const bp_rule *)
    int bp_rule_leads(const bp_rule *)
    int bp_opt_flags(const bp_opt *)
    bp_run *bp_run_new(const bp_plan *, const bp_blas *)
    void bp_run_free(bp_run *)
    bp_status bp_run_bind(bp_run *, void *, int64_t, void *, int64_t)
    bp_status bp_run_ports(bp_run *, int, const bp_in_port *, int, const bp_out_port *, int)
    void bp_run_batch_losses(bp_run *, double *)
    void bp_run_repeat(bp_run *, int, int64_t)
    void bp_run_cotangents(bp_run *, int64_t, int64_t)
    void bp_run_each(bp_run *, void *)
    bp_status bp_run_optimizer(bp_run *, const bp_opt *)
    void bp_run_follow(bp_run *, const bp_run *)
    void bp_run_resume(bp_run *, const bp_progress *, const double (*)[3], int64_t, int64_t)
    void bp_run_callback(bp_run *, bp_callback_fn, void *)
    void bp_run_random(bp_run *, uint64_t, int64_t)
    void bp_run_begin(bp_run *, int64_t, int64_t, const int64_t *)
    void bp_run_go_on(bp_run *, int64_t, int64_t, const int64_t *)
    void bp_run_mix(bp_run *, const int64_t *, const double *, const double *)
    bp_status bp_epoch(bp_run *, int, double, int64_t, int)
    bp_status bp_many(bp_job **, int64_t, int, double)
    bp_progress bp_run_progress(const bp_run *)
    void bp_plan_pack(const bp_plan *, const void *, void *)
    bp_status bp_answer(const bp_plan *, const void *, const void *, void *, int, const bp_in_port *, int,
                        const bp_out_port *, int)
    ctypedef struct bp_members:
        pass
    bp_status bp_members_new(const bp_plan *, int, int64_t, int64_t, bp_members **)
    void bp_members_free(bp_members *)
    void bp_members_set(bp_members *, int64_t, const void *)
    size_t bp_members_arena(const bp_members *, int)
    bp_status bp_members_answer(const bp_members *, void *, const bp_array *, int64_t, int64_t, void *, void *, int)
    const double *bp_run_loss(const bp_run *, int)
    int64_t bp_run_updates(const bp_run *)
    double bp_run_weights(const bp_run *)
    void bp_run_follow_average(bp_run *, int64_t, int64_t)
    int bp_run_is_whole(const bp_run *)
    void bp_run_make_whole(bp_run *)
    void bp_pool_tasks(int64_t *, int)
    void bp_pool_tasks_reset()
    void bp_set_parallel_always(int)
    void bp_set_sums(int)
    void bp_set_round_flops(double)
    void bp_set_backend(int)
    const char *bp_isa_name(int)
    bp_status bp_isa_use(const char *)
    const char *bp_isa()
    void bp_philox(const uint32_t *, const uint32_t *, int, uint32_t *)
    void bp_uniform(double *, int64_t, int64_t, uint64_t, uint32_t, uint32_t, uint32_t)
    void bp_permutation_part(int64_t *, int64_t, int64_t, uint64_t, uint32_t, uint32_t, uint32_t)

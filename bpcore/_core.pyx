# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The only binding to C: turns arrays into pointers, releases the GIL, maps status codes.

Nothing here decides; `bpcore/_validate.py` has checked what comes in.  A Plan owns its arena, a Run borrows the plan
and every array it was given, and keeps references to them.
"""
cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from posix.stdlib cimport posix_memalign
from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

import atexit
import math
import os
import threading
import time

import numpy as np

cnp.import_array()

cdef extern from "bp.h" nogil:
    ctypedef enum bp_status:
        BP_OK, BP_PAUSED, BP_DONE, BP_E_NONFINITE_LOSS, BP_E_NONFINITE_PARAM, BP_E_LABEL, BP_E_CALLBACK, BP_E_NOMEM
        BP_E_SHAPE, BP_E_LIMIT, BP_E_FUNCTION
    ctypedef enum bp_dtype:
        BP_F32, BP_F64
    ctypedef enum bp_kind:
        BP_REAL, BP_INT32
    ctypedef enum bp_opt_kind:
        BP_OPT_NONE, BP_OPT_GRADIENT, BP_OPT_EACH, BP_OPT_SGD, BP_OPT_ADAM
    ctypedef enum bp_source:
        BP_BOOL, BP_I8, BP_U8, BP_I16, BP_U16, BP_I32, BP_U32, BP_I64, BP_U64, BP_F16, BP_FLOAT, BP_DOUBLE
        BP_LONGDOUBLE
    enum:
        BP_MAX_OPERANDS, BP_MAX_THREADS, BP_MAX_SETTINGS, BP_MAX_OUTER, BP_PARAM_DECAY, BP_PARAM_FROZEN
        BP_DO_FORWARD, BP_DO_CACHE, BP_DO_LOSS, BP_DO_BACKWARD, BP_DO_INPUT_GRAD, BP_DO_REUSE, BP_DO_EACH
    ctypedef struct bp_plan
    ctypedef struct bp_run
    ctypedef struct bp_op_type
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
        double flops
    ctypedef struct bp_array:
        const char *data
        int64_t rows, cols, row_stride, col_stride
        int n_outer
        int64_t outer[4]
        int64_t outer_stride[4]
        bp_source type
        int swapped
    ctypedef struct bp_opt:
        bp_opt_kind kind
        double lr, momentum, beta1, beta2, eps, weight_decay
        int nesterov
        void *state[2]
        int64_t t
    ctypedef struct bp_in_port:
        int buffer
        bp_array array
    ctypedef struct bp_out_port:
        int buffer
        void *data
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

    const bp_op_type *bp_op_find(const char *)
    bp_status bp_op_register(const bp_op_type *)
    const char *bp_activation_name(int)
    const char *bp_loss_name(int)
    const void *bp_activation_detail(const char *)
    bp_plan *bp_plan_new(bp_dtype)
    void bp_plan_free(bp_plan *)
    int bp_plan_buffer(bp_plan *, bp_kind, int64_t)
    int bp_plan_param(bp_plan *, int64_t, int64_t, int64_t, int)
    bp_status bp_plan_op(bp_plan *, const bp_op_type *, int, const int *, int, const int *, const void *, int, int *)
    bp_status bp_plan_loss(bp_plan *, const char *, int, int, double, int, int64_t, double)
    void bp_plan_keep(bp_plan *, int)
    void bp_plan_seeds(bp_plan *, int64_t)
    void bp_plan_checkpoint(bp_plan *, int)
    bp_status bp_plan_compile(bp_plan *, int, int64_t, int)
    bp_plan_info bp_plan_describe(const bp_plan *)
    int bp_plan_grad(const bp_plan *, int)
    int bp_plan_cache(const bp_plan *, int)
    void bp_scan(const bp_array *, bp_dtype, double, double, int64_t *, int64_t *)
    bp_run *bp_run_new(bp_plan *, const bp_blas *, void *, int64_t)
    void bp_run_free(bp_run *)
    bp_status bp_run_ports(bp_run *, int, const bp_in_port *, int, const bp_out_port *, int)
    void bp_run_repeat(bp_run *, int, int64_t)
    void bp_run_seeds(bp_run *, int64_t, int64_t)
    void bp_run_optimizer(bp_run *, const bp_opt *)
    void bp_run_callback(bp_run *, bp_callback_fn, void *)
    void bp_run_random(bp_run *, uint64_t, int64_t)
    void bp_run_begin(bp_run *, int64_t, int64_t, const int64_t *)
    bp_status bp_epoch(bp_run *, int, double, int64_t, int)
    bp_progress bp_run_progress(const bp_run *)
    bp_status bp_answer(const bp_plan *, const void *, void *, int, const bp_in_port *, int, const bp_out_port *, int)
    const double *bp_run_loss(const bp_run *, int)
    int64_t bp_run_updates(const bp_run *)
    void bp_pool_tasks(int64_t *, int)
    void bp_pool_tasks_reset()
    void bp_set_parallel_always(int)
    void bp_set_phase2(int)
    void bp_set_backend(int)
    const char *bp_isa_name(int)
    bp_status bp_isa_use(const char *)
    const char *bp_isa()
    void bp_philox(const uint32_t *, const uint32_t *, int, uint32_t *)
    void bp_uniform(double *, int64_t, uint64_t, uint32_t, uint32_t, uint32_t)
    void bp_permutation_part(int64_t *, int64_t, int64_t, uint64_t, uint32_t, uint32_t)


# ---- constants ----

FORWARD, CACHE, LOSS, BACKWARD, INPUT_GRAD, REUSE, EACH = (
    BP_DO_FORWARD, BP_DO_CACHE, BP_DO_LOSS, BP_DO_BACKWARD, BP_DO_INPUT_GRAD, BP_DO_REUSE, BP_DO_EACH)
PAUSED, DONE, NONFINITE_LOSS, NONFINITE_PARAM = BP_PAUSED, BP_DONE, BP_E_NONFINITE_LOSS, BP_E_NONFINITE_PARAM
MAX_THREADS = BP_MAX_THREADS
MAX_OPERANDS = BP_MAX_OPERANDS


cdef _names(const char *(*name)(int) noexcept nogil):
    found, i = [], 0
    while name(i) != NULL:
        found.append(name(i).decode())
        i += 1
    return tuple(found)


bp_isa_use(NULL)
ACTIVATIONS = _names(bp_activation_name)
LOSSES = _names(bp_loss_name)

# dtype.str without its byte order -> bp_source
_SOURCES = {
    "b1": BP_BOOL, "i1": BP_I8, "u1": BP_U8, "i2": BP_I16, "u2": BP_U16, "i4": BP_I32, "u4": BP_U32, "i8": BP_I64,
    "u8": BP_U64, "f2": BP_F16, "f4": BP_FLOAT, "f8": BP_DOUBLE,
    np.dtype(np.longdouble).str[1:]: BP_LONGDOUBLE if np.dtype(np.longdouble).itemsize > 8 else BP_DOUBLE,
}


cdef _raise(bp_status status):
    if status == BP_E_NOMEM:
        raise MemoryError("bpcore: out of memory")
    if status == BP_E_LIMIT:
        raise ValueError("the network is too large for the address space")
    if status == BP_E_LABEL:
        raise ValueError("X or y: a whole number lies outside its range while it is read: a number of X for an Embedding beyond "
                         "0..n-1, or a class label of y beyond 0..n_outputs-1")
    raise ValueError("an operation's operands do not fit it")


# ---- BLAS ----

cdef struct BlasThreads:
    int (*get)() noexcept nogil
    void (*set)(int) noexcept nogil
    int held, before

cdef bp_blas _blas
cdef BlasThreads _blas_threads
memset(&_blas, 0, sizeof(_blas))
memset(&_blas_threads, 0, sizeof(_blas_threads))


def set_blas(capsules):
    """Takes six PyCapsules (sgemm, dgemm, sgemv, dgemv, sger, dger) whose signatures the caller has checked."""
    cdef void **slot = <void **>&_blas
    for i, capsule in enumerate(capsules):
        slot[i] = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


def set_blas_threads(uintptr_t get, uintptr_t set):
    """Addresses of `int get(void)` and `void set(int)` of BLAS's own pool."""
    _blas_threads.get = <int (*)() noexcept nogil>get
    _blas_threads.set = <void (*)(int) noexcept nogil>set


cdef void _hold_blas():
    if not _blas_threads.held:
        _blas_threads.before = _blas_threads.get() if _blas_threads.get else 1
        if _blas_threads.before > 1:
            _blas_threads.set(1)
    _blas_threads.held += 1


cdef void _give_back_blas():
    _blas_threads.held -= 1
    if not _blas_threads.held and _blas_threads.before > 1:
        _blas_threads.set(_blas_threads.before)


def blas_threads():
    """(threads of BLAS's own pool, holds on it); for tests."""
    return (_blas_threads.get() if _blas_threads.get else 1), _blas_threads.held


# ---- entering C ----

cdef int _slices = 0      # being run
cdef unsigned long _generation = 0  # forks that led to this process
cdef bint _closing = False


cdef _enter(bint blas):
    global _slices
    if _closing and threading.current_thread() is not threading.main_thread():
        raise SystemExit  # a daemon thread: the program is over
    _slices += 1
    if blas:
        _hold_blas()


cdef void _leave(bint blas, unsigned long generation):
    global _slices
    if generation != _generation:
        return  # the child of a fork within a user's function: after_fork_in_child has given everything back
    _slices -= 1
    if blas:
        _give_back_blas()


def close():
    """At exit: lets daemon threads finish their slices, and begin no other, before BLAS is unloaded under them."""
    global _closing
    _closing = True
    end = time.monotonic() + 1
    while _slices > 0 and time.monotonic() < end:
        time.sleep(0.001)


def after_fork_in_child():
    """The threads that held BLAS, or were fitting, are not in the child: gives back what they held."""
    global _generation, _slices
    _generation += 1
    _slices = 0
    if _blas_threads.held:
        _blas_threads.held = 1
        _give_back_blas()


atexit.register(close)
os.register_at_fork(after_in_child=after_fork_in_child)


@cython.final
cdef class OneAtATime:
    """`with` it while fitting.  In C, so that no signal is heard between taking it and giving it back."""
    cdef unsigned long thread, generation
    cdef bint held

    def __enter__(self):
        if self.held and self.generation == _generation:
            raise RuntimeError("fit: this network is being fitted already; fit a copy made before")
        self.held, self.generation, self.thread = True, _generation, PyThread_get_thread_ident()

    def __exit__(self, *error):
        self.held = False

    def check(self, str what):
        """RuntimeError where another thread of this process holds it."""
        if self.held and self.generation == _generation and self.thread != PyThread_get_thread_ident():
            raise RuntimeError(
                f"{what}: this network is being fitted in another thread; wait for it, or use a copy made before")


# ---- plan ----

cdef void *_c_function(object llc, str what, tuple signatures, int *which, void **data) except NULL:
    """What a scipy.LowLevelCallable of one of these signatures points to; the signature's number and the user's data."""
    capsule = tuple.__getitem__(llc, 0)  # SciPy closes the short way
    cdef const char *signature = PyCapsule_GetName(capsule)
    got = None if signature == NULL else signature.decode()
    if got not in signatures:
        raise ValueError(f"{what}: expected a LowLevelCallable of signature {' or '.join(map(repr, signatures))}, got "
                         f"{'one without' if got is None else repr(got)}")
    which[0], data[0] = signatures.index(got), PyCapsule_GetContext(capsule)
    return PyCapsule_GetPointer(capsule, signature)


cdef _scalar_function(object llc, bp_scalar_function *out):
    cdef int which
    cdef void *pointer = _c_function(llc, "Activation", ("double (double)", "double (double, void *)"), &which, &out.data)
    if which == 0:
        out.plain = <double (*)(double) noexcept nogil>pointer
    else:
        out.with_data = <double (*)(double, void *) noexcept nogil>pointer


@cython.final
cdef class Plan:
    """A list of operations over numbered buffers; see bp.h."""
    cdef bp_plan *plan
    cdef list functions      # the user's Python callables, by tag
    cdef list details        # what C points to
    cdef list losses         # tags of the losses
    cdef dict read           # by output's buffer, the first input's
    cdef readonly object dtype
    cdef readonly int64_t rows  # that it was compiled for

    def __cinit__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.functions = []
        self.details = []
        self.losses = []
        self.read = {}
        self.plan = bp_plan_new(BP_F64 if self.dtype.itemsize == 8 else BP_F32)
        if self.plan == NULL:
            raise MemoryError

    def __dealloc__(self):
        bp_plan_free(self.plan)

    def buffer(self, int64_t cols, *, bint integer=False):
        """Number of a new buffer of (rows, cols) reals or int32."""
        cdef int number = bp_plan_buffer(self.plan, BP_INT32 if integer else BP_REAL, cols)
        if number < 0:
            raise MemoryError
        return number

    def param(self, int64_t offset, int64_t rows, int64_t cols, bint decay, bint frozen=False):
        """Number of a new parameter: theta[offset : offset + rows * cols] as [rows, cols]."""
        cdef int flags = (BP_PARAM_DECAY if decay else 0) | (BP_PARAM_FROZEN if frozen else 0)
        cdef int number = bp_plan_param(self.plan, offset, rows, cols, flags)
        if number < 0:
            raise MemoryError
        return number

    def op(self, str name, inputs, params=(), function=None, settings=None):
        """Adds operation `name`; `function` is an activation's name, a pair (f, df) or what an operation of the user's
        needs, `settings` a pair of lists of integers and reals (see the operation's file).  Number of its output."""
        cdef int ins[BP_MAX_OPERANDS]
        cdef int ps[BP_MAX_OPERANDS]
        cdef int out = -1, tag = -1
        cdef const void *detail = NULL
        cdef bytes encoded
        if len(inputs) > BP_MAX_OPERANDS or len(params) > BP_MAX_OPERANDS:
            raise ValueError(f"an operation takes at most {BP_MAX_OPERANDS} inputs and parameters")
        for i, number in enumerate(inputs):
            ins[i] = number
        for i, number in enumerate(params):
            ps[i] = number
        if settings is not None:
            found = Settings(*settings)
            self.details.append(found)
            detail = &(<Settings>found).settings
        if isinstance(function, str):
            encoded = function.encode()
            detail = bp_activation_detail(encoded)
        elif name == "user_function":
            user = UserFunction(*function)
            self.details.append(user)
            detail = &(<UserFunction>user).functions
        elif name == "c_function":
            own = CFunction(*function)
            self.details.append(own)
            detail = &(<CFunction>own).function
        elif function is not None:
            tag = len(self.functions)
            self.functions.append(function)
        cdef const bp_op_type *type = bp_op_find(name.encode())
        if type == NULL:
            raise ValueError(f"there is no operation {name!r}")
        cdef bp_status status = bp_plan_op(self.plan, type, len(inputs), ins, len(params), ps, detail, tag, &out)
        if status:
            _raise(status)
        self.read[out] = inputs[0]
        return out

    def reads(self, int buffer):
        """Number of the first buffer that the operation behind `buffer` reads."""
        return self.read[buffer]

    def loss(self, name, int out, int target, double attr=0.0, function=None, int64_t positions=1, double weight=1.0):
        """`weight` times a loss on buffer `out`: a name of LOSSES, for each of `positions`, or None and (value, gradient,
        shape of an example's output)."""
        cdef int tag = len(self.functions)
        self.losses.append(tag)
        cdef bytes encoded = b"" if name is None else name.encode()
        self.functions.append(function)
        cdef bp_status status = bp_plan_loss(self.plan, NULL if name is None else <const char *>encoded, out, target,
                                             attr, tag, positions, weight)
        if status:
            _raise(status)

    def keep(self, int buffer):
        """The buffer is read when all is done: its memory is not shared."""
        bp_plan_keep(self.plan, buffer)

    def checkpoint(self, int buffer):
        """Cuts the operations behind the one that writes `buffer`: training computes what lies between cuts twice."""
        bp_plan_checkpoint(self.plan, buffer)

    def compile(self, int flags, int64_t rows, int n_threads, int64_t seeds=0):
        """Cuts the work for batches of at most `rows` rows and lays out the arena; seeds: see bp_plan_seeds."""
        cdef bp_status status
        self.rows = rows
        bp_plan_seeds(self.plan, seeds)
        status = bp_plan_compile(self.plan, flags, rows, n_threads)
        if status:
            _raise(status)

    def grad(self, int buffer):
        """Number of the buffer of the gradient with respect to `buffer`, or -1."""
        return bp_plan_grad(self.plan, buffer)

    def cache(self, int buffer):
        """Number of the buffer that the operation behind `buffer` cached (df), or -1."""
        return bp_plan_cache(self.plan, buffer)

    cdef fail(self, bp_status status):
        """Raises what a status means."""
        failed = [words for one in self.details if isinstance(one, CFunction) for words in (<CFunction>one).failures()]
        if status == BP_E_FUNCTION:
            raise RuntimeError(failed[0] if failed else "a bp.Function in C returned other than 0")
        _raise(status)

    def describe(self):
        """Numbers of a compiled plan: shards (0: owners), n_stages, recomputed, chunk_rows, arena_bytes, unshared_bytes,
        flops."""
        return bp_plan_describe(self.plan)


@cython.final
cdef class Settings:
    """Integers and reals that an operation in C points to."""
    cdef bp_settings settings

    def __cinit__(self, integers, reals):
        memset(&self.settings, 0, sizeof(self.settings))
        if len(integers) > BP_MAX_SETTINGS or len(reals) > BP_MAX_OPERANDS + 1:
            raise ValueError("too many settings for an operation")
        for i, value in enumerate(integers):
            self.settings.n[i] = value
        for i, value in enumerate(reals):
            self.settings.x[i] = value


@cython.final
cdef class UserFunction:
    """A pair of scipy.LowLevelCallable, kept alive with what they point to."""
    cdef bp_user_function functions
    cdef object keep

    def __cinit__(self, f, df):
        memset(&self.functions, 0, sizeof(self.functions))
        _scalar_function(f, &self.functions.f)
        _scalar_function(df, &self.functions.df)
        self.keep = (f, df)


@cython.final
cdef class CFunction:
    """An operation of the user's: a pair of scipy.LowLevelCallable, kept alive with what they point to."""
    cdef bp_c_function function
    cdef int code[2]
    cdef object keep
    cdef str name

    def __cinit__(self, forward, backward, int64_t out_cols, str name):
        cdef int which
        self.function.out_cols, self.function.code = out_cols, self.code
        for i, (what, llc) in enumerate((("forward", forward), ("backward", backward))):
            self.function.fn[i] = <bp_operation_fn *>_c_function(
                llc, f"{name}: {what}", ("int (bp_function_call *)",), &which, &self.function.data[i])
        self.keep, self.name = (forward, backward), name

    cdef list failures(self):
        """What is to be said of those that failed; said once."""
        found = [f"{self.name}: {what} returned {code}, and 0 is what says that all went well"
                 for what, code in zip(("forward", "backward"), self.code) if code]
        self.code[0] = self.code[1] = 0
        return found


def check_low_level(f, df):
    """Raises ValueError unless both have the signature of an activation."""
    UserFunction(f, df)


def check_c_function(forward, backward, name):
    """Raises ValueError unless both have the signature of an operation."""
    CFunction(forward, backward, 1, name)


def register_operation(uintptr_t address):
    """Enters a bp_op_type at `address`, which must stay where it is, under its name."""
    cdef bp_status status = bp_op_register(<const bp_op_type *>address)
    if status:
        raise ValueError("the table of operations is full, or the name is taken")


# ---- arrays ----

# elements; Ctrl-C is heard after so many, some 20 ms
cdef enum:
    BETWEEN_SIGNALS = 1 << 24
    SMALL = 1 << 16  # scanned with the GIL held


cdef bp_array _describe(cnp.ndarray a) except *:
    """A borrowed view of an array of rows, of one axis or more."""
    cdef bp_array out
    cdef int axis
    out.data = <const char *>cnp.PyArray_DATA(a)
    out.rows = a.shape[0]
    out.row_stride = a.strides[0]
    out.cols, out.col_stride, out.n_outer = 1, a.dtype.itemsize, 0
    for axis in range(a.ndim - 1, 0, -1):
        if a.shape[axis] == 1:
            continue
        if out.n_outer == 0 and (out.cols == 1 or a.strides[axis] == out.cols * out.col_stride):
            if out.cols == 1:
                out.col_stride = a.strides[axis]
            out.cols *= a.shape[axis]
            continue
        if out.n_outer == BP_MAX_OUTER:
            raise ValueError(f"an array of {a.ndim} axes has too many for its strides; use np.ascontiguousarray")
        out.outer[out.n_outer] = a.shape[axis]
        out.outer_stride[out.n_outer] = a.strides[axis]
        out.n_outer += 1
    out.type = _SOURCES[a.dtype.str[1:]]
    out.swapped = not a.dtype.isnative
    return out


def is_source(dtype):
    """Whether arrays of this dtype can be read."""
    return dtype.str[1:] in _SOURCES


def ready(x, cnp.npy_intp cols, cnp.dtype dtype):
    """Whether x is a small array (n, cols), n > 0, of float32 or float64, finite in dtype: nothing is left to check."""
    if not cnp.PyArray_CheckExact(x):
        return False
    cdef cnp.ndarray a = x
    cdef int number = cnp.PyArray_TYPE(a)
    cdef bp_array array
    cdef int64_t row, col
    if (cnp.PyArray_NDIM(a) != 2 or a.shape[1] != cols or not 0 < a.shape[0] * cols <= SMALL
            or (number != cnp.NPY_FLOAT and number != cnp.NPY_DOUBLE) or not cnp.PyArray_ISNOTSWAPPED(a)):
        return False
    memset(&array, 0, sizeof(array))
    array.data, array.type = <const char *>cnp.PyArray_DATA(a), BP_FLOAT if number == cnp.NPY_FLOAT else BP_DOUBLE
    array.rows, array.cols, array.row_stride, array.col_stride = a.shape[0], cols, a.strides[0], a.strides[1]
    bp_scan(&array, BP_F64 if dtype.type_num == cnp.NPY_DOUBLE else BP_F32, -INFINITY, INFINITY, &row, &col)
    return row < 0


def scan(cnp.ndarray a, dtype, double low=-np.inf, double high=np.inf):
    """(row, column) of the first element that is not finite in `dtype` or outside low..high; None when all is well."""
    cdef bp_array array = _describe(a)
    cdef bp_dtype target = BP_F64 if np.dtype(dtype).itemsize == 8 else BP_F32
    cdef int64_t row, col, first = 0, rows = array.rows, block = max(1, BETWEEN_SIGNALS // max(1, array.cols))
    while first < rows:
        array.data = <const char *>cnp.PyArray_DATA(a) + first * array.row_stride
        array.rows = min(block, rows - first)
        with nogil:
            bp_scan(&array, target, low, high, &row, &col)
        if row >= 0:
            return first + row, col
        PyErr_CheckSignals()
        first += array.rows
    return None


# ---- run ----

cdef cnp.ndarray _copy_in(const void *data, int64_t rows, int64_t cols, dtype):
    cdef cnp.ndarray a = np.empty((rows, cols), dtype)
    memcpy(cnp.PyArray_DATA(a), data, rows * cols * a.itemsize)
    return a


cdef cnp.ndarray _checked(object result, str what, tuple shape, dtype):
    try:
        a = np.asarray(result)
    except ValueError as error:
        raise ValueError(f"{what}: expected an array of shape {shape}, got {type(result).__name__} ({error})") from None
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{what}: expected real numbers, got dtype {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{what}: expected an array of shape {shape}, got {a.shape}")
    return np.ascontiguousarray(a, dtype)


cdef bp_status _callback(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                         bp_loss_call *loss, bp_function_call *function) noexcept with gil:
    cdef Run run = <Run>self
    cdef unsigned long generation = _generation
    try:
        if loss != NULL:
            run._call_loss(tag, loss)
        elif function != NULL:
            run._call_function(tag, function)
        else:
            run._call_activation(tag, rows, cols, z, a, df)
        if generation != _generation:
            raise RuntimeError("a step cannot go on in the child of a fork that was made within a user's function")
        return BP_OK
    except BaseException as error:
        run.error = error
        return BP_E_CALLBACK


_OPTIMIZERS = {"none": BP_OPT_NONE, "gradient": BP_OPT_GRADIENT, "each": BP_OPT_EACH, "sgd": BP_OPT_SGD, "adam": BP_OPT_ADAM}


@cython.final
cdef class Run:
    """One pass of a plan over data: ports, an optimiser, then slices."""
    cdef bp_run *run
    cdef Plan plan
    cdef object theta, arrays, order, states, error, target_shapes

    def __cinit__(self, Plan plan, cnp.ndarray theta):
        self.plan = plan
        self.theta = theta
        self.target_shapes = ()
        self.run = bp_run_new(plan.plan, &_blas, cnp.PyArray_DATA(theta), theta.shape[0])
        if self.run == NULL:
            raise MemoryError("bpcore: out of memory, or theta is shorter than the plan's parameters")
        bp_run_callback(self.run, _callback, <void *>self)

    def __dealloc__(self):
        bp_run_free(self.run)

    def ports(self, ins, outs=(), int weight=-1, target_shapes=(), repeats=()):
        """ins, outs: lists of (buffer, array); weight: index in ins of the sample weights; target_shapes: of y's rows,
        a loss each, for the user's; repeats: of the first of ins, row r is the array's row r // repeat % len.
        Arrays of outs are C-contiguous in the plan's dtype."""
        cdef bp_in_port *in_ports = <bp_in_port *>calloc(len(ins) + 1, sizeof(bp_in_port))
        cdef bp_out_port *out_ports = <bp_out_port *>calloc(len(outs) + 1, sizeof(bp_out_port))
        cdef bp_status status
        try:
            if in_ports == NULL or out_ports == NULL:
                raise MemoryError
            for i, (buffer, array) in enumerate(ins):
                in_ports[i].buffer = buffer
                in_ports[i].array = _describe(array)
            for i, (buffer, array) in enumerate(outs):
                out_ports[i].buffer = buffer
                out_ports[i].data = cnp.PyArray_DATA(array)
            status = bp_run_ports(self.run, len(ins), in_ports, len(outs), out_ports, weight)
            if status:
                _raise(status)
            for i, repeat in enumerate(repeats):
                bp_run_repeat(self.run, i, repeat)
        finally:
            free(in_ports)
            free(out_ports)
        self.arrays = (list(ins), list(outs))
        self.target_shapes = target_shapes

    def optimizer(self, str kind, states=(), int64_t t=0, double lr=0.0, double momentum=0.0, bint nesterov=False,
                  double beta1=0.0, double beta2=0.0, double eps=0.0, double weight_decay=0.0):
        """kind: none, gradient (states[0] receives it), each (that of each row, in states[0]), sgd, adam; states:
        arrays shaped as theta."""
        cdef bp_opt opt
        memset(&opt, 0, sizeof(opt))
        opt.kind = _OPTIMIZERS[kind]
        opt.lr, opt.momentum, opt.nesterov = lr, momentum, nesterov
        opt.beta1, opt.beta2, opt.eps, opt.weight_decay = beta1, beta2, eps, weight_decay
        opt.t = t
        if len(states) != {"gradient": 1, "each": 1, "sgd": int(momentum != 0), "adam": 2}.get(kind, 0):
            raise ValueError(f"optimizer: {len(states)} arrays of state do not fit {kind}")
        for i, state in enumerate(states):
            opt.state[i] = cnp.PyArray_DATA(state)
        self.states = states
        bp_run_optimizer(self.run, &opt)

    def random(self, uint64_t seed, int64_t step):
        """What training draws from: a key, and the network's count of steps so far."""
        bp_run_random(self.run, seed, step)

    def seeds(self, int64_t first, int64_t apart):
        """The plan's seeds are the unit vectors from `first` on; outs are views of (n, apart, cols) from `first` on."""
        bp_run_seeds(self.run, first, apart)

    def begin(self, int64_t n, int64_t batch, cnp.ndarray order=None):
        """Begins an epoch over n rows, taken in `order` ((n,) int64) or as they lie."""
        self.order = order
        bp_run_begin(self.run, n, batch, NULL if order is None else <const int64_t *>cnp.PyArray_DATA(order))

    def slice(self, int n_threads, double seconds=0.05, int64_t max_steps=-1, bint fresh=True):
        """Runs a slice without the GIL; PAUSED, DONE, NONFINITE_LOSS or NONFINITE_PARAM, or raises."""
        cdef bp_status status
        cdef bint blas = bp_plan_describe(self.plan.plan).calls_blas
        cdef unsigned long generation = _generation
        _enter(blas)
        try:
            with nogil:
                status = bp_epoch(self.run, n_threads, seconds, max_steps, fresh)
        finally:
            _leave(blas, generation)
        if status == BP_E_CALLBACK:
            error, self.error = self.error, None
            raise error
        if status > BP_E_NONFINITE_PARAM:
            self.plan.fail(status)
        return status

    def progress(self):
        """Sums over the batches done in this epoch: (loss, weight, hits, rows, batches), and updates of the run."""
        cdef bp_progress p = bp_run_progress(self.run)
        return p.loss, p.weight, p.hits, p.rows, p.batch, p.steps

    def losses(self):
        """Sums of each loss over this epoch, (loss, weight, hits); the loss without its weight."""
        cdef const double *sums
        found = []
        for i in range(len(self.plan.losses)):
            sums = bp_run_loss(self.run, i)
            found.append((sums[0], sums[1], sums[2]))
        return found

    def updates(self):
        """The optimiser's count of updates."""
        return bp_run_updates(self.run)

    cdef _call_activation(self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df):
        f, derivative = self.plan.functions[tag]
        dtype = self.plan.dtype
        cdef cnp.ndarray result
        argument = _copy_in(z, rows, cols, dtype)
        result = _checked(f(argument), "Activation: f(z)", (rows, cols), dtype)
        memcpy(a, cnp.PyArray_DATA(result), result.nbytes)
        if df != NULL:
            argument = _copy_in(z, rows, cols, dtype)
            result = _checked(derivative(argument), "Activation: df(z)", (rows, cols), dtype)
            memcpy(df, cnp.PyArray_DATA(result), result.nbytes)

    cdef _call_function(self, int tag, bp_function_call *call):
        forward, backward, shapes, out_shape, name = self.plan.functions[tag]
        dtype, rows = self.plan.dtype, (call.rows,)
        cdef cnp.ndarray result
        arrays = [_copy_in(call.input[i], call.rows, call.cols[i], dtype).reshape(rows + shapes[i])
                  for i in range(call.n_in)]
        if call.out_grad == NULL:
            result = _checked(forward(*arrays), f"{name}: forward", rows + out_shape, dtype)
            memcpy(call.out, cnp.PyArray_DATA(result), result.nbytes)
            return
        parts = backward(_copy_in(call.out_grad, call.rows, call.out_cols, dtype).reshape(rows + out_shape), *arrays)
        if call.n_in == 1 and not isinstance(parts, (list, tuple)):
            parts = (parts,)
        if not isinstance(parts, (list, tuple)) or len(parts) != call.n_in:
            got = len(parts) if isinstance(parts, (list, tuple)) else type(parts).__name__
            raise ValueError(f"{name}: backward: expected {call.n_in} gradients, one an input, got {got}")
        for i in range(call.n_in):
            if call.in_grad[i] == NULL:
                continue
            result = _checked(parts[i], f"{name}: backward: gradient {i}", rows + shapes[i], dtype)
            result = _copy_in(call.in_grad[i], call.rows, call.cols[i], dtype) + result.reshape(call.rows, -1)
            memcpy(call.in_grad[i], cnp.PyArray_DATA(result), result.nbytes)

    cdef _call_loss(self, int tag, bp_loss_call *call):
        value, gradient, out_shape = self.plan.functions[tag]
        dtype = self.plan.dtype
        cdef cnp.ndarray out = _copy_in(call.out, call.rows, call.cols, dtype), result
        out = out.reshape((call.rows,) + out_shape)
        target = _copy_in(call.target, call.rows, call.target_cols, np.int32 if call.labels else dtype)
        target = target.reshape((call.rows,) + self.target_shapes[self.plan.losses.index(tag)])
        weight = None
        if call.weight != NULL:
            weight = _copy_in(call.weight, call.rows, 1, dtype)
        losses = _checked(value(out.copy(), target.copy()), "Loss: value(a, y)", (call.rows,), np.float64)
        if weight is None:
            call.sum[0], call.sum[1] = losses.sum(), call.rows
        else:
            used = weight[:, 0] != 0  # a row of weight 0 is not looked at
            call.sum[0] = (losses[used] * weight[used, 0]).sum()
            call.sum[1] = weight.sum(dtype=np.float64)
        if call.grad != NULL:
            result = _checked(gradient(out, target), "Loss: gradient(a, y)", (call.rows,) + out_shape, dtype)
            if weight is not None:
                weighted = np.zeros((call.rows, call.cols), dtype)
                weighted[used] = weight[used] * result.reshape(call.rows, -1)[used]
                result = weighted
            memcpy(call.grad, cnp.PyArray_DATA(result), result.nbytes)


# ---- predictor ----

cdef enum:
    ARENAS = 64  # kept for the next calls

cdef double _RELEASE_FLOPS = 2e5     # some microseconds: fewer are not worth giving the GIL away
cdef double _UNHEARD_FLOPS = 1e9     # between two looks for Ctrl-C

# native dtypes by NumPy's number; -1: ask _describe
cdef int[32] _SOURCE_OF
for i in range(32):
    _SOURCE_OF[i] = -1
for name in ("i4", "i8", "f4", "f8", "u1"):
    _SOURCE_OF[np.dtype(name).num] = _SOURCES[name]


@cython.final
cdef class Predictor:
    """Answers of a network as it was when this was made; see Network.predictor.

    Nothing in it changes but the list of free arenas, which is used with the GIL held: a call takes one, or makes one.
    """
    cdef Plan plan
    cdef cnp.ndarray theta
    cdef object dtype, slow
    cdef dict inputs, outputs
    cdef int input, output, n_threads, number, n_free
    cdef bint flat  # one input and one output, of one axis each
    cdef cnp.npy_intp n_in, n_out
    cdef size_t arena_bytes
    cdef double flops_row
    cdef void *free[ARENAS]

    def __cinit__(self, Plan plan, cnp.ndarray theta, dict inputs, dict outputs, int n_threads, slow=None):
        """inputs, outputs: (buffer, an example's shape) by name; slow: the outputs for a list of inputs (n, *shape), in
        place of the plan, where that calls Python."""
        self.plan, self.theta, self.slow, self.dtype = plan, theta, slow, plan.dtype
        self.inputs, self.outputs, self.n_threads = inputs, outputs, n_threads
        self.n_in, self.n_out = (sum(math.prod(shape) for _, shape in ends.values()) for ends in (inputs, outputs))
        (self.input, first), (self.output, last) = next(iter(inputs.values())), next(iter(outputs.values()))
        self.flat = len(inputs) == len(outputs) == len(first) == len(last) == 1
        self.number = plan.dtype.num
        cdef bp_plan_info info = bp_plan_describe(plan.plan)
        self.arena_bytes, self.flops_row = info.arena_bytes, info.flops / plan.rows

    def __dealloc__(self):
        for i in range(self.n_free):
            free(self.free[i])

    def __repr__(self):
        return f"<Predictor of {self.n_in} inputs and {self.n_out} outputs, {self.dtype}>"

    @property
    def n_inputs(self):
        """Numbers of an example, of all inputs."""
        return self.n_in

    @property
    def n_outputs(self):
        """Numbers of an answer, of all outputs."""
        return self.n_out

    def __call__(self, x, out=None):
        """a^L for a row x (n_0,): (n_L,); or for rows (n, n_0): (n, n_L); in the network's dtype, written to `out`
        where that is given.  Of several inputs x is a list, or a dict by name; of several outputs a tuple comes, and
        `out` is a list, or a dict by name."""
        cdef cnp.ndarray a, to
        cdef cnp.npy_intp[2] shape
        cdef bp_in_port port
        cdef bp_out_port answers
        if not self.flat:
            return self.shaped(x, out)
        if not cnp.PyArray_CheckExact(x):
            x = _real(x)
        a = x
        cdef int ndim = cnp.PyArray_NDIM(a), number = cnp.PyArray_TYPE(a)
        if not (0 < ndim < 3) or a.shape[ndim - 1] != self.n_in or a.shape[0] == 0:
            raise ValueError(f"x: expected shape ({self.n_in},) or (n, {self.n_in}) with n > 0, got {np.shape(x)}")
        if 0 <= number < 32 and _SOURCE_OF[number] >= 0 and cnp.PyArray_ISNOTSWAPPED(a):
            port.array.data = <const char *>cnp.PyArray_DATA(a)
            port.array.type = <bp_source>_SOURCE_OF[number]
            port.array.swapped = 0
        else:
            a = _real(x)
            port.array = _describe(a)
        port.buffer = self.input
        port.array.rows = 1 if ndim == 1 else a.shape[0]
        port.array.n_outer = 0
        port.array.cols = self.n_in
        port.array.col_stride = a.strides[ndim - 1]
        port.array.row_stride = a.strides[0] if ndim == 2 else port.array.col_stride * self.n_in
        shape[0], shape[ndim - 1] = port.array.rows, self.n_out
        if out is None:
            to = cnp.PyArray_SimpleNew(ndim, shape, self.number)
        else:
            to = self.check_out(out, a, ndim, port.array.rows)
        if self.slow is not None:
            (found,) = self.slow([a.reshape(-1, self.n_in)])
            to[...] = found if ndim == 2 else found[0]
            return to
        answers.buffer, answers.data = self.output, cnp.PyArray_DATA(to)
        self.answer(1, &port, 1, &answers)
        return to

    cdef shaped(self, x, out):
        """Examples or answers of several axes, several inputs or outputs; what is not contiguous is copied."""
        from bpcore._validate import parts

        xs, lead = [], None
        for (name, value), (_, shape) in zip(parts("x", x, list(self.inputs)), self.inputs.values(), strict=True):
            value = _real(value, name)
            before = value.shape[:value.ndim - len(shape)]
            if value.shape[len(before):] != shape or len(before) > 1 or value.size == 0:
                words = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
                raise ValueError(f"{name}: expected shape ({words}) or (n, {words.rstrip(',')}) with n > 0, got "
                                 f"{value.shape}")
            if before != (before if lead is None else lead):
                raise ValueError(f"x: expected a row of each input, or as many rows in each, got {name} of shape "
                                 f"{value.shape} beside one of {xs[0].shape}")
            lead = before
            xs.append(np.ascontiguousarray(value))
        shapes = [(*lead, *shape) for _, shape in self.outputs.values()]
        if out is None:
            outs = [np.empty(shape, self.dtype) for shape in shapes]
        else:
            outs = []
            for (name, to), shape in zip(parts("out", out, list(self.outputs)), shapes, strict=True):
                outs.append(self.check_shaped(to, name, shape, [*xs, *outs]))
        n = lead[0] if lead else 1
        if self.slow is not None:
            rows = [a.reshape(n, *shape) for a, (_, shape) in zip(xs, self.inputs.values(), strict=True)]
            for to, found in zip(outs, self.slow(rows), strict=True):
                to[...] = found.reshape(to.shape)
        else:
            self.answer_all(n, xs, outs)
        return outs[0] if len(outs) == 1 else tuple(outs)

    cdef answer_all(self, cnp.npy_intp n, list xs, list outs):
        cdef bp_in_port *ins = <bp_in_port *>calloc(len(xs), sizeof(bp_in_port))
        cdef bp_out_port *answers = <bp_out_port *>calloc(len(outs), sizeof(bp_out_port))
        try:
            if ins == NULL or answers == NULL:
                raise MemoryError
            for i, (x, (buffer, _)) in enumerate(zip(xs, self.inputs.values(), strict=True)):
                rows = x.reshape(n, -1)
                ins[i].buffer, ins[i].array = buffer, _describe(rows)
                ins[i].array.cols, ins[i].array.col_stride = rows.shape[1], rows.itemsize
                ins[i].array.row_stride = rows.shape[1] * rows.itemsize
            for i, (to, (buffer, _)) in enumerate(zip(outs, self.outputs.values(), strict=True)):
                answers[i].buffer, answers[i].data = buffer, cnp.PyArray_DATA(to)
            self.answer(len(xs), ins, len(outs), answers)
        finally:
            free(ins)
            free(answers)

    cdef check_shaped(self, out, str name, tuple shape, list others):
        if (type(out) is np.ndarray and out.shape == shape and out.dtype == self.dtype and out.dtype.isnative
                and out.flags.c_contiguous and out.flags.writeable
                and not any(np.may_share_memory(out, other) for other in others)):
            return out
        got = f"{out.dtype} of shape {out.shape}" if type(out) is np.ndarray else type(out).__name__
        raise ValueError(f"{name}: expected a writeable, C-contiguous array of {self.dtype} and shape {shape} that "
                         f"shares no memory with x{' and other outputs' if len(self.outputs) > 1 else ''}, got {got}")

    cdef cnp.ndarray check_out(self, out, cnp.ndarray a, int ndim, cnp.npy_intp rows):
        cdef cnp.ndarray to
        if cnp.PyArray_CheckExact(out):
            to = out
            if (cnp.PyArray_NDIM(to) == ndim and to.shape[0] == (rows if ndim == 2 else self.n_out)
                    and to.shape[ndim - 1] == self.n_out and cnp.PyArray_TYPE(to) == self.number
                    and cnp.PyArray_ISCARRAY(to) and (ndim == 1 or not np.may_share_memory(to, a))):
                return to
            got = f"{out.dtype} of shape {out.shape}"
        else:
            got = type(out).__name__  # a subclass may mean more than its memory
        shape = f"({rows}, {self.n_out})" if ndim == 2 else f"({self.n_out},)"
        raise ValueError(f"out: expected a writeable, C-contiguous array of {self.dtype} and shape {shape} that shares no "
                         f"memory with x, got {got}")

    cdef answer(self, int n_in, bp_in_port *ins, int n_out, bp_out_port *outs):
        cdef int64_t rows = ins[0].array.rows, some, most = <int64_t>max(32, _UNHEARD_FLOPS * self.n_threads / (self.flops_row + 1))
        cdef bint release = self.flops_row * rows > _RELEASE_FLOPS
        cdef unsigned long generation = _generation
        cdef void *arena = NULL
        cdef bp_status status = BP_OK
        cdef int i
        if self.n_free > 0:
            self.n_free -= 1
            arena = self.free[self.n_free]
        elif posix_memalign(&arena, 64, self.arena_bytes + 64):
            raise MemoryError("bpcore: out of memory")
        try:
            while True:
                some = min(rows, most)
                for i in range(n_in):
                    ins[i].array.rows = some
                if release:
                    _enter(False)
                    try:
                        with nogil:
                            status = bp_answer(self.plan.plan, cnp.PyArray_DATA(self.theta), arena, n_in, ins, n_out,
                                               outs, self.n_threads)
                    finally:
                        _leave(False, generation)
                    PyErr_CheckSignals()
                else:
                    status = bp_answer(self.plan.plan, cnp.PyArray_DATA(self.theta), arena, n_in, ins, n_out, outs, 1)
                rows -= some
                if rows == 0 or status:
                    break
                for i in range(n_in):
                    ins[i].array.data += some * ins[i].array.row_stride
                for i, (_, shape) in enumerate(self.outputs.values()):
                    outs[i].data = <char *>outs[i].data + some * <int64_t>(math.prod(shape) * self.dtype.itemsize)
        finally:
            if self.n_free < ARENAS:
                self.free[self.n_free] = arena
                self.n_free += 1
            else:
                free(arena)
        if status == BP_E_LABEL:
            raise ValueError("x: expected whole numbers from 0 to n - 1 of each Embedding; net.predict(x) says which is not")
        if status:
            self.plan.fail(status)


cdef _real(x, str name="x"):
    """Anything that NumPy makes an array of real numbers of."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported; use {name}.filled(...)")
    if not cnp.PyArray_CheckExact(x):
        try:
            x = np.asarray(x)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: expected an array of numbers, got {type(x).__name__} ({error})") from None
    if x.dtype.kind not in "fiub" or not is_source(x.dtype):
        raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype}")
    return x


# ---- threads and randomness ----

def pool_tasks(int n):
    """Tasks done by threads 0..n-1 since the last reset."""
    cdef cnp.ndarray count = np.zeros(n, np.int64)
    bp_pool_tasks(<int64_t *>cnp.PyArray_DATA(count), min(n, BP_MAX_THREADS))
    return count.tolist()


def pool_tasks_reset():
    """Begins the count of tasks anew."""
    bp_pool_tasks_reset()


def use_isa(str name):
    """Takes the kernels of instruction set `name` ("": the best); ValueError lists those that this machine runs."""
    cdef bytes encoded = name.encode()
    if bp_isa_use(<const char *>encoded if name else NULL):
        raise ValueError(f"BPCORE_ISA: expected one of {', '.join(_names(bp_isa_name))}, got {name!r}")


def isa():
    """The instruction set in use, and all that this machine runs, best first."""
    return bp_isa().decode(), _names(bp_isa_name)


def force(bint parallel_always, str phase2, str backend=""):
    """What BPCORE_PARALLEL=always, BPCORE_PHASE2=owners|shards and BPCORE_BACKEND=blas|native ask for; "" leaves it
    to the shapes.  BLAS is loaded when it is first asked for."""
    if backend == "blas":
        from bpcore._blas import connect

        connect()
    bp_set_backend(("", "blas", "native").index(backend))
    bp_set_parallel_always(parallel_always)
    bp_set_phase2(("", "owners", "shards").index(phase2))


def philox(counter, key, int rounds=10):
    """Philox4x32: four words of 32 bits."""
    cdef uint32_t c[4]
    cdef uint32_t k[2]
    cdef uint32_t out[4]
    c[0], c[1], c[2], c[3] = counter
    k[0], k[1] = key
    bp_philox(c, k, rounds, out)
    return out[0], out[1], out[2], out[3]


def uniform(int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer=0, uint32_t step=0):
    """n uniforms in [0, 1) of 53 bits, float64."""
    cdef cnp.ndarray out = np.empty(n)
    with nogil:
        bp_uniform(<double *>cnp.PyArray_DATA(out), n, seed, purpose, layer, step)
    return out


def permutation(int64_t n, uint64_t seed, uint32_t purpose, uint32_t step=0):
    """A permutation of 0..n-1, int64."""
    cdef cnp.ndarray out = np.empty(n, np.int64)
    cdef int64_t *data = <int64_t *>cnp.PyArray_DATA(out)
    cdef int64_t first = 0, end
    while first < n:
        end = min(n, first + BETWEEN_SIGNALS // 64)
        with nogil:
            bp_permutation_part(data, first, end, seed, purpose, step)
        PyErr_CheckSignals()
        first = end
    return out

# Plan: a list of operations, compiled.

@cython.final
cdef class Plan:
    """A list of operations over numbered buffers; see bp.h."""
    cdef bp_plan *plan
    cdef list functions      # the user's Python callables, by tag
    cdef list details        # what C points to
    cdef list losses         # tags of the losses
    cdef readonly set sparse  # numbers of the buffers of sparse rows
    cdef dict read           # by output's buffer, the first input's
    cdef readonly object dtype
    cdef readonly int64_t rows  # that it was compiled for

    def __cinit__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.functions = []
        self.details = []
        self.losses = []
        self.read = {}
        self.sparse = set()
        self.plan = bp_plan_new(BP_F64 if self.dtype.itemsize == 8 else BP_F32)
        if self.plan == NULL:
            raise MemoryError

    def __dealloc__(self):
        bp_plan_free(self.plan)

    def buffer(self, int64_t cols, *, bint integer=False, bint sparse=False):
        """Number of a new buffer of (rows, cols) reals or int32, or of sparse rows."""
        cdef int number = bp_plan_buffer(self.plan, BP_INT32 if integer else BP_SPARSE if sparse else BP_REAL, cols)
        if number < 0:
            raise MemoryError
        if sparse:
            self.sparse.add(number)
        return number

    def param(self, int64_t offset, int64_t rows, int64_t cols, double decay, bint frozen=False, double rate=1.0,
              bint lazy=False):
        """Number of a new parameter: theta[offset : offset + rows * cols] as [rows, cols]; decay and rate: its factors of
        the weight decay and of the learning rate; lazy: see bp.Dense."""
        cdef int flags = (BP_PARAM_FROZEN if frozen else 0) | (BP_PARAM_LAZY if lazy else 0)
        cdef int number = bp_plan_param(self.plan, offset, rows, cols, flags, rate, decay)
        if number < 0:
            raise MemoryError
        return number

    def state(self, int64_t offset, int64_t n):
        """Number of n numbers of the network's state, from `offset` on, that an operation takes as a parameter [n, 1]."""
        cdef int number = bp_plan_param(self.plan, offset, n, 1, BP_PARAM_STATE, 1.0, 0.0)
        if number < 0:
            raise MemoryError
        return number

    def regularise(self, int param, double l1, double l2, double max_norm):
        """Penalties of a parameter's elements, l1 |w| + l2 w^2 / 2, and most of the norm of its columns; 0: none."""
        cdef bp_status status = bp_plan_regularise(self.plan, param, l1, l2, max_norm)
        if status:
            _raise(status)

    def op(self, str name, inputs, params=(), function=None, settings=None):
        """Adds operation `name`; `function` is an activation's name, a pair (f, df) or what an operation of the user's
        needs, `settings` a pair of lists of integers and reals (see csrc/kernels/settings.h).  Number of its output."""
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
            numbers = Settings(*settings)
            self.details.append(numbers)
            detail = &(<Settings>numbers).settings
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

    def loss(self, name, int out, int target, numbers=(), function=None, int64_t positions=1, double weight=1.0):
        """`weight` times a loss on buffer `out`: a name of LOSSES and its settings, for each of `positions`, or None and
        (value, gradient, shape of an example's output)."""
        cdef int tag = len(self.functions)
        self.losses.append(tag)
        cdef bytes encoded = b"" if name is None else name.encode()
        self.functions.append(function)
        cdef double[::1] settings = np.array([*numbers, 0.0], float)
        cdef bp_status status = bp_plan_loss(self.plan, NULL if name is None else <const char *>encoded, out, target,
                                             &settings[0], len(numbers), tag, positions, weight)
        if status:
            _raise(status)

    def keep(self, int buffer):
        """The buffer is read when all is done: its memory is not shared."""
        bp_plan_keep(self.plan, buffer)

    def checkpoint(self, int buffer):
        """Cuts the operations behind the one that writes `buffer`: training computes what lies between cuts twice."""
        bp_plan_checkpoint(self.plan, buffer)

    def compile(self, int flags, int64_t rows, int n_threads, int64_t cotangents=0):
        """Cuts the work for batches of at most `rows` rows; cotangents: see bp_plan_cotangents.  From here on the plan is
        only read: runs share it."""
        cdef bp_status status
        self.rows = rows
        bp_plan_cotangents(self.plan, cotangents)
        status = bp_plan_compile(self.plan, flags, rows, n_threads)
        if status:
            _raise(status)

    @property
    def calls_python(self):
        """Whether its steps call functions of the user's in Python."""
        return any(function is not None for function in self.functions)

    def pack(self, cnp.ndarray theta, cnp.ndarray to):
        """Copies theta to where a predictor with this plan reads it; see bp_plan_pack."""
        bp_plan_pack(self.plan, cnp.PyArray_DATA(theta), cnp.PyArray_DATA(to))

    def grad(self, int buffer):
        """Number of the buffer of the gradient with respect to `buffer`, or -1."""
        return bp_plan_grad(self.plan, buffer)

    def cache(self, int buffer):
        """Number of the buffer that the operation behind `buffer` cached (df), or -1."""
        return bp_plan_cache(self.plan, buffer)

    cdef fail(self, bp_status status):
        """Raises what a status means."""
        failed = [words for function in self.details if isinstance(function, CFunction)
                  for words in (<CFunction>function).failures()]
        if status == BP_E_FUNCTION:
            raise RuntimeError(failed[0] if failed else "a bp.Function in C returned other than 0")
        _raise(status)

    def describe(self):
        """Numbers of a compiled plan: shards (0: owners), n_stages, recomputed, chunk_rows, arena_bytes, unshared_bytes,
        flops, stretch (flops between two moments at which a slice may end, at most)."""
        return bp_plan_describe(self.plan)

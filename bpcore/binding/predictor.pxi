# Predictor: answers without a run.

cdef enum:
    ARENAS = 64  # kept for the next calls

cdef double _RELEASE_FLOPS = 2e5     # some microseconds: fewer are not worth giving the GIL away
cdef double _TOGETHER_FLOPS = 2e6    # a row of more may have several threads: see answer.c
UNHEARD_FLOPS = 2.5e9                # between two looks for Ctrl-C, at most: 50 ms of a core of 50 GFLOP/s

# native dtypes by NumPy's number; -1: ask _describe
cdef int[32] _SOURCE_OF
for i in range(32):
    _SOURCE_OF[i] = -1
for name in ("i4", "i8", "f4", "f8", "u1"):
    _SOURCE_OF[np.dtype(name).num] = _SOURCES[name]


@cython.final
cdef class Arenas:
    """Memory for calls: each takes an arena, or makes one, and gives it back, with the GIL held."""
    cdef int n_free
    cdef size_t bytes
    cdef void *free[ARENAS]

    def __cinit__(self, size_t bytes):
        self.bytes = bytes

    def __dealloc__(self):
        for i in range(self.n_free):
            free(self.free[i])

    cdef void *take(self) except NULL:
        cdef void *arena = NULL
        if self.n_free > 0:
            self.n_free -= 1
            return self.free[self.n_free]
        if posix_memalign(&arena, 64, self.bytes + 64):
            raise MemoryError("bpcore: out of memory")
        return arena

    cdef void give_back(self, void *arena) noexcept:
        if self.n_free < ARENAS:
            self.free[self.n_free] = arena
            self.n_free += 1
        else:
            free(arena)


@cython.final
cdef class Predictor:
    """Answers of a network as it was when this was made; see Network.predictor.  Nothing in it changes but the arenas."""
    cdef Plan plan
    cdef cnp.ndarray theta, state
    cdef object dtype, slow, limit, names, sparse, table
    cdef dict inputs, outputs
    cdef list reads     # (number of the input, buffer, shift or None, factor or None)
    cdef const double *shift   # of the only one
    cdef const double *factor
    cdef bp_out_port answers   # where the first output goes
    cdef int input, n_threads, number
    cdef bint flat  # one input, read once, and one output, of one axis each
    cdef cnp.npy_intp n_in, n_out
    cdef double flops_row
    cdef Arenas arenas

    def __cinit__(self, Plan plan, cnp.ndarray theta, cnp.ndarray state, dict inputs, dict outputs, int n_threads, limit=None,
                  slow=None, names=None, sparse=None, table=None):
        """inputs: by name, an example's shape and what reads it: (buffer, shift, factor), see Scaled; outputs: by name, an
        example's shape, buffer, shift and factor; shift and factor may be None; limit: how many of n_threads a call may
        have; slow: the outputs for a list of inputs (n, *shape) and a number of threads, in place of the plan, where
        that calls Python or a row takes too long to be done at once; names: of the columns that data frames must have,
        by input; sparse: what answers (x, out) where x has sparse rows; table: the bp.Table that reads x, or None."""
        self.plan, self.theta, self.state, self.slow = plan, theta, state, slow
        self.dtype, self.names, self.sparse, self.table = plan.dtype, names or {}, sparse, table
        self.inputs, self.outputs, self.n_threads, self.limit = inputs, outputs, n_threads, limit
        self.n_in, self.n_out = (sum(math.prod(ends[0]) for ends in each.values()) for each in (inputs, outputs))
        self.reads = [(i, *read) for i, (_, readers) in enumerate(inputs.values()) for read in readers]
        first, (last, output, mean, scale) = next(iter(inputs.values()))[0], next(iter(outputs.values()))
        self.flat = table is None and len(self.reads) == len(outputs) == len(first) == len(last) == 1
        _, self.input, shift, factor = self.reads[0]
        self.shift = NULL if shift is None else <const double *>cnp.PyArray_DATA(shift)
        self.factor = NULL if factor is None else <const double *>cnp.PyArray_DATA(factor)
        self.answers = _unbound(output, mean, scale)
        self.number = plan.dtype.num
        cdef bp_plan_info info = bp_plan_describe(plan.plan)
        self.arenas, self.flops_row = Arenas(info.arena_bytes), info.flops / plan.rows

    def __reduce__(self):
        raise TypeError("a predictor cannot be pickled or copied; pickle the network, and call predictor() there")

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
        cdef bp_out_port answers = self.answers
        if self.table is not None:
            xs, is_row = self.table.read_rows(x)
            return self.rows(xs, out, () if is_row else (len(xs[0]),))
        if self.sparse is not None and not cnp.PyArray_CheckExact(x) and _has_sparse(x, self.inputs):
            return self.sparse(x, out)
        if not self.flat:
            return self.shaped(x, out)
        a = x if cnp.PyArray_CheckExact(x) else _named(x, "x", next(iter(self.inputs)), self.names)
        a = _rows(&port, x, a, self.n_in)
        cdef int ndim = cnp.PyArray_NDIM(a)
        port.buffer = self.input
        port.array.shift, port.array.factor = self.shift, self.factor
        shape[0], shape[ndim - 1] = port.array.rows, self.n_out
        if out is None:
            to = cnp.PyArray_SimpleNew(ndim, shape, self.number)
        else:
            to = self.check_out(out, a, ndim, port.array.rows)
        if port.array.rows == 0:
            return to
        if self.slow is not None:
            (answer,) = self.slow([a.reshape(-1, self.n_in)], self.threads())
            to[...] = answer if ndim == 2 else answer[0]
            return to
        answers.data = cnp.PyArray_DATA(to)
        self.answer(1, &port, 1, &answers)
        return to

    cdef shaped(self, x, out):
        """Examples or answers of several axes, several inputs or outputs."""
        from bpcore._validate import as_rows, parts

        cdef list xs
        xs, lead = [], None
        for (name, given), (key, (shape, _)) in zip(parts("x", x, list(self.inputs)), self.inputs.items(), strict=True):
            value = _named(given, name, key, self.names)
            before = value.shape[:value.ndim - len(shape)]
            if value.shape[len(before):] != shape or len(before) > 1:
                words = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
                raise ValueError(f"{name}: expected shape ({words}) or (n, {words.rstrip(',')}), got {value.shape}"
                                 f"{as_rows(name, given, value.shape, shape)}")
            if before != (before if lead is None else lead):
                raise ValueError(f"x: expected a row of each input, or as many rows in each, got {name} of shape "
                                 f"{value.shape} beside one of {xs[0].shape}")
            lead = before
            xs.append(value if before else value[None])
        return self.rows(xs, out, lead)

    def rows(self, list xs, out, tuple lead):
        """The answers, of shape (*lead, ...), to rows of each input, arrays (n, ...) or SparseRows, all checked; lead:
        (n,), or () where one row gets one answer."""
        shapes = [(*lead, *shape) for shape, *_ in self.outputs.values()]
        if out is None:
            outs = [np.empty(shape, self.dtype) for shape in shapes]
        else:
            from bpcore._validate import parts

            outs = []
            for (name, to), shape in zip(parts("out", out, list(self.outputs)), shapes, strict=True):
                read = [x.data if isinstance(x, SparseRows) else x for x in xs]
                outs.append(self.check_shaped(to, name, shape, [*read, *outs]))
        if lead == (0,):
            pass
        elif self.slow is not None:
            for to, answer in zip(outs, self.slow(xs, self.threads()), strict=True):
                to[...] = answer.reshape(to.shape)
        else:
            self.answer_all(xs, outs)
        return outs[0] if len(outs) == 1 else tuple(outs)

    cdef answer_all(self, list xs, list outs):
        cdef bp_in_port *ins = <bp_in_port *>calloc(len(self.reads), sizeof(bp_in_port))
        cdef bp_out_port *answers = <bp_out_port *>calloc(len(outs), sizeof(bp_out_port))
        try:
            if ins == NULL or answers == NULL:
                raise MemoryError
            for i, (number, buffer, shift, factor) in enumerate(self.reads):
                x = xs[number]
                ins[i].buffer = buffer
                ins[i].array = _describe_rows(x if shift is None else Scaled(x, shift, factor))
                if ins[i].array.rows == 1:  # of any stride: this one is read in place
                    ins[i].array.row_stride = ins[i].array.cols * ins[i].array.col_stride
            for i, (to, (_, buffer, shift, factor)) in enumerate(zip(outs, self.outputs.values(), strict=True)):
                answers[i] = _unbound(buffer, shift, factor)
                answers[i].data = cnp.PyArray_DATA(to)
            self.answer(len(self.reads), ins, len(outs), answers)
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
                    and cnp.PyArray_ISCARRAY(to) and (rows == 0 or _apart(to, a))):
                return to
            got = f"{out.dtype} of shape {out.shape}"
        else:
            got = type(out).__name__  # a subclass may mean more than its memory
        shape = f"({rows}, {self.n_out})" if ndim == 2 else f"({self.n_out},)"
        raise ValueError(f"out: expected a writeable, C-contiguous array of {self.dtype} and shape {shape} that shares no "
                         f"memory with x, got {got}")

    cdef int threads(self) except 0:
        return self.n_threads if self.limit is None else min(self.n_threads, <int>self.limit())

    cdef answer(self, int n_in, bp_in_port *ins, int n_out, bp_out_port *outs):
        cdef int64_t rows = ins[0].array.rows, some  # whole tiles: a part of one costs as much
        cdef int64_t most
        cdef bint release = self.flops_row * rows > _RELEASE_FLOPS
        cdef int n_threads = 1
        cdef unsigned long generation = _generation
        cdef bp_status status = BP_OK
        cdef int i
        cdef void *arena = self.arenas.take()
        try:
            if release and (rows > 1 or self.flops_row > _TOGETHER_FLOPS):
                n_threads = self.threads()
            most = max(1, <int64_t>(<double>UNHEARD_FLOPS / (self.flops_row + 1)))
            if most > 128:
                most -= most % 128
            while True:
                some = min(rows, most)
                for i in range(n_in):
                    ins[i].array.rows = some
                if release:
                    _enter(False)
                    try:
                        with nogil:
                            status = bp_answer(self.plan.plan, cnp.PyArray_DATA(self.theta),
                                               cnp.PyArray_DATA(self.state), arena, n_in, ins, n_out, outs, n_threads)
                    finally:
                        _leave(False, generation)
                    PyErr_CheckSignals()
                else:
                    status = bp_answer(self.plan.plan, cnp.PyArray_DATA(self.theta), cnp.PyArray_DATA(self.state), arena,
                                       n_in, ins, n_out, outs, 1)
                rows -= some
                if rows == 0 or status:
                    break
                for i in range(n_in):
                    ins[i].array.data += some * ins[i].array.row_stride
                    if ins[i].array.indptr != NULL:
                        ins[i].array.indptr = <const char *>ins[i].array.indptr + some * (8 if ins[i].array.wide else 4)
                for i, (shape, *_) in enumerate(self.outputs.values()):
                    outs[i].data = <char *>outs[i].data + some * <int64_t>(math.prod(shape) * self.dtype.itemsize)
        finally:
            self.arenas.give_back(arena)
        if status == BP_E_LABEL:
            raise ValueError("x: expected whole numbers from 0 to n - 1 of each Embedding; net.predict(x) says which is not")
        if status:
            self.plan.fail(status)


cdef bint _has_sparse(x, dict inputs) except -1:
    """Whether x, or what it has for one of several inputs, is a sparse matrix; what raises is looked at later."""
    try:
        if hasattr(x, "tocsr"):
            return True
        if len(inputs) == 1 and not isinstance(x, dict) or not isinstance(x, (dict, list, tuple)):
            return False
        return any(hasattr(part, "tocsr") for part in (x.values() if isinstance(x, dict) else x))
    except Exception:
        return False


cdef _named(x, str name, str key, names):
    """x as an array of real numbers; a data frame must have the columns of its input."""
    if names and not cnp.PyArray_CheckExact(x):
        from bpcore._validate import columns
        columns(name, x, names, key)
    return _real(x, name)


cdef cnp.ndarray _rows(bp_in_port *port, x, cnp.ndarray a, cnp.npy_intp n_in):
    """The port reads a, made of x: one row (n_in,), or rows (n, n_in); returns what it points to."""
    cdef int ndim = cnp.PyArray_NDIM(a), number = cnp.PyArray_TYPE(a)
    if not (0 < ndim < 3) or a.shape[ndim - 1] != n_in:
        from bpcore._validate import as_rows
        raise ValueError(f"x: expected shape ({n_in},) or (n, {n_in}), got {np.shape(a)}"
                         f"{as_rows('x', x, np.shape(a), (n_in,))}")
    if 0 <= number < 32 and _SOURCE_OF[number] >= 0 and cnp.PyArray_ISNOTSWAPPED(a):
        port.array.data = <const char *>cnp.PyArray_DATA(a)
        port.array.type = <bp_source>_SOURCE_OF[number]
        port.array.swapped = 0
    else:
        a = _real(a)
        port.array = _describe(a)
    port.array.rows = 1 if ndim == 1 else a.shape[0]
    port.array.n_outer = 0
    port.array.indices, port.array.shift, port.array.factor = NULL, NULL, NULL
    port.array.cols = n_in
    port.array.col_stride = a.strides[ndim - 1]
    port.array.row_stride = a.strides[0] if ndim == 2 else port.array.col_stride * n_in
    return a


cdef bp_out_port _unbound(int buffer, shift, factor) except *:
    """Of an output, without the array that it writes to."""
    cdef bp_out_port port
    memset(&port, 0, sizeof(port))
    port.buffer = buffer
    if shift is not None:
        port.shift, port.factor = <const double *>cnp.PyArray_DATA(shift), <const double *>cnp.PyArray_DATA(factor)
    return port


cdef inline void _extent(cnp.ndarray a, const char **low, const char **high) noexcept:
    """The bytes from low to before high are where an array lies that is not empty."""
    cdef cnp.npy_intp reach
    cdef int i
    low[0] = high[0] = <const char *>cnp.PyArray_DATA(a)
    for i in range(cnp.PyArray_NDIM(a)):
        reach = (a.shape[i] - 1) * a.strides[i]
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += cnp.PyArray_ITEMSIZE(a)


cdef inline bint _apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether one lies before the other."""
    cdef const char *low[2]
    cdef const char *high[2]
    _extent(a, &low[0], &high[0])
    _extent(b, &low[1], &high[1])
    return high[0] <= low[1] or high[1] <= low[0]


cdef _real(x, str name="x"):
    """Anything that NumPy makes an array of real numbers of."""
    a = x
    if type(x) is list or type(x) is tuple:
        try:
            a = np.asarray(x)
        except Exception:
            pass  # which is said below
    if cnp.PyArray_CheckExact(a) and a.dtype.kind in "fiub" and is_source(a.dtype):
        return a
    from bpcore._validate import array
    return array(name, x)

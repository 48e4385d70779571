# The mean of what an ensemble's members answer, and how far they are apart.

@cython.final
cdef class Members:
    """K networks of one plan (see _plans.PREDICT), of one input and one output of one axis each, that answer side by side;
    `fits` says whether they can, and gain by it.  It has copies of their parameters: all are `set`, in their order, before
    the first answer, and from then on nothing changes but the arenas."""
    cdef bp_members *members
    cdef Plan plan
    cdef Arenas arenas
    cdef object limit, names
    cdef str input
    cdef int n_threads, number
    cdef cnp.npy_intp n_in, n_out
    cdef double flops_row
    cdef readonly bint fits

    def __cinit__(self, Plan plan, str input, cnp.npy_intp n_in, int output, cnp.npy_intp n_out, int64_t n, int64_t rows,
                  int n_threads, limit=None, names=None):
        """input: its name; output: its buffer; n: how many networks; rows: of a call, about; limit, names: see
        Predictor."""
        cdef bp_plan_info info = bp_plan_describe(plan.plan)
        cdef bp_status status = bp_members_new(plan.plan, output, n, rows, &self.members)
        if status:
            _raise(status)
        self.plan, self.input, self.n_in, self.n_out, self.number = plan, input, n_in, n_out, plan.dtype.num
        self.n_threads, self.limit, self.names, self.fits = n_threads, limit, names, self.members != NULL
        self.flops_row = info.flops / plan.rows * n
        self.arenas = Arenas(bp_members_arena(self.members, n_threads) if self.fits else 0)

    def __dealloc__(self):
        bp_members_free(self.members)

    @property
    def n_inputs(self):
        """Numbers of an example."""
        return self.n_in

    @property
    def n_outputs(self):
        """Numbers of an answer."""
        return self.n_out

    def set(self, int64_t member, cnp.ndarray theta):
        """Copies a member's theta."""
        bp_members_set(self.members, member, cnp.PyArray_DATA(theta))

    def __call__(self, x, bint spread):
        """The mean for a row x (n_0,): (n_L,), or for rows (n, n_0): (n, n_L); with spread (mean, spread)."""
        cdef cnp.ndarray a, mean, apart
        cdef cnp.npy_intp[2] shape
        cdef bp_in_port port
        if cnp.PyArray_CheckExact(x):
            a = x
        else:
            a = _named(x, "x", self.input, self.names)
        a = _rows(&port, x, a, self.n_in)
        cdef int ndim = cnp.PyArray_NDIM(a)
        shape[0], shape[ndim - 1] = port.array.rows, self.n_out
        mean = cnp.PyArray_SimpleNew(ndim, shape, self.number)
        apart = cnp.PyArray_SimpleNew(ndim, shape, self.number) if spread else None
        self.answer(&port.array, mean, apart, 0)
        return (mean, apart) if spread else mean

    def predict(self, rows, bint spread, int n_threads):
        """(mean, spread) for rows (n, n_0) that _validate has checked: (n, n_L) each; spread is None unless asked for."""
        cdef bp_array array = _describe_rows(rows)
        mean = np.empty((array.rows, self.n_out), self.plan.dtype)
        apart = np.empty_like(mean) if spread else None
        self.answer(&array, mean, apart, n_threads)
        return mean, apart

    cdef answer(self, const bp_array *x, cnp.ndarray mean, cnp.ndarray apart, int n_threads):
        """n_threads 0: as many as a predictor has."""
        cdef int64_t first = 0, end, most = max(1, <int64_t>(<double>UNHEARD_FLOPS / (self.flops_row + 1)))
        cdef bint release = self.flops_row * x.rows > _RELEASE_FLOPS
        cdef unsigned long generation = _generation
        cdef bp_status status = BP_OK
        cdef char *to = <char *>cnp.PyArray_DATA(mean)
        cdef char *to_apart = NULL if apart is None else <char *>cnp.PyArray_DATA(apart)
        if release and n_threads == 0:
            n_threads = self.n_threads if self.limit is None else min(self.n_threads, <int>self.limit())
        cdef void *arena = self.arenas.take()
        try:
            while first < x.rows and not status:
                end = min(x.rows, first + most)
                if release:
                    _enter(False)
                    try:
                        with nogil:
                            status = bp_members_answer(self.members, arena, x, first, end, to, to_apart, n_threads)
                    finally:
                        _leave(False, generation)
                    PyErr_CheckSignals()
                else:
                    status = bp_members_answer(self.members, arena, x, first, end, to, to_apart, 1)
                first = end
        finally:
            self.arenas.give_back(arena)
        if status:
            self.plan.fail(status)


cdef void _means(const cython.floating *answers, int64_t rows, int64_t members, int64_t width, cython.floating *mean,
                 cython.floating *spread) noexcept nogil:
    """answers: [rows, members, width]; mean, spread: [rows, width].  spread may be NULL."""
    cdef const cython.floating *first
    cdef double total, differences, squares, difference
    cdef int64_t i, k
    for i in range(rows * width):
        first = answers + i // width * members * width + i % width
        total = 0
        for k in range(members):
            total += first[k * width]
        mean[i] = <cython.floating>(total / members)
        if spread == NULL:
            continue
        differences = squares = 0
        for k in range(members):
            difference = <double>first[k * width] - <double>first[0]
            differences += difference
            squares += difference * difference
        squares = squares / members - (differences / members) * (differences / members)
        spread[i] = <cython.floating>sqrt(0 if squares < 0 else squares)


def mean_of(cnp.ndarray answers, int64_t members, bint spread):
    """(mean, spread) of answers (..., members * width), C-contiguous, those of one member after the other: (..., width)
    each; spread is None unless asked for.  The sums are those of _ensemble._Sums."""
    cdef int64_t width = answers.shape[answers.ndim - 1] // members, rows = answers.size // max(1, members * width)
    cdef cnp.ndarray mean, apart
    cdef char *from_ = <char *>cnp.PyArray_DATA(answers)
    cdef char *to
    cdef char *to_apart = NULL
    cdef int64_t some, item = answers.itemsize, block = max(1, BETWEEN_SIGNALS // (4 * members * width))
    shape = (*(<object>answers).shape[:answers.ndim - 1], width)
    mean = np.empty(shape, answers.dtype)
    to, apart = <char *>cnp.PyArray_DATA(mean), None
    if spread:
        apart = np.empty(shape, answers.dtype)
        to_apart = <char *>cnp.PyArray_DATA(apart)
    while rows:
        some = min(rows, block)
        with nogil:
            if item == sizeof(float):
                _means(<float *>from_, some, members, width, <float *>to, <float *>to_apart)
            else:
                _means(<double *>from_, some, members, width, <double *>to, <double *>to_apart)
        PyErr_CheckSignals()
        rows -= some
        from_ += some * members * width * item
        to += some * width * item
        if spread:
            to_apart += some * width * item
    return mean, apart

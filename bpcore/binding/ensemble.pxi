# The mean of what an ensemble's members answer, and how far they are apart.

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

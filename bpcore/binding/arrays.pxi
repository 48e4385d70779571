# Arrays as C reads them.

# elements; Ctrl-C is heard after so many, some 20 ms
cdef enum:
    BETWEEN_SIGNALS = 1 << 24
    SMALL = 1 << 16  # scanned with the GIL held


@cython.final
cdef class SparseRows:
    """Rows of a CSR matrix that _validate.csr has checked.  As an input they feed a buffer of sparse rows; of a buffer of
    reals C makes them dense where it reads them."""
    cdef readonly tuple shape
    cdef readonly cnp.ndarray data
    cdef cnp.ndarray indices, indptr

    def __init__(self, matrix):
        wide = matrix.indices.dtype != np.int32 or matrix.indptr.dtype != np.int32
        kind = np.dtype(np.int64 if wide else np.int32)
        self.shape, self.data = matrix.shape, matrix.data
        self.indices, self.indptr = (np.require(a, kind, "CA") for a in (matrix.indices, matrix.indptr))

    def __len__(self):
        return self.shape[0]

    @property
    def ndim(self):
        """2."""
        return 2

    @property
    def dtype(self):
        """Of its elements."""
        return self.data.dtype

    def place(self, int64_t k):
        """(row, column) of element k."""
        return int(np.searchsorted(self.indptr, k, "right")) - 1, int(self.indices[k])

    cdef bp_array describe(self) except *:
        cdef bp_array out = _describe(self.data)
        out.rows, out.cols, out.row_stride, out.col_stride = self.shape[0], self.shape[1], 0, self.data.strides[0]
        out.indices, out.indptr = cnp.PyArray_DATA(self.indices), cnp.PyArray_DATA(self.indptr)
        out.n_values, out.wide = min(len(self.indices), len(self.data)), self.indices.itemsize == 8
        return out


@cython.final
cdef class Scaled:
    """Rows of an array (n, ...) that are read as (x - shift) * factor, or written as x * factor + shift: computed in
    float64 and rounded once.  shift, factor: float64, an element for each number of a row, as they lie."""
    cdef readonly cnp.ndarray rows
    cdef cnp.ndarray shift, factor

    def __init__(self, cnp.ndarray rows, cnp.ndarray shift, cnp.ndarray factor):
        for a in (shift, factor):
            if a.dtype != np.float64 or not a.flags.c_contiguous or a.size != math.prod((<object>rows).shape[1:]):
                raise ValueError("Scaled: expected contiguous float64 arrays, an element for each number of a row")
        self.rows, self.shift, self.factor = rows, shift, factor

    cdef bp_array describe(self) except *:
        cdef bp_array out = _describe(self.rows)
        out.shift = <const double *>cnp.PyArray_DATA(self.shift)
        out.factor = <const double *>cnp.PyArray_DATA(self.factor)
        return out


cdef bp_array _describe_rows(rows) except *:
    """Of an ndarray, SparseRows or Scaled."""
    if isinstance(rows, Scaled):
        return (<Scaled>rows).describe()
    return (<SparseRows>rows).describe() if isinstance(rows, SparseRows) else _describe(rows)


cdef _give_to(bp_out_port *port, int buffer, to):
    """The port writes to an array, or to Scaled."""
    cdef cnp.ndarray a = (<Scaled>to).rows if isinstance(to, Scaled) else to
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError("ports: expected writeable arrays for what goes out")
    port.buffer, port.data, port.shift, port.factor = buffer, cnp.PyArray_DATA(a), NULL, NULL
    if isinstance(to, Scaled):
        port.shift = <const double *>cnp.PyArray_DATA((<Scaled>to).shift)
        port.factor = <const double *>cnp.PyArray_DATA((<Scaled>to).factor)


cdef bp_array _describe(cnp.ndarray a) except *:
    """A borrowed view of an array of rows, of one axis or more."""
    cdef bp_array out
    cdef int axis
    memset(&out, 0, sizeof(out))
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

# BLAS: its functions, and its own threads, of which there is one while bpcore's run.

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


@cython.final
cdef class OneBlasThread:
    """`with` it: SciPy's BLAS runs on the calling thread alone, as it does for bpcore's products."""
    def __enter__(self):
        _hold_blas()

    def __exit__(self, *error):
        _give_back_blas()


def blas_threads():
    """(threads of BLAS's own pool, holds on it); for tests."""
    return (_blas_threads.get() if _blas_threads.get else 1), _blas_threads.held

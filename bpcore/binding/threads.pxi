# Entering C without the GIL, from several threads, after a fork and at exit.

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

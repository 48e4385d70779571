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
    """Who may touch a network: one fit, `with` it, which moves theta while it is closed, and readers while it is open.

    A fit waits for those who read before it closes; who comes while it is closed is admitted when it opens, before it
    closes again.  In C, so that no signal is heard between taking it and giving it back."""
    cdef unsigned long thread, generation
    cdef readonly bint held, closed
    cdef list readers, waiting  # Readings
    cdef object run             # of the fit that holds it, once it has closed

    def __cinit__(self):
        self.renew()

    cdef renew(self):
        """In the child of a fork, or at first: nobody is here."""
        self.held = self.closed = False
        self.generation, self.readers, self.waiting = _generation, [], []

    def __enter__(self):
        if self.generation != _generation:
            self.renew()
        if self.held:
            raise RuntimeError("fit: this network is being fitted already; fit a copy made before")
        self.held, self.thread = True, PyThread_get_thread_ident()

    def __exit__(self, *error):
        if self.run is not None:
            self.run.make_whole()
        self.held, self.run = False, None
        self.open()

    def check(self, str what):
        """RuntimeError where another thread of this process holds it."""
        if self.held and self.generation == _generation and self.thread != PyThread_get_thread_ident():
            raise RuntimeError(
                f"{what}: this network is being fitted in another thread; wait for it, or use a copy made before")

    def close(self, run):
        """For the thread that holds it: waits until no other thread reads, and then nobody does.  run: what moves theta;
        what it leaves half made is made whole at the latest when the fit is over."""
        cdef double seconds = 2e-5
        self.run = run
        if self.generation != _generation:  # the fit goes on in the child of a fork
            self.renew()
            self.held = True
        while self.has_readers(in_place=True):  # who comes meanwhile takes a copy
            time.sleep(seconds)
            seconds = min(2 * seconds, 1e-3)
        self.closed = True
        while self.has_readers(in_place=False):
            time.sleep(2e-5)

    def open(self):
        """Whoever waits may read; they share a copy."""
        cdef Reading reading
        self.closed = False
        shared = _Shared()
        for reading in self.waiting:
            reading.shared, reading.admitted = shared, True
        self.readers += self.waiting
        self.waiting = []

    @property
    def is_read(self):
        """Whether threads other than its holder read what is there."""
        return self.has_readers(in_place=False)

    cdef bint has_readers(self, bint in_place):
        """The same; in_place: of those who do not just copy it."""
        cdef Reading reading
        for reading in self.readers:
            if reading.thread != self.thread and (reading.in_place or not in_place):
                return True
        return False


@cython.final
cdef class AllTogether:
    """Several OneAtATime, `with` them: all are taken, or none."""
    cdef list gates, taken

    def __cinit__(self, gates):
        self.gates, self.taken = list(gates), []

    def __enter__(self):
        cdef OneAtATime gate
        try:
            for gate in self.gates:
                gate.__enter__()
                self.taken.append(gate)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error):
        cdef OneAtATime gate
        taken, self.taken = self.taken, []
        for gate in taken:
            gate.__exit__()


@cython.final
cdef class _Shared:
    """A copy for all who were admitted together."""
    cdef object model
    cdef bint making


@cython.final
cdef class Reading:
    """`with` it: a model that no other thread changes meanwhile: itself, or while another thread fits it a copy as of a
    whole step, which model.copied(memory) makes.  memory: with the optimiser's, too, and this reader's own."""
    cdef object model
    cdef OneAtATime gate
    cdef bint memory, admitted, in_place
    cdef unsigned long thread
    cdef _Shared shared     # with those who waited for the same opening

    def __init__(self, model, OneAtATime gate, bint memory):
        self.model, self.gate, self.memory = model, gate, memory

    def __enter__(self):
        cdef OneAtATime gate = self.gate
        cdef Reading other
        if gate.generation != _generation:
            gate.renew()
        self.thread = PyThread_get_thread_ident()
        if gate.held and gate.thread == self.thread:
            return self.model  # within a fit's callback
        for other in gate.readers:
            if other.thread == self.thread:
                return self.model  # within another call that reads it
        self.admitted = not gate.closed
        if self.admitted:
            gate.readers.append(self)
            self.in_place = not gate.held
            if self.in_place:
                return self.model  # a fit that begins waits for __exit__
            self.shared = _Shared()
        else:
            gate.waiting.append(self)
        try:
            while not self.admitted:
                time.sleep(2e-4)
            self.in_place = not gate.held
            model = self.model if self.in_place else self.copy()
        except BaseException:
            self.leave()
            raise
        if model is not self.model:
            self.leave()
        return model

    def __exit__(self, *error):
        self.leave()

    cdef copy(self):
        cdef _Shared shared = self.shared
        if self.memory:
            return self.model.copied(memory=True)
        while shared.making:
            time.sleep(2e-5)
        if shared.model is None:
            shared.making = True
            try:
                shared.model = self.model.copied(memory=False)
            finally:
                shared.making = False
        return shared.model

    cdef leave(self):
        cdef list readers = self.gate.readers
        if len(readers) == 1 and readers[0] is self:
            readers.clear()
            return
        for readings in (readers, self.gate.waiting):
            if self in readings:
                readings.remove(self)

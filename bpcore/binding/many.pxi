# Many runs at once, a thread each.

@cython.final
cdef class Job:
    """Epochs of a run over n rows, whose next epoch is begun: those of `rows` ((n,) int64), or as they lie.

    shuffled: epochs after that one are in orders of their own, drawn from seed, purpose and the epoch's number.
    """
    cdef bp_job job
    cdef readonly Run run
    cdef object rows, order, log_  # what the job points to

    def __cinit__(self, Run run, int64_t n, int64_t batch, cnp.ndarray rows, bint shuffled, uint64_t seed,
                  uint32_t purpose, int64_t most):
        """most: epochs in one call of `run_jobs`, at most."""
        cdef cnp.ndarray order = np.empty(n, np.int64) if shuffled and most > 1 else None
        cdef cnp.ndarray log = np.empty((most, BP_JOB_COLS + 2 * len(run.plan.losses)))
        memset(&self.job, 0, sizeof(self.job))
        if run.plan.calls_python or (run.steps >= 0 and most > 1):
            raise ValueError("Job: expected a run without functions in Python, and numbers by step for one epoch alone")
        self.run, self.rows, self.order, self.log_ = run, rows, order, log
        self.job.run, self.job.n, self.job.batch = run.run, n, batch
        self.job.rows = NULL if rows is None else <const int64_t *>cnp.PyArray_DATA(rows)
        self.job.order = NULL if order is None else <int64_t *>cnp.PyArray_DATA(order)
        self.job.seed, self.job.purpose = seed, purpose
        self.job.log, self.job.n_losses = <double *>cnp.PyArray_DATA(log), len(run.plan.losses)

    def begin(self, int64_t epoch, int64_t epochs):
        """`epochs` are to be done; the run has begun the first, number `epoch`."""
        self.job.epoch, self.job.epochs, self.job.done = epoch, min(epochs, len(self.log_)), 0
        self.job.seconds, self.job.fresh, self.job.status = 0, True, BP_PAUSED
        self.run.follow_average()

    def take_log(self, model):
        """Of the epochs done since it was last asked, (epochs, 4 + 2 losses): loss, weight, rows, seconds, then loss and
        weight of each loss.  model.epoch counts them; no signal comes in between."""
        cdef int64_t done = self.job.done
        log = self.log_[:done].copy()
        model.epoch += done
        self.job.done, self.job.epochs = 0, self.job.epochs - done
        return log

    @property
    def status(self):
        """PAUSED, DONE when all epochs are done, NONFINITE_LOSS or NONFINITE_PARAM; raises what else ended it."""
        if self.job.status > BP_E_NONFINITE_PARAM:
            self.run.plan.fail(self.job.status)
        return self.job.status

    @property
    def had_turn(self):
        """Whether the last call of `run_jobs` went on with it."""
        return bool(self.job.had_turn)


def run_jobs(list jobs, int n_threads, double seconds):
    """Goes on with all of them, no two of the same run, for about `seconds` without the GIL, on several threads."""
    cdef int64_t n = len(jobs)
    cdef bp_status status
    cdef bp_job **pointers = <bp_job **>calloc(n + 1, sizeof(bp_job *))
    cdef bint blas = False
    cdef unsigned long generation = _generation
    cdef Job job
    if pointers == NULL:
        raise MemoryError
    try:
        for i in range(n):
            job = jobs[i]
            pointers[i] = &job.job
            blas |= bp_plan_describe(job.run.plan.plan).calls_blas
        _enter(blas)
        try:
            with nogil:
                status = bp_many(pointers, n, n_threads, seconds)
        finally:
            _leave(blas, generation)
    finally:
        free(pointers)
    if status:
        _raise(status)

# Run: a plan walked over data, and the calls of the user's Python on the way.

cdef cnp.ndarray _copy_in(const void *data, int64_t rows, int64_t cols, dtype):
    cdef cnp.ndarray a = np.empty((rows, cols), dtype)
    memcpy(cnp.PyArray_DATA(a), data, rows * cols * a.itemsize)
    return a


cdef cnp.ndarray _checked(object result, str what, tuple shape, dtype):
    try:
        a = _real(result, what)
    except ValueError as error:
        raise ValueError(f"{error}; expected shape {shape}") from None
    if a.shape != shape:
        raise ValueError(f"{what}: expected an array of shape {shape}, got {a.shape}")
    return np.ascontiguousarray(a, dtype)


cdef bp_status _callback(void *self, int tag, int64_t rows, int64_t cols, const void *z, void *a, void *df,
                         bp_loss_call *loss, bp_function_call *function) noexcept with gil:
    cdef Run run = <Run>self
    cdef unsigned long generation = _generation
    try:
        with run.outside or contextlib.nullcontext():
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


# ---- rules ----

cdef dict _rules():
    """By name: names of the rule's own numbers, and (name, number that it needs or None) of its states."""
    rules = {}
    cdef int i = 0, k, needs
    cdef const bp_rule *rule
    while bp_rule_name(i) != NULL:
        rule = bp_rule_find(bp_rule_name(i))
        numbers, states, k = [], [], 0
        while bp_rule_number(rule, k) != NULL:
            numbers.append(bp_rule_number(rule, k).decode())
            k += 1
        k = 0
        while bp_rule_state(rule, k, &needs) != NULL:
            states.append((bp_rule_state(rule, k, &needs).decode(), None if needs < 0 else numbers[needs]))
            k += 1
        rules[bp_rule_name(i).decode()] = tuple(numbers), tuple(states)
        i += 1
    return rules


RULES = _rules()


cdef int _number(bp_number *number, str name, dict numbers, list kept) except -1:
    """One number, or a float64 array with one for each step, which is kept; whether it may be other than 0."""
    value = numbers.get(name, 0.0)
    number.value, number.steps = 0.0, NULL
    if not isinstance(value, np.ndarray):
        number.value = value
        return number.value != 0
    if value.dtype != np.float64 or value.ndim != 1 or not value.flags.c_contiguous:
        raise ValueError(f"{name}: expected a contiguous array (steps,) of float64, got {value.dtype} {value.shape}")
    kept.append(value)
    number.steps = <const double *>cnp.PyArray_DATA(value)
    return True


cdef _fill(bp_opt *opt, str rule, states, int64_t t, double weights, dict numbers, clip_norm, clip_value, ema,
           l2):
    """opt of a rule's name, numbers and states (None: they do not lie anywhere yet); returns what it points to."""
    cdef list kept = list(states or ())
    cdef int i = 0, k = 0, needs
    cdef int[BP_MAX_NUMBERS] given
    memset(opt, 0, sizeof(bp_opt))
    opt.rule, opt.t, opt.weights = bp_rule_find(rule.encode()), t, weights
    if clip_norm is not None:
        opt.clip_norm = clip_norm
    if clip_value is not None:
        opt.clip_value = clip_value
    _number(&opt.lr, "lr", numbers, kept)
    _number(&opt.weight_decay, "weight_decay", numbers, kept)
    _number(&opt.l2, "l2", {"l2": l2}, kept)
    own, arrays = RULES[rule]
    unknown = sorted(numbers.keys() - {"lr", "weight_decay", *own})
    if unknown:
        raise ValueError(f"optimizer: {rule} has no number {unknown[0]!r}, but {', '.join(('lr', 'weight_decay', *own))}")
    for i, name in enumerate(own):
        given[i] = _number(&opt.number[i], name, numbers, kept)
    for i in range(len(arrays)):
        bp_rule_state(opt.rule, i, &needs)
        if needs < 0 or given[needs]:
            if states is not None and k < len(states):
                opt.state[i] = cnp.PyArray_DATA(states[k])
            else:
                opt.state[i] = <void *>opt
            k += 1
    if ema is not None or bp_rule_leads(opt.rule):
        opt.ema = ema or 0.0
        opt.average = cnp.PyArray_DATA(states[k]) if states is not None and k < len(states) else <void *>opt
        k += 1
    if states is not None and k != len(states):
        raise ValueError(f"optimizer: {len(states)} arrays of state do not fit {rule}")
    return kept


def optimizer_flags(str rule, *, clip_norm=None, clip_value=None, ema=None, l2=0.0, **numbers):
    """What a plan must be compiled with: of MOVE, FUSE, BOUNDARY, AVERAGE, PENALTY."""
    cdef bp_opt opt
    _fill(&opt, rule, None, 0, 0, numbers, clip_norm, clip_value, ema, l2)
    return bp_opt_flags(&opt)


# ---- penalties ----

def penalty(cnp.ndarray w, double l1, double l2):
    """Sum of l1 |w| + l2 w^2 / 2 over a contiguous array of float32 or float64."""
    cdef bp_dtype dtype = BP_F64 if w.itemsize == 8 else BP_F32
    cdef int64_t first = 0, n, size = w.size, bytes = w.itemsize
    cdef double total = 0
    while first < size:
        n = min(BETWEEN_SIGNALS, size - first)
        total += bp_penalty(dtype, <const char *>cnp.PyArray_DATA(w) + first * bytes, n, l1, l2)
        PyErr_CheckSignals()
        first += n
    return total


# ---- run ----

cdef _check_written(str what, cnp.ndarray a, dtype):
    """ValueError unless C may write to the array, which is one run of memory."""
    if not cnp.PyArray_ISCARRAY(a) or a.dtype != dtype:
        raise ValueError(f"{what}: expected a writeable, C-contiguous array of {dtype}, got {a.dtype}, writeable: "
                         f"{a.flags.writeable}, contiguous: {a.flags.c_contiguous}")


@cython.final
cdef class Run:
    """A plan walked over data: parameters, ports, an optimiser, then slices."""
    cdef bp_run *run
    cdef readonly Plan plan
    cdef object theta, state, arrays, order, mixture, states, each_, losses_, error, target_shapes
    cdef public object outside  # `with` it the user's Python is called
    cdef int64_t steps      # of the shortest array of numbers, or -1
    cdef int64_t batches    # of the epoch
    cdef int64_t size       # rows of a batch
    cdef bint leads         # its rule does: theta follows from the average

    def __cinit__(self, Plan plan, cnp.ndarray theta=None, cnp.ndarray state=None):
        self.plan = plan
        self.run = bp_run_new(plan.plan, &_blas)
        if self.run == NULL:
            raise MemoryError("bpcore: out of memory")
        if theta is not None:
            self.bind(theta, state)

    def __dealloc__(self):
        bp_run_free(self.run)

    def bind(self, cnp.ndarray theta, cnp.ndarray state=None):
        """Begins anew with these parameters and this state of layers, without ports and optimiser."""
        cdef void *own = NULL if state is None else cnp.PyArray_DATA(state)
        cdef bp_status status = bp_run_bind(self.run, cnp.PyArray_DATA(theta), theta.shape[0], own,
                                            0 if state is None else state.shape[0])
        if status:
            raise ValueError("theta or state is shorter than the plan's parameters")
        self.state = state
        self.theta, self.arrays, self.order, self.states, self.each_, self.error = theta, (), None, (), None, None
        self.target_shapes, self.steps, self.batches, self.outside, self.leads = (), -1, 0, None, False
        self.mixture = self.losses_ = None
        bp_run_callback(self.run, _callback, <void *>self)

    def release(self):
        """Lets go of all that it borrowed; `bind` makes it ready again."""
        self.outside = self.state = self.mixture = self.losses_ = None
        self.theta, self.arrays, self.order, self.states, self.each_, self.error = None, (), None, (), None, None

    def ports(self, ins, outs=(), int weight=-1, target_shapes=(), repeats=()):
        """ins, outs: lists of (buffer, array); weight: index in ins of the sample weights; target_shapes: of y's rows,
        a loss each, for the user's; repeats: of the first of ins, row r is the array's row r // repeat % len.
        Inputs may be SparseRows or Scaled; arrays of outs, which may be Scaled, are C-contiguous in the plan's dtype."""
        cdef bp_in_port *in_ports = <bp_in_port *>calloc(len(ins) + 1, sizeof(bp_in_port))
        cdef bp_out_port *out_ports = <bp_out_port *>calloc(len(outs) + 1, sizeof(bp_out_port))
        cdef bp_status status
        try:
            if in_ports == NULL or out_ports == NULL:
                raise MemoryError
            for i, (buffer, array) in enumerate(ins):
                in_ports[i].buffer = buffer
                in_ports[i].array = _describe_rows(array)
            for i, (buffer, array) in enumerate(outs):
                _give_to(&out_ports[i], buffer, array)
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

    def optimizer(self, str rule, states=(), int64_t t=0, double weights=0, *, clip_norm=None, clip_value=None,
                  ema=None, l2=0.0, **numbers):
        """rule: a name of RULES; states: those of its arrays that are kept, shaped as theta, and with ema, or where it
        leads, the average; t, weights: moves made so far, and the sum of their weights where it leads; numbers: lr,
        weight_decay and the rule's own; l2: joins that of every weight; each is one number or a float64 array of one for
        each step of an epoch.  The rule `gradient` writes dC/dtheta to its
        state."""
        cdef bp_opt opt
        for state in states:
            _check_written("optimizer: state", state, self.plan.dtype)
            if state.size < self.theta.size:
                raise ValueError(f"optimizer: state: expected an array shaped as theta, got {state.shape}")
        kept = _fill(&opt, rule, states, t, weights, numbers, clip_norm, clip_value, ema, l2)
        if bp_rule_moves(opt.rule):
            _check_written("theta", self.theta, self.plan.dtype)
            if self.state is not None:
                _check_written("state", self.state, self.plan.dtype)
        cdef bp_status status = bp_run_optimizer(self.run, &opt)
        if status:
            raise ValueError(f"optimizer: this plan was compiled for another kind than {rule}")
        self.states, self.leads = kept, bp_rule_leads(opt.rule)
        self.steps = min([len(a) for a in kept[len(states):]], default=-1)

    def each(self, cnp.ndarray grads):
        """Where a plan with EACH writes the gradients of each row."""
        if not cnp.PyArray_ISWRITEABLE(grads):
            raise ValueError("each: expected a writeable array")
        self.each_ = grads
        bp_run_each(self.run, cnp.PyArray_DATA(grads))

    cdef reach(self, int64_t batches):
        """ValueError where numbers by step do not reach for an epoch of so many batches."""
        if 0 <= self.steps < batches:
            raise ValueError(f"optimizer: {self.steps} numbers do not reach for the {batches} steps of an epoch")
        if self.losses_ is not None and len(self.losses_) < batches:
            raise ValueError(f"batch_losses: {len(self.losses_)} rows do not reach for the {batches} batches of an epoch")
        self.batches = batches

    def follow(self, Run other):
        """Goes on where `other` is, after a whole step in the midst of an epoch over the same ports."""
        self.reach(other.batches)
        self.size = other.size
        self.order, self.mixture = other.order, other.mixture
        bp_run_follow(self.run, other.run)

    def batch_losses(self, cnp.ndarray to):
        """Where batch k of each epoch leaves to[k], float64 (3,): the sum of its losses with penalties, its sum of
        weights, and the penalties alone, not times the weights."""
        _check_written("batch_losses", to, np.dtype(np.float64))
        if to.ndim != 2 or to.shape[1] != 3:
            raise ValueError(f"batch_losses: expected shape (batches, 3), got {(<object>to).shape}")
        self.losses_ = to
        bp_run_batch_losses(self.run, <double *>cnp.PyArray_DATA(to))

    def random(self, uint64_t seed, int64_t step):
        """What training draws from: a key, and the network's count of steps so far."""
        bp_run_random(self.run, seed, step)

    def cotangents(self, int64_t first, int64_t apart):
        """The plan's are the unit vectors from `first` on; outs are views of (n, apart, cols) from `first` on."""
        bp_run_cotangents(self.run, first, apart)

    def begin(self, int64_t n, int64_t batch, cnp.ndarray order=None, bint goes_on=False):
        """Begins an epoch over n rows, taken in `order` ((n,) int64) or as they lie; goes_on: it is begun, and these are
        its next rows."""
        cdef const int64_t *rows = NULL if order is None else <const int64_t *>cnp.PyArray_DATA(order)
        self.reach((n + batch - 1) // batch if batch else 0)
        self.size = batch
        self.order = order
        self.mixture = None
        if goes_on:
            bp_run_go_on(self.run, n, batch, rows)
        else:
            bp_run_begin(self.run, n, batch, rows)

    def mix(self, cnp.ndarray partner, cnp.ndarray share, cnp.ndarray weight_share):
        """In the epoch that is begun, row i is mixed with row partner[i] of the arrays, (n,) int64: see bp_run_mix; shares
        are (n,) float64."""
        self.mixture = partner, share, weight_share
        bp_run_mix(self.run, <const int64_t *>cnp.PyArray_DATA(partner), <const double *>cnp.PyArray_DATA(share),
                   <const double *>cnp.PyArray_DATA(weight_share))

    def resume(self, progress, losses, int64_t steps, int64_t skipped=0):
        """Goes on within the epoch that has just begun: progress and losses are what another run gave after whole steps,
        some batches before the last; steps: those of this epoch, which the optimiser's count has; skipped: batches of
        the epoch before the rows that it has begun with."""
        cdef bp_progress done
        cdef cnp.ndarray sums = np.array(losses, np.float64)
        done.loss, done.weight, done.hits, done.rows, done.batch = progress
        done.steps = 0
        known = (<object>sums).shape == (len(self.plan.losses), 3)
        if not known or not 0 <= done.batch - skipped < self.batches or done.rows != done.batch * self.size:
            raise ValueError(f"resume: {progress} and {losses} are not of an epoch of {self.batches} batches")
        bp_run_resume(self.run, &done, <const double (*)[3]>cnp.PyArray_DATA(sums), steps, skipped * self.size)

    cdef follow_average(self):
        """Theta follows from the average, which Python may have changed."""
        cdef int64_t first = 0, n
        while self.leads and first < self.theta.size:
            n = min(BETWEEN_SIGNALS // 16, self.theta.size - first)
            bp_run_follow_average(self.run, first, n)
            PyErr_CheckSignals()
            first += n

    def slice(self, int n_threads, double seconds=0.05, int64_t max_steps=-1, bint fresh=True):
        """Runs a slice without the GIL; PAUSED, DONE, NONFINITE_LOSS or NONFINITE_PARAM, or raises.  fresh: Python may
        have changed parameters or states since the last."""
        cdef bp_status status
        if fresh:
            self.follow_average()
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
        losses = []
        for i in range(len(self.plan.losses)):
            sums = bp_run_loss(self.run, i)
            losses.append((sums[0], sums[1], sums[2]))
        return losses

    def updates(self):
        """The optimiser's count of updates."""
        return bp_run_updates(self.run)

    def weights(self):
        """The sum of the weights of the optimiser's updates, of a rule that leads."""
        return bp_run_weights(self.run)

    def is_whole(self):
        """Between slices: whether theta and the states are those after a whole step."""
        return bool(bp_run_is_whole(self.run))

    def make_whole(self):
        """Between slices: makes them so, where some of a step's moves are made: undoes the step, or ends it."""
        if bp_run_is_whole(self.run):
            return
        cdef bint blas = bp_plan_describe(self.plan.plan).calls_blas
        cdef unsigned long generation = _generation
        _enter(blas)
        try:
            with nogil:
                bp_run_make_whole(self.run)
        finally:
            _leave(blas, generation)

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

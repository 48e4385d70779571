# What operations point to: settings, and the user's functions in C.

cdef void *_c_function(object llc, str what, tuple signatures, int *which, void **data) except NULL:
    """What a scipy.LowLevelCallable of one of these signatures points to; the signature's number and the user's data."""
    capsule = tuple.__getitem__(llc, 0)  # SciPy closes the short way
    cdef const char *signature = PyCapsule_GetName(capsule)
    got = None if signature == NULL else signature.decode()
    if got not in signatures:
        raise ValueError(f"{what}: expected a LowLevelCallable of signature {' or '.join(map(repr, signatures))}, got "
                         f"{'one without' if got is None else repr(got)}")
    which[0], data[0] = signatures.index(got), PyCapsule_GetContext(capsule)
    return PyCapsule_GetPointer(capsule, signature)


cdef _scalar_function(object llc, bp_scalar_function *out):
    cdef int which
    cdef void *pointer = _c_function(llc, "Activation", ("double (double)", "double (double, void *)"), &which, &out.data)
    if which == 0:
        out.plain = <double (*)(double) noexcept nogil>pointer
    else:
        out.with_data = <double (*)(double, void *) noexcept nogil>pointer


@cython.final
cdef class Settings:
    """Integers and reals that an operation in C points to."""
    cdef bp_settings settings

    def __cinit__(self, integers, reals):
        memset(&self.settings, 0, sizeof(self.settings))
        if len(integers) > BP_MAX_SETTINGS or len(reals) > BP_MAX_OPERANDS + 1:
            raise ValueError("too many settings for an operation")
        for i, value in enumerate(integers):
            self.settings.n[i] = value
        for i, value in enumerate(reals):
            self.settings.x[i] = value


@cython.final
cdef class UserFunction:
    """A pair of scipy.LowLevelCallable, kept alive with what they point to."""
    cdef bp_user_function functions
    cdef object keep

    def __cinit__(self, f, df):
        memset(&self.functions, 0, sizeof(self.functions))
        _scalar_function(f, &self.functions.f)
        _scalar_function(df, &self.functions.df)
        self.keep = (f, df)


@cython.final
cdef class CFunction:
    """An operation of the user's: a pair of scipy.LowLevelCallable, kept alive with what they point to."""
    cdef bp_c_function function
    cdef int code[2]
    cdef object keep
    cdef str name

    def __cinit__(self, forward, backward, int64_t out_cols, str name):
        cdef int which
        self.function.out_cols, self.function.code = out_cols, self.code
        for i, (what, llc) in enumerate((("forward", forward), ("backward", backward))):
            self.function.fn[i] = <bp_operation_fn *>_c_function(
                llc, f"{name}: {what}", ("int (bp_function_call *)",), &which, &self.function.data[i])
        self.keep, self.name = (forward, backward), name

    cdef list failures(self):
        """What is to be said of those that failed; said once."""
        failures = [f"{self.name}: {what} returned {code}, and 0 is what says that all went well"
                 for what, code in zip(("forward", "backward"), self.code) if code]
        self.code[0] = self.code[1] = 0
        return failures


def check_low_level(f, df):
    """Raises ValueError unless both have the signature of an activation."""
    UserFunction(f, df)


def check_c_function(forward, backward, name):
    """Raises ValueError unless both have the signature of an operation."""
    CFunction(forward, backward, 1, name)


def register_operation(uintptr_t address):
    """Enters a bp_op_type at `address`, which must stay where it is, under its name."""
    cdef bp_status status = bp_op_register(<const bp_op_type *>address)
    if status:
        raise ValueError("the table of operations is full, or the name is taken")

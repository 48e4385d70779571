# Instruction sets, what BPCORE_* force, and what the pool's threads did.

def pool_tasks(int n):
    """Tasks done by threads 0..n-1 since the last reset."""
    cdef cnp.ndarray count = np.zeros(n, np.int64)
    bp_pool_tasks(<int64_t *>cnp.PyArray_DATA(count), min(n, BP_MAX_THREADS))
    return count.tolist()


def pool_tasks_reset():
    """Begins the count of tasks anew."""
    bp_pool_tasks_reset()


def use_isa(str name):
    """Takes the kernels of instruction set `name` ("": the best); ValueError lists those that this machine runs."""
    cdef bytes encoded = name.encode()
    if bp_isa_use(<const char *>encoded if name else NULL):
        raise ValueError(f"BPCORE_ISA: expected one of {', '.join(_names(bp_isa_name))}, got {name!r}")


def isa():
    """The instruction set in use, and all that this machine runs, best first."""
    return bp_isa().decode(), _names(bp_isa_name)


def force(bint parallel_always, str phase2, str backend="", double round_flops=0):
    """What BPCORE_PARALLEL=always, BPCORE_PHASE2=owners|shards and BPCORE_BACKEND=blas|native ask for; "" leaves it
    to the shapes.  BLAS is loaded when it is first asked for.  round_flops: work between two moments at which a slice
    may end, of plans compiled from now on; 0: 2.5e9."""
    if backend == "blas":
        from bpcore._blas import connect

        connect()
    bp_set_backend(("", "blas", "native").index(backend))
    bp_set_parallel_always(parallel_always)
    bp_set_round_flops(round_flops)
    bp_set_sums(("", "owners", "shards").index(phase2))

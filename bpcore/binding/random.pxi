# Philox, and what is drawn from it.

def philox(counter, key, int rounds=10):
    """Philox4x32: four words of 32 bits."""
    cdef uint32_t c[4]
    cdef uint32_t k[2]
    cdef uint32_t out[4]
    c[0], c[1], c[2], c[3] = counter
    k[0], k[1] = key
    bp_philox(c, k, rounds, out)
    return out[0], out[1], out[2], out[3]


def uniform(int64_t n, uint64_t seed, uint32_t purpose, uint32_t layer=0, uint32_t step=0, int64_t first=0):
    """n uniforms in [0, 1) of 53 bits, float64: those of elements first..first + n - 1 of their stream."""
    cdef cnp.ndarray out = np.empty(n)
    with nogil:
        bp_uniform(<double *>cnp.PyArray_DATA(out), first, n, seed, purpose, layer, step)
    return out


def permutation(int64_t n, uint64_t seed, uint32_t purpose, uint32_t step=0, uint32_t layer=0):
    """A permutation of 0..n-1, int64."""
    cdef cnp.ndarray out = np.empty(n, np.int64)
    cdef int64_t *data = <int64_t *>cnp.PyArray_DATA(out)
    cdef int64_t first = 0, end
    while first < n:
        end = min(n, first + BETWEEN_SIGNALS // 64)
        with nogil:
            bp_permutation_part(data, first, end, seed, purpose, layer, step)
        PyErr_CheckSignals()
        first = end
    return out

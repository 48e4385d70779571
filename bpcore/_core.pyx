# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The only binding to C: turns arrays into pointers, releases the GIL, maps status codes.

Nothing here decides; `bpcore/_validate.py` has checked what comes in.  A compiled Plan is only read, and shared; a Run
owns its arena, borrows the plan and every array it was given, and keeps references to them.
"""
cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from posix.stdlib cimport posix_memalign
from libc.math cimport INFINITY, NAN, sqrt
from libc.string cimport memcpy, memset

import atexit
import contextlib
import math
import os
import threading
import time

import numpy as np

cnp.import_array()

include "binding/bp.pxi"


# ---- constants ----

FORWARD, CACHE, LOSS, BACKWARD, INPUT_GRAD, REUSE, EACH = (
    BP_DO_FORWARD, BP_DO_CACHE, BP_DO_LOSS, BP_DO_BACKWARD, BP_DO_INPUT_GRAD, BP_DO_REUSE, BP_DO_EACH)
MOVE, FUSE, BOUNDARY, STRIPS, PENALTY = BP_DO_MOVE, BP_DO_FUSE, BP_DO_BOUNDARY, BP_DO_STRIPS, BP_DO_PENALTY
PAUSED, DONE, NONFINITE_LOSS, NONFINITE_PARAM = BP_PAUSED, BP_DONE, BP_E_NONFINITE_LOSS, BP_E_NONFINITE_PARAM
MAX_THREADS = BP_MAX_THREADS
MAX_OPERANDS = BP_MAX_OPERANDS
HIDDEN_ROOM = BP_HIDDEN_ROOM


cdef _names(const char *(*name)(int) noexcept nogil):
    names, i = [], 0
    while name(i) != NULL:
        names.append(name(i).decode())
        i += 1
    return tuple(names)


bp_isa_use(NULL)
ACTIVATIONS = _names(bp_activation_name)
LOSSES = _names(bp_loss_name)

# dtype.str without its byte order -> bp_source
_SOURCES = {
    "b1": BP_BOOL, "i1": BP_I8, "u1": BP_U8, "i2": BP_I16, "u2": BP_U16, "i4": BP_I32, "u4": BP_U32, "i8": BP_I64,
    "u8": BP_U64, "f2": BP_F16, "f4": BP_FLOAT, "f8": BP_DOUBLE,
    np.dtype(np.longdouble).str[1:]: BP_LONGDOUBLE if np.dtype(np.longdouble).itemsize > 8 else BP_DOUBLE,
}


cdef _raise(bp_status status):
    if status == BP_E_NOMEM:
        raise MemoryError("bpcore: out of memory")
    if status == BP_E_LIMIT:
        raise ValueError("the network is too large for the address space")
    if status == BP_E_LABEL:
        raise ValueError("X or y: a whole number lies outside its range while it is read: a number of X for an Embedding beyond "
                         "0..n-1, or a class label of y beyond 0..n_outputs-1")
    raise ValueError("an operation's operands do not fit it")


# ---- the binding, one concept a file ----

include "binding/blas.pxi"
include "binding/threads.pxi"
include "binding/functions.pxi"
include "binding/plan.pxi"
include "binding/arrays.pxi"
include "binding/run.pxi"
include "binding/many.pxi"
include "binding/table.pxi"
include "binding/predictor.pxi"
include "binding/ensemble.pxi"
include "binding/switches.pxi"
include "binding/random.pxi"

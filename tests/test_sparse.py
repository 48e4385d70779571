"""Rows of a sparse matrix: the bits of dense ones, and no index leads out of the matrix.  bpcore.sklearn gives them."""

import numpy as np
import pytest
import scipy.sparse

import bpcore as bp
from bpcore import _core, _validate

RNG = np.random.default_rng(0)
N, M = 90, 300  # a row of more than one block of elements
Y = RNG.integers(0, 3, N)


def rows(X):
    return _core.SparseRows(_validate.csr("X", X))


def matrix(kind, index="i4", dtype="f8", n=N, m=M):
    """A CSR matrix with empty and full rows; `kind` says what else."""
    dense = np.where(RNG.random((n, m)) < 0.05, RNG.integers(-50, 50, (n, m)), 0)
    dense[0], dense[1] = 0, 3
    X = scipy.sparse.csr_array(dense.astype(dtype))
    order = np.concatenate([RNG.permutation(np.arange(a, b)) for a, b in zip(X.indptr, X.indptr[1:], strict=False)])
    data, indices = X.data[order], X.indices[order]  # unsorted
    if kind == "zeros":
        data[::3] = 0
    if kind == "duplicates":
        indices[X.indptr[2] :: 2] = 7
    X = scipy.sparse.csr_array((data, indices, X.indptr), (n, m))
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    return X


def network(dtype, seed=0):
    return bp.Network([bp.Input(M), bp.Dense(8, "tanh"), bp.Dense(3, "softmax")], dtype=dtype, seed=seed)


@pytest.mark.parametrize("kind", ["unsorted", "zeros", "duplicates"])
@pytest.mark.parametrize("index", ["i4", "i8", "u4", ">i4"])
@pytest.mark.parametrize("source", ["f8", "f4", ">f8", "i4", "u1", "?"])
def test_sparse_and_dense_rows_give_the_same_bits(source, index, kind):
    X = matrix(kind, dtype=source.strip(">"))
    dense = X.astype(float).toarray()  # sums of small integers overflow in SciPy
    X.data, X.indices, X.indptr = X.data.astype(source), X.indices.astype(index), X.indptr.astype(index)
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    for dtype in ("float32", "float64"):
        nets = network(dtype), network(dtype)
        for batch, shuffle in ((7, True), (None, False)):
            for net, x in zip(nets, (rows(X), dense), strict=True):
                net.fit(x, Y, epochs=2, batch_size=batch, shuffle=shuffle)
            assert nets[0].theta.tobytes() == nets[1].theta.tobytes()
        assert nets[0].predict(rows(X)).tobytes() == nets[1].predict(dense).tobytes()
        assert nets[0].evaluate(rows(X), Y) == nets[1].evaluate(dense, Y)
        (loss, grad), (wanted, gradient) = nets[0].value_and_grad(rows(X), Y), nets[1].value_and_grad(dense, Y)
        assert loss == wanted and grad.tobytes() == gradient.tobytes()


@pytest.mark.parametrize("index", ["i4", "u4", ">i8"])
@pytest.mark.parametrize("source", ["f8", ">f8"])
def test_entries_of_one_place_are_added_in_the_dtype_of_the_matrix(source, index):
    data, indices = np.array([1e8 + 1, 2, -1e8, 5, 3, 4.0], source), np.array([7, 3, 7, 0, 0, 1], index)
    X = scipy.sparse.csr_array((4, 9))
    X.data, X.indices, X.indptr = data, indices, np.array([0, 3, 3, 4, 6], index)
    data.flags.writeable = False
    wanted = np.zeros((4, 9))
    wanted[[0, 0, 2, 3, 3], [7, 3, 0, 0, 1]] = 1, 2, 5, 3, 4
    net = bp.Network([bp.Input(9), bp.Dense(3)], seed=0)
    assert net.predict(rows(X)).tobytes() == net.predict(wanted).tobytes()
    assert data.tobytes() == X.data.tobytes() and len(X.data) == 6
    X.data = np.ascontiguousarray(X.data, "f4")
    assert _validate.csr("X", X) is X


def test_by_columns():
    X = matrix("unsorted")
    net = network("float64")
    assert net.predict(rows(scipy.sparse.csc_matrix(X))).tobytes() == net.predict(X.toarray()).tobytes()
    empty = scipy.sparse.csr_array((N, M))
    assert net.predict(rows(empty)).tobytes() == net.predict(np.zeros((N, M))).tobytes()


def broken(layout, what):
    X = layout(matrix("unsorted"))
    X.indices, X.indptr, X.data = X.indices.copy(), X.indptr.copy(), X.data.copy()
    width = X.shape[1 if X.format == "csr" else 0]
    if what == "negative":
        X.indices[5] = -1
    elif what == "beyond":
        X.indices[5] = width
    elif what == "falls":
        X.indptr[3] = X.indptr[-1] + 9
    elif what == "begins later":
        X.indptr[0] = 1
    elif what == "below":
        X.indptr[1] = -5
    elif what == "too long":
        X.indptr[-1] = 2**31 - 1
    elif what == "too many rows":
        X.indptr = X.indptr[:-1]
    elif what == "few values":
        X.data = X.data[:-1]
    elif what == "few indices":
        X.indices = X.indices[:-1]
    elif what == "real":
        X.indices = X.indices.astype(float)
    return X


BREAKS = ("negative", "beyond", "falls", "begins later", "below", "too long", "too many rows", "few values",
          "few indices", "real")  # fmt: skip


@pytest.mark.parametrize("layout", [scipy.sparse.csr_array, scipy.sparse.csc_array])
@pytest.mark.parametrize("what", BREAKS)
def test_indices_that_lead_out_are_refused(what, layout):
    with pytest.raises(ValueError, match=r"^X: expected a sparse matrix with indices inside its shape \(90, 300\)"):
        _validate.csr("X", broken(layout, what))


@pytest.mark.parametrize("what", BREAKS[:6])
def test_indices_broken_after_the_check_crash_nothing(what):
    """As by another thread while a fit goes on: what leads out is passed over."""
    X = broken(scipy.sparse.csr_array, what)
    assert np.isfinite(network("float64").predict(_core.SparseRows(X), n_threads=1)).all()


def test_elements_are_real_numbers_finite_in_the_dtype_of_the_network():
    X = matrix("unsorted")
    with pytest.raises(TypeError, match="^X: expected real numbers, got dtype complex128"):
        _validate.csr("X", X.astype(complex))
    row, (col,) = 4, X[[4]].indices[:1]
    place = rf"X\[{row}, {col}\] is"
    for value, words in (
        (np.nan, rf"^X: expected finite numbers; {place} nan"),
        (1e300, rf"^X: {place} 1e\+300, which"),
    ):
        X[row, col] = value
        with pytest.raises(ValueError, match=words):
            network("float32").predict(rows(X))
    with pytest.raises(ValueError, match=r"^X: expected shape \(n, 300\) for a network with 300 inputs, got \(90, 299"):
        network("float64").predict(rows(matrix("unsorted")[:, :-1]))


def test_the_faces_of_networks_still_want_dense_arrays():
    X = matrix("unsorted")
    for call in (network("float64").predict, lambda X: network("float64").fit(X, Y)):
        with pytest.raises(TypeError, match=r"^X: expected a dense array, got csr_array; use X.toarray\(\)"):
            call(X)


def test_words_are_not_sparse():
    net = bp.Network([bp.Input(M, integer=True), bp.Embedding(60, 2), bp.Reshape(-1), bp.Dense(3, "softmax")])
    with pytest.raises(TypeError, match="^X: expected a dense array of whole numbers, got a sparse matrix"):
        net.predict(rows(matrix("unsorted", dtype="i4")))

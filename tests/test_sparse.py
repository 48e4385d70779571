"""SciPy's sparse matrices as X: the numbers of dense rows, up to the order of additions, the same bits on any number of
threads; steps that move only the columns of their batch; no index leads out, and nothing dense is made."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from conftest import distance
from optimizers import every_optimizer
from safetensors import safe_open

import bpcore as bp
from bpcore import _core, _plans, _validate

RNG = np.random.default_rng(0)
N, M = 90, 300
Y = RNG.integers(0, 3, N)
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}  # of sums of 15 terms in another order; a term lost is 1e-2


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


def small(n=N, m=M, density=0.05):
    """A matrix of numbers about 1."""
    return scipy.sparse.random_array((n, m), density=density, format="csr", rng=np.random.default_rng(1))


def network(dtype, seed=0, units=8, **settings):
    layers = [bp.Dense(units, "tanh", **settings), bp.Dense(3, "softmax")]
    return bp.Network([bp.Input(M), *layers], dtype=dtype, seed=seed)


@pytest.mark.parametrize("kind", ["unsorted", "zeros", "duplicates"])
@pytest.mark.parametrize("index", ["i4", "i8", "u4", ">i4"])
@pytest.mark.parametrize("source", ["f8", "f4", ">f8", "i4", "u1", "?"])
def test_sparse_and_dense_rows_give_the_same_numbers(source, index, kind):
    X = matrix(kind, dtype=source.strip(">"))
    dense = X.astype(float).toarray()  # sums of small integers overflow in SciPy
    X.data, X.indices, X.indptr = X.data.astype(source), X.indices.astype(index), X.indptr.astype(index)
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    for dtype, tolerance in TOLERANCE.items():
        net = bp.Network([bp.Input(M), bp.Dense(5), bp.Dense(3)], dtype=dtype, seed=0)
        answers, (loss, grad) = net.predict(X), net.value_and_grad(X, dense[:, :3])
        wanted, gradient = net.value_and_grad(dense, dense[:, :3])
        assert distance(answers, net.predict(dense)) < tolerance
        assert distance(loss, wanted) < tolerance and distance(grad, gradient) < tolerance
        assert distance(net.evaluate(X, dense[:, :3])["loss"], wanted) < tolerance


@pytest.mark.parametrize("units", [1, 7, 16, 48, 50, 130, 520])
def test_any_number_of_units(units):
    """Strips, vectors and parts of vectors; predictors keep wide weights in strips."""
    X = small()
    for dtype, tolerance in TOLERANCE.items():
        net = network(dtype, units=units)
        answer, wanted = net.predictor(), net.predict(X)
        assert distance(wanted, net.predict(X.toarray())) < tolerance
        assert distance(net.value_and_grad(X, Y)[1], net.value_and_grad(X.toarray(), Y)[1]) < tolerance
        for part in (X, X.tocsc(), X[:1], X[5:40]):
            assert answer(part).tobytes() == net.predict(part).tobytes()
        assert net.predict(X[5:40]).tobytes() == wanted[5:40].tobytes()
        out = np.empty((N, 3), dtype)
        assert answer(X, out=out) is out and (out == wanted).all()


@every_optimizer
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_training_is_that_of_dense_rows(optimizer, dtype):
    """Rules that divide by roots of sums, and Lion's sign, spread what rounding does."""
    X, spread = small(), {"float32": 300, "float64": 1e4}[dtype]
    nets = network(dtype, l2=0.01), network(dtype, l2=0.01)
    data = zip(nets, (X, X.toarray()), strict=True)
    histories = [net.fit(x, Y, optimizer=optimizer, epochs=3, batch_size=13) for net, x in data]
    assert distance(nets[0].theta, nets[1].theta) < spread * TOLERANCE[dtype]
    assert distance(histories[0].loss, histories[1].loss) < spread * TOLERANCE[dtype]


@pytest.mark.parametrize("settings", [{}, {"max_norm": 0.3}, {"l1": 0.01}, {"lr_scale": 0.5}, {"bias": False}])
def test_so_is_it_with_settings_of_the_layer(settings):
    X = small()
    nets = network("float64", **settings), network("float64", **settings)
    for net, x in zip(nets, (X, X.toarray()), strict=True):
        net.fit(x, Y, optimizer=bp.SGD(0.5), epochs=3, batch_size=13, sample_weight=np.arange(N) % 3, l2=0.001)
    assert distance(nets[0].theta, nets[1].theta) < 1e-12


MODES = [bp.SGD(0.5), bp.SGD(0.5, clip_norm=0.01), bp.SGD(0.5, momentum=0.9), bp.Adam(0.01)]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("optimizer", MODES, ids=["sgd", "clip_norm", "momentum", "adam"])
def test_bits_do_not_depend_on_threads(optimizer, lazy, force):
    """Also over chunks of a large batch, whose gradients of columns wait."""
    X, y = small(2500, M, 0.01), RNG.integers(0, 3, 2500)
    found = set()
    for always, n_threads in ((False, 1), (True, 1), (True, 2), (True, 5)):
        force(always, "")
        net = network("float32", units=20, lazy=lazy)
        net.fit(X[:400], y[:400], optimizer=optimizer, epochs=2, batch_size=31, n_threads=n_threads)
        net.fit(X, y, epochs=2, batch_size=None, n_threads=n_threads)
        found.add(net.theta.tobytes() + net.value_and_grad(X, y, n_threads=n_threads)[1].tobytes())
    assert len(found) == 1


def test_chunks_of_a_batch_are_one_batch():
    """In float32 sums are so long that what rounding takes from them is kept beside them."""
    X, y = small(2500, M, 0.01), RNG.integers(0, 3, 2500)
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-11)):
        for optimizer in MODES:
            nets = network(dtype), network(dtype)
            for net, x in zip(nets, (X, X.toarray()), strict=True):
                net.fit(x, y, optimizer=optimizer, epochs=2, batch_size=None)
            assert distance(nets[0].theta, nets[1].theta) < tolerance
    losses = (_plans.PlanLoss(0, bp.losses.SquaredError(), 1.0, 3, False),)
    key = _plans.Key(_plans.TRAIN, 2500, 1, losses, sparse=(0,))
    assert _plans.make_plan(nets[0]._model, key).plan.describe()["chunk_rows"] < 2500


def test_a_lazy_step_moves_the_columns_of_its_batch_alone():
    X = small(40, M, 0.01)
    named = np.unique(X.indices)
    assert 0 < len(named) < M
    for optimizer in MODES:
        net = network("float64", lazy=True)
        before = net.params["dense_1.W"].copy()
        net.fit(X, Y[:40], optimizer=optimizer, epochs=2, batch_size=7)
        moved = (net.params["dense_1.W"] != before).any(axis=1)
        assert set(np.flatnonzero(moved)) == set(named)
    twins = network("float64"), network("float64", lazy=True)
    for net in twins:
        net.fit(X, Y[:40], optimizer=bp.SGD(0.1), epochs=2, batch_size=7)
    assert twins[0].theta.tobytes() == twins[1].theta.tobytes()  # plain gradient descent has nothing to rest
    dense = network("float64", lazy=True), network("float64")
    for net in dense:
        net.fit(X.toarray(), Y[:40], optimizer=bp.Adam(0.1), epochs=2, batch_size=7)
    assert dense[0].theta.tobytes() == dense[1].theta.tobytes()  # dense rows name all columns


def test_lazy_adam_rests_between_the_batches_that_name_a_column():
    """One column in each of two rows, batches of one: as many steps of Adam on it alone, at the steps' corrections."""
    X = scipy.sparse.csr_array(np.array([[1.0, 0], [0, 1], [1, 0]]))
    y = np.array([[1.0], [1], [1]])
    net = bp.Network([bp.Input(2), bp.Dense(1, bias=False, init="zeros", lazy=True)], dtype="float64")
    net.fit(X, y, optimizer=bp.Adam(0.1), epochs=1, batch_size=1, shuffle=False)
    w, m, v = 0.0, 0.0, 0.0
    for t in (1, 3):
        g = w - 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert abs(net.params["dense_1.W"][0, 0] - w) < 1e-14
    assert abs(net.params["dense_1.W"][1, 0]) < 0.1  # one step, after another's: its correction counts both


def test_lazy_is_kept_and_goes_with_no_max_norm():
    net = network("float32", lazy=True)
    assert net.layers[1].lazy and "lazy=True" in repr(net.layers[1]) and copy.copy(net.layers[1]).lazy
    with pytest.raises(ValueError, match="^lazy: expected False beside max_norm"):
        bp.Dense(3, lazy=True, max_norm=1.0)
    with pytest.raises(TypeError, match="^lazy: expected True or False"):
        bp.Dense(3, lazy=1)


def test_saved_and_loaded(tmp_path):
    for lazy, version in ((False, "1"), (True, "2")):
        net = network("float32", lazy=lazy)
        net.save(tmp_path / "net.safetensors")
        assert bp.load(tmp_path / "net.safetensors").layers[1].lazy is lazy
        with safe_open(tmp_path / "net.safetensors", "np") as file:
            assert file.metadata()["bpcore_format"] == version


def test_dense_rows_one_day_and_sparse_ones_the_next():
    X = small()
    nets = network("float64"), network("float64")
    for k, x in enumerate((X, X.toarray(), X.tocsc())):
        nets[0].fit(x, Y, optimizer=bp.Adam(0.01), epochs=1, batch_size=13)
        nets[1].fit(X.toarray(), Y, optimizer=bp.Adam(0.01), epochs=1, batch_size=13)
        assert distance(nets[0].theta, nets[1].theta) < 1e-10, k
    nets[0].fit(X, Y, optimizer=bp.Adam(0.01), epochs=1, validation_split=0.2, mixup=0.2, train_metrics=True,
                metrics=["f1_macro"])  # fmt: skip
    network("float64").fit(X, Y, optimizer=bp.LBFGS(), epochs=2, batch_size=None, validation_data=(X.toarray(), Y))


def test_mixed_rows_are_those_of_dense_ones():
    X = small()
    nets = network("float64"), network("float64")
    for net, x in zip(nets, (X, X.toarray()), strict=True):
        net.fit(x, Y, optimizer=bp.SGD(0.5), epochs=3, batch_size=13, mixup=0.4)
    assert distance(nets[0].theta, nets[1].theta) < 1e-12


def several(lazy=False, shared=True):
    a, b, c = bp.Input(M, name="a"), bp.Input(M, name="b"), bp.Input(4, name="c")
    layer = bp.Dense(6, "tanh", lazy=lazy, name="shared")
    other = layer if shared else bp.Dense(6, "tanh", lazy=lazy, name="other")
    h = bp.concat([layer(a), other(b), bp.Dense(3)(c), bp.Dense(2, name="again")(a)])
    return bp.Network([a, b, c], bp.Dense(3, "softmax")(bp.Dense(5, "relu")(h)), dtype="float64", checkpoint=True)


def test_several_inputs_shared_layers_and_checkpoints():
    A, B, C = small(), small()[::-1].tocsc(), RNG.random((N, 4))
    given = [A, B, C], [A.toarray(), B, C], [A.toarray(), B.toarray(), C]
    nets = [several() for _ in given]
    for net, x in zip(nets, given, strict=True):
        net.fit(x, Y, optimizer=bp.Adam(0.01), epochs=2, batch_size=13)
        assert distance(net.theta, nets[0].theta) < 1e-10
        assert distance(net.predict(x), nets[0].predict(given[0])) < 1e-10
    answer = nets[0].predictor()
    assert answer({"a": A, "b": B, "c": C}).tobytes() == nets[0].predict(given[0]).tobytes()
    assert answer(given[1]).tobytes() == nets[0].predict(given[1]).tobytes()
    with pytest.raises(TypeError, match=r"^X\[0\]: expected a dense array, since shared is used more than once"):
        several(lazy=True).fit(given[0], Y)
    several(lazy=True, shared=False).fit(given[0], Y, epochs=1)


def test_many_networks_and_ensembles():
    X = small()
    nets = [network("float32", seed=k) for k in range(3)]
    alone = network("float32", seed=1)
    alone.fit(X, Y, optimizer=bp.Adam(0.01), epochs=2)
    bp.fit_many(nets, X, Y, optimizer=bp.Adam(0.01), epochs=2)
    assert nets[1].theta.tobytes() == alone.theta.tobytes()
    ensemble = bp.Ensemble(nets)
    assert distance(ensemble.predict(X), np.mean([net.predict(X) for net in nets], axis=0)) < 1e-6
    ensemble.fit(X, Y, bootstrap=True, epochs=1, optimizer=bp.Adam(0.01))


def test_frozen_weights_and_bounds_of_threads():
    X = small()
    net = network("float64")
    net.frozen = {"dense_1"}
    before = net.params["dense_1.W"].copy()
    net.fit(X, Y, optimizer=bp.Adam(0.1), epochs=2)
    assert (net.params["dense_1.W"] == before).all() and net.step
    assert max(bp.check_gradients(network("float64", units=2), X[:4], Y[:4]).values()) < 1e-6


def test_divergence_goes_back_to_the_last_finite_step():
    X = small()
    for lazy in (False, True):
        nets = [bp.Network([bp.Input(M), bp.Dense(1, lazy=lazy)], dtype="float32") for _ in range(2)]
        with pytest.raises(bp.DivergenceError) as caught:
            nets[0].fit(X, Y, loss="mse", optimizer=bp.SGD(1e4), epochs=50, batch_size=13, shuffle=False)
        assert np.isfinite(nets[0].theta).all()
        nets[1].fit(X, Y, loss="mse", optimizer=bp.SGD(1e4), epochs=50, batch_size=13, shuffle=False,
                    max_steps=nets[0].step)  # fmt: skip
        assert nets[0].theta.tobytes() == nets[1].theta.tobytes() and caught.value.epoch >= 1


def test_nothing_dense_is_made():
    """Neither whole nor by batches: a row of a million columns takes 4 MB, and all memory of a step less than four."""
    net = bp.Network([bp.Input(1_000_000), bp.Dense(1, init="zeros")], dtype="float32")
    losses = (_plans.PlanLoss(0, bp.losses.SquaredError(), 1.0, 1, False),)
    for flags in (_plans.PREDICT, _plans.TRAIN | bp.SGD(0.1).flags, _plans.TRAIN | bp.Adam().flags):
        key = _plans.Key(flags, 256, 1, losses if flags != _plans.PREDICT else (), sparse=(0,))
        arena = _plans.make_plan(net._model, key).plan.describe()["arena_bytes"]
        assert arena < 4_000_000 + 500_000  # a number a column: where it stands in the list of a chunk's columns
    X = scipy.sparse.csr_array(([1.0, 2, 3], ([0, 1, 2], [5, 999_999, 5])), (3, 1_000_000))
    net.fit(X, np.ones((3, 1)), optimizer=bp.SGD(0.1), epochs=1, batch_size=3, shuffle=False)
    assert np.flatnonzero(net.params["dense_1.W"]).tolist() == [5, 999_999]


def test_no_rows_and_empty_rows():
    net = network("float64")
    empty = scipy.sparse.csr_array((4, M))
    assert net.predict(empty).tobytes() == net.predict(np.zeros((4, M))).tobytes()
    assert net.predict(scipy.sparse.csc_matrix((0, M))).shape == net.predictor()(empty[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match="^X: expected at least one row"):
        net.fit(empty[:0], Y[:0])
    net.fit(empty, Y[:4], optimizer=bp.SGD(0.1), epochs=2)


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
    X = _core.SparseRows(broken(scipy.sparse.csr_array, what))
    net = network("float64")
    assert np.isfinite(net.predict(X, n_threads=1)).all()
    for optimizer in (bp.SGD(0.01), bp.Adam(0.01)):
        bp.fit_many([net], X, Y, optimizer=optimizer, epochs=1)


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
        for call in (lambda net: net.predict(X), lambda net: net.fit(X, Y), lambda net: net.evaluate(X, Y)):
            net = network("float32")
            before = net.theta.copy()
            with pytest.raises(ValueError, match=words):
                call(net)
            assert (net.theta == before).all() and net.step == 0
    with pytest.raises(ValueError, match=r"^X: expected shape \(n, 300\) for a network with 300 inputs, got \(90, 299"):
        network("float64").predict(matrix("unsorted")[:, :-1])


WORDS = bp.Network([bp.Input(M, integer=True), bp.Embedding(60, 2), bp.Reshape(-1), bp.Dense(3, "softmax")])
SCALED = bp.Network([bp.Input(M), bp.Standardize(), bp.Dense(3, "softmax")])
NORMED = bp.Network([bp.Input(M), bp.LayerNorm(name="norm"), bp.Dense(3, "softmax")])
PICTURES = bp.Network([bp.Input((15, 20)), bp.Reshape(-1), bp.Dense(3, "softmax")])


@pytest.mark.parametrize(
    ("net", "error", "words"),
    [
        (WORDS, TypeError, "^X: expected a dense array, since the input is of whole numbers"),
        (
            SCALED,
            TypeError,
            r"since standardize_1 \(Standardize\(\)\) reads it, and only Dense layers take sparse rows",
        ),
        (NORMED, TypeError, r"since norm \(LayerNorm\(.*\)\) reads it, .*; use X.toarray\(\)"),
        (PICTURES, TypeError, "since reshape_1 "),
    ],
    ids=["words", "standardized", "normed", "pictures"],
)
def test_other_layers_take_no_sparse_rows(net, error, words):
    X = small()
    before = net.theta.copy()
    calls = (net.predict, lambda X: net.fit(X, Y), lambda X: net.evaluate(X, Y), lambda X: net.value_and_grad(X, Y))
    for call in calls:
        with pytest.raises(error, match=words):
            call(X)
    assert (net.theta == before).all() and net.step == 0


def test_what_takes_dense_rows_alone_says_so():
    X, net = small(), network("float64")
    dense = r"^X: expected a dense array, got csr_array; use X.toarray\(\)"
    for call in (net.forward, net.jacobian, lambda X: net.per_sample_gradients(X, Y),
                 lambda X: net.hvp(X, Y, net.theta), net.inspect, lambda X: net.inspect(X, Y)):  # fmt: skip
        with pytest.raises(TypeError, match=dense):
            call(X)
    with pytest.raises(TypeError, match=r"^X: expected a CSR or CSC matrix, got coo_array; use X.tocsr\(\)"):
        net.predict(X.tocoo())
    with pytest.raises(
        ValueError, match=r"^X: expected rows, \(n, columns\), got shape \(300,\); use X.reshape\(1, -1\)"
    ):
        net.predict(scipy.sparse.csr_array(X.toarray()[0]))
    linear = bp.Network([bp.Input(M), bp.Dense(1)], dtype="float64")
    with pytest.raises(TypeError, match="^X: LevenbergMarquardt takes dense arrays"):
        linear.fit(X, np.ones((N, 1)), optimizer=bp.LevenbergMarquardt(), batch_size=None)
    with pytest.raises(ValueError, match="^x: expected shape"):
        net.predictor()(X[:, :-1])


def test_the_snippets_of_the_page_run(capsys):
    """Those that need scikit-learn are run in tests/peers."""
    page = (Path(__file__).parent.parent / "docs/sparse.md").read_text(encoding="utf-8")
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "sklearn" not in snippet:
            exec(compile(snippet, "docs/sparse.md", "exec"), names)  # they assert for themselves
    assert capsys.readouterr().out.startswith("X: expected finite numbers; X[0, ")

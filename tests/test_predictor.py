"""net.predictor(): predict's bits, a snapshot, any number of threads, one row or many."""

import array
import gc
import os
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

import bpcore as bp
from bpcore import _core

RNG = np.random.default_rng(7)


def make(sizes=(5, 40, 3), inner="tanh", last="softmax", dtype="float32", seed=1):
    layers = [bp.Input(sizes[0]), *(bp.Dense(n, inner) for n in sizes[1:-1]), bp.Dense(sizes[-1], last)]
    return bp.Network(layers, dtype=dtype, seed=seed)


# Rows of weights shorter than 1 KiB, of whole strips of it, of a last one of one column, of many and a rest.
SIZES = [(1, 1), (4, 16, 3), (5, 40, 3), (100, 256, 256, 2), (300, 131, 10), (33, 700, 17), (1, 769, 385, 4),
         (257, 1152, 1009)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("inner", ["relu", "gelu", "logistic"])
def test_a_row_and_a_batch_have_the_bits_of_predict(sizes, inner, dtype):
    net = make(sizes, inner, "logistic" if sizes[-1] == 1 else "softmax", dtype)
    X = RNG.standard_normal((150, sizes[0])).astype(dtype)
    wanted = net.predict(X)
    for n_threads in (1, 2, 3, 4, 7):
        answer = net.predictor(n_threads=n_threads)
        for rows in (1, 2, 31, 32, 33, 150):
            assert answer(X[:rows]).tobytes() == wanted[:rows].tobytes()
    for x, a in zip(X, wanted, strict=True):
        found = answer(x)
        assert found.shape == (sizes[-1],) and found.dtype == dtype and found.tobytes() == a.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_weights_are_kept_once(dtype):
    net = make((600, 900, 700, 5), dtype=dtype)
    before = net.theta.copy()
    tracemalloc.start()
    try:
        answer = net.predictor()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert net.theta.nbytes <= kept <= peak < 1.1 * net.theta.nbytes
    assert net.theta.tobytes() == before.tobytes()
    X = RNG.standard_normal((3, 600))
    assert answer(X).tobytes() == net.predict(X).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_layers_at_positions_and_shared(dtype):
    """A sequence; a layer used twice, without a bias; a recurrent one, which reads its weights as they lie; biases."""
    x = bp.Input((5, 300))
    twice = bp.Dense(300, "relu", bias=False)
    h = bp.SimpleRNN(300)(twice(bp.Bias()(twice(x))))
    net = bp.Network(x, [bp.Dense(7)(bp.Dense(605, "tanh")(h)), bp.Dense(431)(bp.Reshape(-1)(h[1:]))], dtype=dtype)
    X = RNG.standard_normal((70, 5, 300)).astype(dtype)
    wanted = net.predict(X)
    for n_threads in (1, 2, 3):
        answer = net.predictor(n_threads=n_threads)
        for rows in (1, 7, 33, 70):
            assert all(a.tobytes() == b[:rows].tobytes() for a, b in zip(answer(X[:rows]), wanted, strict=True))
        assert all(a.tobytes() == b[69].tobytes() for a, b in zip(answer(X[69]), wanted, strict=True))


@pytest.mark.parametrize("offset", [1, 2, 4, 8, 12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_layers_read_rows_wherever_they_lie(dtype, offset):
    net = make((77, 523, 5), "relu", dtype=dtype)
    X = np.zeros(34 * 77 * 8 + 16, np.uint8)[offset:][: 34 * 77 * np.dtype(dtype).itemsize].view(dtype).reshape(34, 77)
    X[:] = RNG.standard_normal(X.shape)
    wanted, answer = net.predict(X.copy()), net.predictor()
    assert answer(X).tobytes() == wanted.tobytes()
    assert all(answer(x).tobytes() == a.tobytes() for x, a in zip(X, wanted, strict=True))
    wide = np.asfortranarray(X)
    assert answer(wide).tobytes() == wanted.tobytes() and answer(wide[3]).tobytes() == wanted[3].tobytes()


def test_threads_share_the_rows():
    net, X = make(), RNG.standard_normal((3000, 5))
    _core.force(True, "")
    try:
        assert net.predictor(n_threads=3)(X).tobytes() == net.predict(X).tobytes()
    finally:
        _core.force(False, "")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [5, 577])
def test_threads_share_a_row(dtype, last):
    """A row of more than 2 Mflop: the bits of predict, whether threads take columns of it or others have them."""
    net = make((600, 1301, 701, last), "gelu", dtype=dtype)
    X = RNG.standard_normal((33, 600)).astype(dtype)
    wanted = net.predict(X, n_threads=1)
    for n_threads in (1, 2, 3, 40):
        answer, wrong = net.predictor(n_threads=n_threads), []

        def ask(answer=answer, wrong=wrong):
            for rows in (1, 2, 5, 31, 32, 33):
                for x in (X[:rows], X[:rows].astype(">f4" if dtype == "float32" else ">f8")):
                    wrong.append(answer(x).tobytes() != wanted[:rows].tobytes())
            for x, a in zip(X, wanted, strict=True):
                wrong.append(answer(x).tobytes() != a.tobytes())

        ask()
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(wrong) == 4 * 45 and not any(wrong)


def test_a_row_that_threads_share_and_that_fails():
    """The first thread finds a number out of range while others wait for it."""
    words, x = bp.Input(2, integer=True, name="words"), bp.Input(1000, name="x")
    h = bp.Dense(1200, "relu")(bp.concat([bp.Reshape(-1)(bp.Embedding(7, 3)(words)), bp.Dense(1100)(x)]))
    answer = bp.Network([words, x], bp.Dense(2)(h)).predictor(n_threads=3)
    good, bad = [np.array([1, 2]), np.ones(1000)], [np.array([1, 7]), np.ones(1000)]
    first = answer(good).tobytes()
    for _ in range(20):
        with pytest.raises(ValueError, match="whole numbers"):
            answer(bad)
        assert answer(good).tobytes() == first


def test_it_is_a_snapshot():
    net = make()
    x = RNG.standard_normal(5)
    answer = net.predictor()
    before = answer(x)
    net.theta[:] += 1
    net.fit(RNG.standard_normal((20, 5)), np.arange(20) % 3)
    assert answer(x).tobytes() == before.tobytes() != net.predict(x[None])[0].tobytes()
    del net
    gc.collect()
    assert answer(x).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "x",
    [
        [1, 2, 3, 4, 5],
        (1.0, 2.0, 3.0, 4.0, 5.0),
        array.array("d", [1, 2, 3, 4, 5]),
        memoryview(array.array("f", [1, 2, 3, 4, 5])),
        np.arange(1, 6),
        np.arange(1, 6, dtype="u1"),
        np.arange(1, 6, dtype=">f8"),
        np.arange(1, 6, dtype="f2"),
        np.arange(1, 6, dtype=np.longdouble),
        np.arange(5, 0, -1.0)[::-1],
        np.repeat(np.arange(1, 6), 3)[::3],
        np.broadcast_to(np.arange(1.0, 6), (5,)),
    ],
    ids=str,
)
def test_rows_of_every_kind(x):
    net = make()
    wanted = net.predict([[1, 2, 3, 4, 5]])
    answer = net.predictor()
    assert answer(x).tobytes() == wanted[0].tobytes()
    assert answer(np.array([x, x])).tobytes() == np.vstack([wanted, wanted]).tobytes()
    assert answer(np.asfortranarray(np.array([x, x]))).tobytes() == np.vstack([wanted, wanted]).tobytes()


def test_out():
    net = make()
    answer, X = net.predictor(), RNG.standard_normal((70, 5)).astype("f4")
    wanted = net.predict(X)
    one, many = np.empty(3, "f4"), np.empty((70, 3), "f4")
    assert answer(X[0], one) is one and one.tobytes() == wanted[0].tobytes()
    assert answer(X, out=many) is many and many.tobytes() == wanted.tobytes()
    square = make((4, 4), last="identity")
    both = np.zeros((9, 5), "f4")
    locked = np.empty(3, "f4")
    locked.flags.writeable = False
    bad = [np.empty(3), np.empty((1, 3), "f4"), np.empty(4, "f4"), np.empty(6, "f4")[::2], np.empty(3, ">f4"), [0]]
    for out in (*bad, locked, np.ma.masked_array(np.empty(3, "f4"))):
        with pytest.raises(ValueError, match="^out: expected a writeable, C-contiguous array of float32"):
            answer(X[0], out=out)
    for out in (np.empty((70, 3)), np.empty((69, 3), "f4"), both[:, :3]):
        with pytest.raises(ValueError, match=r"^out: .*\(70, 3\)"):
            answer(X, out=out)
    with pytest.raises(ValueError, match="shares no memory with x"):
        square.predictor()(both[:, :4], out=both[:, :4])
    line = np.zeros(40, "f4")
    for x, out in (
        (line[:20].reshape(5, 4), line[8:28].reshape(5, 4)),
        (line[:4], line[:4]),
        (line[:4], line[3:7]),
        (line[3:7], line[:4]),
        (line[3::-1], line[3:7]),
        (line[16::-4][:4], line[4:8]),
        (line[:16].reshape(4, 4)[::-1], line[:16].reshape(4, 4)),
    ):
        with pytest.raises(ValueError, match="shares no memory with x"):
            square.predictor()(x, out=out)
    a, b, far = line[:4], line[4:8], line[25:29]
    for x, out in ((a, b), (b, a), (a[::-1], b), (line[12:28:4], far)):
        assert square.predictor()(x, out=out) is out


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros(4), ValueError, r"x: expected shape \(5,\) or \(n, 5\), got \(4,\)"),
        (np.zeros((2, 4)), ValueError, r"got \(2, 4\)"),
        (np.zeros((1, 1, 5)), ValueError, r"got \(1, 1, 5\)"),
        (np.float64(3), ValueError, r"got \(\)"),
        (np.zeros(5, complex), TypeError, "x: expected real numbers, got dtype complex128"),
        (np.zeros(5, object), TypeError, "got dtype object"),
        (["a"] * 5, TypeError, "got dtype <U1"),
        ([[1, 2], [3]], ValueError, "x: expected an array of numbers, got list"),
        (None, TypeError, "got dtype object"),
        (np.ma.masked_array(np.zeros(5)), TypeError, "x: masked arrays are not supported"),
    ],
)
def test_refusals(x, error, message):
    with pytest.raises(error, match=message):
        make().predictor()(x)


def test_nothing_is_scanned():
    answer = make(last="identity").predictor()
    assert np.isnan(answer([np.nan, 0, 0, 0, 0])).all()
    assert np.isfinite(answer([np.inf, 0, 0, 0, 0])).all()  # tanh(inf) = 1


@pytest.mark.parametrize("rows", [1, 2000])
def test_many_threads_at_once(rows):
    net = make((50, 300, 10))
    X = RNG.standard_normal((rows, 50)).astype("f4")
    answer, wanted, wrong = net.predictor(n_threads=2), net.predict(X).tobytes(), []

    def ask():
        for _ in range(300 // rows + 20):
            if answer(X).tobytes() != wanted:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_functions_of_the_users():
    f = bp.Activation(lambda z: np.sin(z), lambda z: np.cos(z))
    net = bp.Network([bp.Input(5), bp.Dense(7, f), bp.Dense(2)], seed=3)
    X = RNG.standard_normal((40, 5)).astype("f4")
    answer, wanted = net.predictor(), net.predict(X)
    net.theta[:] = 0
    assert answer(X).tobytes() == wanted.tobytes() and answer(X[3]).tobytes() == wanted[3].tobytes()
    out = np.empty(2, "f4")
    assert answer(X[0], out) is out and out.tobytes() == wanted[0].tobytes()

    def fail(z):
        raise KeyError("mine")

    assert np.isnan(bp.Network([bp.Input(1), bp.Dense(1, f)]).predictor()([np.nan])).all()  # not scanned, as others
    broken = bp.Network([bp.Input(5), bp.Dense(7, bp.Activation(fail, fail)), bp.Dense(2)]).predictor()
    with pytest.raises(KeyError, match="mine"):
        broken(X[0])


# ---- several inputs and outputs ----


def several(dtype="float32", own="tanh"):
    """An image, words and numbers to three outputs, one of which is within."""
    image, words, x = bp.Input((4, 3), name="image"), bp.Input(2, integer=True, name="words"), bp.Input(6, name="x")
    h = bp.Dense(8, own)(bp.concat([bp.Reshape(-1)(image), bp.Reshape(-1)(bp.Embedding(7, 3)(words)), x]))
    outputs = [bp.Dense(3, "softmax", name="class")(h), h, bp.Reshape((2, 4), name="grid")(bp.Dense(8)(h) * h)]
    return bp.Network([image, words, x], outputs, dtype=dtype, seed=2)


def examples(n, dtype="f4"):
    return [RNG.standard_normal((n, 4, 3)).astype(dtype), RNG.integers(0, 7, (n, 2)), RNG.standard_normal((n, 6))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_several_have_the_bits_of_predict(dtype):
    net = several(dtype)
    X = examples(150, dtype)
    wanted = net.predict(X)
    for n_threads in (1, 2, 3):
        answer = net.predictor(n_threads=n_threads)
        assert (answer.n_inputs, answer.n_outputs) == (net.n_inputs, net.n_outputs) == (20, 19)
        for rows in (1, 31, 33, 150):
            found = answer([x[:rows] for x in X])
            assert type(found) is tuple and [a.shape for a in found] == [a[:rows].shape for a in wanted]
            assert all(a.tobytes() == b[:rows].tobytes() for a, b in zip(found, wanted, strict=True))
        for i in (0, 149):
            one = [x[i] for x in X]
            for x in (one, tuple(one), dict(zip(net.inputs, one, strict=True))):
                found = answer(x)
                assert [a.shape for a in found] == [(3,), (8,), (2, 4)] and found[0].dtype == dtype
                assert all(a.tobytes() == b[i].tobytes() for a, b in zip(found, wanted, strict=True))
    strange = [np.asfortranarray(X[0]), X[1][::-1][::-1].astype(">i2"), X[2].tolist()]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(answer(strange), wanted, strict=True))


def test_inputs_read_in_place_beside_others():
    """Two of three inputs are read by products alone, where they lie; an input may be an output, too."""
    a, b, c = bp.Input(5, name="a"), bp.Input(7, name="b"), bp.Input(4, name="c")
    net = bp.Network([a, b, c], [bp.Dense(4)(a) + bp.Dense(4, "tanh")(b) * c, bp.Dense(2)(c)], seed=1)
    X = [RNG.standard_normal((3001, n)).astype("f4") for n in (5, 7, 4)]
    wanted = net.predict(X)
    _core.force(True, "")
    try:
        for n_threads in (1, 3):
            found = net.predictor(n_threads=n_threads)(X)
            assert all(a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True))
    finally:
        _core.force(False, "")


def test_one_of_each_and_several_of_the_other():
    a, b = bp.Input(3, name="a"), bp.Input(3, name="b")
    X = RNG.standard_normal((40, 3))
    joined, split = bp.Network([a, b], bp.Dense(2)(a - b)), bp.Network(a, [bp.Dense(2)(a), bp.Dense(1)(a)])
    assert joined.predictor()([X, X + 1]).tobytes() == joined.predict([X, X + 1]).tobytes()
    for x in (X, {"a": X}):
        assert all(p.tobytes() == q.tobytes() for p, q in zip(split.predictor()(x), split.predict(X), strict=True))
    assert split.predictor()(X[0])[1].shape == (1,)


def test_more_rows_than_go_between_two_looks_for_a_signal(monkeypatch):
    """A million flops a row: rows go in parts, and each output goes on where it was."""
    a, b = bp.Input(300, name="a"), bp.Input(300, name="b")
    h = bp.Dense(700, "tanh")(a) + bp.Dense(700)(b)
    net = bp.Network([a, b], [bp.Dense(3)(bp.Dense(700)(h)), bp.Dense(2)(h)], seed=1)
    X = [RNG.standard_normal((5000, 300)).astype("f4") for _ in range(2)]
    for n_threads in (1, 2):
        found = net.predictor(n_threads=n_threads)(X)
        assert all(p.tobytes() == q.tobytes() for p, q in zip(found, net.predict(X), strict=True))


def test_inputs_of_several_axes_are_read_in_place():
    """Whatever their strides: no call takes memory of the size of its input, and the bits are those of a copy."""
    net = bp.Network([bp.Input((6, 8, 2)), bp.Conv2D(2, 3, "relu"), bp.Reshape(-1), bp.Dense(3)], seed=1)
    answer, n = net.predictor(n_threads=1), 5000
    out = np.empty((n, 3), "f4")
    base = RNG.standard_normal((n, 12, 16, 4))
    views = {
        "steps": base[:, ::2, 1::2, ::2],
        "turned": base[:, 5::-1, :8, :2],
        "transposed": np.ascontiguousarray(base[:, :6, :8, :2].T).T,
        "axes moved": np.moveaxis(base.reshape(n, 4, 12, 16)[:, :2, :6, :8], 1, 3),
        "swapped": base[:, :6, :8, :2].astype(">f4"),
        "repeated": np.broadcast_to(base[:1, :6, :8, :2], (n, 6, 8, 2)),
        "float32": base.astype("f4")[:, :6, :8, :2],
    }
    for name, x in views.items():
        wanted = net.predict(np.ascontiguousarray(x))
        tracemalloc.start()
        try:
            answer(x, out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert out.tobytes() == wanted.tobytes(), name
        assert peak < 20_000 < x.size * 4, name
        for i in (0, n - 1):
            assert answer(x[i]).tobytes() == answer(x[i : i + 1])[0].tobytes() == wanted[i].tobytes(), name


def test_out_of_several():
    net = several()
    answer, X = net.predictor(), examples(20)
    wanted = net.predict(X)
    one = [np.empty(a.shape[1:], "f4") for a in wanted]
    many = {name: np.empty(a.shape, "f4") for name, a in zip(net.outputs, wanted, strict=True)}
    found = answer([x[3] for x in X], out=one)
    assert all(a is b and a.tobytes() == c[3].tobytes() for a, b, c in zip(found, one, wanted, strict=True))
    found = answer(X, many)
    assert all(a is b and a.tobytes() == c.tobytes() for a, b, c in zip(found, many.values(), wanted, strict=True))
    shared = np.empty((20, 8), "f4")
    locked = np.empty((20, 3), "f4")
    locked.flags.writeable = False
    good = list(many.values())
    for out, words in (
        (good[:2], r"^out: expected a list of 3 \(class, .*, grid\) or a dict by name, got 2"),
        (good[0], "^out: expected a list of 3 .* got ndarray"),
        ([locked, *good[1:]], r"^out\[0\]: expected a writeable, C-contiguous array of float32 and shape \(20, 3\)"),
        ([*good[:2], good[2].astype("f8")], r"^out\[2\]: .*\(20, 2, 4\) .*got float64"),
        ([good[0], shared, shared.reshape(20, 2, 4)], r"^out\[2\]: .*shares no memory with x and other outputs"),
        ([good[0], np.empty((8, 20), "f4").T, good[2]], r"^out\[1\]: "),
    ):
        with pytest.raises(ValueError, match=words):
            answer(X, out)
    with pytest.raises(ValueError, match="shares no memory with x"):
        answer([X[0], X[1], shared.reshape(-1)[:120].reshape(20, 6)], [good[0], shared, good[2]])


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda X: X[:2], ValueError, r"^x: expected a list of 3 \(image, words, x\) or a dict by name, got 2"),
        (lambda X: X[0], ValueError, "^x: expected a list of 3 .*got ndarray"),
        (lambda X: {"image": X[0]}, ValueError, "^x: expected the keys image, words, x, got image"),
        (lambda X: [X[0], X[1], X[2][:, :5]], ValueError, r"^x\[2\]: expected shape \(6,\) or \(n, 6\), got \(9, 5\)"),
        (lambda X: [X[0][0, 0], *X[1:]], ValueError, r"^x\[0\]: expected shape \(4, 3\) or \(n, 4, 3\)"),
        (lambda X: [X[0], X[1], X[2][:8]], ValueError, r"as many rows in each, got x\[2\] of shape \(8, 6\) beside"),
        (lambda X: [X[0], X[1][0], X[2]], ValueError, r"^x: expected a row of each .*got x\[1\] of shape \(2,\)"),
        (lambda X: [X[0] * 1j, *X[1:]], TypeError, r"^x\[0\]: expected real numbers, got dtype complex64"),
        (lambda X: [X[0], X[1] + 7, X[2]], ValueError, "whole number"),
    ],
)
def test_refusals_of_several(change, error, words):
    with pytest.raises(error, match=words):
        several().predictor()(change(examples(9)))


def test_several_with_functions_of_the_users():
    net = several(own=bp.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2))
    answer, X = net.predictor(), examples(70)
    wanted = net.predict(X)
    net.theta[:] = 0
    assert all(a.tobytes() == b.tobytes() for a, b in zip(answer(X), wanted, strict=True))
    out = [np.empty(a.shape[1:], "f4") for a in wanted]
    assert all(a.tobytes() == b[5].tobytes() for a, b in zip(answer([x[5] for x in X], out), wanted, strict=True))


def test_many_threads_ask_of_several():
    net = several()
    X = examples(500)
    answer, wanted, wrong = net.predictor(n_threads=2), net.predict(X), []

    def ask():
        for _ in range(40):
            for rows in (slice(0, 500), 77):
                found = answer([x[rows] for x in X])
                wrong.extend(a.tobytes() != b[rows].tobytes() for a, b in zip(found, wanted, strict=True))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(wrong) == 5 * 40 * 2 * 3 and not any(wrong)


def test_while_another_thread_fits():
    net, X, answers = make(), RNG.standard_normal((20, 5)), []

    def ask(state):
        thread = threading.Thread(target=lambda: answers.append(net.predictor()(X).tobytes()))
        thread.start()
        thread.join()
        answers[-1] = answers[-1] == net.predict(X).tobytes()

    net.fit(X, np.arange(20) % 3, callbacks=[ask], epochs=2)
    assert answers == [True, True]


def test_after_a_fork():
    answer = make().predictor(n_threads=2)
    X = RNG.standard_normal((5000, 5))
    wanted = answer(X).tobytes()
    child = os.fork()
    if not child:
        os._exit(answer(X).tobytes() != wanted)
    assert os.waitpid(child, 0)[1] == 0


def test_it_says_what_it_is():
    answer = make().predictor()
    assert repr(answer) == "<Predictor of 5 inputs and 3 outputs, float32>"
    assert (answer.n_inputs, answer.n_outputs) == (5, 3)
    with pytest.raises(AttributeError):
        answer.n_inputs = 6


def test_it_is_not_pickled():
    with pytest.raises(TypeError, match=r"pickle the network, and call predictor\(\) there"):
        pickle.dumps(make().predictor())

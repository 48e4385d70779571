"""Wrong input: one clear ValueError or TypeError that names the argument, what was expected and what came, and a
network that is the same bit for bit afterwards."""

import importlib
import re
import sys

import numpy as np
import pytest
from scipy import LowLevelCallable

import bpcore as bp
from bpcore import _validate

RNG = np.random.default_rng(0)
N = 300  # more than one block of the scan
X = RNG.standard_normal((N, 3))
Y = RNG.standard_normal((N, 2))
LABELS = np.arange(N) % 4


def trained(n_out=2, output="identity", y=Y, dtype="float32"):
    """A network with something to lose: counters and an optimiser's state."""
    net = bp.Network([bp.Input(3), bp.Dense(5, "tanh"), bp.Dense(n_out, output)], dtype=dtype, seed=7)
    net.fit(X, y, optimizer=bp.SGD(lr=0.01, momentum=0.5), epochs=1, batch_size=100)
    assert net.step == 3 and net._model.memory.states[0].any()
    return net


def everything(net):
    state = net._model.__getstate__()
    assert {"theta", "step", "epoch", "seed", "memory"} <= set(state)
    return {
        key: (value.optimizer, [a.tobytes() for a in value.states], value.updates) if key == "memory"
        else value.tobytes() if isinstance(value, np.ndarray)
        else value
        for key, value in state.items()
    }  # fmt: skip


def refused(net, call, error, *words):
    before = everything(net)
    with pytest.raises(Exception) as caught:  # noqa: B017 (the type is asserted below)
        call()
    assert type(caught.value) is error, repr(caught.value)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    assert everything(net) == before


class Sparse:
    """Like scipy.sparse.csr_matrix: np.asarray would make an object array of it."""

    shape = (N, 3)

    def tocsr(self):
        return self


class Frame:
    """Like pandas.DataFrame, of named columns."""

    def __init__(self, **columns):
        self.table = {name: np.asarray(column) for name, column in columns.items()}
        self.columns, self.dtypes = list(self.table), [column.dtype for column in self.table.values()]

    def __getitem__(self, name):
        return self.table[name]

    def __array__(self, dtype=None, copy=None):
        return np.array(list(zip(*self.table.values(), strict=True)), object).astype(dtype or object)


class Missing:
    """Like a pandas.Series of nullable integers, some of them missing."""

    dtype = np.dtype("i8")

    def __array__(self, dtype=None, copy=None):
        return np.array([None] * N, dtype or object)


def poisoned(value, index=(4, 1), a=X):
    a = a.copy()
    a[index] = value
    return a


RAGGED = [[1.0, 2.0, 3.0]] * (N - 1) + [[1.0, 2.0]]
STRUCTURED = np.zeros((N, 3), [("a", "f4"), ("b", "i4")])
BAD_X = {
    "1-D": (X[0], ValueError, "expected shape (n, 3), got (3,)", "{name}.reshape(1, -1)"),
    "3-D": (X[None], ValueError, f"expected shape (n, 3), got (1, {N}, 3)"),
    "0-D": (1.5, ValueError, "expected shape (n, 3), got ()"),
    "no rows": (X[:0], ValueError, "at least one row", "(0, 3)"),
    "no columns": (X[:, :0], ValueError, "3 inputs", f"({N}, 0)"),
    "too few columns": (X[:, :2], ValueError, "3 inputs", f"({N}, 2)"),
    "too many columns": (np.hstack([X, X]), ValueError, "3 inputs", f"({N}, 6)"),
    "empty list": ([], ValueError, "expected shape (n, 3), got (0,)"),
    "ragged": (RAGGED, ValueError, "expected an array of numbers", "list"),
    "None": (None, TypeError, "expected real numbers", "object"),
    "with a None": ([[1.0, 2.0, None]] * N, TypeError, "expected real numbers", "object"),
    "object": (X.astype(object), TypeError, "expected real numbers", "object"),
    "complex": (X.astype(complex), TypeError, "expected real numbers", "complex128"),
    "string": (X.astype("U6"), TypeError, "expected real numbers", "<U6"),
    "bytes": (X.astype("S6"), TypeError, "expected real numbers", "|S6"),
    "datetime": (X.astype("M8[s]"), TypeError, "expected real numbers", "datetime64[s]"),
    "timedelta": (X.astype("m8[s]"), TypeError, "expected real numbers", "timedelta64[s]"),
    "structured": (STRUCTURED, TypeError, "expected real numbers", "'a'"),
    "dict": ({"a": 1}, ValueError, "expected the keys input", "got a"),
    "empty dict": ({}, ValueError, "expected the keys input, got an empty dict"),
    "generator": ((row for row in X), TypeError, "expected real numbers", "object"),
    "huge ints": ([[2**70] * 3] * N, TypeError, "expected real numbers", "object"),
    "a frame with words": (
        Frame(age=X[:, 0], city=["Basel"] * N, pet=["cat"] * N), TypeError, "expected real numbers",
        "column 'city' is <U5; make numbers of it",
    ),
    "missing": (Missing(), ValueError, "expected finite numbers, and some are missing; use {name}.fillna(...)"),
    "sparse": (Sparse(), TypeError, "expected a dense array", "Sparse", "{name}.toarray()"),
    "masked": (np.ma.masked_less(X, 0), TypeError, "masked arrays", "{name}.filled"),
    "NaN": (poisoned(np.nan), ValueError, "expected finite numbers", "{name}[4, 1] is nan"),
    "inf": (poisoned(np.inf), ValueError, "expected finite numbers", "{name}[4, 1] is inf"),
    "-inf": (poisoned(-np.inf), ValueError, "expected finite numbers", "{name}[4, 1] is -inf"),
    "overflows": (poisoned(3.5e38), ValueError, "{name}[4, 1] is 3.5e+38", "overflows float32", "dtype='float64'"),
    "overflows below": (poisoned(-1e300), ValueError, "{name}[4, 1] is -1e+300", "overflows float32"),
}
CALLS = {
    "fit": lambda net, X, y: net.fit(X, y),
    "evaluate": lambda net, X, y: net.evaluate(X, y),
    "value_and_grad": lambda net, X, y: net.value_and_grad(X, y),
    "check_gradients": lambda net, X, y: bp.check_gradients(net, X, y),
    "predict": lambda net, X, y: net.predict(X),
    "forward": lambda net, X, y: net.forward(X),
    "validation_data": lambda net, X_, y: net.fit(X, Y, validation_data=(X_, y)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", BAD_X)
def test_wrong_X(kind, call):
    bad, error, *words = BAD_X[kind]
    if (kind, call) == ("no rows", "predict"):
        return  # which has no rows for an answer
    if call == "check_gradients" and "overflows" in kind:
        bad = poisoned(np.longdouble("1e400"), a=X.astype(np.longdouble))  # it works in float64
        words = ["{name}[4, 1] is 1e+400", "overflows float64"]
    name = "validation_data[0]" if call == "validation_data" else "X"
    words = [word.replace("{name}", name) for word in words]
    refused(net := trained(), lambda: CALLS[call](net, bad, Y), error, f"{name}:", *words)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("where", ["first", "last", "end of a block", "start of a block", "last column"])
@pytest.mark.parametrize("layout", ["C", "Fortran", "strided", "reversed", "turned", "swapped", "read-only", "float16"])
def test_the_index_of_the_first_bad_number(value, where, layout):
    index = {
        "first": (0, 0), "last": (N - 1, 2), "end of a block": (255, 1), "start of a block": (256, 0),
        "last column": (0, 2),
    }[where]  # fmt: skip
    a = {
        "C": lambda: X.copy(),
        "Fortran": lambda: np.asfortranarray(X),
        "strided": lambda: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
        "reversed": lambda: X.copy()[::-1, ::-1],
        "turned": lambda: np.ascontiguousarray(X.T).T[:, :],
        "swapped": lambda: X.astype(">f8"),
        "read-only": lambda: X.copy(),
        "float16": lambda: X.astype(np.float16),
    }[layout]()
    if layout == "float16":
        value = np.float16(min(value, np.inf)) if value != 1e39 else np.float16(np.inf)
    a[index] = value
    a.flags.writeable = layout != "read-only"
    net = trained()
    refused(net, lambda: net.predict(a), ValueError, f"X[{index[0]}, {index[1]}] is {value}")
    refused(net, lambda: net.fit(a, Y), ValueError, f"X[{index[0]}, {index[1]}] is {value}")


def test_a_frame_of_several_kinds_of_numbers():
    table = Frame(a=X[:, 0], b=np.arange(N), c=X[:, 2] > 0)
    net = trained()
    assert (net.predict(table) == net.predict(np.asarray(table, float))).all()


def test_what_is_finite_is_taken():
    net = trained()
    top = np.finfo(np.float32).max
    for a in (poisoned(top), poisoned(-float(top)), poisoned(1e-320), X.astype(np.float16), X > 0, X.astype(np.int8)):
        assert net.predict(a).shape == (N, 2)
    double = trained(dtype="float64")
    assert np.isfinite(double.predict(poisoned(1e300))).all()


def y_cases():
    classes = {"y": LABELS, "n_out": 4, "output": "softmax"}
    odds = {"y": (LABELS % 2)[:, None], "n_out": 1, "output": "logistic"}
    rows = np.eye(4)[LABELS]
    plain = {}
    short = f"expected {N} rows"
    either = f"expected shape ({N}, 4) or ({N},)"
    low, high = LABELS.copy(), LABELS.copy()
    low[7], high[299] = -1, 4
    return {
        "too short": (plain, Y[:-1], ValueError, short, f"({N - 1}, 2)"),
        "too long": (plain, np.vstack([Y, Y]), ValueError, short, f"({2 * N}, 2)"),
        "no rows": (plain, Y[:0], ValueError, short, "(0, 2)"),
        "0-D": (plain, 1.0, ValueError, short, "()"),
        "1-D for two outputs": (plain, Y[:, 0], ValueError, f"expected shape ({N}, 2)", f"({N},)"),
        "3-D": (plain, Y[:, :, None], ValueError, f"expected shape ({N}, 2)", f"({N}, 2, 1)"),
        "transposed": (plain, Y.T, ValueError, short, f"(2, {N})"),
        "None": (plain, None, TypeError, "expected real numbers", "got None", "bp.Table"),
        "complex": (plain, Y * 1j, TypeError, "expected real numbers", "complex128"),
        "strings": (plain, Y.astype("U5"), TypeError, "expected real numbers", "<U5"),
        "ragged": (plain, [[1, 2]] * (N - 1) + [[1]], ValueError, "expected an array of numbers", "list"),
        "sparse": (plain, Sparse(), TypeError, "expected a dense array", "Sparse"),
        "masked": (plain, np.ma.array(Y), TypeError, "masked arrays"),
        "NaN": (plain, poisoned(np.nan, (299, 1), Y), ValueError, "finite", "y[299, 1] is nan"),
        "inf": (plain, poisoned(np.inf, (0, 0), np.asfortranarray(Y)), ValueError, "finite", "y[0, 0] is inf"),
        "overflows": (plain, poisoned(-1e39, (3, 0), Y), ValueError, "y[3, 0] is -1e+39", "overflows float32"),
        "label too high": (classes, high, ValueError, "from 0 to 3", "y[299] is 4"),
        "label negative": (classes, low, ValueError, "from 0 to 3", "y[7] is -1"),
        "label int8": (classes, low.astype(np.int8), ValueError, "from 0 to 3", "y[7] is -1"),
        "label huge": (classes, np.full(N, 2**63 + 5, np.uint64), ValueError, "from 0 to 3", "9223372036854775813"),
        "label at 2^32": (classes, LABELS + 2**32, ValueError, "from 0 to 3", "y[0] is 4294967296"),
        "label above the top uint64": (classes, np.full(N, 2**64 - 1, np.uint64), ValueError, "18446744073709551615"),
        "float labels": (classes, LABELS * 1.0, TypeError, "must be integers", "float64", "y.astype(int)"),
        "labels with holes": (classes, np.where(LABELS == 3, np.nan, LABELS), ValueError, "finite", "y[3] is nan"),
        "labels as a column": (classes, LABELS[:, None], ValueError, either, f"({N}, 1)"),
        "labels as words": (classes, LABELS.astype(str), TypeError, "expected real numbers", "<U"),
        "rows too narrow": (classes, rows[:, :3], ValueError, either, f"({N}, 3)"),
        "rows negative": (classes, -rows, ValueError, "from 0 to inf", "y[0, 0] is -1.0"),
        "rows with NaN": (classes, poisoned(np.nan, (9, 3), rows), ValueError, "finite", "y[9, 3] is nan"),
        "odds above one": (odds, LABELS, ValueError, "from 0 to 1", "y[2] is 2"),
        "odds below zero": (
            odds,
            poisoned(-0.1, (5, 0), odds["y"] * 0.5),
            ValueError,
            "from 0 to 1",
            "y[5, 0] is -0.1",
        ),
        "odds of two": (odds, Y, ValueError, f"({N}, 1) or ({N},)", f"got ({N}, 2)"),
        "rows that sum to more than 1": (
            classes, poisoned(0.75, (299, 0), rows), ValueError, "sum to 1 for cross_entropy", "y[299] sums to 1.75",
            "divide each row by its sum", "sample_weight", "binary_cross_entropy",
        ),
        "a row of zeros": (classes, rows * (LABELS > 0)[:, None], ValueError, "y[0] sums to 0"),
        "several classes": (classes, rows.astype(int) | np.eye(4, dtype=int)[0], ValueError, "y[1] sums to 2"),
        "a row that sums to 1 with a number below 0": (
            classes, np.array([[1.5, -0.5, 0, 0]] * N), ValueError, "from 0 to inf", "y[0, 1] is -0.5",
        ),
    }


BAD_Y = y_cases()


@pytest.mark.parametrize(
    "call", ["fit", "evaluate", "value_and_grad", "check_gradients", "backward", "validation_data"]
)
@pytest.mark.parametrize("kind", BAD_Y)
def test_wrong_y(kind, call):
    settings, bad, error, *words = BAD_Y[kind]
    if call == "check_gradients" and kind == "overflows":
        return  # it works in float64, where 1e39 is a number like any other
    net = trained(**settings)
    good, name = settings.get("y", Y), "y"
    if call == "backward":
        tape = net.forward(X)
        run = lambda: net.backward(tape, bad)  # noqa: E731
    elif call == "validation_data":
        name = "validation_data[1]"
        run = lambda: net.fit(X, good, validation_data=(X, bad))  # noqa: E731
    else:
        run = lambda: CALLS[call](net, X, bad)  # noqa: E731
    words = [re.sub(r"\by(?=[\[.])", name, word) for word in words]
    refused(net, run, error, f"{name}:", *words)


@pytest.mark.parametrize("kind", ["float16", ">f4", "f8", "g", "i1", "?", "three digits"])
def test_probabilities_of_every_type_sum_to_one(kind):
    """One-hot rows, smoothed labels, soft targets, in more rows than a block of the check; the sums need no copy."""
    net = bp.Network([bp.Input(3), bp.Dense(7, "softmax")])
    n = 2**16
    hot = np.eye(7)[np.arange(n) % 7]
    soft = np.random.default_rng(0).dirichlet(np.ones(7), n)
    if kind in ("i1", "?"):
        targets = [hot.astype(kind)]
    elif kind == "three digits":
        targets = [np.full((n, 7), 0.143)]
    else:
        targets = [np.asfortranarray(a.astype(kind)) for a in (hot, 0.9 * hot + 0.1 / 7, soft)]
    for y in targets:
        net.evaluate(np.zeros((n, 3)), y)
        y = y.copy()
        y[n - 1] = 0
        with pytest.raises(ValueError, match=rf"y\[{n - 1}\] sums to 0;"):
            net.evaluate(np.zeros((n, 3)), y)
    net.fit(np.zeros((n, 3)), y, batch_size=None, check_finite=False)  # no scan


def test_probabilities_of_every_position_sum_to_one():
    y = np.full((2**16, 2, 4), 0.25)
    settings = {"classes": True, "low": 0.0, "high": np.inf, "sums_to_1": "cross_entropy", "signs": ""}
    assert _validate.target(y, len(y), (2, 4), np.dtype(np.float32), **settings).cols == 8
    y[60000, 1, 2] = 0.75
    with pytest.raises(ValueError, match=r"^y: .*; y\[60000, 1\] sums to 1\.5; "):
        _validate.target(y, len(y), (2, 4), np.dtype(np.float32), **settings)


def test_huber_needs_a_delta_that_the_network_can_hold():
    net, loss = trained(), bp.losses.Huber(1e-40)
    refused(net, lambda: net.fit(X, Y, loss=loss), ValueError, "delta:", "float32 can hold", "1e-40", "dtype='float64'")
    assert trained(dtype="float64").evaluate(X, Y, loss=loss)["loss"] > 0


W = np.ones(N)
BAD_WEIGHT = {
    "too short": (W[:-1], ValueError, f"expected shape ({N},)", f"({N - 1},)"),
    "a column": (W[:, None], ValueError, f"expected shape ({N},)", f"({N}, 1)"),
    "a number": (1.0, ValueError, f"expected shape ({N},)", "()"),
    "a word": ("balanced", TypeError, "expected real numbers", "<U8"),
    "negative": (poisoned(-1e-9, 299, W), ValueError, "from 0 to inf", "sample_weight[299] is -1e-09"),
    "NaN": (poisoned(np.nan, 0, W), ValueError, "expected finite numbers", "sample_weight[0] is nan"),
    "inf": (poisoned(np.inf, 256, W), ValueError, "expected finite numbers", "sample_weight[256] is inf"),
    "overflows": (poisoned(1e39, 5, W), ValueError, "sample_weight[5] is 1e+39", "overflows float32"),
    "too large to add up": (1e16 * W, ValueError, "up to 1e15", "1e+16"),
    "all zero": (0 * W, ValueError, "above zero", "only zeros"),
    "all zero as int": (np.zeros(N, int), ValueError, "above zero", "only zeros"),
    "zero once rounded": (1e-60 * W, ValueError, "float32", "1e-60"),
    "subnormal": (1e-42 * W, ValueError, "float32", "1e-42"),
    "complex": (W * 1j, TypeError, "expected real numbers", "complex128"),
    "object": (W.astype(object), TypeError, "expected real numbers", "object"),
    "masked": (np.ma.array(W), TypeError, "masked arrays"),
}


@pytest.mark.parametrize("call", ["fit", "evaluate", "value_and_grad", "backward", "check_gradients"])
@pytest.mark.parametrize("kind", BAD_WEIGHT)
def test_wrong_sample_weight(kind, call):
    bad, error, *words = BAD_WEIGHT[kind]
    if call == "check_gradients" and kind in ("overflows", "zero once rounded", "subnormal"):
        bad, words = np.zeros(N), ["above zero"]  # it works in float64
    net = trained()
    tape = net.forward(X)
    run = {
        "fit": lambda: net.fit(X, Y, sample_weight=bad),
        "evaluate": lambda: net.evaluate(X, Y, sample_weight=bad),
        "value_and_grad": lambda: net.value_and_grad(X, Y, sample_weight=bad),
        "backward": lambda: net.backward(tape, Y, sample_weight=bad),
        "check_gradients": lambda: bp.check_gradients(net, X, Y, sample_weight=bad),
    }[call]
    refused(net, run, error, "sample_weight:", *words)


class OwnList(list):
    """Not a callback."""


def nothing(state):
    pass


BAD_SETTING = [
    ("epochs", -1, ValueError, "from 0 to 2147483648", "-1"),
    ("epochs", 2**31 + 1, ValueError, "from 0 to", "2147483649"),
    ("epochs", 1.0, TypeError, "expected an integer", "1.0 of type float"),
    ("epochs", True, TypeError, "expected an integer", "True"),
    ("epochs", None, TypeError, "expected an integer", "None"),
    ("epochs", "3", TypeError, "expected an integer", "'3' of type str"),
    ("epochs", np.array([1, 2]), TypeError, "expected an integer", "ndarray"),
    ("batch_size", 0, ValueError, "from 1 to", "got 0"),
    ("batch_size", -32, ValueError, "from 1 to", "got -32"),
    ("batch_size", 2.5, TypeError, "expected an integer", "2.5 of type float"),
    ("batch_size", np.float32(2), TypeError, "expected an integer", "float32"),
    ("batch_size", True, TypeError, "expected an integer", "True"),
    ("batch_size", np.True_, TypeError, "expected an integer", "True"),
    ("batch_size", 2**63, ValueError, "from 1 to", "9223372036854775808"),
    ("batch_size", "full", TypeError, "expected an integer", "'full'"),
    ("shuffle", 3, TypeError, "expected True or False", "3"),
    ("shuffle", None, TypeError, "expected True or False", "None"),
    ("shuffle", "yes", TypeError, "expected True or False", "'yes'"),
    ("check_finite", 2, TypeError, "expected True or False", "2"),
    ("check_finite", 1.0, TypeError, "expected True or False", "1.0"),
    ("n_threads", 0, ValueError, "from 1 to 256", "got 0"),
    ("n_threads", -1, ValueError, "from 1 to 256", "got -1"),
    ("n_threads", 257, ValueError, "from 1 to 256", "got 257"),
    ("n_threads", 1.5, TypeError, "expected an integer", "1.5 of type float"),
    ("n_threads", True, TypeError, "expected an integer", "True"),
    ("n_threads", "2", TypeError, "expected an integer", "'2'"),
    ("seed", -1, ValueError, "from 0 to 18446744073709551615", "-1"),
    ("seed", 2**64, ValueError, "from 0 to 18446744073709551615", "18446744073709551616"),
    ("seed", 0.5, TypeError, "expected an integer", "0.5 of type float"),
    ("seed", False, TypeError, "expected an integer", "False"),
    ("verbose", 3, ValueError, "expected an integer from 0 to 2", "3"),
    ("verbose", "yes", TypeError, "expected an integer", "'yes'"),
    ("loss", "cross_entropi", ValueError, "no 'cross_entropi'", "Did you mean 'cross_entropy'?", "squared_error, mse"),
    ("loss", "MSE", ValueError, "no 'MSE'", "Did you mean 'mse'?", "Valid names: auto, squared_error, mse, mae"),
    ("loss", "", ValueError, "no ''", "Valid names"),
    ("loss", None, TypeError, "expected a name or an object", "None"),
    ("loss", bp.losses.Huber, TypeError, "expected a name or an object", "Huber"),
    ("loss", lambda a, y: 0, TypeError, "expected a name or an object", "function"),
    ("loss", "mean_squared_error", ValueError, "Did you mean 'mse'?"),
    ("optimizer", "adm", ValueError, "no 'adm'", "Did you mean 'adam'?", "sgd, adam"),
    ("optimizer", "ADAM", ValueError, "no 'ADAM'", "Did you mean 'adam'?"),
    ("optimizer", bp.Adam, TypeError, "expected an optimiser such as bp.Adam(...)", "Adam"),
    ("optimizer", 0.1, TypeError, "expected an optimiser such as bp.Adam(...)", "0.1 of type float"),
    ("validation_data", X, TypeError, "expected (X, y) or (X, y, sample_weight)", "ndarray"),
    ("validation_data", (X,), TypeError, "expected (X, y) or (X, y, sample_weight), got a tuple of 1"),
    ("validation_data", [], TypeError, "expected (X, y) or (X, y, sample_weight), got a list of 0"),
    ("validation_data", (X, Y, W, W), TypeError, "expected (X, y) or (X, y, sample_weight), got a tuple of 4"),
    ("validation_data", (X, Y, -W), ValueError, "validation_data[2]: expected numbers from 0"),
    ("validation_data", (X, Y, W[1:]), ValueError, f"validation_data[2]: expected shape ({len(X)},)"),
    ("validation_data", {"X": X, "y": Y}, TypeError, "expected (X, y)", "dict"),
    ("validation_data", 0.2, TypeError, "expected (X, y)", "float"),
    ("validation_data", "Xy", TypeError, "validation_data[0]: expected real numbers", "<U1"),
    ("callbacks", 5, TypeError, "expected functions or bp.Callback objects", "5"),
    ("callbacks", None, TypeError, "expected functions or bp.Callback objects", "None"),
    ("callbacks", [nothing, 5], TypeError, "expected a function or a bp.Callback object", "5"),
    ("callbacks", bp.EarlyStopping, TypeError, "expected a function or a bp.Callback object", "EarlyStopping"),
    ("callbacks", [bp.Callback], TypeError, "expected a function or a bp.Callback object", "Callback"),
    ("callbacks", "print", TypeError, "expected a function or a bp.Callback object", "'p'"),
    ("callbacks", OwnList([OwnList()]), TypeError, "expected a function or a bp.Callback object", "[]"),
    ("callbacks", bp.EarlyStopping("Loss_loss"), ValueError, "watches Loss_loss", "only loss; there is no output"),
    ("callbacks", bp.EarlyStopping(), ValueError, "watches val_loss", "only loss", "validation_data"),
    ("callbacks", bp.EarlyStopping("los"), ValueError, "watches los,", "only loss", "Did you mean 'loss'?"),
    ("callbacks", bp.EarlyStopping("lr"), ValueError, "watches lr,", "only loss"),
]


@pytest.mark.parametrize("name, value, error, words", [(n, v, e, w) for n, v, e, *w in BAD_SETTING])
def test_wrong_setting_of_fit(name, value, error, words):
    net = trained()
    words = words if name == "validation_data" and "validation_data[" in words[0] else [f"{name}:", *words]
    refused(net, lambda: net.fit(X, Y, **{name: value}), error, *words)


@pytest.mark.parametrize("name", ["verbose", "shuffle", "check_finite"])
def test_switches_are_also_1_and_0(name):
    for one, other in ((1, True), (np.int64(0), False)):
        thetas = set()
        for value in (one, other):
            net = trained()
            net.fit(X, Y, **{name: value})
            thetas.add(net.theta.tobytes())
        assert len(thetas) == 1


def test_a_loss_that_the_outputs_are_not_made_for():
    for output in ("logistic", "softplus"):
        net = bp.Network([bp.Input(3), bp.Dense(4, output)])
        for call in (net.fit, net.evaluate):
            with pytest.warns(UserWarning, match=rf"cross_entropy .* dense_1 has {output} ones; use soft") as seen:
                call(X, LABELS, loss="cross_entropy")
            assert [one.filename for one in seen] == [__file__]
    bp.Network([bp.Input(3), bp.Dense(4), bp.Activate("softmax")]).fit(X, LABELS, loss="cross_entropy")


def test_parameters_that_are_not_there():
    net = trained()
    with pytest.raises(KeyError, match="params: there is no 'dense_9.W'. .*Valid names: dense_1.W, dense_1.b, "):
        net.params["dense_9.W"]
    assert "dense_9.W" not in net.params and net.params.get("dense_9.W") is None


def test_the_same_name_in_other_case_is_the_nearest():
    """`dense_1.b` is spelt as much alike as `dense_1.W`, to which `dense_1.w` is nearer."""
    net = trained()
    with pytest.raises(KeyError, match=r"Did you mean 'dense_1\.W'\?"):
        net.params["dense_1.w"]
    names = ["Age", "age_2", "dense_1.b", "dense_1.W", "VAL_loss"]
    wanted = {"AGE": "Age", "age": "Age", "dense_1.w": "dense_1.W", "DENSE_1.B": "dense_1.b", "val_loss": "VAL_loss"}
    for value, near in wanted.items():
        assert _validate.did_you_mean(value, names) == f" Did you mean {near!r}?"
    assert _validate.did_you_mean("a", ["A", "a_", "b"]) == " Did you mean 'A'?"
    assert _validate.did_you_mean("qqq", names) == ""
    net.fit(X, Y, validation_data=(X, Y), callbacks=bp.EarlyStopping("val_loss"))
    with pytest.raises(ValueError, match="there is no output of this name. Did you mean 'val_loss'?"):
        net.fit(X, Y, validation_data=(X, Y), callbacks=bp.EarlyStopping("Val_loss"))


class Strange:
    """Numbers that cannot be read as such."""

    def __index__(self):
        raise RuntimeError("mine")

    __float__ = __index__


@pytest.mark.parametrize("call", [lambda: bp.Dense(Strange()), lambda: bp.SGD(lr=Strange())])
def test_numbers_of_others_that_raise(call):
    with pytest.raises(TypeError, match="^(units|lr): expected a(n integer| number), got .*Strange") as caught:
        call()
    assert str(caught.value.__cause__) == "mine"


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.neural_network", None)
    monkeypatch.delitem(sys.modules, "bpcore.sklearn", raising=False)
    with pytest.raises(ImportError, match="needs scikit-learn.*pip install -U scikit-learn"):
        importlib.import_module("bpcore.sklearn")


def test_a_monitor_that_the_history_will_not_hold():
    net = trained()
    for monitor in ("val_accuracy", "val_loss"):
        stop = bp.EarlyStopping(monitor)
        refused(net, lambda stop=stop: net.fit(X, Y, callbacks=stop), ValueError, "callbacks:", monitor, "only loss")
    stop = bp.EarlyStopping("val_accuracy")
    refused(
        net,
        lambda: net.fit(X, Y, callbacks=[stop], validation_data=(X, Y)),
        ValueError,
        "val_accuracy",
        "loss, val_loss",
    )


@pytest.mark.parametrize("value, error", [(0, ValueError), (257, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_n_threads_everywhere(value, error):
    net = trained()
    for call in (
        lambda: net.predict(X, n_threads=value),
        lambda: net.evaluate(X, Y, n_threads=value),
        lambda: net.value_and_grad(X, Y, n_threads=value),
    ):
        refused(net, call, error, "n_threads:", "expected an integer", str(value))
    before = bp.get_num_threads()
    refused(net, lambda: bp.set_num_threads(value), error, "n:", "expected an integer", str(value))
    assert bp.get_num_threads() == before


@pytest.mark.parametrize("call", ["evaluate", "value_and_grad", "check_gradients", "backward"])
def test_wrong_loss_everywhere(call):
    net = trained()
    tape = net.forward(X)
    run = {
        "evaluate": lambda loss: net.evaluate(X, Y, loss=loss),
        "value_and_grad": lambda loss: net.value_and_grad(X, Y, loss=loss),
        "check_gradients": lambda loss: bp.check_gradients(net, X, Y, loss=loss),
        "backward": lambda loss: net.backward(tape, Y, loss=loss),
    }[call]
    refused(net, lambda: run("squared_eror"), ValueError, "loss:", "Did you mean 'squared_error'?", "Valid names: auto")
    refused(net, lambda: run(3), TypeError, "loss:", "expected a name or an object", "3 of type int")


def relabel(net):
    return trained(4, "softmax", LABELS).forward(X)


FOREIGN_TAPES = {
    "not a tape": (lambda net: (X, Y), TypeError, "expected what net.forward(X) returned, got tuple"),
    "None": (lambda net: None, TypeError, "expected what net.forward(X) returned, got NoneType"),
    "gradients": (lambda net: net.backward(net.forward(X), Y), TypeError, "got Gradients"),
    "other widths": (relabel, ValueError, "of this network, got one of another"),
    "other type": (lambda net: trained(dtype="float64").forward(X), ValueError, "in float32, got float64"),
    "other output": (
        lambda net: trained(output="softmax", y=np.eye(2)[LABELS % 2]).forward(X),
        ValueError, "got one of another",
    ),
    "no bias": (
        lambda net: bp.Network([bp.Input(3), bp.Dense(5, "tanh", bias=False), bp.Dense(2)]).forward(X),
        ValueError, "got one of another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN_TAPES)
def test_wrong_tape(kind):
    make, error, word = FOREIGN_TAPES[kind]
    net = trained()
    tape = make(net)
    refused(net, lambda: net.backward(tape, Y), error, "tape:", word)


def test_wrong_net_for_check_gradients():
    net = trained()
    for value in (5, None, "net", bp.Network):
        refused(net, lambda value=value: bp.check_gradients(value, X, Y), TypeError, "net:", "expected a bp.Network")


THETA = np.zeros(5 * 3 + 5 + 2 * 5 + 2)
BAD_THETA = {
    "a number": (0.0, ValueError, f"expected shape ({THETA.size},)", "()"),
    "short": (THETA[:-1], ValueError, f"expected shape ({THETA.size},)", f"({THETA.size - 1},)"),
    "a row": (THETA[None], ValueError, f"expected shape ({THETA.size},)", f"(1, {THETA.size})"),
    "NaN": (poisoned(np.nan, -1, THETA), ValueError, "finite", f"theta[{THETA.size - 1}] is nan"),
    "inf": (poisoned(-np.inf, 0, THETA), ValueError, "finite", "theta[0] is -inf"),
    "overflows": (poisoned(1e39, 3, THETA), ValueError, "theta[3] is 1e+39", "overflows float32"),
    "complex": (THETA * 1j, TypeError, "expected real numbers", "complex128"),
    "strings": (THETA.astype(str), TypeError, "expected real numbers", "<U"),
    "None": (None, TypeError, "expected real numbers", "object"),
    "ragged": ([1.0, [2.0]], ValueError, "expected an array of numbers", "list"),
}


@pytest.mark.parametrize("kind", BAD_THETA)
def test_wrong_theta(kind):
    bad, error, *words = BAD_THETA[kind]
    net = trained()
    refused(net, lambda: setattr(net, "theta", bad), error, "theta:", *words)


def test_theta_that_may_not_be_written():
    net = trained()
    net.theta.flags.writeable = False
    refused(net, lambda: net.fit(X, Y), ValueError, "theta:", "writable", "read-only")


NAMES = "identity, logistic, tanh, relu, leaky_relu, elu, selu, gelu, silu, softplus, softsign, hard_sigmoid"
BAD_OBJECT = {
    "Input none": (lambda: bp.Input(0), ValueError, "units:", "from 1 to 2147483647", "got 0"),
    "Input negative": (lambda: bp.Input(-3), ValueError, "units:", "got -3"),
    "Input float": (lambda: bp.Input(3.0), TypeError, "units:", "expected an integer", "3.0 of type float"),
    "Input tuple": (lambda: bp.Input((3, 2.0)), TypeError, "units:", "expected an integer", "2.0"),
    "Input axes": (lambda: bp.Input((1,) * 5), ValueError, "units:", "1 to 4 sizes", "(1, 1, 1, 1, 1)"),
    "Input bool": (lambda: bp.Input(True), TypeError, "units:", "expected an integer", "True"),
    "Input 2^31": (lambda: bp.Input(2**31), ValueError, "units:", "to 2147483647", "2147483648"),
    "Dense 2^40": (lambda: bp.Dense(2**40), ValueError, "units:", "to 2147483647", "1099511627776"),
    "Dense 2^64": (lambda: bp.Dense(2**64), ValueError, "units:", "18446744073709551616"),
    "Dense None": (lambda: bp.Dense(None), TypeError, "units:", "expected an integer", "None"),
    "Dense activation": (lambda: bp.Dense(3, "rellu"), ValueError, "activation:", "Did you mean 'relu'?", NAMES),
    "Dense sigmoid": (lambda: bp.Dense(3, "sigmoid"), ValueError, "activation:", "Did you mean 'logistic'?"),
    "Dense function": (lambda: bp.Dense(3, np.tanh), TypeError, "activation:", "bp.Activation(f, df)", "tanh"),
    "Dense bias": (lambda: bp.Dense(3, bias=1), TypeError, "bias:", "expected True or False", "1"),
    "Dense init": (lambda: bp.Dense(3, init="glorot"), ValueError, "init:", "Did you mean 'glorot_", "he_normal"),
    "Dense init None": (lambda: bp.Dense(3, init=None), TypeError, "init:", "expected real numbers", "object"),
    "Dense init complex": (lambda: bp.Dense(1, init=[[1j]]), TypeError, "init:", "complex128"),
    "Dense bias_init": (lambda: bp.Dense(3, bias_init="one"), ValueError, "bias_init:", "Did you mean 'ones'?"),
    "Dense bias_init words": (lambda: bp.Dense(1, bias_init=["a"]), TypeError, "bias_init:", "<U1"),
    "Dense name": (lambda: bp.Dense(3, name="a.b"), ValueError, "name:", "without '.'", "'a.b'"),
    "Dense name empty": (lambda: bp.Dense(3, name=""), ValueError, "name:", "non-empty", "''"),
    "Dense name int": (lambda: bp.Dense(3, name=5), ValueError, "name:", "string", "5"),
    "Activation": (lambda: bp.Activation(np.tanh, None), TypeError, "df:", "expected a function", "None"),
    "Activation f": (lambda: bp.Activation("tanh", np.tanh), TypeError, "f:", "expected a function", "'tanh'"),
    "Activation name": (lambda: bp.Activation(np.tanh, np.tanh, 5), TypeError, "name:", "expected a string", "5"),
    "Loss value": (lambda: bp.Loss("mse", abs), TypeError, "value:", "expected a function", "'mse'"),
    "Loss gradient": (lambda: bp.Loss(abs, 3), TypeError, "gradient:", "expected a function", "3"),
    "Loss name": (lambda: bp.Loss(abs, abs, 5), TypeError, "name:", "expected a string", "5"),
    "Huber zero": (lambda: bp.losses.Huber(0), ValueError, "delta:", "(0, inf)", "got 0"),
    "Huber negative": (lambda: bp.losses.Huber(-1.0), ValueError, "delta:", "(0, inf)", "-1.0"),
    "Huber NaN": (lambda: bp.losses.Huber(float("nan")), ValueError, "delta:", "finite", "nan"),
    "Huber bool": (lambda: bp.losses.Huber(True), TypeError, "delta:", "expected a number", "True"),
    "Huber word": (lambda: bp.losses.Huber("1"), TypeError, "delta:", "expected a number", "'1'"),
    "SGD lr": (lambda: bp.SGD(lr=-0.1), ValueError, "lr:", "[0, inf)", "-0.1"),
    "SGD lr NaN": (lambda: bp.SGD(lr=float("nan")), ValueError, "lr:", "finite", "nan"),
    "SGD lr inf": (lambda: bp.SGD(lr=float("inf")), ValueError, "lr:", "finite", "inf"),
    "SGD lr word": (lambda: bp.SGD(lr="0.1"), TypeError, "lr:", "expected a number", "'0.1'"),
    "SGD lr None": (lambda: bp.SGD(lr=None), TypeError, "lr:", "expected a number", "None"),
    "SGD lr bool": (lambda: bp.SGD(lr=True), TypeError, "lr:", "expected a number", "True"),
    "SGD lr complex": (lambda: bp.SGD(lr=0.1 + 0j), TypeError, "lr:", "expected a number", "complex"),
    "SGD lr array": (lambda: bp.SGD(lr=np.array([0.1, 0.2])), TypeError, "lr:", "expected a number"),
    "SGD lr huge": (lambda: bp.SGD(lr=10**400), ValueError, "lr:", "finite"),
    "SGD momentum": (lambda: bp.SGD(momentum=1), ValueError, "momentum:", "[0, 1)", "got 1"),
    "SGD momentum below": (lambda: bp.SGD(momentum=-0.5), ValueError, "momentum:", "[0, 1)", "-0.5"),
    "SGD nesterov": (lambda: bp.SGD(nesterov=True), ValueError, "nesterov:", "momentum above 0", "0.0"),
    "SGD nesterov int": (lambda: bp.SGD(momentum=0.5, nesterov=1), TypeError, "nesterov:", "True or False", "1"),
    "SGD decay": (lambda: bp.SGD(weight_decay=-1e-4), ValueError, "weight_decay:", "[0, inf)", "-0.0001"),
    "Adam lr": (lambda: bp.Adam(lr=-1), ValueError, "lr:", "[0, inf)", "-1"),
    "Adam beta1": (lambda: bp.Adam(beta1=1.0), ValueError, "beta1:", "[0, 1)", "1.0"),
    "Adam beta2": (lambda: bp.Adam(beta2=-0.1), ValueError, "beta2:", "[0, 1)", "-0.1"),
    "Adam beta2 word": (lambda: bp.Adam(beta2="0.9"), TypeError, "beta2:", "expected a number", "'0.9'"),
    "Adam eps": (lambda: bp.Adam(eps=0), ValueError, "eps:", "(0, inf)", "got 0"),
    "Adam decay": (lambda: bp.Adam(weight_decay=float("inf")), ValueError, "weight_decay:", "finite", "inf"),
    "Stop monitor int": (lambda: bp.EarlyStopping(5), TypeError, "monitor:", "such as 'val_loss'", "5 of type int"),
    "Stop patience": (lambda: bp.EarlyStopping(patience=-1), ValueError, "patience:", "from 0", "-1"),
    "Stop patience float": (lambda: bp.EarlyStopping(patience=2.5), TypeError, "patience:", "integer", "2.5"),
    "Stop min_delta": (lambda: bp.EarlyStopping(min_delta=-1), ValueError, "min_delta:", "[0, inf)", "-1"),
    "Stop min_delta word": (lambda: bp.EarlyStopping(min_delta="a"), TypeError, "min_delta:", "a number", "'a'"),
    "Stop restore_best": (lambda: bp.EarlyStopping(restore_best=1), TypeError, "restore_best:", "True or False", "1"),
}


@pytest.mark.parametrize("kind", BAD_OBJECT)
def test_wrong_layer_loss_optimizer_or_callback(kind):
    make, error, *words = BAD_OBJECT[kind]
    with pytest.raises(error) as caught:
        make()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_low_level_functions_of_another_kind():
    import ctypes

    one = LowLevelCallable(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda z: z))
    two = LowLevelCallable(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_double)(lambda z, w: z))
    with pytest.raises(TypeError, match="f and df must both be LowLevelCallable"):
        bp.Activation(one, np.tanh)
    with pytest.raises(ValueError, match=r"double \(double\).*got 'double \(double, double\)'"):
        bp.Activation(one, two)
    with pytest.raises(TypeError, match="name: expected a string"):
        bp.Activation(one, one, name=3)


def chain(*layers, **settings):
    return lambda: bp.Network([bp.Input(3), *layers], **settings)


SHARED = bp.Dense(3)
INPUT = bp.Input(3)
BAD_NETWORK = {
    "nothing": (lambda: bp.Network([]), ValueError, "layers:", "at least one layer", "0 layers"),
    "input only": (chain(), ValueError, "layers:", "at least one layer", "1 layers"),
    "no list": (lambda: bp.Network(5), TypeError, "layers:", "expected a list", "int"),
    "a word": (lambda: bp.Network("relu"), TypeError, "layers:", "expected a list", "str"),
    "a dict": (lambda: bp.Network({INPUT: 1}), TypeError, "layers:", "expected a list", "dict"),
    "a layer": (lambda: bp.Network(bp.Dense(3)), TypeError, "layers:", "expected a list", "Dense"),
    "a class": (chain(bp.Dense), TypeError, "layers[1]:", "expected a layer such as bp.Input or bp.Dense", "Dense"),
    "a number": (chain(3), TypeError, "layers[1]:", "expected a layer such as bp.Input or bp.Dense", "3 of type int"),
    "no input": (lambda: bp.Network([SHARED]), ValueError, "layers[0]:", "bp.Input first", "Dense(3"),
    "a network": (
        chain(bp.Network([bp.Input(3), bp.Dense(2)])), TypeError, "layers[1]:", "bp.Network(x, bp.Dense(m)(net(x)))",
    ),
    "two inputs": (chain(SHARED, INPUT), ValueError, "layers[2]:", "bp.Input first", "Input(3)"),
    "names twice": (chain(bp.Dense(2, name="a"), bp.Dense(2, name="a")), ValueError, "layers:", "'a' twice"),
    "name of the input": (chain(bp.Dense(2, name="input")), ValueError, "layers:", "'input' twice"),
    "shared at two widths": (chain(SHARED, bp.Dense(4), SHARED), ValueError, "layers:", "W of shape (3, 3) and (4, 3)"),
    "init shape": (chain(bp.Dense(2, init=np.ones((3, 2)))), ValueError, "init:", "shape (2, 3)", "(3, 2)"),
    "init 1-D": (chain(bp.Dense(2, init=np.ones(6))), ValueError, "init:", "shape (2, 3)", "(6,)"),
    "init NaN": (chain(bp.Dense(1, init=[[0, 0, np.nan]])), ValueError, "init:", "finite", "init[0, 2] is nan"),
    "init overflows": (chain(bp.Dense(1, init=[[0, 1e39, 0]])), ValueError, "init[0, 1] is 1e+39", "float32"),
    "bias shape": (chain(bp.Dense(2, bias_init=[1.0, 2, 3])), ValueError, "bias_init:", "shape (2,)", "(3,)"),
    "bias inf": (chain(bp.Dense(2, bias_init=[1.0, np.inf])), ValueError, "bias_init:", "bias_init[1] is inf"),
    "dtype": (chain(SHARED, dtype="float16"), ValueError, "dtype:", "'float32' or 'float64'", "'float16'"),
    "dtype int": (chain(SHARED, dtype=int), ValueError, "dtype:", "'float32' or 'float64'", "int"),
    "dtype None": (chain(SHARED, dtype=None), ValueError, "dtype:", "'float32' or 'float64'", "None"),
    "dtype word": (chain(SHARED, dtype="real"), ValueError, "dtype:", "'float32' or 'float64'", "'real'"),
    "dtype object": (chain(SHARED, dtype=[]), ValueError, "dtype:", "'float32' or 'float64'", "[]"),
    "dtype swapped": (chain(SHARED, dtype=">f4"), ValueError, "dtype:", "'float32' or 'float64'", "'>f4'"),
    "dtype 5": (chain(SHARED, dtype=5), ValueError, "dtype:", "'float32' or 'float64'", "5"),
    "seed": (chain(SHARED, seed=-1), ValueError, "seed:", "from 0 to 18446744073709551615", "-1"),
    "seed 2^64": (chain(SHARED, seed=2**64), ValueError, "seed:", "18446744073709551616"),
    "seed None": (chain(SHARED, seed=None), TypeError, "seed:", "expected an integer", "None"),
    "seed float": (chain(SHARED, seed=1.0), TypeError, "seed:", "expected an integer", "1.0"),
    "seed bool": (chain(SHARED, seed=True), TypeError, "seed:", "expected an integer", "True"),
    "too large": (lambda: bp.Network([bp.Input(2**31 - 1), bp.Dense(2**31 - 1)]), ValueError, "layers:", "parameters"),
    "too large in sum": (
        lambda: bp.Network([bp.Input(2**31 - 1), *[bp.Dense(2**31 - 1) for _ in range(8)]]), ValueError, "layers:",
        "parameters",
    ),
    "too large in bytes": (
        lambda: bp.Network([bp.Input(2**31 - 1), bp.Dense(2**30)], dtype="float64"), ValueError, "layers:",
        "parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_NETWORK)
def test_wrong_network(kind):
    make, error, *words = BAD_NETWORK[kind]
    with pytest.raises(error) as caught:
        make()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_seeds_and_sizes_at_the_edge_are_taken():
    net = bp.Network([bp.Input(np.int8(3)), bp.Dense(np.uint64(2))], seed=2**64 - 1, dtype=np.float64)
    assert net.fit(X, Y, seed=np.uint64(2**64 - 1), batch_size=np.int16(7), epochs=np.int64(1)).epoch == [1]
    assert net.seed == 2**64 - 1 and net.dtype == np.float64


def test_wrong_path_and_custom(tmp_path):
    net = trained()
    for value in (5, None, 1.5, ["a"]):
        kind = f"of type {type(value).__name__}"
        refused(net, lambda value=value: net.save(value), TypeError, "path:", "expected a file name", kind)
        refused(net, lambda value=value: bp.load(value), TypeError, "path:", "expected a file name", kind)
    net.save(tmp_path / "net")
    for value in (5, "tanh", [bp.Activation(np.tanh, np.tanh)]):
        with pytest.raises(TypeError, match=r"custom: expected \{name: bp.Activation\(f, df\)\}, got"):
            bp.load(tmp_path / "net", custom=value)


def test_a_loaded_network_refuses_other_shapes(tmp_path):
    trained().save(tmp_path / "net")
    net = bp.load(tmp_path / "net")
    refused(net, lambda: net.predict(X[:, :2]), ValueError, "X:", "3 inputs", f"({N}, 2)")
    refused(net, lambda: net.fit(X, Y[:, :1]), ValueError, "y:", f"expected shape ({N}, 2)", f"({N}, 1)")


@pytest.mark.parametrize("name", ["X", "y", "loss", "epochs", "stage"])
def test_after_the_data_everything_is_by_keyword(name):
    net = trained()
    refused(net, lambda: net.fit(X, Y, "mse"), TypeError, "takes X, y by position")
    refused(net, lambda: net.predict(X, 2), TypeError, "takes X by position")
    refused(net, lambda: net.fit(X, Y, **{name + "_": 1}), TypeError, f"{name}_")


def own(value, gradient):
    return bp.Loss(value, gradient)


OWN_LOSSES = {
    "value scalar": (own(lambda a, y: 0.0, lambda a, y: a), ValueError, "value(a, y)", f"({N},)", "()"),
    "value matrix": (own(lambda a, y: a, lambda a, y: a), ValueError, "value(a, y)", f"({N},)", f"({N}, 2)"),
    "value complex": (own(lambda a, y: 1j * a[:, 0], lambda a, y: a), TypeError, "value(a, y)", "complex64"),
    "value None": (own(lambda a, y: None, lambda a, y: a), TypeError, "value(a, y)", "object"),
    "gradient": (own(lambda a, y: a[:, 0], lambda a, y: a[:, 0]), ValueError, "gradient(a, y)", f"({N}, 2)", f"({N},)"),
    "gradient words": (own(lambda a, y: a[:, 0], lambda a, y: a.astype(str)), TypeError, "gradient(a, y)", "<U"),
}


@pytest.mark.parametrize("kind", OWN_LOSSES)
def test_what_the_users_loss_returns(kind):
    loss, error, *words = OWN_LOSSES[kind]
    net = trained()
    refused(net, lambda: net.value_and_grad(X, Y, loss=loss), error, "Loss:", *words)
    theta, step = net.theta.tobytes(), net.step
    with pytest.raises(error, match=re.escape(words[0])):
        net.fit(X, Y, loss=loss, batch_size=None)
    assert net.theta.tobytes() == theta and net.step == step


def test_y_of_the_users_loss():
    net, loss = trained(), bp.Loss(lambda a, y: a[:, 0], lambda a, y: a)
    for bad, error, *words in (
        (Y[:-1], ValueError, f"expected {N} rows", f"({N - 1}, 2)"),
        (Y[:, :0], ValueError, "at least one number a row", f"({N}, 0)"),
        (np.full(N, 2**31), ValueError, "from -2147483648 to 2147483647", "y[0] is 2147483648"),
        (np.full(N, 2**64 - 1, np.uint64), ValueError, "y[0] is 18446744073709551615"),
        (poisoned(np.nan, (5, 1), Y), ValueError, "finite", "y[5, 1] is nan"),
        (poisoned(1e39, (299, 0), Y), ValueError, "y[299, 0] is 1e+39", "overflows float32"),
        (Y * 1j, TypeError, "expected real numbers", "complex128"),
        (None, TypeError, "expected real numbers", "got None"),
    ):
        for call in (net.fit, net.evaluate, net.value_and_grad):
            refused(net, lambda call=call, bad=bad: call(X, bad, loss=loss), error, "y:", *words)


@pytest.mark.parametrize(
    "f", [lambda z: z[0], lambda z: z.T, lambda z: None, lambda z: z * 1j, lambda z: z.astype(str)]
)
@pytest.mark.parametrize("which", ["f", "df"])
def test_what_the_users_activation_returns(f, which):
    activation = bp.Activation(**{"f": np.tanh, "df": np.cos, which: f})
    net = bp.Network([bp.Input(3), bp.Dense(5, activation), bp.Dense(2)])
    for call in (net.predict, net.forward) if which == "f" else (net.forward,):
        before = everything(net)
        with pytest.raises((ValueError, TypeError), match=rf"Activation: {which}\(z\): expected"):
            call(X)
        assert everything(net) == before


@pytest.mark.parametrize("check_finite", [True, False])
@pytest.mark.parametrize("label", [-1, 4, 2**40, -(2**63)])
def test_a_label_that_turns_bad_while_fit_runs(check_finite, label):
    """C looks at every label it reads: a write into y by a callback ends in an exception, at the last whole step."""
    y = LABELS.copy()
    kept = {}

    def spoil(state):
        if state.epoch == 2:
            y[150] = label
            kept["theta"] = state.net.theta.copy()

    net = bp.Network([bp.Input(3), bp.Dense(5, "tanh"), bp.Dense(4, "softmax")], seed=1)
    with pytest.raises(ValueError, match="X or y: .* a class label of y beyond"):
        net.fit(X, y, epochs=5, batch_size=None, check_finite=check_finite, callbacks=spoil)
    assert net.epoch == 2 and net.step == 2 and net.theta.tobytes() == kept["theta"].tobytes()


def test_without_the_scan_a_bad_label_is_still_refused():
    bad = LABELS.copy()
    bad[3] = 9
    net = trained(4, "softmax", LABELS)
    refused(net, lambda: net.fit(X, bad, check_finite=False), ValueError, "y:", "from 0 to 3", "y[3] is 9")


def test_without_the_scan_nan_diverges_and_changes_nothing():
    net = trained()
    theta = net.theta.tobytes()
    with pytest.raises(bp.DivergenceError):
        net.fit(poisoned(np.nan), Y, check_finite=False, batch_size=None)
    assert net.theta.tobytes() == theta


def test_inputs_are_never_written():
    x, y, w = X.copy(), Y.copy(), W.copy()
    for a in (x, y, w):
        a.flags.writeable = False
    net = trained()
    net.fit(x, y, sample_weight=w, validation_data=(x, y))
    net.value_and_grad(x, y, sample_weight=w)
    net.backward(net.forward(x), y)
    assert (x == X).all() and (y == Y).all() and (w == W).all()

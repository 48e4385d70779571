"""Objects of others in place of arrays: what their methods raise, advice that works when it is followed, no rows, and
the names of a data frame's columns."""

import copy
import json
import pickle
import re
import signal

import numpy as np
import pytest
from safetensors import safe_open

import bpcore as bp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = RNG.standard_normal((20, 2))


def make(**settings):
    return bp.Network([bp.Input(3), bp.Dense(4, "tanh"), bp.Dense(2)], seed=1, **settings)


# ---- what others raise ----


class Mine(Exception):
    """Of no kind that is expected."""


def failing(name, error=Mine, base=object):
    """An object whose method or attribute of that name raises."""

    def fail(self, *_, **__):
        raise error("in my words")

    is_attribute = name in ("__array_interface__", "__array_struct__", "columns", "dtypes", "tocsr")
    return type("Strange", (base,), {name: property(fail) if is_attribute else fail})()


class Sequence:
    """Without __array__: NumPy asks for the items."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return 1.0


class Objects:
    """A frame of columns that are no numbers."""

    columns = ["a", "b", "c"]
    dtypes = [np.dtype(object)] * 3

    def __array__(self, dtype=None, copy=None):
        return np.array([["x", 1, 2]] * 20, object)


STRANGE = {
    "__array__": failing("__array__"),
    "ValueError": failing("__array__", ValueError),
    "RuntimeError": failing("__array__", RuntimeError),
    "__array_interface__": failing("__array_interface__"),
    "__array_struct__": failing("__array_struct__"),
    "__dlpack__": failing("__dlpack__"),
    "__getitem__": failing("__getitem__", base=Sequence),
    "columns": failing("columns", base=Objects),
    "dtypes": failing("dtypes", base=Objects),
    "column": failing("__getitem__", base=Objects),
    "tocsr": failing("tocsr"),
    "in a list": [failing("__array__"), failing("__array__")],
}
W = np.ones(20)
CALLS = {
    "X": lambda net, bad: net.fit(bad, Y),
    "y": lambda net, bad: net.fit(X, bad),
    "sample_weight": lambda net, bad: net.evaluate(X, Y, sample_weight=bad),
    "validation_data[0]": lambda net, bad: net.fit(X, Y, validation_data=(bad, Y)),
    "validation_data[1]": lambda net, bad: net.fit(X, Y, validation_data=(X, bad)),
    "theta": lambda net, bad: setattr(net, "theta", bad),
    "v": lambda net, bad: net.hvp(X, Y, bad),
    "x": lambda net, bad: net.predictor()(bad),
    "init": lambda net, bad: bp.Dense(3, init=bad),
    "state.order": lambda net, bad: net.fit(X, Y, epochs=2, callbacks=lambda state: setattr(state, "order", bad)),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", CALLS)
def test_whatever_an_object_raises_is_a_type_error_that_names_the_argument(name, kind):
    net = make()
    before = net.theta.tobytes()
    start = rf"^{re.escape(name)}: expected an array of numbers, got (\w+\.Strange|list), which cannot become one"
    with pytest.raises(TypeError, match=start) as caught:
        CALLS[name](net, STRANGE[kind])
    assert "in my words" in str(caught.value) and "make an ndarray of it by its own methods" in str(caught.value)
    assert "in my words" in str(caught.value.__cause__)
    assert name == "state.order" or net.theta.tobytes() == before


@pytest.mark.parametrize("call", [
    lambda bad: make().predict(bad), lambda bad: make().jacobian(bad), lambda bad: make().forward(bad),
    lambda bad: bp.check_gradients(make(), bad, Y), lambda bad: make().predict({"input": bad}),
    lambda bad: make().evaluate(X, {"dense_2": bad}),
    lambda bad: bp.Network([bp.Input((4, 2)), bp.LSTM(3)]).stepper()(bad),
    lambda bad: bp.Network([bp.Input(3), bp.Dense(1, bp.Activation(lambda z: bad, np.cos))]).predict(X),
    lambda bad: make().evaluate(X, Y, loss=bp.Loss(lambda a, y: bad, lambda a, y: a)),
    lambda bad: bp.Network([bp.Input(3), bp.Function(lambda x: bad, lambda x, a, d: d)]).predict(X),
])  # fmt: skip
def test_every_way_in(call):
    with pytest.raises(TypeError, match=r"expected an array of numbers, got \w+\.Strange, .*Mine: in my words\)"):
        call(STRANGE["__array__"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_object_comes_through(error):
    with pytest.raises(error):
        make().predict(failing("__array__", error))


class Tensor:
    """Like torch.Tensor: it is no array before it has left the graph, the device, or the layout."""

    def __init__(self, array, **said):
        self.array, self.said = array, said

    def __getattr__(self, name):
        steps = {"detach": "requires_grad", "cpu": "is_cpu", "to_dense": "is_sparse", "resolve_neg": "is_neg"}
        if name in steps:
            return lambda: Tensor(self.array, **{**self.said, steps[name]: name == "cpu"})
        if name in ("requires_grad", "is_cpu", "is_sparse"):
            return self.said.get(name, name == "is_cpu")
        raise AttributeError(name)

    def is_neg(self):
        return self.said.get("is_neg", False)

    def numpy(self):
        if self.requires_grad or not self.is_cpu or self.is_sparse or self.is_neg():
            raise RuntimeError("Can't call numpy()")
        return self.array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)


@pytest.mark.parametrize("said, cure", [
    ({"requires_grad": True}, "X.detach().numpy()"),
    ({"is_cpu": False}, "X.cpu().numpy()"),
    ({"is_neg": True}, "X.resolve_neg().numpy()"),
    ({"is_sparse": True, "requires_grad": True, "is_cpu": False}, "X.detach().to_dense().cpu().numpy()"),
])  # fmt: skip
def test_the_cure_for_a_tensor(said, cure):
    net, tensor = make(), Tensor(X, **said)
    for given, wanted in ((tensor, cure), ([tensor], f"np.stack([{cure.replace('X', 'row')} for row in X])")):
        with pytest.raises(TypeError, match=re.escape(f"RuntimeError: Can't call numpy()); use {wanted}") + "$"):
            net.predict(given)
    assert (net.predict(eval(cure, {"X": tensor})) == net.predict(X)).all()


def test_arrays_that_only_dlpack_gives():
    class Lent:
        def __init__(self, array):
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    assert (make().predict(Lent(X)) == make().predict(X)).all()
    assert (make().predictor()(Lent(X[0])) == make().predictor()(X[0])).all()


# ---- advice that works ----


class Series:
    """Like pandas.Series: no reshape."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or self.values.dtype)

    def to_numpy(self):
        return self.values

    def to_frame(self):
        return Frame(column=self.values)


class Frame:
    """Like pandas.DataFrame: neither reshape nor ravel."""

    def __init__(self, **columns):
        self.table = {name: np.asarray(column) for name, column in columns.items()}
        self.columns, self.dtypes = list(self.table), [column.dtype for column in self.table.values()]

    def __getitem__(self, name):
        return Frame(**{each: self.table[each] for each in name}) if isinstance(name, list) else self.table[name]

    def __array__(self, dtype=None, copy=None):
        return np.array(list(self.table.values()), dtype).T

    def to_numpy(self):
        return np.asarray(self)


def classes(n):
    return np.arange(n) % 3


def one(n_in):
    return bp.Network([bp.Input(n_in), bp.Dense(3, "softmax")])


FOUR = np.arange(4.0)
IMAGES = RNG.random((5, 4, 4))
LESSONS = {
    "numbers": (one(1), FOUR, (4, 3)),
    "a list": (one(1), FOUR.tolist(), (4, 3)),
    "a tuple": (one(1), (1, 2), (2, 3)),
    "a series": (one(1), Series(FOUR), (4, 3)),
    "a number": (one(1), 1.5, (1, 3)),
    "one number": (one(1), np.ones(1), (1, 3)),
    "a row of numbers": (one(1), FOUR[None], (4, 3)),
    "a wide frame": (one(1), Frame(a=[1.0], b=[2.0]), (2, 3)),
    "a row": (one(4), FOUR, (1, 3)),
    "a row as a list": (one(4), FOUR.tolist(), (1, 3)),
    "a row as a series": (one(4), Series(FOUR), (1, 3)),
    "a row as a column": (one(4), FOUR[:, None], (1, 3)),
    "a row as a frame": (one(4), Frame(a=FOUR), (1, 3)),
    "an axis too many": (one(4), np.ones((7, 1, 4)), (7, 3)),
    "images without channels": (bp.Network([bp.Input((4, 4, 1)), bp.Conv2D(2, 3)]), IMAGES, (5, 2, 2, 2)),
    "flat images": (bp.Network([bp.Input((4, 4, 1)), bp.Conv2D(2, 3)]), IMAGES.reshape(5, 16), (5, 2, 2, 2)),
    "an image": (bp.Network([bp.Input((4, 4, 1)), bp.Conv2D(2, 3)]), IMAGES[0], (1, 2, 2, 2)),
}


def followed(error, name, value):
    """What the advice in an error makes of the value."""
    expression = re.search(r"; (?:for .*)?use (.*)$", str(error)).group(1)
    return eval(expression, {"np": np, name: value})


@pytest.mark.parametrize("kind", LESSONS)
def test_advice_for_X_works(kind):
    net, value, shape = LESSONS[kind]
    with pytest.raises(ValueError, match="^X: expected shape") as caught:
        net.predict(value)
    assert net.predict(followed(caught.value, "X", value)).shape == shape
    answer = net.predictor()
    try:
        answer(value)  # which takes a row as it is
    except ValueError as error:
        assert answer(followed(error, "x", value)).shape == shape


def test_no_advice_where_none_would_work():
    images = bp.Network([bp.Input((4, 4, 3)), bp.Conv2D(2, 3)])
    for net, value in ((one(4), np.ones(8)), (one(4), []), (one(1), np.ones((2, 3))), (images, np.ones((5, 3, 4, 4)))):
        for call in (net.predict, net.predictor()):
            with pytest.raises(ValueError, match=r"^[xX]: expected shape .*got \([\d, ]*\)$"):
                call(value)


LABELS = {
    "a column": classes(20)[:, None],
    "a column as a list": classes(20)[:, None].tolist(),
    "a frame": Frame(kind=classes(20)),
    "a row": classes(20)[None],
    "floats": classes(20) * 1.0,
    "floats as a list": (classes(20) * 1.0).tolist(),
    "floats as a series": Series(classes(20) * 1.0),
    "words": np.array(list("abc"))[classes(20)],
    "words in a column": np.array(list("abc"))[classes(20)][:, None],
}


@pytest.mark.parametrize("kind", LABELS)
def test_advice_for_labels_works(kind):
    value, net = LABELS[kind], one(3)
    wanted = net.evaluate(X, classes(20))
    with pytest.raises((TypeError, ValueError), match="^y: ") as caught:
        net.evaluate(X, value)
    assert net.evaluate(X, followed(caught.value, "y", value)) == wanted


@pytest.mark.parametrize("value", [W[:, None], W[None], W[:, None].tolist(), Frame(w=W)])
def test_advice_for_weights_works(value):
    with pytest.raises(ValueError, match="^sample_weight: ") as caught:
        one(3).evaluate(X, classes(20), sample_weight=value)
    one(3).evaluate(X, classes(20), sample_weight=followed(caught.value, "sample_weight", value))


def test_advice_for_other_arrays_works():
    net = make()
    for value in (np.ones((1, 26)), np.ones((26, 1)).tolist()):
        with pytest.raises(ValueError, match=r"^theta: expected shape \(26,\), got") as caught:
            net.theta = value
        net.theta = followed(caught.value, "theta", value)
    step = bp.Network([bp.Input((4, 1)), bp.LSTM(3)]).stepper()
    for value in (0.5, np.ones((1, 1))):
        with pytest.raises(ValueError, match=r"^x: expected one time step of shape \(1,\)") as caught:
            step(value)
        assert step(followed(caught.value, "x", value)).shape == (3,)


# ---- no rows ----


def no_rows():
    a, b = bp.Input(3, name="a"), bp.Input((2, 2), name="b")
    h = bp.Dense(4, "tanh")(a)
    several = bp.Network([a, b], [bp.Dense(2)(h), bp.Dense(3)(b)])
    own = bp.Activation(np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    return {
        "chain": (make(), np.empty((0, 3)), [(0, 2)]),
        "float64": (make(dtype="float64"), np.empty((0, 3), "f4"), [(0, 2)]),
        "integers": (make(), np.empty((0, 3), int), [(0, 2)]),
        "a frame": (make(), Frame(a=[], b=[], c=[]), [(0, 2)]),
        "objects": (make(), Series(np.empty((0, 3), object)), [(0, 2)]),
        "Python": (bp.Network([bp.Input(3), bp.Dense(2, own)]), np.empty((0, 3)), [(0, 2)]),
        "several": (several, [np.empty((0, 3)), np.empty((0, 2, 2))], [(0, 2), (0, 2, 3)]),
        "sequences": (bp.Network([bp.Input((5, 2)), bp.LSTM(3)]), np.empty((0, 5, 2)), [(0, 3)]),
    }


@pytest.mark.parametrize("kind", no_rows())
def test_no_rows_have_no_answers(kind):
    net, none, shapes = no_rows()[kind]
    for answers in (net.predict(none), net.predictor()(none)):
        answers = answers if isinstance(answers, tuple) else [answers]
        assert [a.shape for a in answers] == shapes and {a.dtype for a in answers} == {net.dtype}
    if len(shapes) == 1:
        out = np.empty(shapes[0], net.dtype)
        assert net.predictor()(none, out=out) is out
    for call in (net.evaluate, net.fit, net.value_and_grad, lambda X, y: net.jacobian(X)):
        with pytest.raises(ValueError, match=r"^X(\[0\])?: expected at least one row"):
            call(none, [np.empty(shape) for shape in shapes])


def test_no_rows_of_another_width_are_refused():
    for call in (make().predict, make().predictor()):
        with pytest.raises(ValueError, match=r"^[xX]: expected shape .*got \(0, 4\)$"):
            call(np.empty((0, 4)))


# ---- names of columns ----


def frame(*names, start=0):
    return Frame(**{name: X[start:, "abc".index(name[0])] for name in names})


def fitted():
    net = make()
    net.fit(frame("a", "b", "c"), Y)
    return net


NAMED_CALLS = {
    "fit": lambda net, X: net.fit(X, Y),
    "predict": lambda net, X: net.predict(X),
    "evaluate": lambda net, X: net.evaluate(X, Y),
    "value_and_grad": lambda net, X: net.value_and_grad(X, Y),
    "forward": lambda net, X: net.forward(X),
    "jacobian": lambda net, X: net.jacobian(X),
    "input_gradient": lambda net, X: net.input_gradient(X, output=1),
    "per_sample_gradients": lambda net, X: net.per_sample_gradients(X, Y),
    "check_gradients": lambda net, X: bp.check_gradients(net, X, Y),
    "predictor": lambda net, X: net.predictor()(X),
    "part": lambda net, X: net.part("input", "dense_1").predict(X),
    "validation": lambda net, X_: net.fit(X, Y, validation_data=(X_, Y)),
    "first validation": lambda net, X_: make().fit(frame("a", "b", "c"), Y, validation_data=(X_, Y)),
}


@pytest.mark.parametrize("call", NAMED_CALLS)
def test_frames_of_other_columns_are_refused_by_name(call):
    net = fitted()
    before, run = net.theta.tobytes(), NAMED_CALLS[call]
    name = "x" if call == "predictor" else "validation_data[0]" if "validation" in call else "X"
    start = rf"^{re.escape(name)}: expected the columns that fit saw, 'a', 'b', 'c'; "
    with pytest.raises(ValueError, match=start + r"they are in another order, 'b', 'a', 'c'; use .*'b', 'c'\]\]$"):
        run(net, frame("b", "a", "c"))
    with pytest.raises(ValueError, match=start + "missing: 'b'; unexpected: 'bb'; rename them, or give .*to_numpy"):
        run(net, frame("a", "bb", "c"))
    with pytest.raises(ValueError, match=start + r"unexpected: 'bb'; use .*\['a', 'b', 'c'\]\]$"):
        run(net, frame("a", "b", "bb", "c"))
    with pytest.raises(ValueError, match=start + "missing: 'c'; "):
        run(net, frame("a", "b"))
    assert net.theta.tobytes() == before
    run(net, frame("a", "b", "c"))
    run(net, X)  # without names: taken as it is
    run(net, X.tolist())
    assert net.feature_names == {"input": ("a", "b", "c")}


def test_the_cure_for_another_order_works():
    net, wrong = fitted(), frame("c", "a", "b")
    with pytest.raises(ValueError) as caught:
        net.predict(wrong)
    assert (net.predict(followed(caught.value, "X", wrong)) == net.predict(X)).all()
    names = [f"x{i}" for i in range(12)]
    wide = bp.Network([bp.Input(12), bp.Dense(1)])
    right, wrong = (Frame(**{name: W for name in each}) for each in (names, names[::-1]))
    with pytest.raises(ValueError, match=r"and 4 more; .* use validation_data\[0\]\[list\(X.columns\)\]$"):
        wide.fit(right, W, validation_data=(wrong, W))
    wide.fit(right, W)
    with pytest.raises(ValueError) as caught:
        wide.predict(wrong)
    expression = re.search("use (.*)$", str(caught.value)).group(1)
    assert eval(expression, {"X": wrong, "net": wide}).columns == names


def test_which_names_are_kept():
    net = make()
    assert net.feature_names == {}
    numbered = frame("a", "b", "c")
    for columns in ([0, 1, 2], ["a", 1, "c"], ["a", "a", "c"]):
        numbered.columns = columns
        net.fit(numbered, Y)
        assert net.feature_names == {}
    net.predict(frame("a", "b", "c"))
    with pytest.raises(ValueError, match="loss"):
        net.fit(frame("a", "b", "c"), Y, loss="none")
    assert net.feature_names == {}
    net.fit(frame("a", "b", "c"), Y)
    net.fit(X, Y)
    assert net.feature_names == {"input": ("a", "b", "c")}
    net.feature_names.clear()  # a copy
    assert net.feature_names


def test_names_of_several_inputs():
    a, b, c = bp.Input(3, name="a"), bp.Input(1, name="b"), bp.Input(2, name="c")
    net = bp.Network([a, b, c], bp.Dense(2)(bp.concat([a, b, c])))
    data = {"a": frame("a", "b", "c"), "b": W[:, None], "c": frame("b", "c")}
    net.fit(data, Y)
    assert net.feature_names == {"a": ("a", "b", "c"), "c": ("b", "c")}
    data["c"] = frame("c", "b")
    for call in (net.predict, net.predictor()):
        with pytest.raises(ValueError, match=r"^[xX]\['c'\]: .*order, 'c', 'b'; use [xX]\['c'\]\[\['b', 'c'\]\]"):
            call(data)
        with pytest.raises(ValueError, match=r"^[xX]\[2\]: .*another order"):
            call(list(data.values()))


def names_in_the_file(path):
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    return metadata["bpcore_format"], json.loads(metadata["graph"]).get("feature_names")


def test_names_are_kept_with_the_network(tmp_path):
    path, net = tmp_path / "net", fitted()
    net.save(path)
    assert names_in_the_file(path) == ("2", {"input": ["a", "b", "c"]})
    for twin in (net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net)), bp.load(path)):
        assert twin.feature_names == {"input": ("a", "b", "c")}
        with pytest.raises(ValueError, match="another order"):
            twin.predict(frame("b", "a", "c"))
    make().save(path)
    assert names_in_the_file(path) == ("1", None) and bp.load(path).feature_names == {}
    strange = ["<b>", "\u00e9\n", '"\\']
    odd = frame("a", "b", "c")
    odd.columns = strange
    odd.table = dict(zip(strange, odd.table.values(), strict=True))
    net = make()
    net.fit(odd, Y)
    net.save(path)
    assert bp.load(path).feature_names == {"input": tuple(strange)}


def test_pickles_from_before_there_were_names():
    net = fitted()
    del net._model.__dict__["feature_names"]
    assert pickle.loads(pickle.dumps(net)).feature_names == {}


class Late(Exception):
    pass


def test_what_a_signals_handler_raises_comes_through():
    """Also where it comes while an object of others becomes an array or a number."""

    def handler(number, frame):
        raise Late

    class Slow:
        def __array__(self, dtype=None, copy=None):
            signal.raise_signal(signal.SIGALRM)

        def __float__(self):
            signal.raise_signal(signal.SIGALRM)

        __index__ = __float__

    net = bp.Network([bp.Input(2), bp.Dense(1)])
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for call in (lambda: net.predict(Slow()), lambda: bp.SGD(lr=Slow()), lambda: net.predict(X, n_threads=Slow())):
            with pytest.raises(Late):
                call()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_columns_that_are_not_the_inputs_numbers_are_not_kept(shape, tmp_path):
    class Frame:
        columns = ("p", "q")

        def __array__(self, dtype=None, copy=None):
            return np.zeros((5, *shape))

    net = bp.Network([bp.Input(shape if len(shape) > 1 else 4), bp.Reshape(-1), bp.Dense(1)])
    net.fit(Frame(), np.zeros(5))
    net.save(tmp_path / "net")
    assert not net.feature_names and not bp.load(tmp_path / "net").feature_names

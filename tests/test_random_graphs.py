"""Random graphs: values, gradients and second derivatives, the same bits, files; random_graphs.py draws them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from random_graphs import CUSTOM, LAYERS, PAIRS, REAL, RECURRENT, TWICE, VALUES, Case, by_name, cases, pair, values

import bpcore as bp
from bpcore import _checkpoint, _core, _layers, _threads

COMMON = {"deadline": None, "derandomize": True, "database": None}
SLOW_TO_DRAW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def many(n, **options):
    """A test of n cases."""

    def decorate(test):
        return settings(max_examples=n, suppress_health_check=SLOW_TO_DRAW, **COMMON)(
            given(case=cases(**options))(test)
        )

    return decorate


def close(got, want, tolerance, least=1e-3):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= tolerance * max(np.abs(want).max(initial=0), least)


def gradient(case: Case, theta):
    before = case.net.theta.copy()
    case.net.theta = theta
    try:
        return case.net.value_and_grad(*case.args, **case.options)[1]
    finally:
        case.net.theta = before


def test_every_layer_is_drawn():
    assert set(LAYERS) == set(VALUES) == set(_layers.KINDS) - {"input"}


# ---- values and first derivatives ----


def check_values(case):
    """To 1e-12 of the largest: NumPy's evaluation of the same nodes."""
    found = values(case.net, case.net.params, case.X)
    for answer, i in zip(case.predicted(case.X), case.net._model.graph.outputs, strict=True):
        close(answer, found[i], 1e-12)
    cost = case.cost(case.net.params)
    close(case.net.evaluate(*case.args, **case.options)["loss"], cost, 1e-10)
    close(case.net.value_and_grad(*case.args, **case.options)[0], cost, 1e-10)


@many(25)
def test_metrics_see_what_predict_gives(case):
    """Bit for bit, of every output, in the pass that gives the losses, which stay what they are."""
    seen = {}

    def look(name):
        def f(y, a, sample_weight=None):
            seen[name] = a
            return 0.0

        return bp.metrics.Metric(f, better="lower", name="looked")

    names = list(case.net.outputs)
    result = case.net.evaluate(*case.args, **case.options, metrics={name: look(name) for name in names})
    losses = {name: value for name, value in result.items() if "looked" not in name}
    assert losses == case.net.evaluate(*case.args, **case.options) and len(result) == len(losses) + len(names)
    for name, answer in zip(names, case.predicted(case.X), strict=True):
        np.testing.assert_array_equal(seen[name].reshape(answer.shape), answer)  # (n,) of (n, 1), where y is (n,)


def check_gradients(case):
    """By each parameter, to 1e-9 of its largest entry (or of a thousandth): complex steps of NumPy's evaluation."""
    got = by_name(case.net, case.net.value_and_grad(*case.args, **case.options)[1])
    want = by_name(case.net, case.gradient())
    for name in want:
        close(got[name], want[name], 1e-9)


def check_differences(case):
    """Of C itself, as it is evaluated: along one direction, to 1e-7; not where a Huber's curvature jumps on the way."""
    net = case.net
    for answer, y, loss in zip(case.predicted(case.X), case.y, case.loss, strict=True):
        if isinstance(loss, bp.losses.Huber) and (abs(abs(answer - y) - loss.delta) < 1e-3).any():
            return
    g = net.value_and_grad(*case.args, **case.options)[1]
    v, theta, h = np.random.default_rng(1).standard_normal(net.n_params), net.theta.copy(), 1e-5
    cost = []
    for step in (-h, h):
        net.theta = theta + step * v
        cost.append(net.evaluate(*case.args, **case.options)["loss"])
    net.theta = theta
    assert abs((cost[1] - cost[0]) / (2 * h) - g @ v) <= 1e-7 * max(1, cost[0], np.linalg.norm(g) * np.linalg.norm(v))


test_values_and_costs = many(400)(check_values)
test_gradients = many(300)(check_gradients)
test_gradients_against_central_differences = many(200, truncate=False)(check_differences)


@pytest.mark.parametrize("second", sorted({second for _, second in PAIRS}))
def test_every_pair(second):
    """Each layer before it: values, gradients, and the same bits on three threads."""
    for first in (one for one, other in PAIRS if other == second):
        for turn in range(3):
            case = pair(first, second, turn)
            check_values(case)
            check_gradients(case)
            check_differences(pair(first, second, turn, truncate=False))
        case = pair(first, second, rows=37)
        assert facts(case, 1) == facts(case, 3), first


@pytest.mark.parametrize("layer", RECURRENT)
def test_long_sequences(layer):
    """Of 1 to 200 steps."""

    @many(25, operations=(layer, layer, "dense", "add"), most=4, steps=200, rows=(1, 3))
    def check(case):
        check_values(case)
        check_gradients(case)

    check()


@many(200)
def test_per_sample_gradients(case):
    """Their mean is the gradient; each is that of its row alone, bit for bit."""
    X, y = case.args
    loss = case.options["loss"]
    each = case.net.per_sample_gradients(X, y, loss=loss)
    close(each.mean(0), case.net.value_and_grad(X, y, loss=loss)[1], 1e-12)
    row = Case(case.net, [x[-1:] for x in case.X], [t[-1:] for t in case.y], case.loss, case.weight, None)
    alone = row.net.value_and_grad(*row.args, **row.options)[1]
    close(each[-1], alone, 1e-12)


def listed(net, found):
    """Jacobians over outputs, over inputs, however many there are."""
    found = [found] if len(net.outputs) == 1 else found
    return [[one] if len(net.inputs) == 1 else one for one in found]


@many(300, operations=REAL)
def test_jacobians(case):
    """To 1e-10: complex steps by each input; and the same bits on one thread as on three."""
    net, n = case.net, len(case.X[0])
    outputs, inputs = net._model.outputs, net._model.inputs
    got = listed(net, net.jacobian(case.args[0]))
    for i, (node, X) in enumerate(zip(inputs, case.X, strict=True)):
        want = [np.empty((n, one.n_out, node.n_out)) for one in outputs]
        for k in range(node.n_out):
            moved = X.reshape(n, -1).astype(complex)
            moved[:, k] += 1e-30j
            found = values(net, net.params, [*case.X[:i], moved.reshape(X.shape), *case.X[i + 1 :]])
            for J, number in zip(want, net._model.graph.outputs, strict=True):
                J[:, :, k] = found[number].reshape(n, -1).imag / 1e-30
        for row, J in zip(got, want, strict=True):
            assert row[i].dtype == net.dtype
            close(row[i], J, 1e-10)
    for name, row in zip(net.outputs, got, strict=True):
        for k in (0, -1):
            found = net.input_gradient(case.args[0], output=k if len(outputs) == 1 else (name, k))
            for dx, J, X in zip(found if len(inputs) > 1 else [found], row, case.X, strict=True):
                assert dx.shape == X.shape
                close(dx.reshape(n, -1), J[:, k], 1e-12)
    before = bp.get_num_threads()
    _core.force(True, "")
    try:
        for threads in (1, 3):
            bp.set_num_threads(threads)
            again = listed(net.copy(), net.copy().jacobian(case.args[0]))
            for row, other in zip(got, again, strict=True):
                for J, same in zip(row, other, strict=True):
                    assert np.array_equal(J, same)
    finally:
        bp.set_num_threads(before)
        _threads.read_forced()


# ---- second derivatives ----


@many(300, operations=TWICE, truncate=False)
def test_products_with_the_hessian(case):
    """To 1e-6 of the largest: central differences of gradients.  H is symmetric, to 1e-11."""
    net, rng = case.net, np.random.default_rng(2)
    if not net.n_params:
        return
    v, u = rng.standard_normal((2, net.n_params))
    Hv, Hu = (net.hvp(*case.args, each, **case.options) for each in (v, u))
    h = 1e-5 / np.linalg.norm(v)
    want = (gradient(case, net.theta + h * v) - gradient(case, net.theta - h * v)) / (2 * h)
    close(Hv, want, 1e-6, least=1e-2)
    assert abs(u @ Hv - v @ Hu) <= 1e-11 * max(1, np.linalg.norm(Hv) * np.linalg.norm(u))


@many(300, operations=TWICE, truncate=False)
def test_products_with_gauss_newton(case):
    """v^T G v is not negative, G is symmetric, and G is linear."""
    net, rng = case.net, np.random.default_rng(3)
    if not net.n_params:
        return
    v, u = rng.standard_normal((2, net.n_params))
    Gv, Gu, sum_ = (net.gauss_newton_product(*case.args, each, **case.options) for each in (v, u, v - 2 * u))
    size = max(1, np.linalg.norm(Gv) * np.linalg.norm(u), np.linalg.norm(Gu) * np.linalg.norm(v))
    assert v @ Gv >= -1e-12 * size and u @ Gu >= -1e-12 * size
    assert abs(u @ Gv - v @ Gu) <= 1e-11 * size
    close(sum_, Gv - 2 * Gu, 1e-11)


# ---- bits ----


@pytest.fixture(scope="module", autouse=True)
def unforced():
    yield
    _threads.read_forced()


def facts(case, n_threads):
    """All that a network computes, as bytes."""
    net = case.net.copy()
    loss, grad = net.value_and_grad(*case.args, **case.options, n_threads=n_threads)
    answers = net.predict(case.args[0], n_threads=n_threads)
    evaluated = net.evaluate(*case.args, **case.options, n_threads=n_threads)
    losses = net.fit(*case.args, **case.options, batch_size=20, epochs=2, n_threads=n_threads).loss
    answers = answers if isinstance(answers, tuple) else (answers,)
    return loss, grad.tobytes(), [a.tobytes() for a in answers], evaluated, losses, net.theta.tobytes()


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads(phase2, dtype):
    @many(120, rows=(33, 70), dtype=dtype)
    def check(case):
        first = facts(case, 1)
        for n_threads in (2, 3):
            assert facts(case, n_threads) == first

    _core.force(True, phase2)
    try:
        check()
    finally:
        _threads.read_forced()


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_with_checkpoints(phase2, dtype):
    """Wherever the graph is cut."""

    @many(120, rows=(33, 70), dtype=dtype)
    def check(case):
        first, names = facts(case, 1), _checkpoint._places(case.net._model.graph)
        rng = np.random.default_rng(len(case.X[0]))
        for share in (0.2, 0.5, 1.0):
            case.net.checkpoint = [name for name in names if rng.random() < share] or True
            assert facts(case, 2) == first

    _core.force(True, phase2)
    try:
        check()
    finally:
        _threads.read_forced()


@many(200, rows=(2, 40))
def test_a_row_has_the_bits_of_its_batch(case):
    whole = case.predicted(case.X)
    for first, end in ((0, 1), (len(case.X[0]) - 1, len(case.X[0])), (1, len(case.X[0]))):
        part = case.predicted([x[first:end] for x in case.X])
        for some, all_ in zip(part, whole, strict=True):
            assert some.tobytes() == all_[first:end].tobytes()


LAYOUTS = [
    np.asfortranarray,
    lambda a: np.repeat(a, 2, 0)[::2],
    lambda a: a[::-1].copy()[::-1],
    lambda a: a.astype(a.dtype.newbyteorder()),
    lambda a: np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1),
]


@many(100, rows=(1, 40))
def test_layouts_of_x(case):
    want = [answer.tobytes() for answer in case.predicted(case.X)]
    for layout in LAYOUTS:
        assert [answer.tobytes() for answer in case.predicted([layout(x) for x in case.X])] == want


@many(150)
def test_parts_and_networks_as_layers(case):
    """The values of each node, by its part; and twice those of the network, by it and a copy under the same names."""
    net, found = case.net, values(case.net, case.net.params, case.X)
    data = dict(zip(net.inputs, case.X, strict=True))
    for i, node in enumerate(net._model.graph.nodes):
        if not node.inputs:
            continue
        used = [i]
        for k in used:
            used += net._model.graph.nodes[k].inputs
        part = net.part([net._model.graph.nodes[k].name for k in net._model.graph.inputs if k in used], node.name)
        close(part.predict({name: data[name] for name in part.inputs}), found[i], 1e-12)
    inputs = [bp.Input(node.shape, integer=node.layer.integer) for node in net._model.inputs]
    pairs = [net(*inputs), net.part(list(net.inputs), list(net.outputs))(*inputs)]
    ends = [a + b for a, b in zip(*(ends if isinstance(ends, list) else [ends] for ends in pairs), strict=True)]
    twice = bp.Network(inputs, ends, dtype="float64")
    assert twice.n_params == 2 * net.n_params
    for got, want in zip(Case(twice, case.X, [], [], [], None).predicted(case.X), case.predicted(case.X), strict=True):
        close(got, 2 * want, 1e-15)


@many(200, single=True, dtype="float32", rows=(1, 40))
def test_a_predictor_has_the_bits_of_predict(case):
    (X,) = case.X
    X = X.astype(np.float32)
    want, answer = case.net.predict(X), case.net.predictor()
    assert answer(X).tobytes() == want.tobytes() and answer(X[0]).tobytes() == want[0].tobytes()


# ---- files ----


def test_files(tmp_path):
    @many(150, rows=(2, 6))
    def check(case):
        net = case.net
        net.fit(*case.args, **case.options, optimizer=bp.Adam(lr=1e-3), batch_size=2)
        net.save(tmp_path / "net")
        back = bp.load(tmp_path / "net", custom=CUSTOM)
        assert [(n.name, n.shape, n.inputs, n.parameters) for n in back._model.graph.nodes] == [
            (n.name, n.shape, n.inputs, n.parameters) for n in net._model.graph.nodes
        ]
        assert repr(back) == repr(net) and back.summary() == net.summary()
        for each in (net, back):
            each.fit(*case.args, **case.options, optimizer=bp.Adam(lr=1e-3), batch_size=2)
        assert back.theta.tobytes() == net.theta.tobytes() and back.step == net.step
        a, b = (each.predict(case.args[0]) for each in (net, back))
        assert np.array_equal(a, b) if not isinstance(a, tuple) else all(map(np.array_equal, a, b))

    check()

"""net.inspect(): numbers of each layer, and what stands out."""

import re
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from random_graphs import Seeded, graph

import bpcore as bp

rng = np.random.default_rng(0)
X, LABELS = rng.standard_normal((200, 6)), rng.integers(0, 3, 200)
Y = np.stack([X[:, 0] * 2 + 1, X[:, 1] - X[:, 2]], axis=1)


def classifier(activation="relu", depth=2, dtype="float64", **settings):
    hidden = [bp.Dense(16, activation, **settings) for _ in range(depth)]
    return bp.Network([bp.Input(6), *hidden, bp.Dense(3, "softmax")], dtype=dtype, seed=0)


def state(net):
    """All that a call might change."""
    memory = net._model.memory
    arrays = [net.theta, net._model.state, *memory.states, *net.moments.values()]
    return [a.tobytes() for a in arrays], net.step, net.epoch, net.optimizer, net.feature_names, net.frozen


@pytest.mark.parametrize("block", [None, 300])  # numbers of all layers at a time: also a few rows
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 1e-5)])
def test_the_numbers_are_those_of_forward_and_value_and_grad(dtype, rtol, block, monkeypatch):
    from bpcore import _inspect

    monkeypatch.setattr(_inspect, "_BLOCK", block or _inspect._BLOCK)
    net = classifier("tanh", dtype=dtype)
    net.params["dense_1.W"][:] *= 30  # units at the ends
    net.params["dense_2.W"][:, 3] = 0  # and one that is the same for all rows
    weight = rng.random(200)
    tape, (loss, gradient) = net.forward(X), net.value_and_grad(X, LABELS, sample_weight=weight)
    found = net.inspect(X, LABELS, sample_weight=weight)
    assert found.loss == loss and list(found.layers) == ["input", "dense_1", "dense_2", "dense_3"]
    names = list(found.layers)
    for k, own in enumerate(found.layers.values()):
        a = np.asarray(tape.a[k], np.float64)
        assert own["units"] == a.shape[1]
        np.testing.assert_allclose([own["mean"], own["spread"]], [a.mean(), a.std()], rtol, 1e-12 if k else 1e-7)
        np.testing.assert_allclose(np.sort(found._samples[names[k]]), np.sort(a, axis=None), rtol, 1e-7)
        assert own["dead"] == (np.ptp(a, axis=0) == 0).sum() == (k == 2)
        if k in (1, 2):
            assert own["at_ends"] == ((abs(a) >= 0.98).mean(axis=0) >= 0.95).sum()
    assert 0 < found.layers["dense_1"]["at_ends"] < 16 and "at_ends" not in found.layers["dense_3"]
    views = net._views(gradient)[0]
    for k in (1, 2, 3):
        own = found.layers[f"dense_{k}"]
        np.testing.assert_allclose(own["weights"], np.linalg.norm(net.W[k]), rtol)
        np.testing.assert_allclose(own["gradient"], np.linalg.norm(views[k]), rtol)


@pytest.mark.parametrize("optimizer", [None, "sgd", bp.Adam(lr=0.01, ema=0.9), bp.LBFGS(), bp.Rprop()])
def test_the_update_is_that_of_the_next_step(optimizer):
    net = classifier()
    if optimizer is None:  # goes on with the last one and its memory
        net.fit(X, LABELS, epochs=3, optimizer=bp.Adam(lr=0.003))
    before = state(net)
    found = net.inspect(X, LABELS, optimizer=optimizer, batch_size=50)
    assert state(net) == before
    twin = net.copy()
    size = None if isinstance(optimizer, (bp.LBFGS, bp.Rprop)) else 50
    twin.fit(X, LABELS, optimizer=optimizer, batch_size=size, max_steps=1)
    for k in (1, 2, 3):
        move = np.linalg.norm(twin.W[k] - net.W[k]) / np.linalg.norm(net.W[k])
        np.testing.assert_allclose(found.layers[f"dense_{k}"]["update"], move, 1e-12)
    assert move > 0


def test_its_memory_does_not_grow_with_the_rows(monkeypatch):
    from bpcore import _inspect

    monkeypatch.setattr(_inspect, "_BLOCK", 1 << 16)
    many = rng.standard_normal((40_000, 50)).astype(np.float32)
    net = bp.Network([bp.Input(50), bp.Dense(3, "softmax")], seed=0)
    net.inspect(many[:100])
    tracemalloc.start()
    net.inspect(many)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < many.nbytes / 2


def test_numbers_that_are_not_finite_are_named_where_they_begin():
    net = classifier("identity", 4, dtype="float32")
    net.theta *= 1e16
    assert findings(net, X).startswith("dense_3: it gives numbers that are not finite: scale what it reads, or begin")
    assert findings(net, X).count("finite") == 1 and "nan" in repr(net.inspect(X))
    assert net.inspect(X, LABELS).findings[-1].startswith("the next step diverges, loss is not finite")


def test_a_schedule_of_shares_stands_at_its_highest():
    net = classifier()
    of_run = net.inspect(X, LABELS, optimizer=bp.Adam(lr=bp.schedules.Cosine(0.02, warmup=0.1)))
    assert of_run.layers == net.inspect(X, LABELS, optimizer=bp.Adam(lr=0.02)).layers
    in_steps = net.inspect(X, LABELS, optimizer=bp.Adam(lr=bp.schedules.Cosine(0.02, length=99, warmup=9)))
    np.testing.assert_allclose(10 * in_steps.layers["dense_1"]["update"], of_run.layers["dense_1"]["update"], 1e-6)


def test_any_graph_with_several_inputs_states_and_whole_numbers():
    words, more = bp.Input(5, integer=True, name="words"), bp.Input(3, name="more")
    twice = bp.Dense(8, "tanh", name="twice")
    h = bp.Bidirectional(bp.LSTM(4))(bp.Embedding(9, 4)(words))
    h = bp.BatchNorm()(twice(twice(h)))
    h = bp.concat([bp.Dropout(0.5)(h), bp.Standardize()(more)])
    net = bp.Network([words, more], [bp.Dense(3, "softmax", name="class")(h), bp.Dense(1, name="size")(h)], seed=0)
    data = [rng.integers(0, 9, (60, 5)), 50 * rng.random((60, 3))], [rng.integers(0, 3, 60), rng.random((60, 1))]
    with pytest.raises(ValueError, match="net.adapt"):
        net.inspect(*data)
    net.fit(*data)
    before = state(net)
    found = net.inspect(*data)
    assert state(net) == before and found.loss == net.value_and_grad(*data)[0]
    names = [node.name for node in net._model.graph.nodes]
    assert set(found.layers) == set(names) - {"words"} and found.layers["standardize_1"]["spread"] == pytest.approx(1)
    assert "update" in found.layers["twice"] and "weights" not in found.layers["twice@2"]
    assert not [words for words in found.findings if "more" in words]  # it is standardised


@pytest.mark.filterwarnings("ignore:loss:UserWarning")
def test_any_layer():
    cases = [graph(Seeded(seed), most=12, rows=(2, 6)) for seed in range(20)]
    for case in filter(None, cases):
        theta = case.net.theta.tobytes()
        found = case.net.inspect(*case.args, **case.options)
        assert found.loss == case.net.value_and_grad(*case.args, **case.options)[0]
        assert case.net.theta.tobytes() == theta and len(repr(found).splitlines()) > len(found.layers)
        for number, a in zip(case.net._model.graph.outputs, case.predicted(case.X), strict=True):
            mean = found.layers[case.net._model.graph.nodes[number].name]["mean"]
            assert mean == pytest.approx(a.mean(), 1e-9, 1e-12)


# ---- what stands out ----


def findings(net, *args, **settings):
    return "\n".join(net.inspect(*args, **settings).findings)


def test_nothing_stands_out_of_a_network_that_learns():
    net = classifier(dtype="float32")
    target = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    for _ in range(3):
        found = net.inspect(X, target, optimizer=bp.Adam(lr=0.01))
        assert found.findings == () and repr(found).endswith("\n- Nothing stands out.")
        net.fit(X, target, epochs=5, optimizer=bp.Adam(lr=0.01))


def test_dead_units():
    net = classifier()
    net.b[1][:5] = -1e3
    assert findings(net, X) == "dense_1: 5 of 16 units are 0 for every row: take 'leaky_relu'"  # a fresh one
    net.step = 1
    assert findings(net, X) == "dense_1: 5 of 16 units are 0 for every row: lower lr, or take 'leaky_relu'"
    net.b[1][3:5] = 0
    assert findings(net, X) == ""  # 3 of 16 are not many
    net.b[1][3:5] = -1e3
    drawn = classifier(init="lecun_normal")
    drawn.b[1][:5] = -1e3
    assert findings(drawn, X) == "dense_1: 5 of 16 units are 0 for every row: init='he_uniform'"
    net.b[2][:] = -1e3
    said = findings(net, X, LABELS)
    assert (
        "dense_2: all 16 units are 0 for every row, so nothing passes: begin with a new network and a lower lr" in said
    )
    assert "dense_3: it answers the same for every row" in said
    assert "no weight has a gradient: nothing is left to learn, or nothing passes" in said


def test_units_at_the_ends():
    net = classifier("logistic")
    net.params["dense_1.W"][:] *= 1e4
    assert re.match(
        r"dense_1: 1\d of 16 units are at an end of logistic for nearly every row, where its slope is near 0: "
        "standardise the inputs, or lower lr", findings(net, X)
    )  # fmt: skip


def test_equal_units():
    equal, zero = classifier("tanh", 1, init="ones"), classifier("tanh", 1, init="zeros")
    learn = "dense_1: all 16 units give the same value, and will learn the same: draw its weights, init='auto'"
    assert findings(equal, X) == learn
    assert "dense_1: all 16 units give the same for every row: draw its weights, init='auto'" in findings(zero, X)


def test_inputs_of_another_scale():
    assert findings(classifier(), 1e3 * X).startswith("input: columns are as large as 1.")
    assert "put bp.Standardize() behind its bp.Input" in findings(classifier(), 1e-4 * X)
    net = bp.Network([bp.Input(6), bp.Standardize(), bp.Dense(3)])
    net.adapt(1e3 * X)
    assert findings(net, 1e3 * X) == ""


def test_inputs_that_say_nothing_and_large_targets():
    assert findings(classifier(), 0 * X).startswith("input: all columns are the same in every row\n")
    net = bp.Network([bp.Input(6), bp.Dense(8, "tanh"), bp.Dense(2, name="size")], seed=0)
    large = (
        r"y reaches \d\.\d+e\+03: scale it, \(y - y.mean\(axis=0\)\) / y.std\(axis=0\), or by fit\(standardize_y=True"
    )
    assert re.match(large, findings(net, X, 1e3 * Y, optimizer="adam"))
    counts = bp.Network([bp.Input(6), bp.Dense(2, "exp")], seed=0)
    assert "scale it" not in findings(net, X, Y) + findings(counts, X, 1e3 * abs(Y), loss="poisson", optimizer="adam")
    net.fit(X, 1e3 * Y, standardize_y=True)
    assert "scale it" not in findings(net, X, 1e3 * Y)


def test_gradients_that_vanish():
    said = findings(classifier("logistic", depth=9), X, LABELS)
    assert re.match(r"dense_1, dense_2(, dense_\d)*: gradients vanish, that of dense_1 is \de-\d+ of its weights", said)


def test_steps_that_are_large_small_or_diverge():
    net = classifier()
    assert re.search(
        r"dense_\d: a step moves the weights by \d+ of their norm: lower lr \(about 0.001 is usual\)",
        findings(net, X, LABELS, optimizer=bp.Adam(lr=30.0)),
    )
    assert "raise lr (about 0.001 is usual)" in findings(net, X, LABELS, optimizer=bp.Adam(lr=1e-9))
    huge = net.inspect(X, LABELS, optimizer=bp.SGD(lr=1e308)).layers["dense_1"]["update"]
    assert 1e290 < huge < np.inf
    net = classifier(dtype="float32")
    found = net.inspect(1e4 * X, LABELS, optimizer=bp.SGD(lr=1e38))
    assert found.findings[-1].startswith("the next step diverges, ") and "Lower lr" in found.findings[-1]
    assert "update" not in found.layers["dense_1"] and np.isfinite(net.theta).all()
    net.frozen = {"dense_1", "dense_2"}
    assert "dense_1" not in findings(net, X, LABELS, optimizer=bp.Adam(lr=30.0))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse", "squared_error", "several labels"])
def test_a_loss_that_is_no_better_than_chance(loss, weighted):
    """Chance is what the best constant answer costs."""
    units, f, y = {
        "cross_entropy": (3, "softmax", LABELS), "binary_cross_entropy": (1, "logistic", LABELS > 1),
        "several labels": (3, "logistic", np.eye(3)[LABELS]),
    }.get(loss, (2, "identity", Y))  # fmt: skip
    weight = rng.random(200) if weighted else None
    name = "binary_cross_entropy" if loss == "several labels" else loss
    net = bp.Network([bp.Input(6), bp.Dense(units, f)], dtype="float64", seed=0)
    net.fit(np.zeros_like(X), y, loss=name, optimizer=bp.LBFGS(), epochs=60, batch_size=None, sample_weight=weight)
    cost = net.evaluate(np.zeros_like(X), y, loss=name, sample_weight=weight)["loss"]
    said = findings(net, X * 0, y, loss=name, sample_weight=weight)
    chance = float(re.search(r"loss: [\d.]+ is no better than ([\d.]+), that of the best answer", said).group(1))
    assert chance == pytest.approx(cost, 1e-3)
    net.fit(X, y, loss=name, optimizer=bp.LBFGS(), epochs=60, batch_size=None, sample_weight=weight)
    if name in ("mse", "squared_error"):
        assert "chance" not in findings(net, X, y, loss=name) and "no better" not in findings(net, X, y, loss=name)


def test_chance_in_units_of_the_targets():
    net = bp.Network([bp.Input(6), bp.Dense(8, "tanh"), bp.Dense(2)], seed=0)
    net.fit(X, 1e3 * Y, standardize_y=True, optimizer=bp.SGD(lr=1e-9))
    net.theta[:] = 0
    assert "loss: 1 is no better than 1, that of" in findings(net, X, 1e3 * Y)


# ---- how it is shown ----


def test_it_prints_as_a_table_with_words():
    net = classifier()
    net.b[1][:5] = -1e3
    lines = repr(net.inspect(X, LABELS)).splitlines()
    assert lines[0].startswith("Inspection, loss ") and lines[1].split() == [
        "layer", "units", "mean", "spread", "dead", "weights", "gradient", "update"
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:6]] == ["input", "dense_1", "dense_2", "dense_3"]
    assert lines[6] == "- dense_1: 5 of 16 units are 0 for every row: take 'leaky_relu'"
    deep = repr(classifier(depth=30).inspect(X)).splitlines()
    assert deep[0] == "Inspection" and len(deep) >= 2 + 32 + 1 and "gradient" not in deep[1]


def test_html_is_escaped():
    x = bp.Input(6)
    net = bp.Network(x, bp.Dense(2, name="<b>")(bp.Dense(8, "relu", name="<script>")(x)))
    net.params["<script>.b"][:] = -1e3
    html = net.inspect(X)._repr_html_()
    assert "&lt;script&gt;: all 8 units" in html and "<script>" not in html and "<b>" not in html


@pytest.mark.parametrize("method, module", [("to_frame", "pandas"), ("plot", "matplotlib")])
def test_what_is_not_installed_is_named(method, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"pandas": "pandas", "matplotlib": "plot"}[module]
    with pytest.raises(ImportError, match=rf"inspection.{method} needs {module}: pip install 'bpcore\[{extra}\]'"):
        getattr(classifier().inspect(X), method)()


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(X=X[:1]), "X: expected at least 2 rows"),
        (dict(X=X[:, :5]), "X: expected"),
        (dict(X=X, optimizer="adam"), "optimizer: expected y with it"),
        (dict(X=X, loss="mse"), "loss: expected y with it"),
        (dict(X=X, batch_size=8), "batch_size: expected y with it"),
        (dict(X=X, sample_weight=np.ones(200)), "sample_weight: expected y with it"),
        (dict(X=X, y=LABELS[:5]), "y: expected 200 rows"),
        (dict(X=X, y=LABELS, optimizer="adm"), "optimizer: there is no 'adm'"),
        (dict(X=X, y=LABELS, batch_size=0), "batch_size: expected"),
        (dict(X=X, y=LABELS, lr=0.1), "lr: the optimiser has it"),
    ],
)
def test_wrong_input(settings, words):
    net = classifier()
    before = state(net)
    with pytest.raises((ValueError, TypeError), match=words):
        net.inspect(**settings)
    assert state(net) == before


def test_while_another_thread_fits():
    net, found = classifier(dtype="float32"), []

    def look(s):
        if s.epoch == 2:
            other = threading.Thread(target=lambda: found.append(net.inspect(X, LABELS)))
            other.start()
            other.join(30)

    net.fit(X, LABELS, epochs=3, callbacks=look)
    assert found[0].loss > 0


# ---- docs/inspect.md ----


def test_the_snippets_run(tmp_path, monkeypatch):
    page = Path(__file__).parent.parent / "docs/inspect.md"
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(snippet, "docs/inspect.md", "exec"), names)  # they assert for themselves
    assert (tmp_path / "graph.svg").exists()


def test_the_page_states_the_bounds_in_use():
    from bpcore import _inspect

    page = (Path(__file__).parent.parent / "docs/inspect.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[2] for cells in (line.split("|") for line in page.splitlines()) if len(cells) == 6}
    for finding, bounds in {
        "inputs of another scale": (_inspect._LARGE_INPUT, _inspect._SMALL_INPUT),
        "dead units": (100 * _inspect._MANY_DEAD,), "units at the ends": (100 * _inspect._MANY_AT_ENDS,),
        "loss no better than chance": (100 * _inspect._NO_BETTER,), "gradients vanish": (_inspect._VANISHED,),
        "large or small steps": (_inspect._LARGE_STEP, _inspect._SMALL_STEP),
    }.items():  # fmt: skip
        assert [float(number) for number in re.findall(r"\d[\de.-]*", rows[finding])] == pytest.approx(bounds), finding

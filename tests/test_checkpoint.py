"""Checkpoints: less memory, the same bits."""

import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open

import bpcore as bp
from bpcore import _checkpoint, _core, _plans

# ---- networks ----


def dense():
    return bp.Network([bp.Input(16), *(bp.Dense(16, "relu") for _ in range(12)), bp.Dense(4, "softmax")])


def grid():
    """Layers large enough for cells where parallel work is forced."""
    return bp.Network([bp.Input(40), *(bp.Dense(280, "tanh") for _ in range(5)), bp.Dense(4)])


def convolutional():
    layers = [bp.Conv2D(4, 3, "relu", padding="same") for _ in range(5)]
    tail = [bp.MaxPool2D(2), bp.Conv2D(6, 3, "tanh"), bp.Dropout(0.3), bp.Reshape(-1), bp.Dense(4, "softmax")]
    return bp.Network([bp.Input((8, 8, 3)), *layers, *tail], dtype="float64")


def attention(depth=3):
    x = bp.Input((6, 8))
    h = x
    for _ in range(depth):
        n = bp.LayerNorm()(h)
        q, k, v = (bp.Dense(8)(n) for _ in range(3))
        weights = bp.Dropout(0.2)(bp.Activate("softmax")(bp.MatMul(transpose_b=True)(q, k) / 8**0.5))
        h = h + bp.Dense(8)(weights @ v)
        h = h + bp.Dense(8)(bp.Dense(16, "gelu")(bp.LayerNorm()(h)))
    return bp.Network(x, bp.Dense(4, "softmax")(bp.Reshape(-1)(h)))


def recurrent():
    x, mask = bp.Input((5, 3)), bp.Input(5)
    h = bp.LSTM(6, sequences=True)(x, mask)
    h = bp.GRU(6, sequences=True)(bp.Dense(6, "tanh")(h))
    return bp.Network([x, mask], bp.Dense(4)(bp.SimpleRNN(5)(bp.Scale()(h), mask)))


def words():
    """Tables used twice, a shared layer in several parts, three outputs, one of them fused and in the midst."""
    x, y = bp.Input(5, integer=True), bp.Input(4)
    table, shared = bp.Embedding(11, 3), bp.Dense(15, "silu")
    h = bp.Reshape(-1)(table(x))
    a = shared(h)
    middle = bp.Dense(4, "softmax", name="middle")(a)
    b = shared(a * bp.Dense(15, "tanh")(y)) + bp.Reshape(-1)(table(x))
    c = shared(bp.Activate("softmax")(b))
    return bp.Network([x, y], [bp.Dense(4, "softmax")(bp.concat([c, h])), middle, bp.Dense(4, "logistic")(c + a)])


def frozen():
    x = bp.Input(16)
    h = bp.Dense(12, "tanh", name="a")(x)
    for name in "bcd":
        h = h + bp.Dense(12, "gelu", name=name)(bp.LayerNorm()(h))
    net = bp.Network(x, bp.Dense(4, "softmax")(h))
    net.frozen = {"a", "c"}
    return net


CALLS = {"n": 0}


def _square(z):
    CALLS["n"] += 1
    return 0.1 * z * z


def own():
    """Python of the user's."""
    f = bp.Activation(_square, lambda z: 0.2 * z, name="square")
    cube = bp.Function(lambda a: a**3, lambda g, a: 3 * a**2 * g, name="cube")
    layers = [bp.Dense(9, "tanh"), bp.Dense(9, f), bp.Dense(9, "tanh"), cube, bp.Dense(9, "tanh"), bp.Dense(4)]
    return bp.Network([bp.Input(6), *layers])


CASES = {make.__name__: make for make in (dense, grid, convolutional, attention, recurrent, words, frozen, own)}


def data(net, n, seed=0):
    rng = np.random.default_rng(seed)
    nodes = [net._model.graph.nodes[i] for i in net._model.graph.inputs]
    X = [
        rng.integers(0, 11, (n, *node.shape)) if node.layer.integer else rng.uniform(-1, 1, (n, *node.shape))
        for node in nodes
    ]
    y = [rng.dirichlet(np.ones(shape[-1]), (n, *shape[:-1])) for shape in net.outputs.values()]
    return X if len(X) > 1 else X[0], y if len(y) > 1 else y[0]


def trained(make, checkpoint, n, batch, n_threads, optimizer):
    net = make()
    net.checkpoint = checkpoint
    X, y = data(net, n)
    history = net.fit(X, y, epochs=2, batch_size=batch, optimizer=optimizer, n_threads=n_threads)
    loss, grad = net.value_and_grad(X, y, n_threads=n_threads)
    return net.theta.tobytes(), [a.tobytes() for a in net._model.memory.states], history.loss, loss, grad.tobytes()


def some(net, share, seed=0):
    names = [node.name for node in net._model.graph.nodes[:-1] if not isinstance(node.layer, bp.Input)]
    return list(np.random.default_rng(seed).choice(names, max(1, int(share * len(names))), replace=False).tolist())


@pytest.fixture(autouse=True)
def unforced():
    yield
    _core.force(False, "")


# ---- bits ----


@pytest.mark.parametrize("phase2", ["owners", "shards"])
@pytest.mark.parametrize("case", CASES)
def test_no_bit_depends_on_it(case, phase2):
    """Batches of many tiles with one row left over, of few rows, and of one row."""
    make = CASES[case]
    _core.force(True, phase2)
    for n, batch, optimizer in ((151, 150, bp.SGD(0.05)), (60, 20, bp.Adam(0.01)), (3, 1, bp.SGD(0.01, momentum=0.9))):
        want = trained(make, None, n, batch, 1, optimizer)
        net = make()
        for checkpoint in (True, some(net, 1.0), some(net, 0.5), some(net, 0.25, 1)):
            for n_threads in (1, 3):
                assert trained(make, checkpoint, n, batch, n_threads, optimizer) == want, (n, checkpoint, n_threads)


@pytest.mark.parametrize("checkpoint", [True, ["dense_3"], [f"dense_{i}" for i in range(1, 33)]])
def test_batches_of_several_chunks(checkpoint):
    def make():
        return bp.Network([bp.Input(64), *(bp.Dense(256, "relu") for _ in range(32)), bp.Dense(3)])

    net = make()
    net.checkpoint = checkpoint
    cost = _plans.PlanLoss(0, bp._losses.SquaredError(), 1.0, 3, False)
    plan = _plans.make_plan(net._model, _plans.Key(_plans.TRAIN, 300, 2, (cost,))).plan.describe()
    assert plan["chunk_rows"] < 150 and plan["recomputed"]
    want = trained(make, None, 300, 300, 2, bp.SGD(0.01))
    assert trained(make, checkpoint, 300, 300, 2, bp.SGD(0.01)) == want


@pytest.mark.parametrize("case", ["dense", "convolutional", "attention", "frozen"])
def test_other_gradients(case):
    plain = CASES[case]()
    cut = plain.copy()
    cut.checkpoint = some(cut, 0.4)
    X, y = data(plain, 20)
    for what in (
        lambda net: net.per_sample_gradients(X, y),
        lambda net: net.jacobian(X),
        lambda net: net.value_and_grad(X, y, sample_weight=np.arange(20.0))[1],
    ):
        assert what(cut).tobytes() == what(plain).tobytes()


def test_right_gradients():
    """Against central differences, to 1e-6, in float64."""
    net = convolutional()
    net.checkpoint = ["conv2d_2", "max_pool2d_1"]
    X, y = data(net, 4)
    assert max(bp.check_gradients(net, X, y).values()) < 1e-6


def test_divergence_is_undone():
    nets = dense(), dense()
    nets[1].checkpoint = True
    X, y = data(nets[0], 90)
    for net in nets:
        with pytest.raises(bp.DivergenceError):
            net.fit(X, y, optimizer=bp.SGD(lr=1e12), epochs=20, batch_size=30)
    assert nets[0].theta.tobytes() == nets[1].theta.tobytes() and nets[0].step == nets[1].step


def test_python_is_called_as_often():
    """What functions of the user's gave is stored."""
    calls = []
    for checkpoint in (None, some(own(), 1.0)):
        CALLS["n"] = 0
        trained(own, checkpoint, 40, 20, 1, bp.SGD(0.01))
        calls.append(CALLS["n"])
    assert calls[0] == calls[1] > 0


# ---- memory ----


def bytes_of(net, rows):
    return _plans.memory(net._model, rows)


def deep_conv(depth):
    layers = [bp.Conv2D(8, 3, "relu", padding="same") for _ in range(depth)]
    return bp.Network([bp.Input((12, 12, 8)), *layers, bp.Reshape(-1), bp.Dense(10, "softmax")])


@pytest.mark.parametrize("phase2", ["owners", "shards"])
def test_memory_grows_with_the_root_of_the_depth(phase2):
    _core.force(False, phase2)
    few, many = deep_conv(9), deep_conv(81)
    few.checkpoint = many.checkpoint = True
    (cut, plain, _), (cut_9, plain_9, _) = bytes_of(few, 32), bytes_of(many, 32)
    assert plain_9 > 7 * plain and cut_9 < 4 * cut
    assert cut_9 < 0.2 * plain_9


def test_attention_needs_less():
    net = attention(8)
    net.checkpoint = True
    cut, plain, apart = bytes_of(net, 256)
    assert cut < 0.65 * plain < 0.65 * apart  # most of cut: 16 shards, and what rounding took


def test_inputs_of_many_weights_stay():
    """Gradients larger than what they would set free wait for the update: nothing is gained, so True is None."""
    net = bp.Network([bp.Input(300), *(bp.Dense(300, "tanh") for _ in range(8)), bp.Dense(2)])
    for checkpoint in (True, None):
        net.checkpoint = checkpoint
        cost = _plans.PlanLoss(0, bp._losses.SquaredError(), 1.0, 2, False)
        described = _plans.make_plan(net._model, _plans.Key(_plans.TRAIN, 8, 1, (cost,))).plan.describe()
        assert described["recomputed"] == 0
    net.checkpoint = ["dense_4"]
    assert _plans.make_plan(net._model, _plans.Key(_plans.TRAIN, 8, 1, (cost,))).plan.describe()["recomputed"] > 0


def test_nothing_is_computed_twice_without_need():
    """Not the last part; not what no gradient reads."""

    def recomputed(net, names):
        net.checkpoint = names
        cost = _plans.PlanLoss(0, bp._losses.SquaredError(), 1.0, net.n_outputs, False)
        key = _plans.Key(_plans.TRAIN, 64, 1, (cost,))
        return _plans.make_plan(net._model, key).plan.describe()["recomputed"]

    x = bp.Input(4)
    sums = x * 2 + 1
    for _ in range(5):
        sums = 3 * sums - x
    net = bp.Network(x, bp.Dense(1)(bp.Dense(4)(sums)))
    assert recomputed(net, [node.name for node in net._model.graph.nodes[1:-1]]) == 0
    net = bp.Network([bp.Input((8, 4)), *(bp.Dense(4, "tanh") for _ in range(4))])
    assert recomputed(net, ["dense_3"]) == 6  # a product and a function each
    assert recomputed(net, ["dense_1"]) == 2
    net.frozen = {"dense_1", "dense_2"}
    assert recomputed(net, ["dense_2", "dense_3"]) == 2


def test_summary():
    net = deep_conv(20)
    lines = net.summary().splitlines()
    assert "without reuse" in lines[-1] and "checkpoint" not in net.summary()
    net.checkpoint = ["conv2d_5", "conv2d_10"]
    *same, memory, cut = net.summary().splitlines()
    assert same == lines[:-1] and "without checkpoint" in memory and cut == "cut after: conv2d_5, conv2d_10"
    assert float(memory.split()[5]) < float(lines[-1].split()[5])
    net.checkpoint = True
    assert net.summary().splitlines()[-1].count("conv2d_") > 3


# ---- the setting ----


def test_it_is_kept(tmp_path):
    for checkpoint, kept in ((True, True), (["dense_7", "dense_2", "dense_7"], ("dense_2", "dense_7"))):
        net = dense()
        net.checkpoint = checkpoint
        net.save(tmp_path / "net")
        for same in (net, net.copy(), pickle.loads(pickle.dumps(net)), bp.load(tmp_path / "net")):
            assert same.checkpoint == kept
        with safe_open(tmp_path / "net", framework="numpy") as file:
            graph = json.loads(file.metadata()["graph"])
        assert graph["checkpoint"] == (kept if kept is True else list(kept))
    part = net.part("dense_3", "dense_9")
    assert part.checkpoint == ("dense_7",) and net.part("dense_8", "dense_9").checkpoint is None
    assert net.part("dense_3", "dense_7").checkpoint is None  # of what ends there, nothing is cut
    x = bp.Input(16)
    assert bp.Network(x, net(x)).checkpoint is None  # as a layer: a setting of the new network's own
    net.checkpoint = None
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", framework="numpy") as file:
        assert "checkpoint" not in json.loads(file.metadata()["graph"])
    assert bp.load(tmp_path / "net").checkpoint is None


def test_it_is_given_by_symbols_and_layers():
    x = bp.Input(3)
    first, shared = bp.Dense(4, "tanh"), bp.Dense(4)
    h = first(x)
    y = shared(shared(shared(h)))
    assert bp.Network(x, y, checkpoint=[h]).checkpoint == ("dense_1",)
    assert bp.Network(x, y, checkpoint=(first, "dense_2@2")).checkpoint == ("dense_1", "dense_2@2")
    assert bp.Network(x, [y, h], checkpoint=[h]).checkpoint == ("dense_1",)
    with pytest.raises(ValueError, match="name the use: dense_2, dense_2@2, dense_2@3"):
        bp.Network(x, y, checkpoint=[y])
    with pytest.raises(ValueError, match="layers of this network"):
        bp.Network(x, y, checkpoint=[bp.Dense(3)])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("dense_1", TypeError, "a list of layers"),
        (3, TypeError, "a list of layers"),
        ([], ValueError, "at least one layer"),
        (["dense_99"], ValueError, "there is no 'dense_99'"),
        ([2], TypeError, "checkpoint"),
        (["dense_3", "input"], ValueError, "between the inputs and the last, got 'input', .* Valid names: dense_1, "),
        (["dense_13"], ValueError, "got 'dense_13', behind which nothing is cut; leave it out"),
    ],
)
def test_wrong_values(value, error, message):
    net = dense()
    net.checkpoint = ["dense_2"]
    with pytest.raises(error, match=message):
        net.checkpoint = value
    assert net.checkpoint == ("dense_2",)
    with pytest.raises(error, match=message):
        bp.Network([bp.Input(2), *(bp.Dense(3) for _ in range(13))], checkpoint=value)
    net.checkpoint = True
    assert not {0, len(net._model.graph.nodes) - 1} & set(_checkpoint.cuts(net._model.graph, True))


@pytest.mark.parametrize("value", [None, False, "dense_1", ["dense_99"], [1], {}, ["input"]])
def test_wrong_files(value, tmp_path):
    from safetensors.numpy import save_file

    net = dense()
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata["graph"] = json.dumps({**json.loads(metadata["graph"]), "checkpoint": value})
    save_file(tensors, tmp_path / "net", metadata)
    with pytest.raises(ValueError, match=r"load: .*checkpoint"):
        bp.load(tmp_path / "net")

"""Ensemble: the mean and the spread of its members, trained as `fit_many` trains them, kept in one file."""

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse
from random_graphs import Seeded, graph
from safetensors import safe_open

import bpcore as bp
from bpcore import _core, _validate

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 5))
LABELS = rng.integers(0, 3, 60)
LANE_FUNCTIONS = ["relu", "tanh", "logistic", "identity", "gelu", "softplus"]


def make(seed=0, dtype="float32", last="softmax", inner=(8,)):
    return bp.Network([bp.Input(5), *(bp.Dense(n, "tanh") for n in inner), bp.Dense(3, last)], dtype=dtype, seed=seed)


def ensemble(n=5, **settings):
    return bp.Ensemble([make(seed, **settings) for seed in range(n)])


def ends():
    """A network of two inputs and two outputs, one of them of two axes."""
    a, b = bp.Input((4, 3), name="a"), bp.Input(2, name="b")
    h = bp.Dense(6, "tanh")(bp.concat([bp.Reshape(-1)(a), b]))
    return bp.Network([a, b], [bp.Dense(2)(a), bp.Dense(1)(h)], seed=7)


def listed(answers):
    return list(answers) if isinstance(answers, tuple) else [answers]


def check_answers(members, X, means, spreads):
    """Against NumPy's, in float64: the mean bit for bit, the spread to a few units in the last place."""
    each = [listed(net.predict(X)) for net in members]
    for i, (mean, spread) in enumerate(zip(listed(means), listed(spreads), strict=True)):
        answers = np.stack([answer[i] for answer in each]).astype("float64")
        assert mean.dtype == spread.dtype == members[0].dtype
        assert mean.tobytes() == answers.mean(axis=0).astype(mean.dtype).tobytes()
        eps = np.finfo(mean.dtype).eps
        noise = np.finfo("float64").eps * abs(answers).max(initial=0)  # NumPy's own
        np.testing.assert_allclose(spread, answers.std(axis=0), rtol=4 * eps * len(members), atol=noise)


# ---- answers ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 9, 70])
def test_answers_are_mean_and_standard_deviation_of_the_members(n, dtype):
    nets = ensemble(n, dtype=dtype)
    means, spreads = nets.predict(X, spread=True, n_threads=1)
    check_answers(nets.members, X, means, spreads)
    assert n == 1 or (spreads > 0).all()
    for threads in (2, 3):
        assert nets.predict(X, n_threads=threads).tobytes() == means.tobytes()
    answer = nets.predictor(n_threads=2)
    for rows in (slice(0, 60), slice(3, 4), slice(0, 0), 7):  # a row has the same bits in every batch
        mean, spread = answer(X[rows], spread=True)
        assert mean.shape == spread.shape == means[rows].shape
        assert mean.tobytes() == answer(X[rows]).tobytes() == means[rows].tobytes()
        assert spread.tobytes() == spreads[rows].tobytes()
    assert nets.predict(X[:0]).shape == (0, 3)


def test_the_spread_does_not_cancel():
    """Answers near 1e8 that differ by 1e-3; and members that are equal differ by nothing, whatever they answer."""
    nets = ensemble(4, dtype="float64", last="identity")
    for k, net in enumerate(nets.members):
        net.theta[:] = 0
        net.params["dense_2.b"][:] = 1e8 + 1e-3 * (k == 0)
    mean, spread = nets.predict(X[:2], spread=True)
    np.testing.assert_allclose(spread, 1e-3 * np.sqrt(3) / 4, rtol=1e-4)  # 1e8 + 1e-3 is rounded to 1.5e-8
    assert nets.predictor()(X[:2], spread=True)[1].tobytes() == spread.tobytes()
    twins = bp.Ensemble([make(3, dtype="float64") for _ in range(7)])
    assert not twins.predict(X, spread=True)[1].any() and not twins.predictor()(X, spread=True)[1].any()


def test_answers_that_overflow_are_no_error():
    nets = ensemble(2, last="identity")
    nets.members[0].theta[:] = 3e38
    for mean, spread in (nets.predict(X, spread=True), nets.predictor()(X, spread=True)):
        assert not np.isfinite(mean).all() and np.array_equal(np.isfinite(mean), np.isfinite(spread))
    for big in (3e38, -3e38):  # finite, and further apart than float32 has room for
        nets = ensemble(2, last="identity")
        for k, net in enumerate(nets.members):
            net.theta[:] = 0
            net.params["dense_2.b"][:] = big * (-1) ** k
        for mean, spread in (nets.predict(X, spread=True), nets.predictor()(X, spread=True)):
            assert (mean == 0).all() and (spread == np.float32(3e38)).all()


def test_members_of_any_layers_with_several_inputs_and_outputs():
    done = 0
    for seed in range(60):
        case = graph(Seeded(seed), dtype=("float32", "float64")[seed % 2], rows=(3, 6))
        if case is None:
            continue
        members = [case.net.copy() for _ in range(3)]
        for k, net in enumerate(members):
            net.theta[:] *= 1 + 0.25 * k
        nets, given = bp.Ensemble(members), case.args[0]
        means, spreads = nets.predict(given, spread=True)
        if not all(np.isfinite(part).all() for part in (*listed(means), *listed(spreads))):
            continue
        for mean, answer in zip(listed(means), listed(nets.predictor()(given)), strict=True):
            assert mean.tobytes() == answer.tobytes()
        check_answers(members, given, means, spreads)
        done += 1
    assert done > 20
    nets = bp.Ensemble([ends(), ends().copy()])
    given = {"b": X[:, :2], "a": rng.standard_normal((60, 4, 3))}
    means, spreads = nets.predictor()(given, spread=True)
    assert [part.shape for part in means] == [part.shape for part in spreads] == [(60, 4, 2), (60, 1)]
    check_answers(nets.members, given, means, spreads)


def test_members_need_not_be_alike_within():
    members = [make(0), make(1, inner=(4, 6)), make(2, last="logistic")]
    nets = bp.Ensemble(members)
    mean, spread = nets.predict(X, spread=True)
    check_answers(members, X, mean, spread)
    assert nets.predictor()(X).tobytes() == mean.tobytes()
    assert repr(nets) == "<Ensemble of 3 networks, input (5,) -> dense_2 (3,) in float32, 225 parameters>"


def test_members_are_held_and_a_predictor_is_a_snapshot():
    nets = ensemble(3)
    answer, before = nets.predictor(), nets.predict(X)
    nets.members[1].theta[:] += 1
    assert (nets.predict(X) != before).any() and answer(X).tobytes() == before.tobytes()
    assert repr(nets) == f"<Ensemble of 3 x {make()!r}>"
    assert repr(answer) == "<EnsemblePredictor of 3 members, 5 inputs and 3 outputs>"
    with pytest.raises(AttributeError):
        nets.members = ()
    with pytest.raises(TypeError, match="pickle the ensemble"):
        pickle.dumps(answer)


def test_functions_of_ones_own_and_columns_of_a_frame():
    sine = bp.Activation(np.sin, np.cos, name="sine")
    members = [bp.Network([bp.Input(5), bp.Dense(4, sine), bp.Dense(1)], seed=k) for k in range(3)]
    for net in members:
        net._model.feature_names = {"input": tuple("abcde")}
    nets = bp.Ensemble(members)
    assert nets.predictor()(X).tobytes() == nets.predict(X).tobytes()

    class Frame:
        columns, shape = list("abced"), X.shape

        def __array__(self, dtype=None, copy=None):
            return X

    for ask in (nets.predict, nets.predictor()):
        with pytest.raises(ValueError, match="they are in another order"):
            ask(Frame())
    members[2]._model.feature_names = {"input": tuple("abcdf")}
    with pytest.raises(ValueError, match=r"nets\[2\]: expected columns \['a', 'b', 'c', 'd', 'e'\]"):
        nets.predict(X)


def test_any_thread_may_ask_while_members_are_trained():
    nets = ensemble(4)
    answer, wanted, wrong, done = nets.predictor(), nets.predict(X).tobytes(), [], threading.Event()

    def ask():
        while not done.is_set():
            wrong.append(answer(X).tobytes() != wanted)
            both = nets.predict(X, spread=True)
            wrong.append(not all(np.isfinite(part).all() for part in both))
            nets.copy()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(3):  # in either order: who reads one member never waits for another
            bp.fit_many(nets.members[:: (-1) ** turn], X, LABELS, epochs=300)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert wrong and not any(wrong)


def test_rows_of_many_members_take_little_memory():
    nets = ensemble(40)
    rows = np.zeros((20_000, 5), np.float32)
    nets.predict(rows[:10])
    tracemalloc.start()
    nets.predict(rows, spread=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * rows.shape[0] * 3 * 8  # all answers would be 20


# ---- side by side ----


def check_lanes(seed):
    """Small chains of any number, shape and rows: the bits of each member's own answers, however they are asked for."""
    pick = np.random.default_rng(seed)
    K, dtype = int(pick.integers(2, 41)), f"float{32 << seed % 2}"
    n_in, n_out = int(pick.integers(1, 9)), int(pick.choice([1, 2, 3, 7, 20]))
    inside = [bp.Dense(int(pick.integers(1, 9)), str(pick.choice(LANE_FUNCTIONS))) for _ in range(seed % 4)]
    last = str(pick.choice(["softmax" if n_out > 1 else "logistic", "identity", "tanh"]))
    layers = [bp.Input(n_in), *inside, bp.Dense(n_out, last)]
    nets = bp.Ensemble([bp.Network(layers, dtype=dtype, seed=k) for k in range(K)])
    assert nets._side_by_side(1, 1) is not None
    rows = pick.standard_normal((int(pick.choice([1, 2, 33, 300])), n_in)).astype(str(pick.choice(["f4", "f8", ">f8"])))
    mean, spread = nets.predict(rows, spread=True, n_threads=1)
    check_answers(nets.members, rows, mean, spread)
    apart = bp.Ensemble(nets.members)
    apart._alike = False
    for asked, threads in ((nets, 1 + seed % 4), (apart, 1)):
        answer = asked.predictor(n_threads=threads)
        for both in (asked.predict(rows, spread=True, n_threads=threads), answer(rows, spread=True)):
            assert [part.tobytes() for part in both] == [mean.tobytes(), spread.tobytes()]
        assert answer(rows).tobytes() == asked.predict(rows, n_threads=threads).tobytes() == mean.tobytes()
        assert [part.tobytes() for part in answer(rows[-1], spread=True)] == [mean[-1].tobytes(), spread[-1].tobytes()]


@pytest.mark.parametrize("seed", range(24))
def test_small_members_answer_side_by_side_with_their_own_bits(seed):
    check_lanes(seed)


def test_these_bits_are_there_on_every_instruction_set():
    program = "import test_ensemble; [test_ensemble.check_lanes(seed) for seed in range(3)]"
    for isa in _core.isa()[1][1:]:
        environment = {**os.environ, "BPCORE_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)


def test_these_bits_are_there_where_threads_share_few_rows(force):
    force(True, "")
    for seed in range(6):
        check_lanes(seed)


def test_who_answers_side_by_side():
    wide = [bp.Network([bp.Input(5), bp.Dense(3000), bp.Dense(20)], seed=k) for k in range(64)]
    normed = [bp.Network([bp.Input(5), bp.Dense(4), bp.LayerNorm(), bp.Dense(1)], seed=k) for k in range(2)]
    for members in (wide, [make(0), make(1, inner=(4,))], normed, [ends(), ends().copy()]):
        assert bp.Ensemble(members)._side_by_side(1, 1) is None
    some = ensemble(3, inner=(30, 30))
    many = ensemble(64, inner=(30, 30))  # all lanes of every instruction set
    assert some._side_by_side(1000, 1) is None and many._side_by_side(1000, 1) is not None
    frozen = ensemble(2)
    frozen.members[1].frozen = {"dense_1"}
    assert frozen._side_by_side(1, 1) is not None


def test_rows_of_any_kind_are_read_side_by_side():
    nets = ensemble(3)
    wanted = nets.predict(X.astype(np.float32))
    answer = nets.predictor()
    for rows in (np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2], X.astype(">f8"), X.tolist()):
        assert answer(rows).tobytes() == nets.predict(rows).tobytes() == wanted.tobytes()
    sparse = _core.SparseRows(_validate.csr("X", scipy.sparse.csr_array(X)))
    assert nets.predict(sparse).tobytes() == nets.predict(X).tobytes()
    assert answer([1, 0, 0, 2, 1]).tobytes() == nets.predict([[1, 0, 0, 2, 1]])[0].tobytes()
    for wrong in (X[:, :4], X[None], 3.0):
        with pytest.raises(ValueError, match=r"x: expected"):
            answer(wrong)
    with pytest.raises(TypeError):
        answer(X, X)
    assert answer.n_inputs == 5 and answer.n_outputs == 3


def test_a_child_of_a_fork_may_ask():
    nets = ensemble(3)
    rows = np.repeat(X, 300, axis=0)
    answer, wanted = nets.predictor(n_threads=2), nets.predict(rows, n_threads=2).tobytes()
    child = os.fork()
    if not child:
        same = answer(rows).tobytes() == nets.predict(rows, n_threads=2).tobytes() == wanted
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


# ---- as a sequence, and its score ----


def test_it_is_a_sequence_of_its_members():
    nets = ensemble(4)
    assert len(nets) == 4 and list(nets) == list(nets.members) and nets[1] is nets.members[1] is nets[-3]
    part = nets[1:3]
    assert type(part) is bp.Ensemble and part.members == nets.members[1:3]
    with pytest.raises(IndexError):
        nets[4]
    with pytest.raises(ValueError, match="at least one network, got none"):
        nets[4:]


@pytest.mark.parametrize("n", [1, 5])
def test_evaluate_is_the_score_of_the_mean(n):
    nets = ensemble(n, dtype="float64")
    nets.fit(X, LABELS, epochs=20, optimizer=bp.Adam(lr=0.02))
    p, w = nets.predict(X), rng.uniform(0, 2, 60)
    losses, right = -np.log(p[np.arange(60), LABELS]), p.argmax(axis=1) == LABELS
    found = nets.evaluate(X, LABELS, metrics=["roc_auc", "f1_macro"])
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-12) and found["accuracy"] == right.mean()
    assert set(found) == {"loss", "accuracy", "roc_auc", "f1_macro"}
    own = bp.Network([bp.Input(3), bp.Activate("softmax")], dtype="float64").evaluate(
        np.log(p), LABELS, metrics=["roc_auc", "f1_macro"]
    )
    for name in found:
        assert found[name] == pytest.approx(own[name], rel=1e-9)
    weighted = nets.evaluate(X, LABELS, sample_weight=w)
    assert weighted["loss"] == pytest.approx(np.average(losses, weights=w), rel=1e-12)
    assert weighted["accuracy"] == pytest.approx(np.average(right, weights=w), rel=1e-12)
    with pytest.raises(ValueError, match="y: expected"):
        nets.evaluate(X, LABELS[:-1])
    with pytest.raises(TypeError, match="n_threads"):
        nets.evaluate(X, LABELS, threads=2)


def test_evaluate_of_numbers_and_of_several_outputs():
    nets = ensemble(3, last="identity")
    loss = nets.evaluate(X, X[:, :3], loss="mse")
    assert loss == {"loss": pytest.approx(np.mean((nets.predict(X) - X[:, :3]) ** 2), rel=1e-5)}
    several = bp.Ensemble([ends(), ends().copy()])
    given = {"b": X[:, :2], "a": rng.standard_normal((60, 4, 3))}
    y = [rng.standard_normal((60, 4, 2)), rng.standard_normal((60, 1))]
    found = several.evaluate(given, y)
    assert found == pytest.approx(several.members[0].evaluate(given, y), rel=1e-5)


def test_folds_say_who_holds_them():
    nets = ensemble(3)
    for ask in (lambda: nets.rows(60, folds=5), lambda: nets.fit(X, LABELS, folds=5)):
        with pytest.raises(ValueError, match="folds: expected at most one for each member, got 5 for 3"):
            ask()


def test_folds_have_their_share_of_each_label():
    nets = ensemble(6)
    y = rng.permutation(np.repeat(["a", "b", "c"], [31, 20, 9]))
    parts = nets.rows(60, folds=6, stratify=y, seed=3)
    held = [np.setdiff1d(np.arange(60), part) for part in parts]
    assert [len(part) for part in held] == [10] * 6
    for label, n in (("a", 31), ("b", 20), ("c", 9)):
        counts = [np.sum(y[part] == label) for part in held]
        assert sum(counts) == n and max(counts) - min(counts) <= 1
    assert any((a != b).any() for a, b in zip(parts, nets.rows(60, folds=6, stratify=y, seed=4), strict=True))
    twins = ensemble(6)
    nets.fit(X, LABELS, folds=6, stratify=y, seed=3)
    bp.fit_many(twins.members, X, LABELS, rows=parts, seed=list(range(3, 9)))
    assert [net.theta.tobytes() for net in nets] == [net.theta.tobytes() for net in twins]
    with pytest.raises(ValueError, match="stratify: expected None without folds"):
        nets.fit(X, LABELS, stratify=LABELS)
    with pytest.raises(ValueError, match=r"stratify: expected a label for each of 60 rows, got shape \(59,\)"):
        nets.rows(60, folds=3, stratify=LABELS[1:])
    with pytest.raises(TypeError, match="stratify: expected labels that can be sorted"):
        nets.rows(2, folds=2, stratify=np.array(["a", 1], object))


# ---- training ----


def test_fit_is_fit_many():
    nets, twins = ensemble(3), ensemble(3)
    histories = nets.fit(X, LABELS, epochs=3, optimizer=bp.Adam(), sample_weight=np.arange(60))
    wanted = bp.fit_many(twins.members, X, LABELS, epochs=3, optimizer=bp.Adam(), sample_weight=np.arange(60))
    assert [history.loss for history in histories] == [history.loss for history in wanted]
    seeded, others = ensemble(3), ensemble(3)
    seeded.fit(X, LABELS, seed=2**64 - 2)
    bp.fit_many(others.members, X, LABELS, seed=[2**64 - 2, 2**64 - 1, 0])
    for a, b in ((nets, twins), (seeded, others)):
        assert [net.theta.tobytes() for net in a.members] == [net.theta.tobytes() for net in b.members]


@pytest.mark.parametrize("settings", [{"bootstrap": True}, {"folds": 3}, {"folds": 3, "seed": 4}])
def test_members_are_trained_on_the_rows_that_it_says(settings):
    nets, twins = ensemble(4), ensemble(4)
    rows = nets.rows(60, **settings)
    nets.fit(X, LABELS, epochs=2, **settings)
    nets.fit(X, LABELS, epochs=1, **settings)
    seed = settings.get("seed")
    for k, (twin, part) in enumerate(zip(twins.members, rows, strict=True)):
        twin.fit(X[part], LABELS[part], epochs=3, seed=None if seed is None else seed + k)
    assert [net.theta.tobytes() for net in nets.members] == [net.theta.tobytes() for net in twins.members]


def test_rows():
    nets = ensemble(200)
    samples = nets.rows(1000, bootstrap=True)
    assert all(len(part) == 1000 and part.min() >= 0 and part.max() < 1000 for part in samples)
    counts = np.bincount(np.concatenate(samples), minlength=1000)  # each 200 +- 14
    assert counts.min() > 120 and counts.max() < 280
    left_out = [1000 - len(np.unique(part)) for part in samples]
    assert abs(np.mean(left_out) - 1000 * (1 - 1 / 1000) ** 1000) < 5  # of one sample 368 +- 10
    assert len({part.tobytes() for part in samples}) == 200
    again, other = nets.rows(1000, bootstrap=True, seed=0), nets.rows(1000, bootstrap=True, seed=1)
    assert all((a == b).all() and (a != c).any() for a, b, c in zip(samples, again, other, strict=True))

    parts = nets.rows(10, folds=4, seed=3)
    held = [np.setdiff1d(np.arange(10), part) for part in parts]
    assert sorted(map(len, held[:4])) == [2, 2, 3, 3] and sorted(np.concatenate(held[:4])) == list(range(10))
    assert all((held[k] == held[k % 4]).all() for k in range(200))
    assert any((a != b).any() for a, b in zip(parts, nets.rows(10, folds=4, seed=4), strict=True) if a.shape == b.shape)
    assert [part.tolist() for part in ensemble(2).rows(3)] == [[0, 1, 2]] * 2


def test_one_that_diverges_stays_a_member():
    nets = ensemble(3, last="identity")
    histories = nets.fit(X, X[:, :3], optimizer=[bp.SGD(), bp.SGD(lr=1e30), bp.SGD()])
    assert [history.error is None for history in histories] == [True, False, True]
    assert np.isfinite(nets.predict(X)).all()


# ---- keeping ----


def test_copies_and_pickles_are_independent():
    nets = ensemble(3)
    nets.fit(X, LABELS, optimizer=bp.Adam(), epochs=2)
    before = nets.predict(X).tobytes()
    twins = [nets.copy(), copy.copy(nets), copy.deepcopy(nets), pickle.loads(pickle.dumps(nets))]
    nets.fit(X, LABELS, epochs=2)
    for twin in twins:
        assert twin.predict(X).tobytes() == before and len(twin.members) == 3
        twin.fit(X, LABELS, epochs=2)  # with the memory of Adam
        assert twin.predict(X).tobytes() == nets.predict(X).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_file_holds_all_of_it(dtype, tmp_path):
    nets = bp.Ensemble([make(0, dtype), make(1, dtype, inner=(2, 3)), make(2, dtype)])
    optimizers = [bp.Adam(lr=bp.schedules.Cosine(0.01)), bp.SGD(momentum=0.9), bp.SGD()]
    nets.fit(X, LABELS, optimizer=optimizers, epochs=3)
    nets.members[2].frozen = {"dense_1"}
    path = tmp_path / "ensemble.safetensors"
    nets.save(path)
    back = bp.Ensemble.load(str(path))
    for net, twin in zip(nets.members, back.members, strict=True):
        assert net.theta.tobytes() == twin.theta.tobytes() and repr(net) == repr(twin)
        assert (net.seed, net.step, net.epoch, net.optimizer, net.frozen) == (
            twin.seed, twin.step, twin.epoch, twin.optimizer, twin.frozen
        )  # fmt: skip
    assert back.predict(X).tobytes() == nets.predict(X).tobytes()
    for each in (nets, back):
        each.fit(X, LABELS, epochs=2)
    assert back.predict(X).tobytes() == nets.predict(X).tobytes()
    with safe_open(path, framework="numpy") as file:
        assert set(file.metadata()) == {"bpcore_format", "ensemble"} and file.metadata()["bpcore_format"] == "2"
        assert {"0.dense_1.W", "0.optimizer.mean.dense_1.W", "2.dense_2.b"} <= set(file.keys())


def test_functions_are_given_back(tmp_path):
    sine = bp.Activation(np.sin, np.cos, name="sine")
    nets = bp.Ensemble([bp.Network([bp.Input(5), bp.Dense(4, sine), bp.Dense(1)], seed=k) for k in range(2)])
    nets.save(tmp_path / "nets")
    with pytest.raises(ValueError, match="give it back by custom="):
        bp.Ensemble.load(tmp_path / "nets")
    back = bp.Ensemble.load(tmp_path / "nets", custom={"sine": sine})
    assert back.predict(X).tobytes() == nets.predict(X).tobytes()


def test_a_file_is_of_a_network_or_of_an_ensemble(tmp_path):
    make().save(tmp_path / "net")
    ensemble(2).save(tmp_path / "nets")
    with pytest.raises(ValueError, match=r"nets' is an ensemble; use bp.Ensemble.load\(path\)"):
        bp.load(tmp_path / "nets")
    with pytest.raises(ValueError, match=r"net' is a network by itself; use bp.load\(path\)"):
        bp.Ensemble.load(tmp_path / "net")
    nets = ensemble(2)
    nets.members[1].theta[3] = np.inf
    with pytest.raises(ValueError, match=r"save: 1.dense_1.W has values that are not finite"):
        nets.save(tmp_path / "nets")
    assert len(bp.Ensemble.load(tmp_path / "nets").members) == 2  # the old file is there


def rewritten(path, change):
    """The file with another header; what is changed is its metadata, the ensemble parsed."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    described = json.loads(metadata["ensemble"])
    change(metadata, described, header)
    if "ensemble" in metadata:
        metadata["ensemble"] = json.dumps(described)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


WRONG = {
    "format 1": (lambda m, e, h: m.update(bpcore_format="1"), "unknown metadata"),
    "a format to come": (lambda m, e, h: m.update(bpcore_format="9"), "bpcore_format is '9'"),
    "a key beside": (lambda m, e, h: m.update(more="{}"), "unknown metadata"),
    "a key within": (lambda m, e, h: e.update(weights=[1]), "ensemble: expected the keys"),
    "no members": (lambda m, e, h: e.update(members=[]), "members: expected a list"),
    "members of another kind": (lambda m, e, h: e.update(members={"0": 1}), "members: expected a list"),
    "a member of another kind": (lambda m, e, h: e["members"].append(3), "a member: expected the keys"),
    "a member's key": (lambda m, e, h: e["members"][1].update(run="rm"), "a member: expected the keys"),
    "a graph of another kind": (lambda m, e, h: e["members"][1].update(graph="x"), "graph: expected the keys"),
    "one member more": (lambda m, e, h: e["members"].append(e["members"][0]), "tensor '2.dense_1.W'"),
    "one member less": (lambda m, e, h: e["members"].pop(), "tensor '1.dense_1.W'"),
    "another dtype": (lambda m, e, h: e["members"][1]["graph"].update(dtype="float64"), "several dtypes"),
    "a tensor of no member": (lambda m, e, h: h.update({"9.b": h.pop("1.dense_1.b")}), "tensor '1.dense_1.b'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_file_of_an_ensemble(kind, tmp_path):
    ensemble(2).save(tmp_path / "nets")
    change, words = WRONG[kind]
    (tmp_path / "wrong").write_bytes(rewritten(tmp_path / "nets", change))
    with pytest.raises(ValueError, match=f"load: .*wrong' is not a bpcore network: .*{words}"):
        bp.Ensemble.load(tmp_path / "wrong")


def test_members_in_a_file_fit_together(tmp_path):
    ensemble(2).save(tmp_path / "nets")

    def narrow(m, e, h):
        for layer in e["members"][1]["graph"]["nodes"]:
            if layer["op"] == "dense" and layer["attributes"]["units"] == 3:
                layer["attributes"]["units"] = 2
        h["1.dense_2.W"]["shape"], h["1.dense_2.b"]["shape"] = [8, 2], [2]
        at = h["1.dense_2.W"]["data_offsets"][0]
        h["1.dense_2.W"]["data_offsets"], h["1.dense_2.b"]["data_offsets"] = [at, at + 64], [at + 64, at + 72]

    data = rewritten(tmp_path / "nets", narrow)[: -4 * 9]
    (tmp_path / "wrong").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"wrong' is not a bpcore ensemble: nets\[1\]: expected input \(5,\) -> dense_2"
    ):
        bp.Ensemble.load(tmp_path / "wrong")
    for n in (0, 7, 100, len(data) - 1):
        (tmp_path / "short").write_bytes(data[:n])
        with pytest.raises(ValueError, match="is not a bpcore network"):
            bp.Ensemble.load(tmp_path / "short")


# ---- refused ----


def test_wrong_input_is_refused_and_changes_nothing():
    net, nets = make(), ensemble(2)
    fewer, narrow = bp.Network([bp.Input(4), bp.Dense(3)]), bp.Network([bp.Input(5), bp.Dense(1)])
    before = [(member.theta.tobytes(), member.step) for member in nets.members]
    a, b = bp.Input(2, name="a"), bp.Input(3, name="b")
    two = [bp.Network(ends, bp.Dense(3)(bp.concat(ends))) for ends in ([a, b], [bp.Input(2, name="c"), b])]
    refused = [
        (lambda: bp.Ensemble([]), ValueError, "nets: expected at least one network, got none"),
        (lambda: bp.Ensemble(net), TypeError, "nets: expected a list of networks"),
        (lambda: bp.Ensemble([net, "net"]), TypeError, r"nets\[1\]: expected a bp.Network"),
        (lambda: bp.Ensemble([net, nets]), TypeError, r"nets\[1\]: expected a bp.Network"),
        (lambda: bp.Ensemble([net, make(1), net]), ValueError, r"nets\[2\]: .*nets\[0\] again; use net.copy"),
        (lambda: bp.Ensemble([net, make(dtype="float64")]), ValueError, r"nets\[1\]: .* in float32, as nets\[0\] has"),
        (lambda: bp.Ensemble([net, fewer]), ValueError, r"got input \(4,\) -> dense_1"),
        (lambda: bp.Ensemble([net, narrow]), ValueError, r"got input \(5,\) -> dense_1"),
        (lambda: bp.Ensemble(two), ValueError, r"nets\[1\]: expected a \(2,\), b \(3,\)"),
        (lambda: nets.predict(X[:, :4]), ValueError, "X: expected shape"),
        (lambda: nets.predict(np.full((1, 5), np.nan)), ValueError, "X"),
        (lambda: nets.predict(X, spread="no"), TypeError, "spread: expected True or False"),
        (lambda: nets.predict(X, n_threads=0), ValueError, "n_threads"),
        (lambda: nets.predictor()(X[:, :4]), ValueError, "x: expected shape"),
        (lambda: nets.predictor(n_threads=0), ValueError, "n_threads"),
        (lambda: nets.fit(X, LABELS, bootstrap=2), TypeError, "bootstrap: expected True or False"),
        (lambda: nets.fit(X, LABELS, bootstrap=True, folds=2), ValueError, "folds: expected None beside bootstrap"),
        (lambda: nets.fit(X, LABELS, bootstrap=True, rows=[0, 1]), ValueError, "rows: expected None beside bootstrap"),
        (lambda: nets.fit(X, LABELS, folds=1), ValueError, "folds: expected an integer from 2"),
        (lambda: nets.fit(X, LABELS, folds=61), ValueError, "folds: expected an integer from 2 to 60"),
        (lambda: nets.fit(X[:1], LABELS[:1], folds=2), ValueError, "folds: expected at most one for each row"),
        (lambda: nets.fit(X, LABELS, seed=[1, 2]), TypeError, "seed: expected an integer"),
        (lambda: nets.fit(X[:, :4], LABELS, bootstrap=True), ValueError, "X: expected shape"),
        (lambda: nets.fit(X, LABELS[:9], bootstrap=True), ValueError, "y"),
        (lambda: nets.fit(X, LABELS, epoch=3), TypeError, "^epoch: .*Did you mean 'epochs'"),
        (lambda: nets.rows(0), ValueError, "n: expected an integer from 1"),
        (lambda: bp.Ensemble.load(3), TypeError, "path: expected a file name"),
    ]  # fmt: skip
    for call, error, match in refused:
        with pytest.raises(error, match=match):
            call()
    assert [(member.theta.tobytes(), member.step) for member in nets.members] == before


def test_c_reads_no_further_than_the_answers():
    mean, spread = _core.mean_of(np.arange(12, dtype="float64").reshape(2, 6), 3, True)
    assert mean.tolist() == [[2, 3], [8, 9]]
    np.testing.assert_allclose(spread, np.sqrt(8 / 3), rtol=1e-15)
    assert _core.mean_of(np.empty((0, 6), "float32"), 3, True)[1].shape == (0, 2)


def test_members_that_would_stay_equal_are_said():
    layers = [bp.Input(3), bp.Dense(2)]
    A, t = np.random.default_rng(0).standard_normal((2, 20, 3))
    with pytest.warns(UserWarning, match="some members have equal weights and seeds, and stay equal; give each"):
        bp.Ensemble([bp.Network(layers, seed=0) for _ in range(2)]).fit(A, t[:, :2])
    for nets, settings in (((0, 1), {}), ((0, 0), {"bootstrap": True}), ((0, 0), {"seed": 3})):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bp.Ensemble([bp.Network(layers, seed=seed) for seed in nets]).fit(A, t[:, :2], batch_size=5, **settings)

"""Tensors of PyTorch, series and frames of pandas in place of arrays: the cures in errors work, names are checked."""

import numpy as np
import pandas
import pytest
import torch

import bpcore as bp

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = RNG.standard_normal(20)
LABELS = np.arange(20) % 3


def make(n_in=3, last=1, output="identity"):
    return bp.Network([bp.Input(n_in), bp.Dense(4, "tanh"), bp.Dense(last, output)], seed=1)


def followed(error, name, value):
    """What the advice in an error makes of the value."""
    return eval(str(error).rpartition("use ")[2], {"np": np, name: value})


TENSORS = {
    "a parameter": lambda: torch.tensor(X, requires_grad=True),
    "of a graph": lambda: torch.tensor(X, requires_grad=True) * 1.0,
    "bfloat16": lambda: torch.ones(20, 3, dtype=torch.bfloat16, requires_grad=True),
    "sparse": lambda: torch.tensor(X).to_sparse(),
    "sparse rows": lambda: torch.ones(20, 3).to_sparse_coo().requires_grad_(),
    "negative": lambda: torch.tensor(X * 1j).conj().imag,
    "rows": lambda: list(torch.tensor(X, requires_grad=True)),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_the_cure_for_a_tensor(kind):
    net, tensor = make(), TENSORS[kind]()
    with pytest.raises(TypeError, match="^X: expected an array of numbers, got .* use ") as caught:
        net.predict(tensor)
    with pytest.raises(TypeError, match="^x: expected an array of numbers, got .* use "):
        net.predictor()(tensor)
    assert net.predict(followed(caught.value, "X", tensor)).shape == (20, 1)


def test_tensors_that_are_arrays():
    assert (make().predict(torch.tensor(X)) == make().predict(X)).all()
    with pytest.raises(TypeError, match=r"^f\(z\)|f\(z\)\.detach\(\)\.numpy\(\)"):
        own = bp.Activation(lambda z: torch.tanh(torch.tensor(z, requires_grad=True)), np.cos)
        bp.Network([bp.Input(3), bp.Dense(2, own)]).predict(X)
    with pytest.raises(TypeError, match="^lr: expected a number"):
        bp.SGD(lr=torch.ones(2))


def test_advice_for_series_and_frames_works():
    net, series = make(1), pandas.Series(X[:, 0], name="age")
    for call, name in ((net.predict, "X"), (net.predictor(), "x")):
        with pytest.raises(ValueError, match=f"for 20 rows use {name}.to_frame") as caught:
            call(series)
        assert (call(followed(caught.value, name, series)) == net.predict(X[:, :1])).all()
    net, row = make(), pandas.DataFrame(X).iloc[3]
    with pytest.raises(ValueError, match="for one row use") as caught:
        net.predict(row)
    assert (net.predict(followed(caught.value, "X", row)) == net.predict(X[3:4])).all()
    net = make(last=3, output="softmax")
    wanted = net.evaluate(X, LABELS)
    frame = pandas.DataFrame({"kind": LABELS})
    for y in (frame, frame["kind"] * 1.0, frame["kind"].map({0: "a", 1: "b", 2: "c"}), torch.tensor(LABELS * 1.0)):
        with pytest.raises((TypeError, ValueError), match="^y: ") as caught:
            net.evaluate(X, y)
        assert net.evaluate(X, followed(caught.value, "y", y)) == wanted


def test_names_of_columns():
    frame, net = pandas.DataFrame(X, columns=["age", "height", "weight"]), make()
    net.fit(frame, Y, validation_data=(frame[:5], Y[:5]))
    assert net.feature_names == {"input": ("age", "height", "weight")}
    wrong = frame[["height", "age", "weight"]]
    with pytest.raises(ValueError, match="^X: .* another order, 'height', 'age', 'weight'; use X") as caught:
        net.predict(wrong)
    assert (net.predict(followed(caught.value, "X", wrong)) == net.predict(X)).all()
    with pytest.raises(ValueError, match="^x: .* missing: 'age'; unexpected: 'Age'; rename them"):
        net.predictor()(frame.rename(columns={"age": "Age"}))
    assert net.predict(frame[frame.age > 99]).shape == net.predict(frame[:0].astype(object)).shape == (0, 1)
    numbered = make()
    numbered.fit(pandas.DataFrame(X), Y)
    assert numbered.feature_names == {}


def test_a_history_is_a_frame():
    history = make().fit(X, Y, epochs=4, validation_data=(X, Y))
    frame = pandas.DataFrame(history)
    assert list(frame) == list(history) == ["epoch", "loss", "val_loss", "seconds", "samples_per_second", "lr"]
    assert frame.loss.tolist() == history.loss and frame.shape == (4, 6)

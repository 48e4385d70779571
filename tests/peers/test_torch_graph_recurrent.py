"""Values, gradients and training steps of recurrent layers, against PyTorch.

Tolerances are norm-wise and relative: 1e-10 in float64; a step in float32 agrees to 1e-4.
"""

import numpy as np
import pytest
import torch

import bpcore as bp

torch.set_num_threads(1)

KINDS = {"simple_rnn": (bp.SimpleRNN, torch.nn.RNN), "lstm": (bp.LSTM, torch.nn.LSTM), "gru": (bp.GRU, torch.nn.GRU)}
STEPS = (1, 2, 3, 10, 50, 200)


def distance(got, want):
    return np.linalg.norm(np.asarray(got) - np.asarray(want)) / np.linalg.norm(want)


def twin(net, kind, name, dtype):
    """PyTorch's layer with the same parameters; what bpcore has no place for is zero."""
    W, U = (torch.tensor(np.array(net.params[f"{name}.{letter}"]).T, dtype=dtype) for letter in "WU")
    layer = KINDS[kind][1](W.shape[1], U.shape[1], batch_first=True, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0[:], layer.weight_hh_l0[:] = W, U
        layer.bias_ih_l0[:], layer.bias_hh_l0[:] = torch.tensor(np.array(net.params[f"{name}.b"])), 0
        if kind == "gru":
            layer.bias_hh_l0[2 * U.shape[1] :] = torch.tensor(np.array(net.params[f"{name}.b_n"]))
    return layer


def gradients(layer, kind):
    """By bpcore's letters."""
    found = {"W": layer.weight_ih_l0.grad.T, "U": layer.weight_hh_l0.grad.T, "b": layer.bias_ih_l0.grad}
    if kind == "gru":
        found["b_n"] = layer.bias_hh_l0.grad[-layer.hidden_size :]
    return {letter: grad.numpy() for letter, grad in found.items()}


def parts(net, theta, name):
    return {full.partition(".")[2]: theta[p.offset : p.offset + p.rows * p.cols].reshape(p.shape)
            for full, p in net._model.graph.parameters.items() if full.startswith(name + ".")}  # fmt: skip


def walk(layer, x, truncate=None, lengths=None):
    """All states, and the last; detached every `truncate` steps."""
    if lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        every, last = layer(packed)
        every = torch.nn.utils.rnn.pad_packed_sequence(every, batch_first=True, total_length=x.shape[1])[0]
        return every, (last[0] if isinstance(last, tuple) else last)[0]
    if truncate is None:
        every = layer(x)[0]
        return every, every[:, -1]
    state, found = None, []
    for at in range(0, x.shape[1], truncate):
        h, state = layer(x[:, at : at + truncate], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        found.append(h)
    every = torch.cat(found, 1)
    return every, every[:, -1]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("how", ["whole", "reverse", "truncate", "lengths"])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, how, sequences, steps):
    rng = np.random.default_rng(steps)
    features, units, n = 3, 7, 21
    x = bp.Input((steps, features))
    inputs = [x, bp.Input(steps)] if how == "lengths" else [x]
    truncate = 3 if how == "truncate" else None
    layer = KINDS[kind][0](units, sequences=sequences, reverse=how == "reverse", truncate=truncate, name="r")
    below = bp.Dense(4, "tanh", name="below")(x)
    net = bp.Network(inputs, bp.Dense(2, name="above")(layer(below, *inputs[1:])), dtype="float64", seed=1)
    net.theta[:] = 0.4 * rng.standard_normal(net.n_params)
    X = rng.standard_normal((n, steps, features))
    lengths = rng.integers(1, steps + 1, n)
    mask = (np.arange(steps) < lengths[:, None]).astype(float)
    y = rng.standard_normal((n, steps, 2) if sequences else (n, 2))
    data = [X, mask] if how == "lengths" else X

    P = {name: torch.tensor(np.array(p), requires_grad=True) for name, p in net.params.items()}
    peer = twin(net, kind, "r", torch.float64)
    h = torch.tanh(torch.tensor(X) @ P["below.W"] + P["below.b"])
    every, last = walk(peer, h.flip(1) if how == "reverse" else h, truncate, lengths if how == "lengths" else None)
    if how == "lengths":  # bpcore carries the state over; PyTorch fills up with zeros
        held = torch.tensor(mask)[:, :, None]
        every = every * held + last[:, None] * (1 - held)
    h = (every.flip(1) if how == "reverse" else every) if sequences else last
    out = h @ P["above.W"] + P["above.b"]
    assert distance(net.predict(data), out.detach().numpy()) < 1e-10
    cost = ((out - torch.tensor(y)) ** 2).sum() / 2 / n / (steps if sequences else 1)
    cost.backward()
    value, theta = net.value_and_grad(data, y)
    assert abs(value - cost.item()) < 1e-10 * abs(value)
    found = parts(net, theta, "r")
    for letter, want in gradients(peer, kind).items():
        if np.linalg.norm(want):
            assert distance(found[letter], want) < 1e-10, letter
        else:  # U over one step
            assert not found[letter].any()
    for name in ("below", "above"):
        for letter, got in parts(net, theta, name).items():
            assert distance(got, P[f"{name}.{letter}"].grad.numpy()) < 1e-10


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_steps_of_training(kind, dtype, tolerance):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((320, 12, 5)), rng.standard_normal((320, 2))
    net = bp.Network([bp.Input((12, 5)), KINDS[kind][0](16, name="r"), bp.Dense(2, name="above")], dtype=dtype, seed=2)
    real = getattr(torch, dtype)
    peer, above = twin(net, kind, "r", real), torch.nn.Linear(16, 2, dtype=real)
    with torch.no_grad():
        above.weight[:], above.bias[:] = torch.tensor(np.array(net.params["above.W"]).T), 0
    peer.bias_hh_l0.requires_grad_(kind == "gru")
    optimizer = torch.optim.SGD([*(p for p in peer.parameters() if p.requires_grad), *above.parameters()], lr=0.05)
    for _ in range(10):
        for i in range(0, 320, 32):
            optimizer.zero_grad()
            out = above(peer(torch.tensor(X[i : i + 32], dtype=real))[0][:, -1])
            (((out - torch.tensor(y[i : i + 32], dtype=real)) ** 2).sum() / 2 / 32).backward()
            if kind == "gru":  # its biases of r and u are bpcore's b once
                peer.bias_hh_l0.grad[:32] = 0
            optimizer.step()
    net.fit(X, y, optimizer=bp.SGD(lr=0.05), epochs=10, batch_size=32, shuffle=False)
    assert distance(net.params["r.W"], peer.weight_ih_l0.detach().numpy().T) < tolerance
    assert distance(net.params["r.U"], peer.weight_hh_l0.detach().numpy().T) < tolerance
    assert distance(net.params["r.b"], peer.bias_ih_l0.detach().numpy()) < tolerance

"""Attention, embeddings, layer normalisation and sparse steps, against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import bpcore as bp

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
TOLERANCE = 1e-10


def close(got, want, tolerance=TOLERANCE):
    got, want = np.asarray(got), want.detach().numpy() if isinstance(want, torch.Tensor) else want
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)


def twin(net):
    return {name: torch.tensor(value, requires_grad=True) for name, value in net.params.items()}


def check(net, X, y, answer, p):
    """Values, and all gradients of the mean squared error."""
    close(net.predict(X), answer)
    loss, gradient = net.value_and_grad(X, y, loss="mse")
    torch_loss = F.mse_loss(answer, torch.tensor(y))
    torch_loss.backward()
    assert abs(loss - torch_loss.item()) <= TOLERANCE * loss
    for name, at in net._model.graph.parameters.items():
        part = gradient[at.offset : at.offset + at.rows * at.cols].reshape(at.shape)
        size = max(np.abs(p[name].grad.numpy()).max(), 1e-4)  # that of the keys' bias is zero: softmax cancels it
        assert np.abs(part - p[name].grad.numpy()).max() <= TOLERANCE * size, name


@pytest.mark.parametrize("heads, key_dim", [(1, 8), (4, 2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention_is_that_of_torch(heads, key_dim, masked, causal):
    """torch.nn.MultiheadAttention: queries, keys and values of other widths, padded keys, causal."""
    D, T, S, n = heads * key_dim, 6, 6, 20
    x, keys, values = bp.Input((T, D)), bp.Input((S, 5)), bp.Input((S, 3))
    mask = [bp.Input(S)] if masked else []
    layer = bp.MultiHeadAttention(heads, key_dim, causal=causal, name="at")
    net = bp.Network([x, keys, values, *mask], layer(x, values, keys, mask=mask[0] if mask else None), dtype="float64")
    net.theta = RNG.normal(size=net.n_params)
    X = [RNG.normal(size=(n, *each.shape)) for each in (x, keys, values)]
    on = np.arange(S) < RNG.integers(1, S + 1, (n, 1))
    y, p = RNG.normal(size=(n, T, D)), twin(net)
    theirs = F.multi_head_attention_forward(
        *[torch.tensor(a).transpose(0, 1) for a in (X[0], X[1], X[2])], D, heads, None,
        torch.cat([p[f"at_{use}.b"] for use in ("query", "key", "value")]), None, None, False, 0.0, p["at_output.W"].T,
        p["at_output.b"], need_weights=False, use_separate_proj_weight=True, q_proj_weight=p["at_query.W"].T,
        k_proj_weight=p["at_key.W"].T, v_proj_weight=p["at_value.W"].T,
        key_padding_mask=torch.tensor(~on) if masked else None,
        attn_mask=torch.ones(T, S).triu(1).bool() if causal else None,
    )[0].transpose(0, 1)  # fmt: skip
    check(net, [*X, on] if masked else X, y, theirs, p)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("n", [3, 70])
def test_multi_head_attention(heads, n):
    T, D = 6, 8
    x = bp.Input((T, D))

    def split(name):
        return bp.Permute((1, 0, 2))(bp.Reshape((T, heads, D // heads))(bp.Dense(D, name=name)(x)))

    q, k, v = split("q"), split("k"), split("v")
    weights = bp.Activate("softmax")(bp.MatMul(transpose_b=True)(q, k) / (D / heads) ** 0.5)
    h = bp.Dense(D, name="out")(bp.Reshape((T, D))(bp.Permute((1, 0, 2))(weights @ v)))
    net = bp.Network(x, h, dtype="float64", seed=1)
    net.theta = RNG.normal(size=net.n_params) / 2
    X, y = RNG.normal(size=(n, T, D)), RNG.normal(size=(n, T, D))
    p = twin(net)

    def joined(letter):
        return torch.cat([p[f"{name}.{letter}"].T for name in "qkv"])

    theirs = F.multi_head_attention_forward(
        *[torch.tensor(X).transpose(0, 1)] * 3, D, heads, joined("W"), torch.cat([p[f"{name}.b"] for name in "qkv"]),
        None, None, False, 0.0, p["out.W"].T, p["out.b"], need_weights=False,
    )[0].transpose(0, 1)  # fmt: skip
    check(net, X, y, theirs, p)
    if heads == 1:
        scaled = F.scaled_dot_product_attention(*(F.linear(torch.tensor(X), p[f"{c}.W"].T, p[f"{c}.b"]) for c in "qkv"))
        close(net.predict(X), F.linear(scaled, p["out.W"].T, p["out.b"]))


@pytest.mark.parametrize("units", [3, 16, 50])
def test_layer_norm(units):
    net = bp.Network(
        [bp.Input((4, 5)), bp.Dense(units), bp.LayerNorm(eps=1e-3, name="n"), bp.Dense(2)], dtype="float64", seed=2
    )
    net.theta = RNG.normal(size=net.n_params)
    X, y = RNG.normal(size=(90, 4, 5)), RNG.normal(size=(90, 4, 2))
    p = twin(net)
    h = F.linear(torch.tensor(X), p["dense_1.W"].T, p["dense_1.b"])
    h = F.layer_norm(h, (units,), p["n.s"], p["n.b"], 1e-3)
    check(net, X, y, F.linear(h, p["dense_2.W"].T, p["dense_2.b"]), p)


@pytest.mark.parametrize("units", [3, 16, 50])
def test_rms_norm(units):
    net = bp.Network(
        [bp.Input((4, 5)), bp.Dense(units), bp.RMSNorm(eps=1e-3, name="n"), bp.Dense(2)], dtype="float64", seed=2
    )
    net.theta = RNG.normal(size=net.n_params)
    X, y = RNG.normal(size=(90, 4, 5)), RNG.normal(size=(90, 4, 2))
    p = twin(net)
    h = F.linear(torch.tensor(X), p["dense_1.W"].T, p["dense_1.b"])
    check(net, X, y, F.linear(F.rms_norm(h, (units,), p["n.s"], 1e-3), p["dense_2.W"].T, p["dense_2.b"]), p)


@pytest.mark.parametrize("groups, positions", [(1, (4,)), (2, (3, 5)), (6, (7,)), (3, ())])
def test_group_norm(groups, positions):
    """Over positions and the channels of a group.  PyTorch 2.13 crashes unless what it gets is contiguous."""
    net = bp.Network([bp.Input((*positions, 6)), bp.GroupNorm(groups, eps=1e-3, name="n"), bp.Dense(2)],
                     dtype="float64", seed=2)  # fmt: skip
    net.theta = RNG.normal(size=net.n_params)
    X, y = RNG.normal(3, 2, size=(90, *positions, 6)), RNG.normal(size=(90, *positions, 2))
    p = twin(net)
    h = F.group_norm(torch.tensor(X).movedim(-1, 1).contiguous(), groups, p["n.s"], p["n.b"], 1e-3).movedim(1, -1)
    check(net, X, y, F.linear(h, p["dense_1.W"].T, p["dense_1.b"]), p)


def test_embedding():
    words = bp.Input((3, 2), integer=True)
    net = bp.Network(words, bp.Dense(2)(bp.Reshape(-1)(bp.Embedding(20, 5)(words))), dtype="float64")
    X, y = RNG.integers(0, 20, (80, 3, 2)), RNG.normal(size=(80, 2))
    p = twin(net)
    h = F.embedding(torch.tensor(X), p["embedding_1.E"]).reshape(80, -1)
    check(net, X, y, F.linear(h, p["dense_1.W"].T, p["dense_1.b"]), p)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_sparse_steps(kind):
    """torch.optim.SparseAdam touches the rows of a batch alone, as ours does; its eps stands elsewhere."""
    n = 5000
    words = bp.Input(4, integer=True)
    net = bp.Network(words, bp.Embedding(n, 3)(words), dtype="float64", seed=3)
    E = torch.tensor(net.params["embedding_1.E"], requires_grad=True)
    theirs = torch.optim.SGD([E], 0.5) if kind == "sgd" else torch.optim.SparseAdam([E], 0.01, eps=1e-30)
    X, y = RNG.integers(0, n, (200, 4)), RNG.normal(size=(200, 4, 3))
    X[:, 0] %= 7
    ours = bp.SGD(lr=0.5) if kind == "sgd" else bp.Adam(lr=0.01, eps=1e-30)
    net.fit(X, y, loss="mse", optimizer=ours, batch_size=20, epochs=3, shuffle=False)
    for _ in range(3):
        for at in range(0, 200, 20):
            theirs.zero_grad()
            rows = F.embedding(torch.tensor(X[at : at + 20]), E, sparse=True)
            F.mse_loss(rows, torch.tensor(y[at : at + 20])).backward()
            theirs.step()
    close(net.params["embedding_1.E"], E, 1e-9)

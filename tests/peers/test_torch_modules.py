"""to_torch and from_torch: predictions to 1e-6, and weights to the bit there and back."""

import numpy as np
import pytest
import torch
from exchange import close, filled
from torch import nn

import bpcore as bp

torch.set_num_threads(1)


def turned(X):
    """Channels first."""
    return np.moveaxis(X, -1, 1) if X.ndim > 2 else X


def there_and_back(net, first):
    """Predictions of the module, and of the network that it becomes again, which has the same bits as weights."""
    x = net._model.inputs[0]
    rng = np.random.default_rng(1)
    X = rng.integers(0, 5, (7, *x.shape)) if x.layer.integer else rng.standard_normal((7, *x.shape))
    want, module = net.predict(X), bp.to_torch(net)
    given = turned(X) if first else X
    tensor = torch.tensor(given if x.layer.integer else given.astype(net.dtype))
    close(module(tensor).detach().numpy(), turned(want) if first and want.ndim > 2 else want)
    back = bp.from_torch(module, given.shape[1:])
    close(back.predict(X), want)
    assert [p.tobytes() for p in back.params.values()] == [p.tobytes() for p in net.params.values()]
    assert [s.tobytes() for s in back.state.values()] == [s.tobytes() for s in net.state.values()]
    assert back.dtype == net.dtype and back.frozen == net.frozen
    assert [str(one) for one in bp.to_torch(back)] == [str(one) for one in module]
    return module


CHAINS = {
    "dense": (False, [bp.Input(5), bp.Dense(7, "relu"), bp.Dropout(0.2), bp.LayerNorm(), bp.Dense(3, "softmax")]),
    "norms": (False, [bp.Input(6), bp.BatchNorm(momentum=0.8), bp.RMSNorm(eps=1e-3), bp.GroupNorm(3),
                      bp.Dense(4, bias=False), bp.AlphaDropout(0.1)]),
    "sequence": (False, [bp.Input((4, 6)), bp.Dense(3, "gelu"), bp.LayerNorm(), bp.Activate("softmax", axis=0)]),
    "words": (False, [bp.Input(4, integer=True), bp.Embedding(5, 3), bp.Reshape(-1), bp.Dense(2)]),
    "unflatten": (False, [bp.Input(12), bp.Reshape((3, 4)), bp.Dense(2), bp.Reshape((2, 3))]),
    "lenet": (True, [bp.Input((14, 12, 2)), bp.Conv2D(6, 5, "relu", padding="same"), bp.MaxPool2D(2), bp.BatchNorm(),
                     bp.Conv2D(4, (3, 2), "tanh"), bp.AveragePool2D(2, stride=1, padding=1), bp.Reshape(-1),
                     bp.BatchNorm(), bp.LayerNorm(), bp.Dense(12, "relu"), bp.Dense(10, "softmax")]),
    "fully convolutional": (True, [bp.Input((9, 8, 4)), bp.Conv2D(6, 4, "elu", stride=2, padding="same", groups=2),
                                   bp.GroupNorm(2), bp.Conv2D(3, 1, "softmax", padding=(1, 0)),
                                   bp.Activate("softmax", axis=0)]),
    "causal": (True, [bp.Input((11, 3)), bp.Conv1D(4, 3, padding="causal", dilation=2), bp.Activate("silu"),
                      bp.MaxPool1D(2), bp.AveragePool1D(2), bp.GlobalAveragePool(), bp.Dense(2)]),
    "global": (True, [bp.Input((5, 4, 3)), bp.GlobalMaxPool(), bp.Dense(2)]),
    "image of a row": (False, [bp.Input(20), bp.Reshape((5, 4, 1)), bp.Conv2D(2, 2), bp.Reshape(-1), bp.Dense(2)]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CHAINS)
def test_there_and_back(name, dtype):
    first, layers = CHAINS[name]
    there_and_back(filled(bp.Network(layers, dtype=dtype)), first)


@pytest.mark.parametrize("f", [f for f in bp.activations.NAMES if f != "exp"])
def test_activations(f):
    there_and_back(filled(bp.Network([bp.Input(3), bp.Dense(40, f), bp.Activate(f)], dtype="float64")), False)


def test_names_frozen_and_shared_layers():
    body = bp.Dense(4, "tanh", name="body")
    net = filled(bp.Network([bp.Input(4), body, body, bp.Dense(2, name="end")]))
    net.frozen = {"body"}
    module = there_and_back(net, False)
    assert [name for name, _ in module.named_parameters()] == ["body.weight", "body.bias", "end.weight", "end.bias"]
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    assert not module.training
    assert set(bp.from_torch(module, 4).params) == {"body.W", "body.b", "end.W", "end.b"}


def test_modules_of_others():
    """Nested, with settings that to_torch does not write."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Sequential(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(3, 8, 3, padding="same", bias=False), nn.ReLU(True)),
        nn.BatchNorm2d(8, affine=False), nn.MaxPool2d(3, 2, 1), nn.Identity(), nn.AdaptiveAvgPool2d((1, 1)),
        nn.Conv2d(8, 6, 1), nn.Softplus(), nn.Flatten(),
        nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False), nn.RMSNorm(5), nn.Softmax(dim=1)),
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 9, 10)
    with pytest.raises(ValueError, match=r"0.1 \(Conv2d.*bpcore does not pad by \[\(2, 3\), \(2, 3\)\]"):
        bp.from_torch(module, (3, 9, 10))
    module[0][0] = nn.ZeroPad2d(0)
    net = bp.from_torch(module, (3, 9, 10))
    close(net.predict(np.moveaxis(x.numpy(), 1, -1)), module(x).detach().numpy())


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.LSTM(3, 4), "bpcore has no layer for it"),
        (nn.LeakyReLU(0.2), "leaky_relu has negative_slope 0.01"),
        (nn.Linear(2, 3), "its input has 3 features"),
        (nn.GELU("tanh"), "gelu has approximate none"),
        (nn.Softmax(dim=0), "an axis of an example"),
        (nn.BatchNorm1d(3, track_running_stats=False), "running mean"),
        (nn.BatchNorm1d(3, momentum=None), "momentum"),
        (nn.Unflatten(1, (3, 2)), "expected 6 numbers"),
        (nn.Dropout(1.0), "rate"),
        (nn.Bilinear(3, 3, 3), "no layer"),
    ],
)
def test_modules_that_bpcore_does_not_have(layer, why):
    with pytest.raises(ValueError, match="from_torch: expected layers that both libraries have, and 1 .*" + why):
        bp.from_torch(nn.Sequential(nn.Linear(3, 3), layer), 3)


def test_what_is_no_module_for_from_torch():
    with pytest.raises(TypeError, match="expected a torch.nn.Module, got list"):
        bp.from_torch([nn.Linear(2, 2)], 2)
    with pytest.raises(ValueError, match="float32 or of float64, got torch.float16"):
        bp.from_torch(nn.Linear(2, 2).half(), 2)
    with pytest.raises(ValueError, match="at least one layer"):
        bp.from_torch(nn.Sequential(), 2)
    with pytest.raises(ValueError, match="input_shape"):
        bp.from_torch(nn.Linear(2, 2), 0)
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(ValueError, match="it has hooks"):
        bp.from_torch(hooked, 2)

    class Own(nn.Linear):
        def forward(self, x):
            return 2 * x

    with pytest.raises(ValueError, match="bpcore has no layer for it"):
        bp.from_torch(Own(2, 2), 2)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([bp.Input((4, 3)), bp.LSTM(2)], "lstm_1 .*bp.export_onnx writes it"),
        ([bp.Input(3), bp.Dense(2, "exp")], "dense_1 .*no module for the activation 'exp'"),
        ([bp.Input((4, 4, 2)), bp.Conv2D(2, 3), bp.Dense(2)], "dense_1 .*channels first"),
        ([bp.Input((4, 4, 2)), bp.Conv2D(2, 3), bp.Reshape(-1)], "reshape_1 .*another order"),
        ([bp.Input((4, 4, 2)), bp.MaxPool2D(3, stride=2, padding="same")], "max_pool2d_1 .*as much before"),
        ([bp.Input((4, 4, 2)), bp.Dense(2), bp.Conv2D(2, 3)], "conv2d_1 .*turns them"),
        ([bp.Input(8), bp.Reshape((2, 2, 2)), bp.Conv2D(2, 2)], "reshape_1 .*channels first"),
        ([bp.Input((4, 3)), bp.Dropout(0.1, noise_shape=(1, None))], ".*no noise_shape"),
        ([bp.Input((4, 4)), bp.Activate("softmax", causal=True)], ".*not causal"),
    ],
)  # fmt: skip
def test_layers_that_pytorch_does_not_have(layers, why):
    with pytest.raises(ValueError, match="to_torch: expected layers that both libraries have, and " + why):
        bp.to_torch(bp.Network(layers))


def test_networks_that_are_no_list():
    x = bp.Input(3)
    h = bp.Dense(3)(x)
    with pytest.raises(ValueError, match="add_1 is of a graph"):
        bp.to_torch(bp.Network(x, h + x))
    net = bp.Network([bp.Input(3), bp.Dense(1)])
    net.fit(np.eye(3), np.arange(3.0), standardize_y=True)
    with pytest.raises(ValueError, match="standardize_y=True"):
        bp.to_torch(net)

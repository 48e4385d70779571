"""Networks as keras.Sequential, by the settings of its layers (get_config) and their weights, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import bpcore as bp
from bpcore._network import Network
from bpcore.exports.chains import Builder, chain, refused
from bpcore.exports.graphs import Place, imported

ACTIVATIONS = {
    "identity": "linear", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "elu": "elu", "selu": "selu",
    "gelu": "gelu", "silu": "silu", "softplus": "softplus", "softsign": "softsign", "hard_sigmoid": "hard_sigmoid",
    "hard_tanh": "hard_tanh", "exp": "exponential", "softmax": "softmax",
}  # fmt: skip
_NAMES = {own: name for name, own in ACTIVATIONS.items()}
SLOPE = 0.01  # of leaky_relu, which is a layer of its own: Keras's function of that name has another
_CONVOLUTIONS = {"conv2d": "Conv2D", "conv1d": "Conv1D", "time_delay": "Conv1D"}
_POOLS = {"max_pool2d": "MaxPooling2D", "average_pool2d": "AveragePooling2D", "max_pool1d": "MaxPooling1D",
          "average_pool1d": "AveragePooling1D"}  # fmt: skip
_GLOBAL = {"global_max_pool": "GlobalMaxPooling", "global_average_pool": "GlobalAveragePooling"}
_RECURRENT = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "SimpleRNN"}
_NORMS = {"layer_norm": "LayerNormalization", "rms_norm": "RMSNormalization", "group_norm": "GroupNormalization",
          "batch_norm": "BatchNormalization"}  # fmt: skip


# ---- to Keras ----


class Layers:
    """Keras's layers, as they are added, and their weights."""

    def __init__(self, keras: Any, dtype: str, frozen: frozenset[str]) -> None:
        self.keras, self.dtype, self.frozen = keras, dtype, frozen
        self.layers: list[Any] = []
        self.weights: list[tuple[Any, list[np.ndarray]]] = []

    def refused(self, at: Place, why: str) -> ValueError:
        return refused("to_keras", f"{at.name} ({at.layer!r})", why)

    def add(self, at: Place, kind: str, *weights: np.ndarray, name: str | None = None, **settings: Any) -> None:
        """A layer of keras.layers, with weights in its order."""
        if "@" in at.name:
            raise self.refused(at, "it is used twice, and a Sequential has each layer once")
        try:
            layer = getattr(self.keras.layers, kind)(name=name or at.name, dtype=self.dtype, **settings)
        except ValueError as error:
            raise self.refused(at, str(error)) from None
        layer.trainable = at.base not in self.frozen
        self.layers.append(layer)
        self.weights.append((layer, list(weights)))

    def with_activation(self, at: Place, kind: str, *weights: np.ndarray, **settings: Any) -> None:
        """The same, and its activation."""
        f = self.activation(at)
        self.add(at, kind, *weights, activation=f or "linear", **settings)
        if f is None:
            self.add(at, "LeakyReLU", name=f"{at.name}_leaky_relu", negative_slope=SLOPE)

    def activation(self, at: Place) -> str | None:
        """Keras's name; None for leaky_relu."""
        f = at.layer.activation
        if f == "leaky_relu":
            return None
        if f not in ACTIVATIONS:
            raise self.refused(at, f"Keras has no activation {getattr(f, 'name', f)!r}")
        return ACTIVATIONS[f]


def to_keras(net: Any) -> Any:
    """See bpcore.to_keras."""
    keras = imported("keras", "to_keras", "keras")
    source, *layers = chain("to_keras", net)
    to = Layers(keras, net.dtype.name, net.frozen)
    for at in layers:
        _TO.get(at.layer.op, _no_layer)(to, at)
    x = keras.Input(source.shape, dtype="int32" if source.layer.integer else net.dtype.name, name=source.name)
    try:
        model = keras.Sequential([x, *to.layers])
    except ValueError as error:
        raise ValueError(f"to_keras: Keras refuses these layers: {error}") from None
    for layer, weights in to.weights:
        layer.set_weights(weights)
    return model


def _no_layer(to: Layers, at: Place) -> None:
    raise to.refused(at, "Keras has no layer for it; bp.export_onnx writes it")


def _parameters(at: Place) -> list[np.ndarray]:
    return [at.values[letter] for letter in "Wb" if letter in at.values]


def _dense(to: Layers, at: Place) -> None:
    to.with_activation(at, "Dense", *_parameters(at), units=at.shape[-1], use_bias="b" in at.values)


def _convolution(to: Layers, at: Place) -> None:
    filters, sizes, strides, dilations, paddings = at.layer._windows()
    padding = paddings[0]
    if not isinstance(padding, str):
        pads = [(p, p) for p in paddings]
        to.add(at, f"ZeroPadding{len(sizes)}D", name=f"{at.name}_pad", padding=pads if len(pads) > 1 else pads[0])
        padding = "valid"
    to.with_activation(
        at, _CONVOLUTIONS[at.layer.op], *_parameters(at), filters=filters, kernel_size=sizes, strides=strides,
        dilation_rate=dilations, padding=padding, groups=at.layer.groups, use_bias="b" in at.values,
    )  # fmt: skip


def _pool(to: Layers, at: Place) -> None:
    if at.layer.padding not in ("valid", "same"):
        raise to.refused(at, "Keras's pooling has no numbers as padding")
    to.add(at, _POOLS[at.layer.op], pool_size=at.layer.size, strides=at.layer.stride, padding=at.layer.padding)


def _global_pool(to: Layers, at: Place) -> None:
    n = len(at.shapes[0]) - 1
    if n > 2:
        raise to.refused(at, "it is of an image or a sequence")
    to.add(at, f"{_GLOBAL[at.layer.op]}{n}D")


def _recurrent(to: Layers, at: Place) -> None:
    layer, weights = at.layer, [at.values["W"], at.values["U"]]
    if layer.reverse and layer.sequences:
        raise to.refused(at, "Keras gives the states in the order of its steps, the last first")
    if layer.op == "gru":
        weights = [_gru_order(W) for W in weights]
    if "b" in at.values:
        weights.append(at.values["b"])
    if "b_n" in at.values:
        second = np.zeros_like(at.values["b"])
        second[2 * layer.units :] = at.values["b_n"]
        weights[-1] = np.stack([_gru_order(at.values["b"]), second])
    settings = {"return_sequences": layer.sequences, "go_backwards": layer.reverse, "use_bias": layer.bias}
    if layer.op == "simple_rnn":
        settings["activation"] = to.activation(at)
        if settings["activation"] is None:
            raise to.refused(at, f"Keras's leaky_relu has another slope than {SLOPE}")
    to.add(at, _RECURRENT[layer.op], *weights, units=layer.units, **settings)


def _gru_order(W: np.ndarray) -> np.ndarray:
    """The first two gates change places."""
    r, u, n = np.split(W, 3, axis=-1)
    return np.concatenate([u, r, n], axis=-1)


def _norm(to: Layers, at: Place) -> None:
    settings: dict[str, Any] = {"epsilon": at.layer.eps}
    settings |= {"groups": at.layer.groups} if at.layer.op == "group_norm" else {}
    settings |= {"momentum": at.layer.momentum} if at.layer.op == "batch_norm" else {}
    weights = [at.values[name] for name in ("s", "b", "mean", "variance") if name in at.values]
    to.add(at, _NORMS[at.layer.op], *weights, **settings)


def _embedding(to: Layers, at: Place) -> None:
    if at.layer.mask_zero:
        raise to.refused(at, "masks flow to other layers in Keras")
    to.add(at, "Embedding", at.values["E"], input_dim=at.layer.n, output_dim=at.layer.units)


def _dropout(kind: str) -> Callable[[Layers, Place], None]:
    def add(to: Layers, at: Place) -> None:
        noise = at.layer.noise_shape
        to.add(at, kind, rate=at.layer.rate, noise_shape=None if noise is None else (None, *noise))

    return add


def _activate(to: Layers, at: Place) -> None:
    if at.layer.causal:
        raise to.refused(at, "Keras's softmax is not causal")
    f = to.activation(at)
    if f == "softmax":
        to.add(at, "Softmax", axis=at.layer.axis + (at.layer.axis >= 0))
    elif f is None:
        to.add(at, "LeakyReLU", negative_slope=SLOPE)
    else:
        to.add(at, "Activation", activation=f)


def _add(to: Layers, at: Place) -> None:
    if len(at.inputs) > 1:
        raise to.refused(at, "it has several inputs")
    (factor,) = at.layer.factors or (1.0,)
    to.add(at, "Rescaling", scale=factor, offset=at.layer.constant)


_TO: dict[str, Callable[[Layers, Place], None]] = {
    "dense": _dense,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_GLOBAL, _global_pool),
    **dict.fromkeys(_RECURRENT, _recurrent),
    **dict.fromkeys(_NORMS, _norm),
    "embedding": _embedding,
    "dropout": _dropout("Dropout"),
    "alpha_dropout": _dropout("AlphaDropout"),
    "gaussian_noise": lambda to, at: to.add(at, "GaussianNoise", stddev=at.layer.std),
    "reshape": lambda to, at: to.add(at, "Reshape", target_shape=at.shape),
    "permute": lambda to, at: to.add(at, "Permute", dims=[axis + 1 for axis in at.layer.axes]),
    "activate": _activate,
    "add": _add,
}


# ---- from Keras ----


class Reader:
    """A network, as it is made of Keras's layers.

    pads: of a ZeroPadding that the next convolution takes, for each axis.
    """

    def __init__(self, builder: Builder) -> None:
        self.builder, self.layer = builder, None
        self.pads: list[tuple[int, int]] | None = None

    @property
    def what(self) -> str:
        """The layer that is read, in messages."""
        return f"{self.layer.name} ({type(self.layer).__name__})" if self.layer is not None else "the model"

    def refused(self, why: str) -> ValueError:
        return refused("from_keras", self.what, why)

    def must(self, settings: Mapping[str, Any], **expected: Any) -> None:
        """ValueError where a setting is another."""
        for name, value in expected.items():
            if settings.get(name, value) != value:
                raise self.refused(f"bpcore has it with {name}={value!r}, got {settings[name]!r}")

    def add(
        self, make: Callable[..., Any], *args: Any, values: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """The next layer, with values of its parameters by letter."""
        assert self.layer is not None
        name = self.builder.name(self.layer.name)
        frozen = bool(values) and not self.layer.trainable
        self.builder.add(self.what, lambda: make(*args, name=name, **settings), values, frozen)

    def activation(self, given: Any) -> str:
        """bpcore's name."""
        if not isinstance(given, str) or given not in _NAMES:
            raise self.refused(f"bpcore has no activation {given!r} as Keras has it")
        return _NAMES[given]

    def weights(self, letters: Mapping[str, bool]) -> dict[str, np.ndarray]:
        """The layer's weights, in their order, by letter; which of these are there."""
        assert self.layer is not None
        there = [letter for letter, is_there in letters.items() if is_there]
        return dict(zip(there, self.layer.get_weights(), strict=True))


def _leaves(keras: Any, model: Any) -> Iterator[Any]:
    """Layers, also of Sequentials within, without inputs."""
    for layer in model.layers:
        if type(layer) is keras.Sequential:
            yield from _leaves(keras, layer)
        elif type(layer) is not keras.layers.InputLayer:
            yield layer


def from_keras(model: Any) -> Network:
    """See bpcore.from_keras."""
    keras = imported("keras", "from_keras", "keras")
    if type(model) is not keras.Sequential:
        raise TypeError(f"from_keras: model: expected a keras.Sequential, got {type(model).__name__}")
    if not model.built or not model.inputs:
        raise ValueError("from_keras: model: expected one that is built; begin it with keras.Input(shape)")
    shape, layers = tuple(model.input_shape[1:]), list(_leaves(keras, model))
    if None in shape:
        raise ValueError(f"from_keras: model: expected an input of known size, got {shape}; bpcore's sizes are fixed")
    integer = bool(layers) and type(layers[0]).__name__ == "Embedding"
    x = bp.Input(shape if len(shape) > 1 else shape[0], integer=integer, name=_input_name(model))
    r = Reader(Builder("from_keras", x))
    for layer in layers:
        kind = type(layer).__name__
        r.layer = layer
        if kind not in _FROM or type(layer) is not getattr(keras.layers, kind):
            raise r.refused("bpcore has no layer for it")
        config = layer.get_config()
        r.must(config, data_format="channels_last")
        if r.pads is not None and not kind.startswith("Conv"):
            raise r.refused("behind ZeroPadding bpcore has a convolution alone")
        _FROM[kind](r, config)
    if r.pads is not None:
        raise r.refused("behind ZeroPadding bpcore has a convolution alone")
    return r.builder.network(_dtype(layers))


def _input_name(model: Any) -> str | None:
    """What the input is called, where it has a name that bpcore may have."""
    name = str(model.inputs[0].name)
    return None if not name or set(name) & set("./@:") else name


def _dtype(layers: Sequence[Any]) -> str:
    """Of the weights, or of the computation."""
    dtypes = {str(layer.compute_dtype) for layer in layers}
    dtypes |= {array.dtype.name for layer in layers for array in layer.get_weights() if array.dtype.kind == "f"}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
        got = ", ".join(sorted(dtypes))
        raise ValueError(f"from_keras: model: expected layers of float32 or of float64, got {got}")
    return dtypes.pop()


def _from_dense(r: Reader, c: dict[str, Any]) -> None:
    values = r.weights({"W": True, "b": c["use_bias"]})
    r.add(bp.Dense, c["units"], r.activation(c["activation"]), bias=c["use_bias"], values=values)


def _own(values: Sequence[int]) -> Any:
    """A setting of an image's axes, or of a sequence's."""
    return int(values[0]) if len(values) == 1 else tuple(int(value) for value in values)


def _from_convolution(r: Reader, c: dict[str, Any]) -> None:
    padding, kind = c["padding"], bp.Conv1D if len(c["kernel_size"]) == 1 else bp.Conv2D
    if r.pads is not None:
        if padding != "valid" or any(before != after for before, after in r.pads):
            raise r.refused(f"bpcore does not pad by {r.pads} before and after each axis")
        padding, r.pads = _own([before for before, _ in r.pads]), None
    values = r.weights({"W": True, "b": c["use_bias"]})
    r.add(
        kind, c["filters"], _own(c["kernel_size"]), r.activation(c["activation"]), stride=_own(c["strides"]),
        dilation=_own(c["dilation_rate"]), padding=padding, groups=c["groups"], bias=c["use_bias"], values=values,
    )  # fmt: skip


def _from_zero_padding(r: Reader, c: dict[str, Any]) -> None:
    padding = c["padding"]
    r.pads = [tuple(pair) for pair in padding] if isinstance(padding[0], (list, tuple)) else [tuple(padding)]


def _from_pool(r: Reader, c: dict[str, Any]) -> None:
    assert r.layer is not None
    make = {own: op for op, own in _POOLS.items()}[type(r.layer).__name__]
    kinds = {"max_pool2d": bp.MaxPool2D, "average_pool2d": bp.AveragePool2D, "max_pool1d": bp.MaxPool1D,
             "average_pool1d": bp.AveragePool1D}  # fmt: skip
    r.add(kinds[make], _own(c["pool_size"]), stride=_own(c["strides"]), padding=c["padding"])


def _from_global(r: Reader, c: dict[str, Any]) -> None:
    r.must(c, keepdims=False)
    r.add(bp.GlobalMaxPool if "Max" in type(r.layer).__name__ else bp.GlobalAveragePool)


def _from_recurrent(r: Reader, c: dict[str, Any]) -> None:
    kind = type(r.layer).__name__
    r.must(c, return_state=False, stateful=False, dropout=0.0, recurrent_dropout=0.0, zero_output_for_mask=False)
    settings: dict[str, Any] = {}
    if kind == "SimpleRNN":
        settings["activation"] = r.activation(c["activation"])
    else:
        r.must(c, activation="tanh", recurrent_activation="sigmoid", reset_after=True)
    if c["go_backwards"] and c["return_sequences"]:
        raise r.refused("bpcore gives the states at their steps, not in the order in which they are taken")
    values = r.weights({"W": True, "U": True, "b": c["use_bias"]})
    if kind == "GRU":
        values = {letter: _gru_order(value) for letter, value in values.items()}
        if "b" in values:
            first, second = values["b"]
            n = 2 * c["units"]
            values |= {"b": np.concatenate([first[:n] + second[:n], first[n:]]), "b_n": second[n:]}
    make = {"LSTM": bp.LSTM, "GRU": bp.GRU, "SimpleRNN": bp.SimpleRNN}[kind]
    settings |= {"sequences": c["return_sequences"], "reverse": c["go_backwards"], "bias": c["use_bias"]}
    r.add(make, c["units"], values=values, **settings)


def _from_norm(r: Reader, c: dict[str, Any]) -> None:
    kind, shape = type(r.layer).__name__, r.builder.shape
    axis = c["axis"][0] if isinstance(c["axis"], (list, tuple)) and len(c["axis"]) == 1 else c["axis"]
    if axis not in (-1, len(shape)):
        raise r.refused(f"bpcore has it of the last axis, got axis={axis}")
    r.must(c, rms_scaling=False, renorm=False)
    runs = kind == "BatchNormalization"
    letters = {"s": c.get("scale", True), "b": c.get("center", False), "mean": runs, "variance": runs}
    values = {"s": np.ones(shape[-1]), **r.weights(letters)}
    if kind != "RMSNormalization":
        values.setdefault("b", np.zeros(shape[-1]))
    eps = c["epsilon"]
    if kind == "GroupNormalization":
        r.add(bp.GroupNorm, shape[-1] if c["groups"] == -1 else c["groups"], eps=eps, values=values)
    elif kind == "BatchNormalization":
        r.add(bp.BatchNorm, momentum=c["momentum"], eps=eps, values=values)
    else:
        r.add(bp.LayerNorm if kind == "LayerNormalization" else bp.RMSNorm, eps=eps, values=values)


def _from_embedding(r: Reader, c: dict[str, Any]) -> None:
    r.must(c, mask_zero=False)
    r.add(bp.Embedding, c["input_dim"], c["output_dim"], values=r.weights({"E": True}))


def _from_dropout(r: Reader, c: dict[str, Any]) -> None:
    noise = c.get("noise_shape")
    make = bp.Dropout if type(r.layer).__name__ == "Dropout" else bp.AlphaDropout
    if noise is not None and noise[0] == 1:
        raise r.refused("bpcore drops other numbers in each example")
    r.add(make, c["rate"], noise_shape=None if noise is None else tuple(noise[1:]))


def _from_softmax(r: Reader, c: dict[str, Any]) -> None:
    axis = c["axis"]
    if not isinstance(axis, int) or axis == 0:
        raise r.refused(f"expected one axis of an example, got axis={axis}")
    r.add(bp.Activate, "softmax", axis=axis - (axis > 0))


def _with(f: str, **expected: Any) -> Callable[[Reader, dict[str, Any]], None]:
    """An activation that is a layer with settings."""

    def read(r: Reader, c: dict[str, Any]) -> None:
        r.must(c, **expected)
        r.add(bp.Activate, f)

    return read


def _from_rescaling(r: Reader, c: dict[str, Any]) -> None:
    if not all(isinstance(c[name], (int, float)) for name in ("scale", "offset")):
        raise r.refused("bpcore has it with one scale and one offset")
    r.add(bp.Add, [float(c["scale"])], constant=float(c["offset"]))


_FROM: dict[str, Callable[[Reader, dict[str, Any]], None]] = {
    "Dense": _from_dense,
    **dict.fromkeys(("Conv1D", "Conv2D"), _from_convolution),
    **dict.fromkeys(("ZeroPadding1D", "ZeroPadding2D"), _from_zero_padding),
    **dict.fromkeys(_POOLS.values(), _from_pool),
    **dict.fromkeys([f"{kind}{n}D" for kind in _GLOBAL.values() for n in (1, 2)], _from_global),
    **dict.fromkeys(_RECURRENT.values(), _from_recurrent),
    **dict.fromkeys(_NORMS.values(), _from_norm),
    "Embedding": _from_embedding,
    **dict.fromkeys(("Dropout", "AlphaDropout"), _from_dropout),
    "GaussianNoise": lambda r, c: r.add(bp.GaussianNoise, c["stddev"]),
    "Flatten": lambda r, c: r.add(bp.Reshape, -1),
    "Reshape": lambda r, c: r.add(bp.Reshape, tuple(c["target_shape"])),
    "Permute": lambda r, c: r.add(bp.Permute, tuple(axis - 1 for axis in c["dims"])),
    "Activation": lambda r, c: r.add(bp.Activate, r.activation(c["activation"])),
    "Softmax": _from_softmax,
    "ReLU": _with("relu", max_value=None, negative_slope=0.0, threshold=0.0),
    "ELU": _with("elu", alpha=1.0),
    "LeakyReLU": _with("leaky_relu", negative_slope=SLOPE),
    "Rescaling": _from_rescaling,
}

"""Networks as torch.nn.Sequential, and back.

PyTorch has channels first: (channels, height, width), where bpcore has (height, width, channels).  Images and the
sequences of convolutions are turned so, each library computing as it does best; what reads them flattened has its
weights in the other's order.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import bpcore as bp
from bpcore._convolution import _along, _of_axis
from bpcore._layers import Layer, shape_of
from bpcore._network import Network
from bpcore._symbols import Shape
from bpcore.exports.chains import Builder, chain, padding_for, refused
from bpcore.exports.graphs import Place, imported

# activations: PyTorch's class, and settings that must be so
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "logistic": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "elu": ("ELU", {"alpha": 1.0}),
    "selu": ("SELU", {}),
    "gelu": ("GELU", {"approximate": "none"}),
    "silu": ("SiLU", {}),
    "softplus": ("Softplus", {"beta": 1.0, "threshold": 50.0}),
    "softsign": ("Softsign", {}),
    "hard_sigmoid": ("Hardsigmoid", {}),
    "hard_tanh": ("Hardtanh", {"min_val": -1.0, "max_val": 1.0}),
}
_CONVOLUTIONS = ("conv2d", "conv1d", "time_delay")
_POOLS = {"max_pool2d": "MaxPool2d", "average_pool2d": "AvgPool2d", "max_pool1d": "MaxPool1d",
          "average_pool1d": "AvgPool1d"}  # fmt: skip
_GLOBAL = {"global_max_pool": "AdaptiveMaxPool", "global_average_pool": "AdaptiveAvgPool"}
_CHANNELS = (*_CONVOLUTIONS, *_POOLS, *_GLOBAL, "batch_norm", "group_norm")  # they read channels first, of more axes
_LAST = ("dense", "layer_norm", "rms_norm", "embedding", "reshape")  # they read the last axis, or all


def _first(layers: Sequence[str], known: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the first of these layers that minds wants channels first."""
    for layer in layers:
        if layer in (*known, *others):
            return layer in known
    return False


def channels_last(size: int, shape: Shape) -> np.ndarray:
    """Where the numbers of a flattened example (*positions, channels) lie in one with channels first."""
    return np.moveaxis(np.arange(size).reshape(shape[-1], *shape[:-1]), 0, -1).reshape(-1)


# ---- to PyTorch ----


class Modules:
    """Modules by name, as they are added.

    first: whether PyTorch has the channels of what comes next first.  order: where bpcore's numbers of a flattened
    image are among PyTorch's, or None.
    """

    def __init__(self, torch: Any, dtype: np.dtype[Any], first: bool) -> None:
        self.torch, self.first = torch, first
        self.dtype = getattr(torch, dtype.name)
        self.order: np.ndarray | None = None
        self.modules: dict[str, Any] = {}
        self.known: dict[str, Any] = {}  # by the layer that they came from

    def put(self, name: str, module: Any) -> Any:
        """A module, by a name that is still free."""
        name = name.replace("@", "_")
        while name in self.modules:
            name += "_"
        self.modules[name] = module
        return module

    def add(self, name: str, kind: str, *args: Any, **settings: Any) -> Any:
        """A new module of torch.nn."""
        return self.put(name, getattr(self.torch.nn, kind)(*args, **settings))

    def weighted(self, at: Place, kind: str, values: dict[str, np.ndarray], *args: Any, **settings: Any) -> None:
        """One with parameters; the same for each use of a layer."""
        if at.base in self.known:
            self.put(at.name, self.known[at.base])
            return
        module = self.known[at.base] = self.add(at.name, kind, *args, dtype=self.dtype, **settings)
        with self.torch.no_grad():
            for name, value in values.items():
                getattr(module, name)[...] = self.torch.tensor(np.ascontiguousarray(value))

    def activation(self, at: Place, name: str, f: Any, axis: int = -1) -> None:
        """One of this name; axis: of softmax, bpcore's."""
        rank = len(at.shape)
        if f == "softmax":
            axis %= rank
            dim = axis + 1 if not self.first else 1 if axis == rank - 1 else axis + 2
            self.add(name, "Softmax", dim=dim)
        elif f in ACTIVATIONS:
            kind, settings = ACTIVATIONS[f]
            self.add(name, kind, **settings)
        else:
            raise self.refused(at, f"PyTorch has no module for the activation {getattr(f, 'name', f)!r}")

    def refused(self, at: Place, why: str) -> ValueError:
        return refused("to_torch", f"{at.name} ({at.layer!r})", why)

    def ordered(self, value: np.ndarray, axis: int = 0) -> np.ndarray:
        """A parameter of numbers that come in the order of a flattened image, in PyTorch's."""
        if self.order is None:
            return value
        turned = np.empty_like(value)
        np.moveaxis(turned, axis, 0)[self.order] = np.moveaxis(value, axis, 0)
        return turned


def to_torch(net: Any) -> Any:
    """See bpcore.to_torch."""
    torch = imported("torch", "to_torch", "torch")
    source, *layers = chain("to_torch", net)
    names = [at.layer.op for at in layers]
    m = Modules(torch, net.dtype, _first(names, _CHANNELS, _LAST) and len(source.shape) > 1)
    for i, at in enumerate(layers):
        _TO.get(at.layer.op, _no_module)(m, at, names[i + 1 :])
        if at.base in net.frozen:
            m.known[at.base].requires_grad_(False)
    if m.order is not None:
        raise m.refused(layers[-1], "an image that is flattened at the end has its numbers in another order in PyTorch")
    return torch.nn.Sequential(OrderedDict(m.modules)).eval()


def _no_module(m: Modules, at: Place, rest: Sequence[str]) -> None:
    raise m.refused(at, "torch.nn has no module for it that a Sequential can hold; bp.export_onnx writes it")


def _dense(m: Modules, at: Place, rest: Sequence[str]) -> None:
    if m.first:
        raise m.refused(at, "behind a convolution or pooling PyTorch has the channels first; use a Conv with size 1")
    values = {"weight": m.ordered(at.values["W"]).T}
    values |= {"bias": at.values["b"]} if "b" in at.values else {}
    m.weighted(at, "Linear", values, at.shapes[0][-1], at.shape[-1], bias="b" in at.values)
    m.order = None
    if at.layer.activation != "identity":
        m.activation(at, f"{at.name}_{at.layer.activation}", at.layer.activation)


def _pads(at: Place, sizes: Any, strides: Any, dilations: Any, paddings: Any) -> list[tuple[int, int]]:
    """Before and after each axis."""
    found = []
    for n, size, stride, dilation, padding in zip(at.shapes[0], sizes, strides, dilations, paddings, strict=False):
        axis = _along(at.layer, n, size, stride, dilation, padding)
        after = max(0, (axis.size - 1) * stride + (size - 1) * dilation + 1 - n - axis.before)
        found.append((axis.before, axis.before if isinstance(padding, int) else after))
    return found


def _convolution(m: Modules, at: Place, rest: Sequence[str]) -> None:
    _channels(m, at)
    filters, sizes, strides, dilations, paddings = at.layer._windows()
    pads, n = _pads(at, sizes, strides, dilations, paddings), len(sizes)
    padding: Any = [before for before, _ in pads]
    if any(before != after for before, after in pads):
        m.add(f"{at.name}_pad", f"ZeroPad{n}d", tuple(p for pair in pads[::-1] for p in pair))
        padding = 0
    values = {"weight": np.moveaxis(at.values["W"], (-1, -2), (0, 1))}
    values |= {"bias": at.values["b"]} if "b" in at.values else {}
    m.weighted(
        at, f"Conv{n}d", values, at.shapes[0][-1], filters, sizes, stride=strides, padding=padding, dilation=dilations,
        groups=at.layer.groups, bias="b" in at.values,
    )  # fmt: skip
    if at.layer.activation != "identity":
        m.activation(at, f"{at.name}_{at.layer.activation}", at.layer.activation)


def _channels(m: Modules, at: Place) -> None:
    if not m.first and len(at.shapes[0]) > 1:
        raise m.refused(at, "PyTorch wants the channels first there, and has no module that turns them")


def _pool(m: Modules, at: Place, rest: Sequence[str]) -> None:
    _channels(m, at)
    axes = range(at.layer.axes)
    settings = (at.layer.size, at.layer.stride, at.layer.padding)
    sizes, strides, paddings = ([_of_axis(value, axis) for axis in axes] for value in settings)
    pads = _pads(at, sizes, strides, [1] * len(axes), paddings)
    if any(before != after or 2 * before > size for (before, after), size in zip(pads, sizes, strict=True)):
        raise m.refused(at, "PyTorch pads as much before as after, by half the size at most")
    more = {"count_include_pad": False} if at.layer.kind == "average_pool" else {}
    windows = (sizes, strides, [before for before, _ in pads])
    m.add(at.name, _POOLS[at.layer.op], *(values if len(axes) > 1 else values[0] for values in windows), **more)


def _global_pool(m: Modules, at: Place, rest: Sequence[str]) -> None:
    _channels(m, at)
    n = len(at.shapes[0]) - 1
    if n > 2:
        raise m.refused(at, "it is of an image or a sequence")
    m.add(at.name, f"{_GLOBAL[at.layer.op]}{n}d", 1)
    m.add(f"{at.name}_flatten", "Flatten")
    m.first = False


def _last(m: Modules, at: Place) -> None:
    if m.first:
        raise m.refused(at, "PyTorch has the channels first there")


def _norm(kind: str) -> Any:
    def add(m: Modules, at: Place, rest: Sequence[str]) -> None:
        _last(m, at)
        letters = {"s": "weight", "b": "bias"}
        values = {letters[letter]: m.ordered(value) for letter, value in at.values.items()}
        m.weighted(at, kind, values, at.shape[-1], eps=at.layer.eps)

    return add


def _group_norm(m: Modules, at: Place, rest: Sequence[str]) -> None:
    _channels(m, at)
    if m.order is not None:
        raise m.refused(at, "the groups of a flattened image are others in PyTorch")
    values = {"weight": at.values["s"], "bias": at.values["b"]}
    m.weighted(at, "GroupNorm", values, at.layer.groups, at.shape[-1], eps=at.layer.eps)


def _batch_norm(m: Modules, at: Place, rest: Sequence[str]) -> None:
    _channels(m, at)
    letters = {"s": "weight", "b": "bias", "mean": "running_mean", "variance": "running_var"}
    values = {letters[letter]: m.ordered(value) for letter, value in at.values.items()}
    kind = {1: "BatchNorm1d", 2: "BatchNorm1d", 3: "BatchNorm2d"}.get(len(at.shape))
    if kind is None:
        raise m.refused(at, "it is of an image, a sequence or a row")
    m.weighted(at, kind, values, at.shape[-1], eps=at.layer.eps, momentum=1 - at.layer.momentum)


def _embedding(m: Modules, at: Place, rest: Sequence[str]) -> None:
    m.weighted(at, "Embedding", {"weight": at.values["E"]}, at.layer.n, at.layer.units)


def _reshape(m: Modules, at: Place, rest: Sequence[str]) -> None:
    before, name = at.shapes[0], at.name
    if len(at.shape) == 1:
        m.add(name, "Flatten")
        if m.first and 1 not in (before[-1], at.shape[0] // before[-1]):
            m.order = channels_last(at.shape[0], before)
        m.first = False
        return
    first = _first(rest, _CHANNELS, _LAST)
    turned = first and 1 not in (at.shape[-1], math.prod(at.shape[:-1]))
    if m.first or m.order is not None or turned:
        raise m.refused(at, "PyTorch has the channels first there")
    if len(before) > 1:
        m.add(f"{name}_flatten", "Flatten")
    m.first = first
    m.add(name, "Unflatten", 1, (at.shape[-1], *at.shape[:-1]) if first else at.shape)


def _dropout(kind: str) -> Any:
    def add(m: Modules, at: Place, rest: Sequence[str]) -> None:
        if at.layer.noise_shape is not None:
            raise m.refused(at, "PyTorch's has no noise_shape")
        m.add(at.name, kind, at.layer.rate)

    return add


def _activate(m: Modules, at: Place, rest: Sequence[str]) -> None:
    if at.layer.causal:
        raise m.refused(at, "PyTorch's softmax is not causal")
    m.activation(at, at.name, at.layer.activation, at.layer.axis)


_TO = {
    "dense": _dense,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_GLOBAL, _global_pool),
    "layer_norm": _norm("LayerNorm"),
    "rms_norm": _norm("RMSNorm"),
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "embedding": _embedding,
    "reshape": _reshape,
    "dropout": _dropout("Dropout"),
    "alpha_dropout": _dropout("AlphaDropout"),
    "activate": _activate,
}


# ---- from PyTorch ----

_OF_CHANNELS = ("Conv", "MaxPool", "AvgPool", *_GLOBAL.values(), "BatchNorm", "ZeroPad")
_TORCH_CHANNELS = (*(f"{kind}{n}d" for kind in _OF_CHANNELS for n in (1, 2)), "GroupNorm")
_TORCH_LAST = ("Linear", "LayerNorm", "RMSNorm", "Embedding", "Flatten", "Unflatten")
_NAMES = {kind: name for name, (kind, _) in ACTIVATIONS.items()}


class Reader:
    """A network, as it is made of modules.

    first, order: as in Modules.  pads: of a ZeroPad that the next convolution takes, before and after each axis.
    """

    def __init__(self, modules: list[tuple[str, Any]], builder: Builder, first: bool) -> None:
        self.modules, self.builder, self.first = modules, builder, first
        self.kinds = [type(module).__name__ for _, module in modules]
        self.order: np.ndarray | None = None
        self.pads: list[tuple[int, int]] | None = None
        self.known: dict[int, Layer] = {}
        self.number = 0  # of the module that is read

    @property
    def what(self) -> str:
        """The module that is read, in messages."""
        name, module = self.modules[self.number]
        return f"{name} ({module})" if name else f"{module}"

    def refused(self, why: str) -> ValueError:
        return refused("from_torch", self.what, why)

    def rest(self) -> list[str]:
        """Kinds of the modules behind this one."""
        return self.kinds[self.number + 1 :]

    def add(self, make: Any, module: Any = None, **values: Any) -> None:
        """The next layer; module: that its weights are of, which are values of tensors by bpcore's letters."""
        own = {letter: array(value) for letter, value in values.items()}
        parameters = list(module.parameters()) if module is not None else []
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        layer = self.builder.add(self.what, make, own, frozen)
        if module is not None:
            self.known[id(module)] = layer

    def name(self) -> str | None:
        """What the layer is called: as the module, where that has a name and no number."""
        name = self.modules[self.number][0].replace(".", "_")
        return self.builder.name(name if name[:1].isalpha() else None)

    def fused(self, module: Any) -> str:
        """The activation behind a module with weights, which its layer takes; then it is read."""
        used = sum(module is other for _, other in self.modules)
        after = self.number + 1
        if used > 1 or after == len(self.modules) or self.kinds[after] not in (*_NAMES, "Softmax"):
            return "identity"
        self.number += 1
        f, axis = self.activation(self.modules[after][1])
        if axis in (-1, len(self.builder.shape) - 1) and f != "identity":
            return f
        self.number -= 1
        return "identity"

    def activation(self, module: Any) -> tuple[str, int]:
        """Name and axis."""
        kind, rank = type(module).__name__, len(self.builder.shape)
        if kind == "Softmax":
            if module.dim is None or not -rank <= module.dim < rank + 1 or module.dim % (rank + 1) == 0:
                raise self.refused("expected an axis of an example as dim")
            dim = module.dim % (rank + 1)
            return "softmax", dim - 1 if not self.first or rank == 1 else (dim - 2) % rank
        name = _NAMES[kind]
        for setting, value in ACTIVATIONS[name][1].items():
            given = getattr(module, setting)
            if given != value and not (setting == "threshold" and given >= 20):  # where it is linear to 2e-9
                raise self.refused(f"bpcore's {name} has {setting} {value}")
        return name, -1


def array(tensor: Any) -> np.ndarray:
    """The numbers of a tensor."""
    if isinstance(tensor, np.ndarray):
        return tensor
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found


def _leaves(torch: Any, module: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is in Sequentials, and their names."""
    if type(module) is torch.nn.Sequential:
        for child, inner in module._modules.items():
            yield from _leaves(torch, inner, f"{name}.{child}" if name else child)
    else:
        yield name, module


def from_torch(module: Any, input_shape: Any) -> Network:
    """See bpcore.from_torch."""
    torch = imported("torch", "from_torch", "torch")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch: module: expected a torch.nn.Module, got {type(module).__name__}")
    shape, modules = shape_of("input_shape", input_shape), list(_leaves(torch, module))
    kinds = [type(leaf).__name__ for _, leaf in modules]
    first = _first(kinds, _TORCH_CHANNELS, _TORCH_LAST) and len(shape) > 1
    integer = next((kind for kind in kinds if kind not in ("Identity", "Dropout")), "") == "Embedding"
    x = bp.Input((*shape[1:], shape[0]) if first else shape if len(shape) > 1 else shape[0], integer=integer)
    r = Reader(modules, Builder("from_torch", x), first)
    while r.number < len(modules):
        _, leaf = modules[r.number]
        kind = type(leaf).__name__
        if kind not in _FROM or type(leaf) is not getattr(torch.nn, kind):
            raise r.refused("bpcore has no layer for it")
        if leaf._forward_hooks or leaf._forward_pre_hooks:
            raise r.refused("it has hooks, functions of your own")
        if r.pads is not None and not kind.startswith("Conv"):
            raise r.refused("behind ZeroPad bpcore has a convolution alone")
        if id(leaf) in r.known:
            if r.order is not None:
                raise r.refused("it is used twice, once behind an image that is flattened")
            r.builder.again(r.what, r.known[id(leaf)])
        else:
            _FROM[kind](r, leaf)
        r.number += 1
    r.number -= 1
    if r.order is not None or r.pads is not None:
        raise r.refused("at the end there is no layer of bpcore's that takes what it leaves open")
    return r.builder.network(_dtype(torch, module))


def _dtype(torch: Any, module: Any) -> str:
    """Of the module's parameters and buffers."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    dtypes = {t.dtype for t in tensors} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"from_torch: module: expected parameters of float32 or of float64, got {names}")
    return str(dtypes.pop()).removeprefix("torch.")


def _from_linear(r: Reader, module: Any) -> None:
    if r.first and len(r.builder.shape) > 1:
        raise r.refused("it reads the last axis of an image or sequence with the channels first; flatten it before")
    if r.builder.shape[-1] != module.in_features:
        raise r.refused(f"its input has {r.builder.shape[-1]} features")
    W = array(module.weight)
    values = {"W": (W if r.order is None else W[:, r.order]).T}
    values |= {} if module.bias is None else {"b": array(module.bias)}
    r.order = None
    name, bias, units = r.name(), module.bias is not None, module.out_features
    f = r.fused(module)
    r.add(lambda: bp.Dense(units, f, bias=bias, name=name), module, **values)


def _sizes(value: Any, n: int) -> list[int]:
    return [int(size) for size in value] if isinstance(value, (tuple, list)) else [int(value)] * n


def _own(values: list[Any]) -> Any:
    """A setting of an image's axes, or of a sequence's."""
    return values[0] if len(values) == 1 else tuple(values)


def _from_convolution(r: Reader, module: Any) -> None:
    n = int(type(module).__name__[4])
    if len(r.builder.shape) != n + 1 or not r.first:
        raise r.refused(f"its input has the shape {r.builder.shape}, channels last")
    if r.builder.shape[-1] != module.in_channels:
        raise r.refused(f"its input has {r.builder.shape[-1]} channels")
    if module.padding_mode != "zeros":
        raise r.refused("bpcore pads with zeros")
    sizes, strides, dilations = (_sizes(v, n) for v in (module.kernel_size, module.stride, module.dilation))
    reaches = [(size - 1) * d + 1 for size, d in zip(sizes, dilations, strict=True)]
    same = []
    for length, reach, stride in zip(r.builder.shape, reaches, strides, strict=False):
        both = max((-(-length // stride) - 1) * stride + reach - length, 0)
        same.append((both // 2, both - both // 2))
    if module.padding == "same":
        pads = [((reach - 1) // 2, reach - 1 - (reach - 1) // 2) for reach in reaches]
    else:
        pads = [(p, p) for p in ([0] * n if module.padding == "valid" else _sizes(module.padding, n))]
    if r.pads is not None:
        pads = [(a + c, b + d) for (a, b), (c, d) in zip(r.pads, pads, strict=True)]
        r.pads = None
    before = [a for a, _ in pads]
    options: dict[Any, Any] = {"valid": [(0, 0)] * n, _own(before): [(a, a) for a in before], "same": same}
    if n == 1:
        options["causal"] = [(reaches[0] - 1, 0)]
    padding = padding_for(pads, options)
    if padding is None:
        raise r.refused(f"bpcore does not pad by {pads} before and after each axis")
    W = np.moveaxis(array(module.weight), (0, 1), (-1, -2))
    values = {"W": W, **({} if module.bias is None else {"b": array(module.bias)})}
    name, bias = r.name(), module.bias is not None
    kind = bp.Conv1D if n == 1 else bp.Conv2D
    settings = {"stride": _own(strides), "dilation": _own(dilations), "groups": module.groups, "bias": bias}
    f = r.fused(module)
    r.add(
        lambda: kind(module.out_channels, _own(sizes), f, padding=padding, name=name, **settings), module, **values
    )


def _from_pool(r: Reader, module: Any) -> None:
    kind = type(module).__name__
    n, greatest = int(kind[-2]), kind.startswith("Max")
    if len(r.builder.shape) != n + 1 or not r.first:
        raise r.refused(f"its input has the shape {r.builder.shape}, channels last")
    sizes, strides, padding = (_sizes(v, n) for v in (module.kernel_size, module.stride, module.padding))
    if module.ceil_mode:
        raise r.refused("bpcore has no ceil_mode")
    if greatest and (set(_sizes(module.dilation, n)) != {1} or module.return_indices):
        raise r.refused("bpcore's pooling has no dilation, and gives no indices")
    if not greatest and ((module.count_include_pad and any(padding)) or getattr(module, "divisor_override", None)):
        raise r.refused("bpcore does not count what is padded; expected count_include_pad=False")
    kinds = {"Max1": bp.MaxPool1D, "Max2": bp.MaxPool2D, "Avg1": bp.AveragePool1D, "Avg2": bp.AveragePool2D}
    make, own = kinds[f"{kind[:3]}{n}"], _own(padding) if any(padding) else "valid"
    name = r.name()
    r.add(lambda: make(_own(sizes), stride=_own(strides), padding=own, name=name))


def _from_adaptive(r: Reader, module: Any) -> None:
    n = int(type(module).__name__[-2])
    if len(r.builder.shape) != n + 1 or not r.first:
        raise r.refused(f"its input has the shape {r.builder.shape}, channels last")
    if set(_sizes(module.output_size, n)) != {1} or getattr(module, "return_indices", False):
        raise r.refused("bpcore has it with output_size 1, without indices")
    make = bp.GlobalMaxPool if "Max" in type(module).__name__ else bp.GlobalAveragePool
    name = r.name()
    r.add(lambda: make(name=name))
    if r.rest()[:1] == ["Flatten"]:
        r.number += 1
        r.first = False
    else:
        r.add(lambda: bp.Reshape((*(1,) * n, r.builder.shape[-1])))


def _norm_values(r: Reader, module: Any, bias: bool = True) -> dict[str, np.ndarray]:
    """s and b, 1 and 0 where the module has none."""
    n = r.builder.shape[-1]
    weight, b = module.weight, getattr(module, "bias", None)
    values = {"s": np.ones(n) if weight is None else array(weight)}
    if bias:
        values["b"] = np.zeros(n) if b is None else array(b)
    return values


def _ordered(r: Reader, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return values if r.order is None else {letter: value[r.order] for letter, value in values.items()}


def _from_layer_norm(r: Reader, module: Any) -> None:
    if (r.first and len(r.builder.shape) > 1) or tuple(module.normalized_shape) != r.builder.shape[-1:]:
        raise r.refused(f"bpcore's is of the last axis, {r.builder.shape[-1]} features, not of channels first")
    name, is_layer_norm = r.name(), type(module).__name__ == "LayerNorm"
    values = _ordered(r, _norm_values(r, module, is_layer_norm))
    eps = float(np.finfo(values["s"].dtype).eps) if module.eps is None else module.eps
    r.add(lambda: (bp.LayerNorm if is_layer_norm else bp.RMSNorm)(eps=eps, name=name), module, **values)


def _channels_fit(r: Reader, n: int) -> None:
    if (len(r.builder.shape) > 1 and not r.first) or r.builder.shape[-1] != n:
        raise r.refused(f"its input has the shape {r.builder.shape}, channels last")


def _from_group_norm(r: Reader, module: Any) -> None:
    _channels_fit(r, module.num_channels)
    if r.order is not None:
        raise r.refused("the groups of a flattened image are others in bpcore")
    name = r.name()
    r.add(lambda: bp.GroupNorm(module.num_groups, eps=module.eps, name=name), module, **_norm_values(r, module))


def _from_batch_norm(r: Reader, module: Any) -> None:
    _channels_fit(r, module.num_features)
    if module.running_mean is None or module.momentum is None:
        raise r.refused("bpcore's has a running mean and variance, with a momentum")
    values = {"mean": array(module.running_mean), "variance": array(module.running_var)}
    values = _ordered(r, {**_norm_values(r, module), **values})
    name, momentum = r.name(), 1 - module.momentum
    r.add(lambda: bp.BatchNorm(momentum=momentum, eps=module.eps, name=name), module, **values)


def _from_embedding(r: Reader, module: Any) -> None:
    if module.max_norm is not None:
        raise r.refused("it changes its weights in forward, by max_norm")
    name = r.name()
    make = lambda: bp.Embedding(module.num_embeddings, module.embedding_dim, name=name)  # noqa: E731
    r.add(make, module, E=array(module.weight))


def _from_flatten(r: Reader, module: Any) -> None:
    shape = r.builder.shape
    if module.start_dim != 1 or module.end_dim not in (-1, len(shape)):
        raise r.refused("expected all axes of an example to be flattened")
    if len(shape) == 1:
        return
    if r.first and 1 not in (shape[-1], math.prod(shape[:-1])):
        r.order = channels_last(math.prod(shape), shape)
    r.first = False
    name = r.name()
    r.add(lambda: bp.Reshape(-1, name=name))


def _from_unflatten(r: Reader, module: Any) -> None:
    shape = tuple(int(size) for size in module.unflattened_size)
    if module.dim not in (1, -1) or len(r.builder.shape) != 1 or r.order is not None:
        raise r.refused("expected one axis, dim=1, that is not of a flattened image")
    r.first = _first(r.rest(), _TORCH_CHANNELS, _TORCH_LAST) and len(shape) > 1
    if r.first and 1 not in (shape[0], math.prod(shape[1:])):
        raise r.refused("its numbers come in another order in bpcore, which has the channels last")
    name = r.name()
    r.add(lambda: bp.Reshape((*shape[1:], shape[0]) if r.first else shape, name=name))


def _from_zero_pad(r: Reader, module: Any) -> None:
    pads = [int(p) for p in module.padding]
    if min(pads) < 0:
        raise r.refused("bpcore does not cut off by padding")
    r.pads = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]


def _from_dropout(r: Reader, module: Any) -> None:
    make = bp.Dropout if type(module).__name__ == "Dropout" else bp.AlphaDropout
    name = r.name()
    r.add(lambda: make(module.p, name=name))


def _from_activation(r: Reader, module: Any) -> None:
    f, axis = r.activation(module)
    axis = -1 if axis == len(r.builder.shape) - 1 else axis
    name = r.name()
    r.add(lambda: bp.Activate(f, axis=axis, name=name))


_FROM = {
    "Linear": _from_linear,
    "Embedding": _from_embedding,
    "Flatten": _from_flatten,
    "Unflatten": _from_unflatten,
    "GroupNorm": _from_group_norm,
    **dict.fromkeys(("Conv1d", "Conv2d"), _from_convolution),
    **dict.fromkeys(("ZeroPad1d", "ZeroPad2d"), _from_zero_pad),
    **dict.fromkeys(_POOLS.values(), _from_pool),
    **dict.fromkeys([f"{kind}{n}d" for kind in _GLOBAL.values() for n in (1, 2)], _from_adaptive),
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _from_layer_norm),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d"), _from_batch_norm),
    **dict.fromkeys(("Dropout", "AlphaDropout"), _from_dropout),
    **dict.fromkeys((*_NAMES, "Softmax"), _from_activation),
}

"""Layers: what a network is made of.  A layer only describes; its weights live in the network's theta."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bpcore import _activations, _core, _validate
from bpcore._activations import Activation
from bpcore._core import Plan
from bpcore._symbols import Shape, Symbol
from bpcore._words import Settings, Worded

if TYPE_CHECKING:
    from bpcore._tangents import Tangents

# Philox purposes: the first word of the counter
# what random numbers are for; DROPOUT: all that layers draw in training, in C
INIT, SHUFFLE, DROPOUT, BOOTSTRAP, FOLDS, MIXUP, SPLIT, BLOCKS = 0, 1, 2, 3, 4, 5, 6, 7


_BLOCK = 1 << 13  # numbers drawn at a time: drawing takes little memory beside the result


def _fill(to: np.ndarray, drawn: Callable[[int, int], np.ndarray]) -> None:
    """The elements of `to`, in C order, become drawn(first, n), block by block."""
    flat = to.reshape(-1) if to.flags.c_contiguous else to.flat
    for first in range(0, to.size, _BLOCK):
        n = min(_BLOCK, to.size - first)
        flat[first : first + n] = drawn(first, n)


def uniform(to: np.ndarray, limit: float, seed: int, layer: int, number: int = 0) -> None:
    """Fills a layer's parameter of that number with draws from U(-limit, limit)."""
    _fill(to, lambda first, n: (2 * _core.uniform(n, seed, INIT, layer, number, first) - 1) * limit)


def normal(to: np.ndarray, deviation: float, seed: int, layer: int, number: int = 0) -> None:
    """Fills it with draws from N(0, deviation^2), by Box and Muller (1958)."""

    def drawn(first: int, n: int) -> np.ndarray:
        u = _core.uniform(2 * n, seed, INIT, layer, number, 2 * first).reshape(-1, 2)
        return np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1]) * deviation

    _fill(to, drawn)


# how weights are drawn that connect n_in numbers with n_out: filled by a function, with a limit or deviation
_INIT: dict[str, Callable[[int, int], tuple[Callable[..., None], float]]] = {
    "glorot_uniform": lambda n_in, n_out: (uniform, math.sqrt(6 / (n_in + n_out))),
    "glorot_normal": lambda n_in, n_out: (normal, math.sqrt(2 / (n_in + n_out))),
    "he_uniform": lambda n_in, n_out: (uniform, math.sqrt(6 / n_in)),
    "he_normal": lambda n_in, n_out: (normal, math.sqrt(2 / n_in)),
    "lecun_uniform": lambda n_in, n_out: (uniform, math.sqrt(3 / n_in)),
    "lecun_normal": lambda n_in, n_out: (normal, math.sqrt(1 / n_in)),
    "zeros": lambda n_in, n_out: (_constant, 0.0),
    "ones": lambda n_in, n_out: (_constant, 1.0),
}
INITS = ("auto", *_INIT)
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


def _constant(to: np.ndarray, value: float, *at: int) -> None:
    to[...] = value


def draw(to: np.ndarray, init: str, activation: Any, n_in: int, n_out: int, *at: int) -> None:
    """Fills weights that connect n_in numbers with n_out; at: seed, layer, number of the parameter."""
    if init == "auto":
        kind = activation if isinstance(activation, str) else ""
        init = "lecun_normal" if kind == "selu" else "he_uniform" if kind in _RECTIFIERS else "glorot_uniform"
    fill, size = _INIT[init](n_in, n_out)
    fill(to, size, *at)


class Spec(NamedTuple):
    """A parameter that a layer asks for; weight decay and penalties touch it (a weight) or not (a bias, a scale)."""

    shape: Shape
    decay: bool


class Treatment(NamedTuple):
    """How training treats a parameter: see Regularised; max_norm 0 is no bound."""

    rate: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float = 0.0
    lazy: bool = False  # see Dense


# layers that make of each time step, alone, a time step
_ELEMENTWISE = ("add", "multiply", "activate", "dropout", "alpha_dropout", "gaussian_noise", "embedding")
_ON_THE_LAST_AXIS = ("standardize", "dense", "scale", "bias", "layer_norm", "rms_norm", "batch_norm")

KINDS: dict[str, type[Any]] = {}  # every kind of layer, by the name that a file gives it


def _itself(layer: Any) -> Any:
    return layer


class Layer(Worded, metaclass=Settings):
    """What every layer is: called on symbols it gives a symbol, and it tells the plan what to compute.

    Layers compare by identity: one layer used twice is one set of weights.  What `Network.layers` shows under a name of
    the network's equals the layer `itself` that it stands for.
    """

    op: ClassVar[str]
    saved: ClassVar[tuple[str, ...]] = ()  # the attributes that a file keeps
    optional: ClassVar[dict[str, Any]] = {}  # those of them that it leaves out where they have these values
    name: str | None
    many: ClassVar[bool] = False  # takes several inputs
    masked: ClassVar[bool] = False  # its second input, where it has one, is a mask
    gathered: ClassVar[bool] = False  # what it gives is read from the user's arrays: an input

    def __init_subclass__(cls) -> None:
        if "op" in vars(cls):
            KINDS[cls.op] = cls

    def __call__(self, *inputs: Symbol) -> Symbol:
        """The symbol of what this layer makes of `inputs`."""
        for symbol in inputs:
            if not isinstance(symbol, Symbol):
                cure = "; for numbers use net.predict(X)" if hasattr(symbol, "__array__") else ""
                cure = "; call it with several arguments" if isinstance(symbol, (list, tuple)) else cure
                raise TypeError(f"{self!r}: expected outputs of layers or bp.Input, got {type(symbol).__name__}{cure}")
        if not inputs or (len(inputs) > 1 and not self.many):
            raise TypeError(f"{self!r}: expected {'inputs' if self.many else 'one input'}, got {len(inputs)}")
        if len(inputs) > _core.MAX_OPERANDS:
            cure = "; nest them" if self.op in ("add", "multiply", "concat") else ""
            raise ValueError(f"{self!r}: expected at most {_core.MAX_OPERANDS} inputs, got {len(inputs)}{cure}")
        inputs = tuple(symbol.itself if isinstance(symbol, Input) else symbol for symbol in inputs)
        self.check_integer(inputs)
        inputs, mask = self.with_mask(inputs)
        shape = self.output_shape(*(symbol.shape for symbol in inputs))
        if math.prod(shape) > _validate.MAX_UNITS:
            raise ValueError(f"{self!r}: an example of shape {shape} is too large")
        symbol = Symbol(self.itself, inputs, shape)
        symbol.mask = mask
        return symbol

    def with_mask(self, inputs: tuple[Symbol, ...]) -> tuple[tuple[Symbol, ...], Symbol | None]:
        """What it reads: `inputs` and, where one flows to it that it takes, a mask; and the mask that flows on."""
        first, *others = {id(x.mask): x.mask for x in inputs if x.mask is not None}.values() or (None,)
        if first is None:
            return inputs, None
        mask = functools.reduce(operator.mul, others, first)
        taken = len(inputs) == 1 and self.takes_mask(inputs[0].shape)
        return (*inputs, mask) if taken else inputs, mask if self.keeps_time(len(inputs[0].shape)) else None

    def __getstate__(self) -> dict[str, Any]:
        # not the network that it comes from: its weights are in the theta of the network that it is in
        return {name: value for name, value in self.itself.__dict__.items() if name != "_origin"}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # what a network shows of a layer stands for it in pickles and deep copies, too
        return (_itself, (self.itself,)) if self.itself is not self else super().__reduce_ex__(protocol)

    def __copy__(self) -> Any:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__getstate__())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        layer = self.itself
        if id(layer) not in memo:
            memo[id(layer)] = copy.copy(layer)
        return memo[id(layer)]

    @property
    def draws(self) -> bool:
        """Whether it computes with random numbers in `fit`."""
        return False

    @property
    def meets(self) -> bool:
        """Whether `fit` computes with all rows of a batch together, unless it is frozen."""
        return False

    @property
    def itself(self) -> Any:
        """The layer, where this is what a network shows of it."""
        return self.__dict__.get("_itself", self)

    def shown_as(self, name: str) -> Any:
        """What stands for this layer under the name that a network has for it."""
        shown = object.__new__(type(self))
        shown.__dict__.update(self.__dict__, name=name, _itself=self)
        # dataclasses.replace, which reads this, makes a new layer: the name is the network's, not the layer's
        fields = getattr(type(self), "__dataclass_fields__", {})
        shown.__dict__["__dataclass_fields__"] = {key: fields[key] for key in fields if key != "name"}
        return shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and self.itself is other.itself

    def __hash__(self) -> int:
        return id(self.itself)

    def check_integer(self, inputs: Sequence[Symbol]) -> None:
        """Whole numbers are for Embedding alone."""
        for symbol in inputs:
            if isinstance(symbol, Input) and symbol.integer:
                raise ValueError(f"{self!r}: expected real numbers; whole numbers go through bp.Embedding first")

    def wrong(self, expected: str, got: Any) -> ValueError:
        """The error for a shape that does not fit."""
        return ValueError(f"{self!r}: expected {expected}, got {got}")

    def keeps_time(self, axes: int) -> bool:
        """Whether it works, on inputs of so many axes, time first, at each time step alone."""
        return self.op in _ELEMENTWISE or (self.op in _ON_THE_LAST_AXIS and axes > 1)

    def takes_mask(self, shape: Shape) -> bool:
        """Whether it takes the mask that flows with an input of that shape as its second input; see `masked`."""
        return False

    def output_shape(self, *shapes: Shape) -> Shape:
        """An example's shape, given those of the inputs; ValueError where they do not fit."""
        raise NotImplementedError

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        """The parameters it needs, by letter, in their order in theta."""
        return {}

    def keeps(self, *shapes: Shape) -> dict[str, tuple[int, float]]:
        """What it keeps from step to step beside the parameters, by letter: how many numbers, and their first value."""
        return {}

    def treatment(self, spec: Spec) -> Treatment:
        """How training treats a parameter of it."""
        return Treatment()

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        """Writes the first values of the parameters, which are 0, by letter; its draws are counted by the number
        `layer`."""

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        """Adds its operations to a plan; the number of the output's buffer.  slots: of the parameters, then of what
        `keeps` names."""
        raise NotImplementedError

    def build_moving(
        self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int
    ) -> int:
        """The same where `tangent` follows, which may want more."""
        return self.build(plan, inputs, slots, shapes, number)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """How its output `a` moves when its inputs move by `moves` (-1: not) and its parameters by v; see Tangents."""
        raise ValueError(f"{self!r} has no tangent here: hvp and gauss_newton_product cannot pass it")

    @property
    def low_level(self) -> bool:
        """Whether C can compute it without the GIL."""
        f = getattr(self, "activation", None)
        return not isinstance(f, Activation) or f.is_low_level


@dataclass(frozen=True, eq=False, repr=False)
class Regularised(Layer):
    """A layer with weights, and how training treats them.

    l1, l2: l1 |W| + l2/2 |W|^2, sums over the layer's weights, never its biases, are part of the cost: of `fit` (whose
    own l2 is added), `evaluate`, `value_and_grad`, `backward`, `hvp`.  A frozen layer has none.
    max_norm: after each step of `fit` the weights into a unit (a column of W) whose norm is larger are scaled to it
    (Srivastava et al. 2014); None: no bound.
    lr_scale: a factor of the learning rate of all the layer's parameters.
    """

    l1: float = field(default=0.0, kw_only=True)
    l2: float = field(default=0.0, kw_only=True)
    max_norm: float | None = field(default=None, kw_only=True)
    lr_scale: float = field(default=1.0, kw_only=True)
    saved: ClassVar[tuple[str, ...]] = ("l1", "l2", "max_norm", "lr_scale")
    optional: ClassVar[dict[str, Any]] = {"l1": 0.0, "l2": 0.0, "max_norm": None, "lr_scale": 1.0}

    def __post_init__(self) -> None:
        for name, default in Regularised.optional.items():
            value = getattr(self, name)
            if value is not default:
                object.__setattr__(self, name, _validate.real(name, value, open_low=name == "max_norm"))

    def treatment(self, spec: Spec) -> Treatment:
        return Treatment(self.lr_scale, *((self.l1, self.l2, self.max_norm or 0.0) if spec.decay else ()))

    def _options(self) -> str:
        """Those that are set, as in a call."""
        values = {name: getattr(self, name) for name in Regularised.saved}
        return "".join(f", {name}={value!r}" for name, value in values.items() if value != Regularised.optional[name])


def named(name: Any) -> None:
    """A layer's name: ValueError unless it can stand in a file and before a dot."""
    if name is not None and (not isinstance(name, str) or not name or set(name) & set("./@")):
        raise ValueError(f"name: expected a non-empty string without '.', '/' and '@', got {name!r}")


def shape_of(name: str, value: Any, most: int = 4) -> Shape:
    """An example's shape: an integer or a tuple of them, each at least 1."""
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not 0 < len(sizes) <= most:
        raise ValueError(f"{name}: expected 1 to {most} sizes, got {value!r}")
    return tuple(_validate.integer(name, size, 1, _validate.MAX_UNITS) for size in sizes)


def apply(plan: Plan, f: str | Activation, z: int, width: int) -> int:
    """Adds activation f on buffer z; softmax goes over `width` columns each."""
    if isinstance(f, Activation):
        return plan.op("user_function" if f.is_low_level else "python_function", [z], function=(f.f, f.df))
    if f == "identity":
        return z
    if f == "softmax":
        return plan.op("softmax", [z], settings=([width], []))  # SOFTMAX_WIDTH
    return plan.op("activation", [z], function=f)


@dataclass(frozen=True, eq=False)
class Input(Symbol, Layer):
    """An input: `units` numbers an example, or an array of shape `units`, such as (time, features).

    integer: whole numbers, for `bp.Embedding`.
    """

    units: int | Shape
    integer: bool = field(default=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "input"
    gathered: ClassVar[bool] = True
    saved: ClassVar[tuple[str, ...]] = ("units", "integer")
    optional: ClassVar[dict[str, Any]] = {"integer": False}

    def __post_init__(self) -> None:
        shape = shape_of("units", self.units)
        if math.prod(shape) > _validate.MAX_UNITS:
            raise ValueError(f"units: {self.units} is too large")
        units = shape if isinstance(self.units, (tuple, list)) else shape[0]
        named(self.name)
        for name, value in (("units", units), ("integer", _validate.flag("integer", self.integer)),
                            ("layer", self), ("inputs", ()), ("shape", shape)):  # fmt: skip
            object.__setattr__(self, name, value)

    def __copy__(self) -> Input:
        twin: Input = super().__copy__()
        object.__setattr__(twin, "layer", twin)
        return twin

    def __repr__(self) -> str:
        return f"Input({self.units}{', integer=True' if self.integer else ''})"

    def __call__(self, *inputs: Symbol) -> Symbol:
        raise TypeError(f"{self!r} takes no input; give it to a layer: Dense(64)(x)")


@dataclass(frozen=True, eq=False)
class Dense(Regularised):
    """A fully connected layer: z = a W^T + b, a = f(z) (Nielsen 2015, ch. 2).

    Of a sequence or an image it takes the last axis, at each position: (time, features) becomes (time, units).
    activation: a name (see `bp.activations.NAMES`) or `bp.Activation(f, df)`.
    init: how W is drawn: a name, or an array shaped as W[l], (units, n_in).  "auto" is he_uniform for rectifiers (relu
    and its kin), lecun_normal for selu, else glorot_uniform (Glorot and Bengio 2010; He et al. 2015).
    bias_init: "zeros", "ones" or an array (units,).
    l1, l2: of W, l1 |W| + l2/2 |W|^2 is part of the cost.  max_norm: most of the norm of a unit's row of W, after each
    step.  lr_scale: a factor of the learning rate.
    lazy: of sparse rows (a SciPy matrix as X), a step of `fit` moves only the weights of columns that its batch names,
    whatever the optimiser: decay, penalties, momentum and the means of Adam act on a column's weights in the steps that
    name it, and rest in others, as of `Embedding`.  Dense rows name all columns.
    Layers compare by identity: one Dense used twice is one set of weights.
    """

    units: int
    activation: str | Activation = "identity"
    bias: bool = field(default=True, kw_only=True)
    init: Any = field(default="auto", kw_only=True)
    bias_init: Any = field(default="zeros", kw_only=True)
    lazy: bool = field(default=False, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    op: ClassVar[str] = "dense"
    saved: ClassVar[tuple[str, ...]] = ("units", "activation", "bias", "lazy", *Regularised.saved)
    optional: ClassVar[dict[str, Any]] = {"lazy": False, **Regularised.optional}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "units", _validate.integer("units", self.units, 1, _validate.MAX_UNITS))
        object.__setattr__(self, "activation", _activations.resolve(self.activation))
        object.__setattr__(self, "bias", _validate.flag("bias", self.bias))
        object.__setattr__(self, "lazy", _validate.flag("lazy", self.lazy))
        if self.lazy and self.max_norm is not None:
            raise ValueError(
                "lazy: expected False beside max_norm, which bounds all weights of a unit after each step, got True; "
                "leave out max_norm, or use l2"
            )
        for name, valid in (("init", INITS), ("bias_init", ("zeros", "ones"))):
            value = getattr(self, name)
            if isinstance(value, str):
                _validate.choice(name, value, valid)
            else:
                # a copy: the layer does not change when the array does
                object.__setattr__(self, name, _validate.array(name, value).copy())
        named(self.name)

    def __repr__(self) -> str:
        flags = ("" if self.bias else ", bias=False") + (", lazy=True" if self.lazy else "")
        return f"Dense({self.units}, {_activations.label(self.activation)!r}{flags}{self._options()})"

    def treatment(self, spec: Spec) -> Treatment:
        return super().treatment(spec)._replace(lazy=self.lazy and spec.decay)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0][:-1], self.units)

    def parameters(self, *shapes: Shape) -> dict[str, Spec]:
        W = Spec((shapes[0][-1], self.units), True)
        return {"W": W, "b": Spec((self.units,), False)} if self.bias else {"W": W}

    def draw(self, to: Mapping[str, np.ndarray], shapes: Sequence[Shape], seed: int, layer: int) -> None:
        n_in, dtype = shapes[0][-1], to["W"].dtype
        if isinstance(self.init, str):
            draw(to["W"], self.init, self.activation, n_in, self.units, seed, layer)
        else:
            to["W"][...] = _validate.parameters("init", self.init, (self.units, n_in), dtype).T
        if isinstance(self.bias_init, str):
            bias = np.full(self.units, float(self.bias_init == "ones"))
        else:
            bias = _validate.parameters("bias_init", self.bias_init, (self.units,), dtype)
        if self.bias:
            to["b"][...] = bias

    def build(self, plan: Plan, inputs: list[int], slots: list[int], shapes: Sequence[Shape], number: int) -> int:
        op = "sparse_dense" if inputs[0] in plan.sparse else "dense"
        return apply(plan, self.activation, plan.op(op, inputs, slots), self.units)

    def tangent(
        self, t: Tangents, a: int, inputs: list[int], moves: list[int], slots: list[int], v: list[int],
        shapes: Sequence[Shape],
    ) -> int:  # fmt: skip
        """Rz = Ra W + a V + v_b;  R{f(z)} = f'(z) * Rz"""
        of_weights = t.plan.op("dense", inputs, v)
        of_input = t.plan.op("dense", moves, slots[:1]) if moves[0] >= 0 else -1
        z = a if self.activation == "identity" else t.plan.reads(a)
        return t.activated(self.activation, a, z, t.add_up(of_input, of_weights), self.units)

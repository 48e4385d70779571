"""Mean and scale of columns, learnt from data before the first step: of inputs by a layer, of targets by `fit`.

They are numbers of the network in float64, and no parameters.  Rows of X and y are brought to them where C reads the
user's arrays, and outputs go back to the user's units where C writes them: see `_core.Scaled`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bpcore import _moments
from bpcore._layers import Input, Layer, named
from bpcore._losses import BuiltIn, Loss, Weighted
from bpcore._moments import Moments
from bpcore._symbols import Shape, Symbol

if TYPE_CHECKING:
    from bpcore._data import Data
    from bpcore._graph import Graph, Node
    from bpcore._model import Model


@dataclass(frozen=True, eq=False)
class Standardize(Layer):
    """(x - mean) / scale of each column of an Input, its last axis; computed in float64, then rounded.

    mean and scale, the standard deviation (variance divided by n), are learnt from the rows that the first `fit` trains
    on, weighted by sample_weight, or from `net.adapt(X)`; until then a network has no answers.  A column that is
    constant has scale 1.  A second `fit` does not learn them again.  They are `net.moments`, in files and copies.

    It stands behind a `bp.Input` of real numbers; of a sequence or an image it takes the last axis, over all positions.
    Numbers such as time stamps of 1.6e9 keep their digits in float32, since nothing is rounded before.
    ValueError behind other layers; there LayerNorm, GroupNorm and their kin normalise.
    """

    name: str | None = field(default=None, kw_only=True, repr=False)
    op: ClassVar[str] = "standardize"
    gathered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        named(self.name)

    def check_integer(self, inputs: Sequence[Symbol]) -> None:
        """Only an input of real numbers is read in float64."""
        super().check_integer(inputs)
        if not isinstance(inputs[0], Input):
            raise ValueError(
                f"{self!r}: expected a bp.Input before it, got {inputs[0].layer!r}; what layers give is normalised by "
                "bp.LayerNorm or bp.GroupNorm"
            )

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a call has learnt: of inputs, by the name of the layer; of targets, by that of the output; and what the
    model had before."""

    model: Model
    inputs: Mapping[str, Moments]
    targets: Mapping[str, Moments]
    before: tuple[Mapping[str, Moments], Mapping[str, Moments], int]

    def put(self) -> None:
        """The model has it."""
        self.model.moments, self.model.target_moments = self.inputs, self.targets

    def take_back(self) -> None:
        """The model has what it had, unless a step was made with it."""
        inputs, targets, step = self.before
        if self.model.step == step:
            self.model.moments, self.model.target_moments = inputs, targets


Known = dict[tuple[int, str], Moments]  # what calls on the same data have learnt already


def learn(model: Model, data: Data, standardize_y: bool, known: Known | None = None) -> Learnt | None:
    """What `fit` on this data is to learn, before anything has changed; nothing of what the model has.  None where no
    numbers have units of their own."""
    layers = standardized(model)
    if not (layers or standardize_y or model.target_moments):
        return None
    known = {} if known is None else known
    before = model.moments, model.target_moments, model.step
    weight = (data.judged or data).weight
    inputs, targets = dict(model.moments), dict(model.target_moments)
    for name, number in layers:
        if name not in inputs:
            node, key = model.inputs[number], (id(data), f"input {number}")
            if key not in known:
                called = data.called[0] if len(model.inputs) == 1 else f"{data.called[0]}[{node.name!r}]"
                known[key] = _moments.learn(data.arrays[number], node.shape[-1], data.rows, weight, called)
            inputs[name] = known[key]
    if standardize_y and not targets:
        for number, node in enumerate(data.outputs):
            targets[node.name] = _of_targets(data, number, weight, known)
    return Learnt(model, inputs, targets, before)


def _of_targets(data: Data, number: int, weight: np.ndarray | None, known: Known) -> Moments:
    loss, node, target = data.losses[number].loss, data.outputs[number], data.targets[number]
    width = node.shape[-1] // getattr(loss, "parts", 1)
    if (key := (id(data), f"target {number}")) not in known:
        called = data.called[1] if len(data.outputs) == 1 else f"{data.called[1]}[{node.name!r}]"
        known[key] = _moments.learn(target.array, width, data.rows, weight, called)
    return of_outputs(loss, known[key])


def adapted(model: Model, arrays: Sequence[np.ndarray], weight: np.ndarray | None) -> dict[str, Moments]:
    """Moments of all inputs that a Standardize reads."""
    found = {}
    for name, number in standardized(model):
        node = model.inputs[number]
        called = "X" if len(model.inputs) == 1 else f"X[{node.name!r}]"
        found[name] = _moments.learn(arrays[number], node.shape[-1], None, weight, called)
    return found


def standardized(model: Model) -> list[tuple[str, int]]:
    """The Standardize layers by name, and the number of the input that each reads."""
    graph = model.graph
    return [
        (node.name, graph.inputs.index(node.inputs[0]))
        for node in graph.nodes
        if isinstance(node.layer, Standardize) and node.name == node.base
    ]


# ---- targets ----


def of_outputs(loss: Any, own: Moments) -> Moments:
    """What brings outputs to the units of targets with these moments."""
    return Moments(*loss.in_units(own.mean, own.scale)).settled() if isinstance(loss, BuiltIn) else own


def of_targets(weighted: Weighted, node: Node, outputs: Moments) -> Moments:
    """Moments of the targets of an output; ValueError where the loss reads the output in another way than that which it
    was fitted with."""
    loss, width = weighted.loss, node.shape[-1] // getattr(weighted.loss, "parts", 1)
    own = Moments(outputs.mean[:width], outputs.scale[:width])
    if _scales(loss) and np.array_equal(of_outputs(loss, own).scale, outputs.scale):
        return own
    name = getattr(loss, "name", None) or repr(loss)
    raise ValueError(
        f"loss: {node.name} was fitted with standardize_y=True, and {name} does not read it as the loss of that fit "
        "does; give that one"
    )


def _scales(loss: Any) -> bool:
    return not isinstance(loss, BuiltIn) or loss.scales


def _is_identity(node: Node) -> bool:
    """Whether an output may have any size: it ends in no activation, and in no recurrent layer."""
    return getattr(node.layer, "activation", "identity") == "identity" and not hasattr(node.layer, "states")


def suits(weighted: Weighted, node: Node) -> bool:
    """Whether `fit` could learn the scale of an output's targets."""
    return _is_identity(node) and _scales(weighted.loss)


def check(model: Model, data: Data) -> None:
    """ValueError where `fit` cannot learn the scale of targets."""
    if model.target_moments:
        return
    if model.step:
        raise ValueError(
            f"standardize_y: expected a network that was not fitted without it, and this one has made {model.step:,} "
            "steps on y as it is; begin with a new network"
        )
    for weighted, node, target in zip(data.losses, data.outputs, data.targets, strict=True):
        if not _is_identity(node):
            activation = getattr(node.layer, "activation", "tanh")
            what = activation if isinstance(activation, str) else "one of your own"
            raise ValueError(
                f"standardize_y: expected an output without activation, and {node.name} ({node.layer!r}) has {what}; "
                "end with bp.Dense(n)"
            )
        if not _scales(weighted.loss):
            raise ValueError(
                "standardize_y: expected a loss of differences from y (squared_error, mse, mae, huber, log_cosh, "
                "student_t, quantile, gaussian_nll, crps_gaussian or your own), and "
                f"{node.name} has {weighted.loss.name}"
            )
        if isinstance(weighted.loss, Loss) and target.cols != node.n_out:
            raise ValueError(
                f"standardize_y: expected y with a column for each of the {node.n_out} outputs of {node.name}, got "
                f"{target.cols}"
            )


# ---- networks that are layers of others ----


def inherited(graph: Graph) -> tuple[dict[str, Moments], dict[str, Moments]]:
    """Moments of inputs and targets that the layers of other networks bring along; ValueError where what such a network
    gives in units of its own is read by another layer."""
    inputs: dict[str, Moments] = {}
    targets: dict[str, Moments] = {}
    for number, node in enumerate(graph.nodes):
        if not (origin := getattr(node.layer, "_origin", None)):
            continue
        (network, name), base = origin, node.base
        model = network._model
        if name in model.moments:
            inputs[base] = model.moments[name]
        outputs = [output for output in model.target_moments if output.partition("@")[0] == name]
        if not outputs:
            continue
        within = number not in graph.outputs or any(number in other.inputs for other in graph.nodes)
        if within or outputs != [node.name.replace(base, name, 1)]:
            raise ValueError(
                f"layers: {name} of a network that was fitted with standardize_y=True gives (y - mean) / scale within "
                "another network; expected it as an output, or net.part(...) that ends before it"
            )
        targets[node.name] = model.target_moments[name]
    return inputs, targets

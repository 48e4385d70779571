"""The network: layers, one vector of parameters, and every way to use them."""

from __future__ import annotations

import copy
import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import (
    _activations,
    _checkpoint,
    _core,
    _data,
    _derivatives,
    _io,
    _plans,
    _sparse,
    _standardize,
    _stream,
    _table_network,
    _threads,
    _training,
    _validate,
)
from bpcore._activations import Activation
from bpcore._arrays import aligned
from bpcore._callbacks import State
from bpcore._data import Data, whole
from bpcore._function import Function
from bpcore._graph import Graph, chained, lay_out, symbols
from bpcore._history import History
from bpcore._layers import Input, Layer
from bpcore._model import Model
from bpcore._optimizers import Memory, Optimizer
from bpcore._schedules import Schedule
from bpcore._stepper import Stepper
from bpcore._symbols import Shape, Symbol
from bpcore._table import Converted, Table
from bpcore._tape import Gradients, Tape
from bpcore._words import Worded, worded

if TYPE_CHECKING:
    from bpcore._inspect import Inspection
    from bpcore._picture import Picture

_LossLike = Any  # a name, an object of bp.losses or bp.Loss; of several outputs a list of them, or a dict by name


class Network(Worded):
    """A network: a list of layers, an `Input` first, or the inputs and outputs of a graph.

        Network([Input(784), Dense(128, "relu"), Dense(10, "softmax")])

        x = Input(36)
        h = Dense(64, "relu")(x)
        h = h + Dense(64, "relu")(h)
        Network(x, Dense(10, "softmax")(h))         # lists of inputs and of outputs are as good

    dtype: "float32" or "float64", of parameters and arithmetic.  seed: of the first weights, of shuffling and of what
    layers draw, 0 to 2^64 - 1.  checkpoint: see the property.  All parameters are one vector `theta`; `params` are
    views of it by name.  n_threads, where a method takes it: how many threads it uses at most, bp.get_num_threads()
    unless given; any number gives the same bits.
    Raises ValueError or TypeError for layers that do not fit.

    The algorithm is that of Rumelhart, Hinton and Williams (1986) in the notation of Nielsen (2015).
    """

    def __init__(
        self, layers: Any, outputs: Any = None, *, dtype: Any = "float32", seed: int = 0, checkpoint: Any = None
    ) -> None:
        checked, number = _validate.dtype(dtype), _validate.seed(seed)
        ends = chained(layers) if outputs is None else (symbols("inputs", layers), symbols("outputs", outputs))
        graph = lay_out(*ends)
        cut = _checkpoint.resolve(graph, checkpoint)
        origins = [(node.base, getattr(node.layer, "_origin", None)) for node in graph.nodes]
        frozen = frozenset(base for base, origin in origins if origin and origin[1] in origin[0].frozen)
        moments = _standardize.inherited(graph)
        self._own(Model(graph.without_origins(), checked, number, cut, frozen))
        self._model.moments, self._model.target_moments = moments
        self._draw(graph)

    def _own(self, model: Model) -> None:
        self._model = model  # which bpcore's own modules work with
        self._as_layers: dict[int, Layer] = {}
        self._layers = model.graph.named_layers()

    @classmethod
    def _of(cls, model: Model) -> Network:
        """The network of a model that is there already."""
        net = cls.__new__(cls)
        net._own(model)
        return net

    def _draw(self, graph: Graph) -> None:
        """First weights, which layers of other networks bring along."""
        drawn: set[str] = set()
        for node in graph.nodes:
            if not node.parameters or node.parameters[0] in drawn:
                continue
            origin = getattr(node.layer, "_origin", None)
            if origin is None:
                shapes = [graph.nodes[i].shape for i in node.inputs]
                own = {full.partition(".")[2]: self.params[full] for full in node.parameters}
                node.layer.draw(own, shapes, self.seed, len(drawn))
            else:
                network, name = origin
                with network._model.reading() as model:
                    for full in node.parameters:
                        self.params[full][...] = model.params[f"{name}.{full.partition('.')[2]}"]
                    for full in node.states:
                        self.state[full][...] = model.states[f"{name}.{full.partition('.')[2]}"]
            drawn.add(node.parameters[0])

    def _anew(self, seed: int) -> Network:
        """A network like this one, not yet trained: first weights from `seed`, but frozen layers keep this one's, and
        numbers are read in the units that this one has learnt."""
        with self._model.reading() as model:
            net = self._of(Model(model.graph, model.dtype, seed, model.checkpoint, model.frozen))
            net._draw(model.graph)
            for name in model.frozen_parameters:
                net.params[name][...] = model.params[name]
            for name in model.states:
                if name.partition(".")[0] in model.frozen:
                    net.state[name][...] = model.states[name]
            net._model.moments, net._model.target_moments = model.moments, model.target_moments
            net._model.table = model.table
        return net

    @classmethod
    def from_table(
        cls, table: Table, hidden: Iterable[int | Layer] = (256, 128), *, activation: Any = "relu",
        dropout: float = 0.0, embedding: int = 8, output: Layer | None = None, dtype: Any = "float32", seed: int = 0,
    ) -> Network:  # fmt: skip
        """A network that takes data frames as X: the numbers that `table` makes of them, beside an Embedding of the
        categories that have many levels, then the hidden layers, then the output.

        hidden: units of Dense layers with this activation, each followed by Dropout(dropout) where that is above 0; or
        layers of any kind, as they are.  embedding: columns of the Embedding.  output: None is a softmax over the
        target's classes, or for a target that is a number Dense(1), which answers in the target's units, as after
        fit(standardize_y=True); or a layer of yours, in whose own units it then learns.  dtype, seed: see the class.

        `fit(frame)` takes y from the frame, or as a second argument; a frame as validation_data has its own.  One row
        is a tuple in the order of table.columns, or a dict; a list of dicts is a frame, too.  See docs/tables.md.
        Raises ValueError or TypeError for what does not fit.
        """
        return _table_network.network(cls, table, hidden, activation, dropout, embedding, output, dtype, seed)

    # ---- as a layer, and parts of it ----

    def __call__(self, *inputs: Symbol) -> Any:
        """The network as a layer: its layers on these inputs; a new network of them begins with this one's weights.

        Used twice, it is one set of weights, as a layer is, and what is frozen stays so; dtype, seed and checkpoint are
        the new network's own.  Several outputs come as a list.
        Networks share nothing: training the new one leaves this one as it is, and a layer of this one that is also
        called by itself is another layer there, with weights of its own.  Layers keep their names but where the new
        network has others of these: then a number is added.
        """
        graph, own = self._model.graph, self._model.inputs
        given = symbols("inputs", list(inputs), distinct=False)
        if [symbol.shape for symbol in given] != [node.shape for node in own]:
            raise ValueError(
                f"{self!r}: expected inputs of shape {', '.join(str(node.shape) for node in own)}, got "
                f"{', '.join(str(symbol.shape) for symbol in given)}"
            )
        known = dict(zip(graph.inputs, given, strict=True))
        for i, node in enumerate(graph.nodes):
            if i in known:
                continue
            if id(node.layer) not in self._as_layers:
                twin = copy.copy(node.layer)
                object.__setattr__(twin, "_origin", (self, node.base))
                self._as_layers[id(node.layer)] = twin
            known[i] = self._as_layers[id(node.layer)](*(known[k] for k in node.inputs))
        outputs = [known[i] for i in graph.outputs]
        return outputs[0] if len(outputs) == 1 else outputs

    def part(self, inputs: Any, outputs: Any) -> Network:
        """The network between layers, with a copy of its weights: from the outputs of `inputs` to those of `outputs`.

        Both are names of layers (see `summary`), or lists of them; an input's own name begins at the input.
        """
        model, nodes = self._model, self._model.graph.nodes
        numbers = {node.name: i for i, node in enumerate(nodes)}
        ends: list[list[int]] = []
        for what, names in (("inputs", inputs), ("outputs", outputs)):
            listed = list(names) if isinstance(names, (list, tuple)) else [names]
            ends.append([numbers[_validate.choice(what, name, numbers)] for name in listed])
            if len(set(listed)) < len(listed):
                raise ValueError(f"{what}: expected each once, got {', '.join(listed)}")
        reached, within = set(ends[0]), []
        for i, node in enumerate(nodes):
            if i not in reached and node.inputs and reached.issuperset(node.inputs):
                reached.add(i)
                within.append(i)
        taken = {nodes[i].base for i in within}
        known: dict[int, Symbol] = {}
        for i in ends[0]:
            node = nodes[i]
            if isinstance(node.layer, Input):
                known[i] = node.layer
                continue
            name = None if node.base in taken else node.base
            known[i] = Input(node.shape if len(node.shape) > 1 else node.n_out, name=name)
            taken.add(node.base)
        first = list(known.values())
        for i in within:
            node = nodes[i]
            known[i] = node.layer(*(known[k] for k in node.inputs))
        for i in ends[1]:
            if i not in known:
                raise ValueError(f"outputs: {nodes[i].name} depends on more than the inputs given")
        own = [i for i in ends[0] if isinstance(nodes[i].layer, Input)]
        names = {id(nodes[i].layer): nodes[i].base for i in (*own, *within)}
        graph = lay_out(first, [known[i] for i in ends[1]], names)
        frozen = model.frozen & {node.base for node in graph.nodes if node.parameters}
        part = Model(graph, model.dtype, model.seed, _checkpoint.within(graph, model.checkpoint), frozen)
        names = [node.name for node in part.inputs]
        part.feature_names = {name: each for name, each in model.feature_names.items() if name in names}
        kept = {node.base for node in graph.nodes}, {node.name for node in part.outputs}
        moments = model.moments, model.target_moments
        part.moments, part.target_moments = (
            {name: each for name, each in own.items() if name in known}
            for own, known in zip(moments, kept, strict=True)
        )
        part.table = _table_network.of_part(model, part)
        with self._model.reading() as model:
            for name, view in part.params.items():
                view[...] = model.params[name]
            for name, view in part.states.items():
                view[...] = model.states[name]
        return self._of(part)

    @property
    def frozen(self) -> frozenset[str]:
        """Names of layers whose parameters and state `fit` leaves alone (their gradients are taken for zero); may be
        assigned: net.frozen = {"dense_1"}; RuntimeError while `fit` runs.  A frozen BatchNorm normalises by its running
        mean and variance in `fit`, too."""
        return self._model.frozen

    @frozen.setter
    def frozen(self, names: Any) -> None:
        self._model.fitting.check("frozen")
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"frozen: expected names of layers, got {names!r}")
        model = self._model
        bases = {node.base for node in model.graph.nodes if node.parameters}
        frozen = frozenset(_validate.choice("frozen", name, sorted(bases)) for name in names)
        try:
            with model.fitting:
                model.frozen = frozen
                model.forget_plans()
        except RuntimeError:
            raise RuntimeError(
                "frozen: a fit goes on with what was frozen when it began; call state.stop(), set it, and fit again"
            ) from None

    @property
    def checkpoint(self) -> _checkpoint.Checkpoint:
        """After which layers the network is cut, to train in less memory; may be assigned: net.checkpoint = True.

        None: everything that backward reads is stored.  A list of layers (names, see `summary`, or their outputs),
        neither an input nor the last: what is read across a cut is stored; the rest is computed again, part by part,
        when backward comes to it, which costs up to another forward pass.  True: sqrt(2 n) parts of n layers (after
        Chen et al. 2016), where that saves a tenth of the memory.

        The update needs each parameter's gradient: it is summed as soon as its part is done, where it is smaller than
        the layer's input and output for the batch; where not (wide dense layers, small batches), these are stored until
        the update, and little is saved.  Python functions of your own are not called again: what they gave is stored.
        No bit depends on a checkpoint; `hvp` takes no notice of it.  Raises ValueError or TypeError for what is no
        layer of the network, or cuts nothing.
        """
        return self._model.checkpoint

    @checkpoint.setter
    def checkpoint(self, value: Any) -> None:
        self._model.fitting.check("checkpoint")
        model = self._model
        checkpoint = _checkpoint.resolve(model.graph, value)
        with model.fitting:
            model.checkpoint = checkpoint
            model.forget_plans()

    # ---- what it is ----

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters and arithmetic."""
        return self._model.dtype

    @property
    def seed(self) -> int:
        """Of the first weights and of shuffling."""
        return self._model.seed

    @property
    def step(self) -> int:
        """How many steps `fit` has made."""
        return self._model.step

    @step.setter
    def step(self, value: int) -> None:
        self._model.fitting.check("step")
        self._model.step = value

    @property
    def epoch(self) -> int:
        """How many epochs `fit` has done."""
        return self._model.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._model.fitting.check("epoch")
        self._model.epoch = value

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimiser of the last steps, None before the first; fit(optimizer=None) goes on with it and its memory,
        which copies, pickles and files have, too."""
        return self._model.memory.optimizer

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, one a node, inputs first, named as in `summary`; a layer that is used twice is there twice.

        For a layer that you gave no name a copy with this network's name for it stands there: it equals your layer, and
        a new network made of it is made of your layer, which may have another name there.
        """
        return self._layers

    @property
    def n_inputs(self) -> int:
        """n_0: numbers of an example, of all inputs"""
        return sum(node.n_out for node in self._model.inputs)

    @property
    def n_outputs(self) -> int:
        """n_L: numbers of an answer, of all outputs"""
        return sum(node.n_out for node in self._model.outputs)

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the inputs, an example each, by name, in their order."""
        return {node.name: node.shape for node in self._model.inputs}

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shapes of the outputs, an example each, by name, in their order."""
        return {node.name: node.shape for node in self._model.outputs}

    @property
    def feature_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of the data frames that `fit` saw, by input: {"input": ("age", "height")}.

        Kept where all columns are strings, each once; saved with the network.  From then on a data frame with other
        names, or with these in another order, is a ValueError that names them; what has no names (an array) is taken
        as it is.
        """
        return dict(self._model.feature_names)

    @property
    def table(self) -> Table | None:
        """What makes numbers of data frames, for a network of `from_table`."""
        return self._model.table

    @property
    def moments(self) -> dict[str, np.ndarray]:
        """What `fit` or `adapt` has learnt beside parameters, (columns,) float64 each, not to be written to:
        "standardize_1.mean" and "standardize_1.scale" of what a Standardize layer reads; with standardize_y=True
        "dense_2.y_mean" and "dense_2.y_scale", by which the outputs of dense_2 go to y's units, y_mean + y_scale a."""
        return _io.moments_of(self._model)

    @property
    def _is_list(self) -> bool:
        """Whether each layer's input is the layer before."""
        return all(node.inputs == (i,) for i, node in enumerate(self._model.graph.nodes[1:]))

    def _chain(self, what: str) -> None:
        if not self._model.graph.is_chain:
            raise AttributeError(
                f"{what}: only chains of Dense layers have it; use net.params for parameters by name, "
                "net.part(inputs, outputs) for values within, value_and_grad for gradients"
            )

    @property
    def n_params(self) -> int:
        """Length of theta."""
        return self.theta.size

    @property
    def theta(self) -> np.ndarray:
        """All parameters, (n_params,), writable: a write is seen by the next call.  Assigning checks, then copies."""
        return self._model.theta

    @theta.setter
    def theta(self, value: Any) -> None:
        self._model.fitting.check("theta")
        self.theta[:] = _validate.parameters("theta", value, (self.n_params,), self.dtype)

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """Views of theta by name, as they lie: "dense_1.W" is [n_0, n_1], "dense_1.b" is (n_1,)."""
        return self._model.params

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """What layers keep from step to step and no optimiser moves, by name: "batch_norm_1.mean" and
        "batch_norm_1.variance", (units,).  Not in theta; copies, pickles and files have it.  Its arrays may be written
        to while no `fit` runs."""
        return self._model.states

    @property
    def W(self) -> tuple[Any, ...]:
        """W[l], (n_l, n_{l-1}): row j is unit j of layer l.  Transposed views of theta; W[0] is None."""
        self._chain("W")
        return self._views(self.theta)[0]

    @property
    def b(self) -> tuple[Any, ...]:
        """b[l], (n_l,), views of theta; None for l = 0 and for layers without bias."""
        self._chain("b")
        return self._views(self.theta)[1]

    def _views(self, vector: np.ndarray) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """W and b, by layer, of any vector that is laid out as theta is."""
        W: list[Any] = [None]
        b: list[Any] = [None]
        graph = self._model.graph
        for node in graph.chain[1:]:
            parts = [graph.parameters[name].of(vector) for name in node.parameters]
            W.append(parts[0].T)
            b.append(parts[1] if len(parts) > 1 else None)
        return tuple(W), tuple(b)

    def __repr__(self) -> str:
        shown = [repr(node.layer) for node in self._model.graph.nodes]
        if not self._is_list:
            shown = [f"{len(shown)} layers", *(f"{name} {shape}" for name, shape in self.outputs.items())]
        return f"<Network {' -> '.join(shown)}, {self.dtype}, {self.n_params:,} parameters>"

    def summary(self) -> str:
        """A table of the layers with their shapes and numbers of parameters, and the memory that a training step on 32
        examples takes beside the parameters: as buffers are reused, and if each had its own; with a checkpoint, both
        ways and where the network is cut."""
        model, nodes = self._model, self._model.graph.nodes
        rows: list[tuple[str, ...]] = [("layer", "activation", "of", "output", "parameters")]
        seen: set[str] = set()
        for node in nodes:
            count = sum(math.prod(model.graph.parameters[name].shape) for name in node.parameters)
            shared = bool(seen & set(node.parameters))
            seen |= set(node.parameters)
            f = getattr(node.layer, "activation", None)
            notes = "shared" if shared else f"{count:,}{' frozen' if node.base in model.frozen else ''}"
            inputs = ", ".join(nodes[i].name for i in node.inputs)
            shape = ", ".join(map(str, node.shape))
            rows.append((node.name, _activations.label(f) if f else "", inputs, f"(n, {shape})", notes))
        rows.append(("total", "", "", str(model.dtype), f"{self.n_params:,}"))
        if self._is_list:
            rows = [(*row[:2], *row[3:]) for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        rule = "-" * max(map(len, lines))
        cut, reused, apart = (f"{size / 2**20:,.2f} MiB" for size in _plans.memory(model, 32))
        memory = f"a step on 32 examples: {reused}, without reuse {apart}"
        if model.checkpoint is not None and cut != reused:
            after = ", ".join(nodes[i].name for i in _checkpoint.cuts(model.graph, model.checkpoint))
            memory = f"a step on 32 examples: {cut}, without checkpoint {reused}, without reuse {apart}\n"
            memory += f"cut after: {after}"
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], memory])

    @worded
    def plot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """The graph as a picture in SVG, for light and dark pages; notebooks show it, and `str` of it is the SVG.

        A box a layer, inputs on top: the name, the activation, the shape of an example, the number of parameters; blue
        where there are parameters, dashed where they are those of a layer above, with a bold frame where it is an
        output.  path, NAME.svg: also writes it to this file.  OSError where that fails, ValueError for another ending.
        """
        from bpcore import _picture  # for those who need it

        picture = _picture.of(self._model)
        if path is not None:
            picture.save(path)
        return picture

    @worded
    def inspect(
        self, X: Any, y: Any = None, *, loss: _LossLike = "auto", optimizer: Optimizer | str | None = None,
        batch_size: int | None = 32, sample_weight: Any = None, n_threads: int | None = None,
    ) -> Inspection:  # fmt: skip
        """What each layer does with X (n, n_0): means, spreads, dead units; with y also norms of gradients and of the
        next update; and in words what stands out.  The network stays as it is.

        It prints as a table with the findings beneath; `findings` are these sentences, `to_frame()` and `plot()` make a
        frame and a picture.  See docs/inspect.md for what is measured, and what counts as too much.
        y, loss, optimizer, batch_size, sample_weight: as `fit` would be given them next; the update is that of its
        first step.  A schedule whose length is a share of the run stands at its highest.  Values are those of
        `predict`, where nothing is drawn, in the network's own units.
        Raises ValueError or TypeError for what does not fit, or for a single row.
        """
        from bpcore import _inspect  # for those who need it

        return _inspect.inspect(self, X, y, loss, optimizer, batch_size, sample_weight, n_threads)

    # ---- training ----

    @worded
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        loss: _LossLike = "auto",
        optimizer: Optimizer | str | None = None,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        validation_data: tuple[Any, ...] | None = None,
        validation_split: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[Any, float] | str | None = None,
        metrics: Any = (),
        train_metrics: bool = False,
        mixup: float = 0.0,
        callbacks: Any = (),
        l2: float = 0.0,
        standardize_y: bool = False,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        resume: str | os.PathLike[str] | None = None,
        n_threads: int | None = None,
        seed: int | None = None,
        check_finite: bool = True,
        verbose: int = 0,
    ) -> History:
        """Trains on X (n, n_0) and y for `epochs` epochs, going on from where the network is.

        A network of a bp.Table takes a data frame as X, and y from it unless given, as names of classes or numbers.
        X may be a `bp.data.Stream` of blocks that hold y and weights, too; then there is no y, no sample_weight and no
        validation_split, schedules have lengths in steps, and rows are shuffled within blocks, see there.

        theta moves by the optimiser's rule along dC/dtheta, with C = sum w E / sum w over each batch (Rumelhart,
        Hinton and Williams 1986).  X and y: any real dtype and strides, read in place, never written.  y: (n, n_L),
        (n,) where n_L is 1, or class labels (n,) for cross_entropy, whose rows of (n, n_L) sum to 1.  batch_size None:
        the full batch; 1: online learning.  loss "auto": softmax -> cross_entropy, logistic -> binary_cross_entropy,
        else squared_error.  sample_weight: (n,), w; or (n, time) where the output is a sequence, whose loss is then the
        mean over its steps, weighted so (0 masks a step), each sequence counting alike.  seed: of the shuffling,
        instead of the network's.
        class_weight: {label: weight}, by which the weights of that class's rows are multiplied, 1 for labels that are
        not there; or "balanced": sum of w / (classes * sum of w over the class's rows), learnt from X and y (King and
        Zeng 2001).  For targets that are a class each: labels, rows of one 1 and else 0, the two values of a single
        output.  `loss` and `val_loss` are weighted so, accuracy is not.
        l2: l2/2 |W|^2 over all weights, never biases, joins the cost, and so `loss` and `val_loss`; the layers' own
        (see `Dense`) is added to it.
        mixup: alpha; each step is trained on means of two rows, lambda x + (1 - lambda) x', and of y and the weights
        alike, lambda of each batch drawn from Beta(alpha, alpha), class labels as rows of probabilities (Zhang et al.
        2018).  0: not.  `loss` is that of the means; validation and metrics are of rows as they are.
        standardize_y: the network learns (y - mean) / scale, of each column of y, and answers in y's units: `predict`,
        `forward`, predictors, metrics.  `loss`, `val_loss` and what `evaluate` and the gradients call the loss are of
        the scaled y.  Mean and scale are learnt from X's rows in the first `fit`, weighted by sample_weight, and belong
        to the network from then on (`moments`); later fits keep them, whatever they say.  For outputs without
        activation, and losses of differences from y.
        optimizer: an object such as bp.Adam(), or its name; None: the last one (see `optimizer`), at first SGD().  One
        that differs from the last in numbers alone (lr, weight_decay, nesterov, bounds) goes on with its memory; one of
        another kind, or with other arrays (momentum from or to 0, amsgrad), begins anew; a UserWarning says so where it
        drops arrays.
        validation_data: (X, y), (X, y, sample_weight) or a stream; the history has `val_loss` of it, what `evaluate`
        says, with this call's class_weight and l2, and of the average where the optimiser keeps one (`ema=`).
        validation_split: instead, a share of the rows of X, 0.2 or the like, which are not trained on; they are drawn
        from the seed, the same in every call with that seed, and of class targets (see class_weight) each class has its
        share, give or take one row.  Or which rows, integers (m,).
        metrics: names or objects of bp.metrics, one or several; of several outputs a dict by name.  The history has
        them after each epoch as `val_<name>`, and with train_metrics=True also of X and y, as `<name>`.
        With an optimiser that keeps an average of the parameters (`ema=`) validation uses that; see `averaged`.
        max_steps, max_seconds: training ends after so many steps, or so much time, at a whole step, within an epoch as
        well, which the history then has as far as it went; `history.stopped_by` says so.
        resume: the path of a `bp.Checkpoint`, from which this fit goes on with the bits of a run that was never
        stopped; a file that is not there begins it.  epochs and max_steps are those of the whole run.  ValueError where
        the file is of another run: other data, loss, optimizer, layers, settings or version.
        check_finite=False skips the scan for NaN and infinity, and of such sums.  Any n_threads gives the
        same bits.
        verbose=1: one line that is rewritten in a terminal or notebook (a bar of tqdm's where that is installed), one
        line an epoch elsewhere: the epoch, counted from the network's first, losses, metrics, samples a second and the
        time that is left.  verbose=2: one line an epoch everywhere.

        Returns the History.  Raises ValueError or TypeError for what does not fit, before anything has changed;
        DivergenceError when the loss or a parameter is no longer finite, with the last finite parameters kept;
        RuntimeError where this network is being fitted already.
        """
        return _training.fit(
            self._model,
            State(self, History()),
            X,
            y,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            validation_data=validation_data,
            validation_split=validation_split,
            sample_weight=sample_weight,
            class_weight=class_weight,
            metrics=metrics,
            train_metrics=train_metrics,
            callbacks=callbacks,
            n_threads=n_threads,
            seed=seed,
            check_finite=check_finite,
            verbose=verbose,
            l2=l2,
            standardize_y=standardize_y,
            mixup=mixup,
            max_steps=max_steps,
            max_seconds=max_seconds,
            resume=resume,
        )

    @worded
    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        loss: _LossLike = "auto",
        optimizer: Optimizer | str | None = None,
        batch_size: int | None = 32,
        sample_weight: Any = None,
        l2: float = 0.0,
        n_threads: int | None = None,
        seed: int | None = None,
        check_finite: bool = True,
    ) -> float:
        """Trains on one block of data that comes in blocks: one pass over X (n, n_0) and y, in the order given.

        It counts steps, not epochs, and goes on with the optimiser's memory: blocks of whole batches, one after the
        other, make the steps that `fit(shuffle=False)` makes on all of them together.  batch_size None: the block is
        one step.  Schedules have lengths in steps, `bp.schedules.Cosine(1e-3, length=10_000)`.  All else is as in
        `fit`.

        Returns the weighted mean loss over the block, of each batch before its step.  Raises what `fit` raises, and
        ValueError for LBFGS, LevenbergMarquardt and Rprop, which need all examples at once.
        """
        return _training.partial_fit(
            self._model,
            State(self, History()),
            X,
            y,
            loss=loss,
            optimizer=optimizer,
            batch_size=batch_size,
            sample_weight=sample_weight,
            l2=l2,
            n_threads=n_threads,
            seed=seed,
            check_finite=check_finite,
        )

    def adapt(self, X: Any, *, sample_weight: Any = None) -> None:
        """The Standardize layers learn mean and scale from X, which is as for `predict`, anew; no parameter moves.

        sample_weight: (n,), w; rows of 0 do not count.  For networks that are trained otherwise than by `fit`, or on a
        part of the data.  Raises ValueError or TypeError for what does not fit, or where there is no such layer;
        RuntimeError while this network is being fitted.
        """
        model = self._model
        model.fitting.check("adapt")
        if not _standardize.standardized(model):
            raise ValueError("adapt: expected a network with a bp.Standardize layer, and this one has none")
        arrays = model.read(X)
        weight = _validate.weights(sample_weight, len(arrays[0]), (), self.dtype)
        moments = _standardize.adapted(model, arrays, weight)
        with model.fitting:
            model.moments = moments

    # ---- answering ----

    @worded
    def predict(self, X: Any, *, n_threads: int | None = None) -> Any:
        """The outputs for every row of X (n, n_0): (n, n_L) in the network's dtype.  A row has the same bits in every
        batch.  Over a `bp.data.Stream` an iterator of such arrays comes, one for each block, each computed when it is
        asked for, by the network as it is now.

        X is (n, *shape) of the input; of several inputs, a list, or a dict by name.  Of several outputs a tuple comes.
        An input that Dense layers alone read may be a CSR or CSC matrix of SciPy's, also in `fit`, `evaluate`,
        `value_and_grad` and predictors: nothing dense is made of it, and CSR is read in place.
        No rows give (0, n_L).  A data frame must have the columns that `fit` saw, see `feature_names`; a network of a
        table takes frames with the columns that it knows, in any order, among others, or a row of them.
        """
        threads = _threads.resolve(n_threads)
        if isinstance(X, _stream.Stream):
            with self._model.reading() as model:
                return _stream.predict(X, model.copied(memory=False), threads)
        arrays = self._model.read(X, empty=True, takes_sparse=True)
        with self._model.reading() as model:
            answers = _data.predict(model, arrays, threads)
        return answers[0] if len(answers) == 1 else tuple(answers)

    @worded
    def predict_labels(self, X: Any, *, n_threads: int | None = None) -> np.ndarray:
        """The class of each row of a data frame, as its target was called: (n,) strings, integers, booleans or numbers.

        It is that of the largest output, or of a single output the second from 1/2 on.  ValueError for a network
        without a bp.Table whose target is classes.
        """
        return self._model.labels(self.predict(X, n_threads=n_threads))

    @worded
    def predictor(self, *, n_threads: int | None = None) -> _core.Predictor:
        """The network as it is now, to be asked from any number of threads: `answer = net.predictor()`.

        `answer(x)` takes a row (n_0,), any array or buffer of real numbers, and gives (n_L,), in about a microsecond;
        or rows (n, n_0), and gives (n, n_L), on up to `n_threads` threads; if None, on as many as `get_num_threads()`
        gives now, or at the call where that is fewer.  `out=`, sharing no memory with x, takes the result.  Of several
        inputs x is a list, or a dict by name; of several outputs a tuple comes, and `out=` is a list, or a dict by
        name.  The bits are those of `predict`.  Nothing is scanned: NaN and infinity are computed with.  A network of a
        table takes a row as a tuple or a dict of values, or a frame.  Later training does not change it.  It is not
        pickled; the network is.
        """
        threads = _threads.resolve(n_threads)
        theta = aligned(self.n_params, self.dtype)
        compiled = _plans.make_plan(self._model, _plans.Key(_plans.PREDICT | _core.STRIPS, 1, threads))
        calls_python = not all(node.layer.low_level for node in self._model.graph.nodes)
        unheard = compiled.plan.describe()["flops"] > _core.UNHEARD_FLOPS  # a row takes longer than Ctrl-C may
        with self._model.reading() as model:
            compiled.plan.pack(model.theta, theta)
            state = model.state.copy()
            slow = functools.partial(_data.predict, copy.copy(model)) if calls_python or unheard else None
            inputs, outputs = _plans.ends(model, compiled)
        limit = _threads.get_num_threads if n_threads is None else None
        known = self._model.feature_names
        sparse = _sparse.Answers(model, theta, state, threads, limit, slow if calls_python else None)
        table = self._model.table
        return _core.Predictor(
            compiled.plan, theta, state, inputs, outputs, threads, limit, slow, known, sparse, table
        )

    def stepper(self, *, streams: int | None = None, n_threads: int | None = None) -> Stepper:
        """The recurrent network as it is now, to be fed one time step after the other: `step = net.stepper()`.

        `step(x)` takes a time step (features,), or (streams, features) of several sequences side by side, and gives the
        output for it; `step.state` holds what the recurrent layers carry over, `step.reset()` begins anew.  The bits
        are those of `predict` on the whole sequence, which may be longer than the network's.  Raises ValueError, naming
        the layer, where something needs more than one time step.
        """
        n = None if streams is None else _validate.integer("streams", streams, 1, 2**31 - 1)
        return Stepper(copy.copy(self._model), n, n_threads)

    @worded
    def evaluate(
        self, X: Any, y: Any = None, *, loss: _LossLike = "auto", sample_weight: Any = None, metrics: Any = (),
        n_threads: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """{"loss": C over X and y, "accuracy": the weighted share that is right}, and the metrics by name.

        accuracy: with cross_entropy or categorical_focal, of rows whose largest output is the right one; with
        binary_cross_entropy or focal, of outputs on the right side of 1/2; with hinge or squared_hinge, of outputs with
        the right sign; no such entry with other losses.  metrics: names or objects of bp.metrics, one or several; of
        several outputs a dict of them by name, and the result has "digit.f1_macro".  Raises ValueError for metrics that
        do not fit the targets.
        X may be a `bp.data.Stream`, whose blocks hold y and weights; then metrics are refused, and a block is in memory
        at a time.
        """
        if isinstance(X, _stream.Stream):
            return _training.evaluate_stream(self._model, X, y, loss, sample_weight, metrics, n_threads)
        data, threads = Data(self._model, X, y, loss, sample_weight), _threads.resolve(n_threads)
        data.measure(metrics)
        data.advise()
        with self._model.reading() as model:
            return data.evaluate(model, threads)

    # ---- gradients ----

    def forward(self, X: Any, *, n_threads: int | None = None) -> Tape:
        """The forward pass over X (n, n_0), with everything that it computed: z, a and f' of each layer.

        For chains of Dense layers; AttributeError for other graphs.
        """
        self._chain("forward")
        (X,) = self._model.read(X)
        threads = _threads.resolve(n_threads)
        key = _plans.Key(_plans.TRACE, _plans.INFERENCE_ROWS, threads)
        with self._model.reading() as model:
            theta = model.theta.copy()
            with _plans.take(self._model, key, theta=theta) as lent:
                compiled, run = lent.compiled, lent.run
                filled: dict[int, np.ndarray] = {}
                for buffer, cols in self._traced(compiled):
                    filled.setdefault(buffer, np.empty((len(X), cols), self.dtype))
                last, own = np.empty((len(X), self.n_outputs), self.dtype), model.target_moments
                answer = [(compiled.outputs[0], model.in_units(0, last))] if own else []
                run.ports(_plans.gathered(model, compiled, [X]), [*filled.items(), *answer])
                whole(run, len(X), threads)
            for array in (*filled.values(), theta, last):
                array.flags.writeable = False
            df: list[Any] = []
            for node, z, a, cached in zip(model.graph.chain, *self._chained(compiled), strict=True):
                identity = np.broadcast_to(np.ones((), self.dtype), (len(X), node.n_out)) if a == z else None
                df.append(filled[cached] if cached >= 0 else identity)
            zs, as_ = (list(map(filled.get, buffers)) for buffers in self._chained(compiled)[:2])
            if own:
                scale = own[model.outputs[0].name].scale.astype(self.dtype)
                as_[-1], df[-1] = last, np.broadcast_to(scale, last.shape)
            return Tape(tuple(zs), tuple(as_), tuple(df), theta, self._activations())

    def _activations(self) -> tuple[Any, ...]:
        return tuple(node.layer.activation for node in self._model.graph.chain[1:])

    def _chained(self, compiled: _plans.Compiled) -> tuple[list[int], ...]:
        """Buffers of z, a and df of the nodes 0..L of a chain."""
        first = len(self._model.graph.nodes) - len(self._model.graph.chain)
        return compiled.z[first:], compiled.a[first:], compiled.df[first:]

    def _traced(self, compiled: _plans.Compiled) -> Iterator[tuple[int, int]]:
        """(buffer, columns) of all that a tape holds."""
        for node, *buffers in zip(self._model.graph.chain, *self._chained(compiled), strict=True):
            yield from ((buffer, node.n_out) for buffer in buffers if buffer >= 0)

    def backward(
        self, tape: Tape, y: Any, *, loss: _LossLike = "auto", sample_weight: Any = None, n_threads: int | None = None
    ) -> Gradients:
        """Backpropagation along a tape of `forward`: the gradients of C with respect to everything.

        delta^L = f'(z^L) * dE/da^L;  delta^{l-1} = f'(z^{l-1}) * (W^l)^T delta^l;  dC/dW^l = delta^l (a^{l-1})^T,
        dC/db^l = delta^l, summed over examples with their weights (Nielsen 2015, BP1 to BP4).
        delta is of each example unweighted: with sample_weight backward runs twice, and a loss of your own is
        called twice on each chunk of rows.
        """
        self._chain("backward")
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected what net.forward(X) returned, got {type(tape).__name__}")
        widths = [a.shape[1] for a in tape.a]
        same = widths == [node.n_out for node in self._model.graph.chain] and tape.activations == self._activations()
        if not same or tape.theta.shape != self.theta.shape:
            raise ValueError("tape: expected a tape of this network, got one of another")
        if tape.theta.dtype != self.dtype:
            raise ValueError(f"tape: expected a tape in {self.dtype}, got {tape.theta.dtype}")
        X = tape.a[0] if self.table is None else Converted({self._model.inputs[0].name: tape.a[0]})
        data = Data(self._model, X, y, loss, sample_weight)
        theta, threads = np.zeros(self.n_params, self.dtype), _threads.resolve(n_threads)
        delta, x, total, weight = self._reverse(tape, data, theta, threads)
        if data.weight is not None:
            unweighted = Data(self._model, X, y, loss, None)
            delta = self._reverse(tape, unweighted, np.empty_like(theta), threads)[0]
        W, b = self._views(theta)
        return Gradients(total / weight, (None, *delta), W, b, x / weight, theta)

    def _reverse(
        self, tape: Tape, data: Data, theta: np.ndarray, threads: int
    ) -> tuple[list[np.ndarray], np.ndarray, float, float]:
        """w delta by layer, w dE/dx, and the sums of w E and of w; fills theta with dC/dtheta."""
        n = len(tape.a[0])
        key = data.key(_plans.REVERSE | self._model.penalties, n, threads)
        with _plans.take(self._model, key, theta=tape.theta) as lent:
            compiled, run = lent.compiled, lent.run
            known: dict[int, np.ndarray] = {}
            zs, as_, dfs = self._chained(compiled)
            for arrays, buffers in ((tape.a, as_), (tape.z, zs), (tape.df, dfs)):
                for array, buffer in zip(arrays, buffers, strict=True):
                    if buffer >= 0 and array is not None:
                        known[buffer] = array
            delta = [np.empty((n, node.n_out), self.dtype) for node in self._model.graph.chain[1:]]
            x = np.empty((n, self.n_inputs), self.dtype)
            grads = [compiled.plan.grad(buffer) for buffer in (as_[0], *zs[1:])]
            run.ports(
                [*known.items(), *data.ports(self._model, compiled)],
                list(zip(grads, [x, *delta], strict=True)),
                weight=len(known) + 1 if data.weight is not None else -1,
                target_shapes=[target.shape for target in data.targets],
            )
            run.optimizer("gradient", (theta,))
            loss, weight = whole(run, n, threads)[:2]
            for _, _, name in compiled.standardized:
                x /= self._model.moments_of(name).scale
        return delta, x, loss, weight

    def value_and_grad(
        self, X: Any, y: Any = None, *, loss: _LossLike = "auto", sample_weight: Any = None,
        n_threads: int | None = None,
    ) -> tuple[float, np.ndarray]:  # fmt: skip
        """C over X and y, and dC/dtheta: (n_params,), in the order of theta; what scipy.optimize.minimize wants.

        C is what `evaluate` gives: nothing is drawn, and BatchNorm normalises by its running mean and variance.
        """
        data, threads = Data(self._model, X, y, loss, sample_weight), _threads.resolve(n_threads)
        with self._model.reading() as model:
            return data.value_and_grad(model, threads)

    def input_gradient(self, X: Any, *, output: int | tuple[str, int], n_threads: int | None = None) -> Any:
        """d a^L_k / dx at each row of X (n, n_0), for number k of the output: shaped as X.

        Of several outputs `output` is a pair, (name, k); of several inputs the result is a tuple, shaped as they are,
        with None for whole numbers.  Raises ValueError where all inputs are whole numbers.
        """
        with self._model.reading() as model:
            return _derivatives.input_gradient(model, X, output, n_threads)

    def jacobian(self, X: Any, *, n_threads: int | None = None) -> Any:
        """d a^L_j / dx_k at each row of X (n, n_0): (n, n_L, n_0), axes of an example flattened.

        Of several outputs a tuple over them, as of `predict`; of several inputs a tuple over them, or in each:
        J[output][input], None for whole numbers.  Raises ValueError where all inputs are whole numbers.
        """
        with self._model.reading() as model:
            return _derivatives.jacobian(model, X, n_threads)

    def per_sample_gradients(
        self, X: Any, y: Any = None, *, loss: _LossLike = "auto", n_threads: int | None = None
    ) -> np.ndarray:
        """dE_x/dtheta for each row x of X (n, n_0): (n, n_params), unweighted, in the order of theta."""
        with self._model.reading() as model:
            return _derivatives.per_sample_gradients(model, X, y, loss, n_threads)

    def hvp(
        self, X: Any, y: Any, v: Any, *, loss: _LossLike = "auto", sample_weight: Any = None,
        n_threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """H v, H the second derivatives of C over X and y by theta: (n_params,), for v (n_params,).

        Exact, by the R-operator (Pearlmutter 1994), at some four times the cost of a gradient, with recurrent layers
        five to eight times.  With truncated ones it is the derivative along v of what `value_and_grad` gives;
        that is no gradient of a cost, so this H is not symmetric.  For bpcore's own activations and losses,
        cross-entropies on the outputs they belong to, and for a bp.Function with a tangent; ValueError names a layer
        that has no second derivative here.
        """
        with self._model.reading() as model:
            return _derivatives.hvp(model, X, y, v, loss, sample_weight, n_threads)

    def gauss_newton_product(
        self, X: Any, y: Any, v: Any, *, loss: _LossLike = "auto", sample_weight: Any = None,
        n_threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """G v, G = sum_x w_x J^T H_L J / sum w: (n_params,), for v (n_params,).

        J is the derivative by theta of what the loss reads (a^L, or z^L where softmax or logistic belong to the
        cross-entropy), H_L the loss's second derivative by it: H without the curvature of the network, never negative
        (Schraudolph 2002).  With truncated recurrent layers J^T is cut, as gradients are: v^T G v may then be negative.
        """
        with self._model.reading() as model:
            return _derivatives.gauss_newton_product(model, X, y, v, loss, sample_weight, n_threads)

    # ---- keeping ----

    def save(self, path: str | os.PathLike[str], *, optimizer: bool = True) -> None:
        """Writes the network, its counters and its optimiser's state to one safetensors file, all or nothing.

        optimizer=False: without the optimiser and its state, of which Adam has twice as much as there are parameters;
        the next `fit` of what is loaded begins a new one.
        """
        optimizer = _validate.flag("optimizer", optimizer)
        with self._model.reading(memory=True) as model:
            _io.save(model, path, optimizer)

    def averaged(self) -> Network:
        """An independent network with the average of the parameters that the last optimiser kept (`ema=0.999`), as
        validation used it; frozen layers have their own.  Its counters are this one's, and its next `fit` begins a new
        optimiser.  ValueError where no average was kept.
        """
        with self._model.reading(memory=True) as model:
            if model.memory.average is None:
                raise ValueError(
                    "averaged: expected that the last fit kept an average, optimizer=bp.Adam(ema=0.999) or the like; "
                    f"its optimizer is {model.memory.optimizer}"
                )
            twin = model.averaged().like(self.dtype)
            twin.step, twin.epoch = model.step, model.epoch
        return self._of(twin)

    def copy(self, *, optimizer: bool = True) -> Network:
        """An independent network: same layers, parameters, counters and optimiser state.

        optimizer=False: without the optimiser and its state; `pickle.dumps(net.copy(optimizer=False))` is a pickle
        without them.
        """
        optimizer = _validate.flag("optimizer", optimizer)
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._own(copy.copy(self._model))
        if not optimizer:
            twin._model.memory = Memory()
        return twin

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        twin = self.copy()
        model = twin._model
        model.graph = model.graph.with_layers({id(n.layer): copy.deepcopy(n.layer, memo) for n in model.graph.nodes})
        twin._own(model)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_as_layers", "_layers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_model" in state:
            self.__dict__.update(state)
            self._own(self._model)
            return
        # bpcore 0.1 kept all of it here
        model = Model(state["_graph"], state["_dtype"], state["_seed"], state["_checkpoint"], state["_frozen"])
        model.theta[:] = state["_theta"]
        model.step, model.epoch, model.memory = state["step"], state["epoch"], state["_memory"]
        self._own(copy.copy(model))  # which copies the optimiser's arrays


@worded
def load(
    path: str | os.PathLike[str], *, custom: Mapping[str, Activation | Function | Schedule] | None = None
) -> Network:
    """A network from a file that `save` wrote.

    custom: the user's own activations, functions and schedules by the name they were saved under.  Raises ValueError
    for anything that is not such a file, FileNotFoundError and its kin for what the system says.  Never executes what
    it reads.
    """
    return Network._of(_io.load(path, custom))

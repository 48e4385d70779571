"""What a network is made of: `Network` is the face that users see of it, and all other modules work with this."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bpcore import _checkpoint, _core, _validate
from bpcore._arrays import aligned, copied
from bpcore._graph import Graph, Node, Parameter
from bpcore._moments import Moments
from bpcore._optimizers import Memory, Optimizer
from bpcore._plan_cache import PlanCache

if TYPE_CHECKING:
    from bpcore._table import Table


@dataclass(eq=False)
class Snapshot:
    """All that training changes, as it was at a moment: see State.snapshot."""

    theta: np.ndarray
    state: np.ndarray
    memory: Memory
    step: int
    epoch: int


def _known(value: Any) -> Any:
    """A setting by its value; an object by its identity."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_known, value))
    return repr(value) if isinstance(value, (str, int, float, bool, type(None))) else id(value)  # -0.0 is not 0.0


class Views(dict[str, np.ndarray]):
    """Views of theta, or of the state, by name, a read-only dict; copied or pickled, a dict of these arrays or of
    copies.  called: what the network calls it."""

    called = "params"

    def __missing__(self, name: str) -> np.ndarray:
        return self[_validate.key(self.called, name, self)]

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{self.called}: expected to be read only; net.{self.called}[name][...] = numbers writes to its arrays"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


class StateViews(Views):
    """Those of the state."""

    called = "state"


class Model:
    """A graph, its parameters, and how far they are trained.

    theta: all parameters; params: views of it by name.  state: what layers keep from step to step beside theta, (n,);
    states: views of it by name.  penalised: those with an l1 or l2 of their own.  frozen: names
    of layers that `fit` leaves alone.  step, epoch: counted over all fits.  memory: what the optimiser keeps from one
    fit to the next.  fitting: held by a fit; whoever reads theta while another thread may fit uses `reading`.
    plans: those that were used last, see _plans.take.  feature_names: of the columns of the data frames that `fit` saw,
    by input.  moments: of inputs, by the Standardize layer that reads them; target_moments: of outputs that go to the
    user in other units than the network has, by output; both are replaced, never changed.  table: what
    makes arrays of data frames.
    """

    theta: np.ndarray
    state: np.ndarray
    params: Views
    states: StateViews
    penalised: dict[str, Parameter]
    fitting: _core.OneAtATime
    plans: PlanCache
    # also of pickles that have none:
    feature_names: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    moments: Mapping[str, Moments] = MappingProxyType({})
    target_moments: Mapping[str, Moments] = MappingProxyType({})
    table: Table | None = None

    def __init__(
        self,
        graph: Graph,
        dtype: np.dtype[Any],
        seed: int,
        checkpoint: _checkpoint.Checkpoint = None,
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        self.graph, self.dtype, self.seed = graph, dtype, seed
        self.checkpoint, self.frozen = checkpoint, frozen
        self.step = self.epoch = 0
        self.memory = Memory()
        state = aligned(sum(s.n for s in graph.states.values()), dtype)
        for s in graph.states.values():
            s.of(state)[...] = s.first
        self._bind(aligned(sum(p.rows * p.cols for p in graph.parameters.values()), dtype), state)

    def _bind(self, theta: np.ndarray, state: np.ndarray) -> None:
        """Makes theta the parameters and state the layers' state, with nothing compiled for them yet."""
        self.theta, self.state = theta, state
        self.states = StateViews((name, s.of(state)) for name, s in self.graph.states.items())
        views = ((name, p.of(theta)) for name, p in self.graph.parameters.items())
        self.params = Views(views)
        self.penalised = {n: p for n, p in self.graph.parameters.items() if p.treatment.l1 or p.treatment.l2}
        self.fitting = _core.OneAtATime()
        self.forget_plans()

    def forget_plans(self) -> None:
        """Plans are compiled anew from now on: for what is frozen, or the checkpoint, has changed."""
        self.plans = PlanCache()
        self.jacobians: dict[int, _core.Predictor | None] = {}  # by threads; see _derivatives

    def reading(self, memory: bool = False) -> _core.Reading:
        """`with` it: this model, or while another thread fits it a copy as of a whole step; memory: with the
        optimiser's."""
        return _core.Reading(self, self.fitting, memory)

    def copied(self, memory: bool) -> Model:
        """The same with a theta of its own; with a memory of its own, and nothing compiled, or to be read alone."""
        twin = object.__new__(Model)
        twin.__dict__.update(vars(self))
        if memory:
            twin.memory = self.memory.copy()
        twin._bind(copied(self.theta), copied(self.state))
        if not memory:
            twin.plans = self.plans
        return twin

    def answering(self, theta: np.ndarray) -> Model:
        """The same with another theta and without the optimiser's memory, to make plans of."""
        twin = self.without_memory()
        twin.theta = theta
        for name in ("params", "states", "plans", "jacobians"):
            del twin.__dict__[name]
        return twin

    def without_memory(self) -> Model:
        """The same without the optimiser's memory, to be read alone."""
        twin = object.__new__(Model)
        twin.__dict__.update(vars(self))
        twin.memory = Memory()
        return twin

    @property
    def inputs(self) -> list[Node]:
        """The nodes of the inputs."""
        return [self.graph.nodes[i] for i in self.graph.inputs]

    def refuses_sparse(self, number: int) -> str | None:
        """Why input `number` cannot come as sparse rows; None where it can."""
        return self.graph.refuses_sparse(self.graph.inputs[number])

    @property
    def outputs(self) -> list[Node]:
        """The nodes of the outputs."""
        return [self.graph.nodes[i] for i in self.graph.outputs]

    def read(
        self, X: Any, name: str = "X", *, known: Mapping[str, tuple[str, ...]] | None = None, check_finite: bool = True,
        empty: bool = False, takes_sparse: bool = False,
    ) -> list[Any]:  # fmt: skip
        """X of a call as an array for each input, checked: of a frame what the table makes of it.

        known: names of columns by input, unless the model's own.  empty: whether no rows will do.
        takes_sparse: whether it may be sparse where Dense layers alone read it.
        """
        known = self.feature_names if known is None else known
        X = X if self.table is None else self.table.read(X, name, self.dtype)
        sparse = self.refuses_sparse if takes_sparse else None
        return _validate.inputs(X, self.inputs, self.dtype, check_finite, name, known=known, empty=empty, sparse=sparse)

    def targets(self, X: Any, y: Any, called: tuple[str, ...] = ("X", "y")) -> Any:
        """y of a call, which a table with a target takes from X where it is None; called: what messages call both."""
        if self.table is not None:
            return self.table.targets(X, y, called)
        if y is None:
            raise TypeError(
                f"{called[1]}: expected real numbers, got None, dtype object; only a bp.data.Stream as X holds its "
                "own, or a frame of a bp.Table's network"
            )
        return y

    @property
    def column_names(self) -> dict[str, tuple[str, ...]]:
        """Of the inputs' columns, as data frames have them, or as the table calls what it makes of a frame's."""
        table = self.table
        return dict(self.feature_names) if table is None else {"numbers": table.features, "codes": table.embedded}

    def labels(self, answers: Any) -> np.ndarray:
        """The class of each row of outputs, as the table calls it."""
        if self.table is None or self.table.classes is None:
            raise ValueError(
                "predict_labels: expected a network of a bp.Table whose target is classes, and this one has none; "
                "predict gives its outputs"
            )
        return self.table.labels(answers)

    def moments_of(self, name: str) -> Moments:
        """Of what the Standardize layer of this name reads."""
        if name not in self.moments:
            raise ValueError(
                f"{name}: expected to know mean and scale of its input, which it has not learnt yet; call "
                "net.adapt(X), or fit(X, y) first"
            )
        return self.moments[name]

    def in_units(self, number: int, array: np.ndarray) -> np.ndarray | _core.Scaled:
        """What the answers of output `number` are written to, so that an array has them in the user's units."""
        own = self.target_moments.get(self.outputs[number].name)
        return array if own is None else own.written(array)

    @property
    def frozen_parameters(self) -> set[str]:
        """Names of the parameters of frozen layers."""
        return {name for node in self.graph.nodes if node.base in self.frozen for name in node.parameters}

    @property
    def meeting(self) -> list[str]:
        """Names of the nodes for which `fit` takes all rows of a batch together."""
        return [node.name for node in self.graph.nodes if node.layer.meets and node.base not in self.frozen]

    @property
    def penalties(self) -> int:
        """The flag of plans whose cost has penalties of layers, or 0."""
        return _core.PENALTY if self.penalised and self.penalised.keys() - self.frozen_parameters else 0

    def _penalised(self, l2: float) -> Iterator[tuple[str, float, float]]:
        """Names of the parameters that have penalties, l2 joining that of all weights, and their l1 and l2."""
        if not l2 and not self.penalised:
            return
        frozen = self.frozen_parameters
        for name, p in (self.graph.parameters if l2 else self.penalised).items():
            if name not in frozen:
                yield name, p.treatment.l1, p.treatment.l2 + (l2 if p.decay else 0.0)

    def penalty(self, l2: float = 0.0) -> float:
        """What penalties add to the cost; l2 joins that of all weights."""
        return sum(_core.penalty(self.params[name], l1, own) for name, l1, own in self._penalised(l2))

    def l2_of_each(self, l2: float = 0.0) -> np.ndarray:
        """The l2 of each parameter, (n_params,) float64: the second derivative of the penalties."""
        each = np.zeros(self.theta.size)
        for name, _, own in self._penalised(l2):
            self.graph.parameters[name].of(each)[...] = own
        return each

    def state_arrays(self, n: int) -> tuple[np.ndarray, ...]:
        """n arrays of zeros, shaped as theta, for an optimiser's state."""
        return tuple(aligned(self.theta.size, self.dtype, 1 + i) for i in range(n))

    def new_memory(self, optimizer: Optimizer) -> Memory:
        """Of an optimiser that begins now."""
        memory = Memory(optimizer, self.state_arrays(len(optimizer.states)))
        if memory.average is not None:
            memory.average[:] = self.theta
        return memory

    def settle(self, memory: Memory) -> None:
        """The average of what is frozen is theta, so that it is when it thaws, and nothing leads there."""
        average, leads = memory.average, memory.optimizer is not None and memory.optimizer.leads
        if average is None and not leads:
            return
        for name in self.frozen_parameters:
            of = self.graph.parameters[name].of
            if average is not None:
                of(average)[...] = self.params[name]
            else:
                of(memory.states[0])[...] = 0

    def averaged(self) -> Model:
        """The same with the average in place of theta, to be read alone; this one where none is kept."""
        average = self.memory.average
        if average is None:
            return self
        twin = self.copied(memory=False)
        twin.theta[:] = average
        for name in self.frozen_parameters:
            twin.params[name][...] = self.params[name]
        return twin

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of this model, which stays as it is; whole, also where Ctrl-C comes meanwhile."""
        memory = snapshot.memory.copy()
        try:
            self._put(snapshot, memory)
        except KeyboardInterrupt:
            self._put(snapshot, memory)
            raise

    def _put(self, snapshot: Snapshot, memory: Memory) -> None:
        self.theta[:], self.state[:] = snapshot.theta, snapshot.state
        self.memory, self.step, self.epoch = memory, snapshot.step, snapshot.epoch

    def signature(self) -> Any:
        """Equal for models that compile to the same plans."""
        return *self.architecture(), self.checkpoint, self.frozen

    def architecture(self) -> Any:
        """Equal for models that answer by the same plans; functions of the user's must be the same objects."""
        nodes = tuple(
            (
                type(node.layer),
                tuple(_known(getattr(node.layer, name)) for name in node.layer.saved),
                (node.name, node.shape, node.inputs, node.parameters),
            )
            for node in self.graph.nodes
        )
        return self.dtype, nodes, self.graph.inputs, self.graph.outputs

    def like(self, dtype: Any) -> Model:
        """The same with the same parameters and state in another dtype, without memory of training."""
        twin = Model(self.graph, np.dtype(dtype), self.seed, self.checkpoint, self.frozen)
        twin.theta[:], twin.state[:] = self.theta, self.state
        twin.feature_names = self.feature_names
        twin.moments, twin.target_moments, twin.table = self.moments, self.target_moments, self.table
        return twin

    def __copy__(self) -> Model:
        with self.reading(memory=True) as model:
            return self.copied(memory=True) if model is self else model

    def __getstate__(self) -> dict[str, Any]:
        state = vars(copy.copy(self)).copy()
        for name in ("params", "states", "penalised", "fitting", "plans", "jacobians"):
            del state[name]
        if not self.state.size:
            del state["state"]  # pickles of bpcore 0.1 have none
        for name in {"moments", "target_moments"} & state.keys():
            state[name] = dict(state[name])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # arrays are copied on both sides: a pickle's buffers may be out of band, and then belong to someone else
        self.__dict__.update(state)
        self.memory = self.memory.copy()
        self._bind(copied(self.theta), copied(state.get("state", np.empty(0, self.dtype))))

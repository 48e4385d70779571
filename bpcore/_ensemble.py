"""An ensemble: networks that answer together, by the mean of what each answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from bpcore import _core, _data, _errors, _io, _plans, _threads, _validate
from bpcore._activations import Activation
from bpcore._function import Function
from bpcore._history import History
from bpcore._layers import BOOTSTRAP, FOLDS, Input
from bpcore._many import fit_many, listed
from bpcore._model import Model
from bpcore._moments import Moments
from bpcore._network import Network
from bpcore._operations import Activate, concat
from bpcore._schedules import Schedule
from bpcore._symbols import Symbol
from bpcore._words import Worded, worded

_CONCATENATED = 8  # inputs that Concat takes


class Ensemble(Worded):
    """Networks of the same inputs, outputs and dtype, trained side by side; an answer is the mean of theirs.

        ensemble = bp.Ensemble([bp.Network(layers, seed=k) for k in range(16)])
        histories = ensemble.fit(X, y, bootstrap=True, epochs=100)
        mean, spread = ensemble.predict(X, spread=True)

    nets: the members, which may have any layers between; they are held, not copied: what trains one of them trains a
    member.  How far members disagree (`spread`) is large where the data say little (Lakshminarayanan, Pritzel and
    Blundell 2017; with bootstrap samples: Breiman 1996).
    Raises ValueError or TypeError for no networks, one that is there twice, and networks that do not fit together.
    """

    def __init__(self, nets: Iterable[Network]) -> None:
        self._members = tuple(listed(nets))
        if not self._members:
            raise ValueError("nets: expected at least one network, got none")
        first, *others = (_ends(net._model) for net in self._members)
        for k, ends in enumerate(others, 1):
            if ends != first:
                raise ValueError(
                    f"nets[{k}]: expected {_words(self._members[0])}, as nets[0] has, got {_words(self._members[k])}"
                )
        self._feature_names()
        architecture = self._members[0]._model.architecture()
        self._alike = all(net._model.architecture() == architecture for net in self._members)

    def _feature_names(self) -> Mapping[str, tuple[str, ...]]:
        """Of columns, by input, that any member knows."""
        known: dict[str, tuple[str, ...]] = {}
        for k, net in enumerate(self._members):
            for name, names in net.feature_names.items():
                if known.setdefault(name, names) != names:
                    raise ValueError(
                        f"nets[{k}]: expected columns {list(known[name])}, as other members were trained on, got "
                        f"{list(names)}; train all members on one data frame"
                    )
        return known

    @property
    def members(self) -> tuple[Network, ...]:
        """The networks, in the order in which their answers are added."""
        return self._members

    def __len__(self) -> int:
        """How many members."""
        return len(self._members)

    def __iter__(self) -> Iterator[Network]:
        """The members."""
        return iter(self._members)

    @overload
    def __getitem__(self, place: int) -> Network: ...
    @overload
    def __getitem__(self, place: slice) -> Ensemble: ...
    def __getitem__(self, place: int | slice) -> Network | Ensemble:
        """ensemble[0] is a member, ensemble[1:] an ensemble of some of the same networks."""
        return type(self)(self._members[place]) if isinstance(place, slice) else self._members[place]

    def __repr__(self) -> str:
        first, n = self._members[0], len(self._members)
        if self._alike:
            return f"<Ensemble of {n} x {first!r}>"
        return f"<Ensemble of {n} networks, {_words(first)}, {sum(net.n_params for net in self._members):,} parameters>"

    # ---- training ----

    def fit(
        self, X: Any, y: Any = None, *, bootstrap: bool = False, folds: int | None = None, stratify: Any = None,
        seed: int | None = None, **settings: Any,
    ) -> list[History]:  # fmt: skip
        """Trains the members on X and y side by side, as `fit_many` does; returns their histories.

        bootstrap=True: each member is trained on a sample of its own, as many rows as X has, drawn with repetition.
        folds=k: X is cut into k folds at random, and member i is not trained on fold i mod k.  `rows` tells which rows.
        stratify: (n,) labels, y for class labels: each fold has its share of the rows of each label.
        seed: of these draws, unless given the first member's; and where it is given, member i shuffles (and draws) by
        seed + i instead of its own.  A second `fit` with the same seed trains each member on the same rows.
        settings: keywords of `fit_many`, `rows` among them where neither bootstrap nor folds says which.

        A member that diverges has its DivergenceError in `history.error`, and is a member still, with its last finite
        parameters.  Raises what `fit_many` raises, before anything has changed.
        """
        first = self._members[0]._model
        number = None if seed is None else _validate.seed(seed)
        if _validate.switch("bootstrap", bootstrap) or folds is not None or stratify is not None:
            if settings.get("rows") is not None:
                raise ValueError("rows: expected None beside bootstrap=True or folds, which say the rows themselves")
            known = self._feature_names()
            n = len(first.read(X, known=known, check_finite=False, takes_sparse=True)[0])
            settings["rows"] = self.rows(n, bootstrap=bootstrap, folds=folds, stratify=stratify, seed=number)
        elif number is None and settings.get("rows") is None and self._some_are_equal():
            _errors.warn(
                "nets: some members have equal weights and seeds, and stay equal; give each bp.Network(..., seed=k), "
                "or fit a seed, bootstrap=True or folds"
            )
        seeds = None if number is None else [(number + k) % 2**64 for k in range(len(self._members))]
        return fit_many(self._members, X, y, seed=seeds, **settings)

    def rows(
        self, n: int, *, bootstrap: bool = False, folds: int | None = None, stratify: Any = None,
        seed: int | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """Which of n rows `fit` with these settings trains each member on: (m,) int64 each.

        The others, np.setdiff1d(np.arange(n), rows[i]), are new to member i.
        """
        n = _validate.integer("n", n, 1, 2**62)
        number = self._members[0].seed if seed is None else _validate.seed(seed)
        bootstrap, places = _validate.switch("bootstrap", bootstrap), range(len(self._members))
        if stratify is not None and folds is None:
            raise ValueError("stratify: expected None without folds, the number of parts that are to be alike")
        if folds is None:
            if not bootstrap:
                return [np.arange(n)] * len(places)
            return [(_core.uniform(n, number, BOOTSTRAP, k) * n).astype(np.int64) for k in places]
        if bootstrap:
            raise ValueError("folds: expected None beside bootstrap=True, whose samples leave out rows themselves")
        k = _validate.integer("folds", folds, 2, max(2, n))
        if n < k:
            raise ValueError(f"folds: expected at most one for each row, got {k} for {n} rows")
        if k > len(places):
            raise ValueError(
                f"folds: expected at most one for each member, got {k} for {len(places)}, and no member "
                f"would hold {k - len(places)} of them out; make an Ensemble of {k} networks"
            )
        order = _core.permutation(n, number, FOLDS)
        if stratify is not None:  # rows of a label follow each other, and are dealt to the folds in turn
            order = order[np.argsort(_label_numbers(stratify, n)[order], kind="stable")]
        fold_of = np.empty(n, np.int64)
        fold_of[order] = np.arange(n) % k
        parts = [np.flatnonzero(fold_of != fold) for fold in range(k)]
        return [parts[place % k] for place in places]

    def _some_are_equal(self) -> bool:
        """Whether training on the same rows would leave two members the same."""
        first: dict[int, Network] = {}
        return any(
            np.array_equal(first.setdefault(net.seed, net).theta, net.theta) and first[net.seed] is not net
            for net in self._members
        )

    # ---- answering ----

    def predict(self, X: Any, *, spread: bool = False, n_threads: int | None = None) -> Any:
        """The mean of the members' outputs for every row of X (n, n_0): (n, n_L) in their dtype; of several outputs a
        tuple.

        With spread=True, (mean, spread): the standard deviation of the members' outputs about their mean (divided by
        their number, as np.std has it), shaped as the mean.  Both are summed in float64 in the order of members, and
        rounded once: the mean has the bits of np.mean(answers, axis=0, dtype="float64").
        X is as for `Network.predict`; a row has the same bits in every batch, on any n_threads.
        """
        spread, threads = _validate.switch("spread", spread), _threads.resolve(n_threads)
        first = self._members[0]._model
        arrays = first.read(X, known=self._feature_names(), empty=True, takes_sparse=True)
        return _result(self._answers(arrays, spread, threads), spread)

    def predict_labels(self, X: Any, *, n_threads: int | None = None) -> np.ndarray:
        """The class of each row (n,), that of the largest mean; see Network.predict_labels."""
        return self._members[0]._model.labels(self.predict(X, n_threads=n_threads))

    def _answers(self, arrays: list[Any], spread: bool, threads: int) -> list[tuple[np.ndarray, Any]]:
        """Mean and spread, or None, of each output, for checked inputs."""
        members = None if _plans.sparse_of(arrays) else self._side_by_side(len(arrays[0]), threads)
        if members is not None:
            return [members.predict(arrays[0], spread, threads)]
        sums: list[_Sums] = []
        for net in self._members:  # one after the other, each on all threads
            with net._model.reading() as model:
                answers = _data.predict(model, arrays, threads)
            sums = sums or [_Sums(answer, spread) for answer in answers]
            with np.errstate(all="ignore"):  # infinities are said by the result, as a network's are
                for each, answer in zip(sums, answers, strict=True):
                    each.add(answer)
        with np.errstate(all="ignore"):
            return [each.result() for each in sums]

    @worded
    def evaluate(
        self, X: Any, y: Any = None, *, loss: Any = "auto", sample_weight: Any = None, metrics: Any = (),
        n_threads: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """{"loss": C of the mean that `predict` gives, "accuracy": ..., ...}: as `Network.evaluate` of a network, whose
        arguments, results and errors it has, but for penalties of layers, which are left out, and the loss of members
        that were fitted with standardize_y=True: it is in y's units, since each has a scale of its own."""
        first, threads = self._members[0]._model, _threads.resolve(n_threads)
        known = self._feature_names()
        data = _data.Data(first, X, y, loss, sample_weight, known=known)
        data.measure(metrics)
        data.advise()
        means = self._answers(data.arrays, False, threads)
        data.arrays = [mean for mean, _ in means]
        return data.evaluate(_passing(first), threads)

    def _side_by_side(
        self, rows: int, n_threads: int, limit: Callable[[], int] | None = None
    ) -> _core.Members | None:  # fmt: skip
        """Copies of the members as they are, each a lane of the vectors; None unless they are alike, small chains of
        Dense layers in the user's units, and calls of about so many rows gain by it."""
        first = self._members[0]._model
        ends = (*first.inputs, *first.outputs)
        if not self._alike or len(ends) > 2 or any(len(node.shape) > 1 for node in ends):
            return None
        standardized = any(node.layer.gathered and node.inputs for node in first.graph.nodes)
        if standardized or any(net._model.target_moments for net in self._members):
            return None
        key = _plans.Key(_plans.PREDICT, _plans.INFERENCE_ROWS, 1)
        compiled = first.plans.entry((_plans.make_plan, key), lambda: _plans.make_plan(first, key)).compiled
        members = _core.Members(
            compiled.plan, ends[0].name, ends[0].n_out, compiled.outputs[0], ends[1].n_out, len(self._members), rows,
            n_threads, limit, self._feature_names(),
        )  # fmt: skip
        for k, net in enumerate(self._members if members.fits else ()):
            with net._model.reading() as model:
                members.set(k, model.theta)
        return members if members.fits else None

    def predictor(self, *, n_threads: int | None = None) -> EnsemblePredictor:
        """The ensemble as it is now, to be asked from any number of threads: `answer = ensemble.predictor()`.

        `answer(x)` takes a row (n_0,) or rows (n, n_0), and gives the mean (n_L,) or (n, n_L); answer(x, spread=True)
        gives (mean, spread).  The bits are those of `predict`.  All members answer in one call, which is made for a row
        or some; for rows of which all members' answers would take much memory, use `predict`.  See Network.predictor.
        """
        threads = _threads.resolve(n_threads)
        table = self._members[0].table
        members = self._side_by_side(1, threads, _threads.get_num_threads if n_threads is None else None)
        if members is None or table is not None:
            joined = _joined([net._model for net in self._members])
            joined._model.feature_names, joined._model.table = self._feature_names(), table
            return EnsemblePredictor(joined.predictor(n_threads=n_threads), len(self._members))
        return EnsemblePredictor(members, len(self._members))

    # ---- keeping ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all members, with their counters and optimisers' states, to one safetensors file, all or nothing."""
        _io.save_ensemble([_whole(net._model, memory=True) for net in self._members], path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, custom: Mapping[str, Activation | Function | Schedule] | None = None
    ) -> Ensemble:
        """An ensemble from a file that `save` wrote; custom and errors are as in `bp.load`."""
        models = _io.load_ensemble(path, custom)
        try:
            return cls([Network._of(model) for model in models])
        except ValueError as error:
            raise ValueError(f"load: {os.fsdecode(path)!r} is not a bpcore ensemble: {error}") from None

    def copy(self) -> Ensemble:
        """An independent ensemble, of copies of the members."""
        return type(self)([net.copy() for net in self._members])

    __copy__ = copy


class EnsemblePredictor:
    """Answers of an ensemble as it was when this was made; see Ensemble.predictor."""

    def __init__(self, answer: _core.Members | _core.Predictor, n: int) -> None:
        """answer: of n members, their mean and spread, or their outputs one after the other."""
        self._answer, self._n = answer, n
        self._members = answer if isinstance(answer, _core.Members) else None

    def __call__(self, x: Any, *, spread: bool = False) -> Any:
        """The mean for a row x (n_0,): (n_L,); or for rows (n, n_0): (n, n_L); with spread=True (mean, spread)."""
        if self._members is not None:
            return self._members(x, spread)
        answers = self._answer(x)  # type: ignore[call-arg]
        if type(answers) is np.ndarray:
            both = _core.mean_of(answers, self._n, spread)
            return both if spread else both[0]
        return _result([_core.mean_of(answer, self._n, spread) for answer in answers], spread)

    @property
    def n_inputs(self) -> int:
        """Numbers of an example, of all inputs."""
        return self._answer.n_inputs

    @property
    def n_outputs(self) -> int:
        """Numbers of an answer, of all outputs."""
        return self._answer.n_outputs if self._members else self._answer.n_outputs // self._n

    def __reduce__(self) -> Any:
        raise TypeError("a predictor cannot be pickled or copied; pickle the ensemble, and call predictor() there")

    def __repr__(self) -> str:
        return f"<EnsemblePredictor of {self._n} members, {self.n_inputs} inputs and {self.n_outputs} outputs>"


# ---- what members have in common ----


def _ends(model: Model) -> Any:
    """What members must agree in; names where several inputs or outputs are told apart by them."""
    inputs = [(node.shape, node.layer.integer, node.n_labels) for node in model.inputs]
    outputs = [node.shape for node in model.outputs]
    names = [[node.name for node in ends] if len(ends) > 1 else [] for ends in (model.inputs, model.outputs)]
    return model.dtype, inputs, outputs, names, model.table


def _words(net: Network) -> str:
    """Inputs, outputs and dtype of a network, for a message."""
    ends = [", ".join(f"{name} {shape}" for name, shape in each.items()) for each in (net.inputs, net.outputs)]
    return f"{ends[0]} -> {ends[1]} in {net.dtype}{'' if net.table is None else f', {net.table!r}'}"


def _whole(model: Model, memory: bool = False) -> Model:
    """A copy as of a whole step.  Members are copied one after the other: a reader of one who waits for another while a
    fit waits for that reader would wait for ever."""
    with model.reading(memory) as read:
        return read if read is not model else model.copied(memory)


def _joined(models: Sequence[Model]) -> Network:
    """Copies of all members side by side on the same inputs: output i holds theirs, one after the other."""
    first = models[0]
    inputs = [
        Input(node.shape if len(node.shape) > 1 else node.n_out, integer=node.layer.integer, name=node.name)
        for node in first.inputs
    ]
    members = [_whole(model) for model in models]
    units = [model.target_moments for model in members]
    for model in members:
        model.target_moments = {}  # their outputs are read within; all go to the user's units together
    answers = [Network._of(model)(*inputs) for model in members]
    by_output = zip(*(each if isinstance(each, list) else [each] for each in answers), strict=True)
    joined = Network(inputs, [_concatenated(list(symbols)) for symbols in by_output], dtype=first.dtype)
    if any(units):
        places = enumerate(joined._model.outputs)
        joined._model.target_moments = {node.name: _units(members, units, number) for number, node in places}
    return joined


def _units(members: Sequence[Model], units: Sequence[Mapping[str, Moments]], number: int) -> Moments:
    """Of all members' numbers of an output, one after the other."""
    own = [(model.outputs[number], known) for model, known in zip(members, units, strict=True)]
    none = [Moments(np.full(node.shape[-1], -0.0), np.ones(node.shape[-1])) for node, _ in own]  # -0 changes no bits
    each = [known.get(node.name, as_is) for (node, known), as_is in zip(own, none, strict=True)]
    return Moments(np.concatenate([m.mean for m in each]), np.concatenate([m.scale for m in each]))


def _concatenated(symbols: list[Symbol]) -> Symbol:
    """Any number of them, one after the other along the last axis."""
    while len(symbols) > 1:
        groups = [symbols[i : i + _CONCATENATED] for i in range(0, len(symbols), _CONCATENATED)]
        symbols = [concat(group) if len(group) > 1 else group[0] for group in groups]
    return symbols[0]


def _label_numbers(stratify: Any, n: int) -> np.ndarray:
    """(n,) integers, equal where labels are."""
    labels = np.asarray(stratify)
    if labels.shape != (n,):
        raise ValueError(f"stratify: expected a label for each of {n} rows, got shape {labels.shape}")
    try:
        return np.unique(labels, return_inverse=True)[1]
    except TypeError as error:
        raise TypeError(f"stratify: expected labels that can be sorted: {error}") from None


def _passing(model: Model) -> Model:
    """Its inputs are the outputs of `model`, and its outputs the same."""
    inputs = [Input(node.shape if len(node.shape) > 1 else node.n_out) for node in model.outputs]
    return Network(inputs, [Activate("identity")(symbol) for symbol in inputs], dtype=model.dtype)._model


# ---- mean and spread ----


class _Sums:
    """Of members' answers of one output, in float64, in the order of members.

    Squares are of differences from the first member's answer, which is within a few spreads of the mean: so the
    variance, squares / K - (differences / K)^2, does not cancel.
    """

    def __init__(self, first: np.ndarray, spread: bool) -> None:
        self.n, self.spread, self.first, self.total = 0, spread, first, np.zeros(first.shape)
        self.differences, self.squares = (np.zeros(first.shape if spread else 0) for _ in range(2))

    def add(self, answer: np.ndarray) -> None:
        """One member's."""
        self.n += 1
        self.total += answer
        if self.spread:
            difference = np.subtract(answer, self.first, dtype=np.float64)
            self.differences += difference
            self.squares += difference * difference

    def result(self) -> tuple[np.ndarray, Any]:
        """Mean and spread, or None."""
        mean = (self.total / self.n).astype(self.first.dtype)
        if not self.spread:
            return mean, None
        variance = self.squares / self.n - (self.differences / self.n) ** 2
        return mean, np.sqrt(np.maximum(variance, 0.0)).astype(self.first.dtype)


def _result(results: list[tuple[np.ndarray, Any]], spread: bool) -> Any:
    """As `predict` gives it."""
    means, spreads = zip(*results, strict=True)
    if len(results) == 1:
        return (means[0], spreads[0]) if spread else means[0]
    return (means, spreads) if spread else means

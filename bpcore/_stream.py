"""Data that come block by block: `bp.data.Stream`, and one epoch of it, which a thread reads ahead of training."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bpcore import _class_weights, _core, _data, _errors, _validate
from bpcore._data import Data, Sums
from bpcore._layers import BLOCKS, SHUFFLE
from bpcore._model import Model
from bpcore._words import Worded

Permutation = Callable[[int], np.ndarray]  # of so many blocks
Room = dict[str, np.ndarray]
_END = object()
_PATIENCE = 1.0  # seconds


class Stream(Worded):
    """More rows than memory holds: `net.fit(bp.data.Stream(blocks))`.

    blocks: a function without arguments that begins an epoch: it returns an iterator of blocks, tuples (X, y) or
    (X, y, sample_weight), each as `fit` takes them, of any numbers of rows.  A generator function is one.

        def blocks():
            for path in paths:
                with np.load(path) as part:
                    yield part["X"], part["y"]

        net.fit(bp.data.Stream(blocks), epochs=3)

    While a block is trained on, a thread asks for the next, which is copied before the one after it is asked for; two
    are held at a time.  Batches cross blocks.  `fit(shuffle=True)` permutes the rows of each block.  `predict` and
    `evaluate` take streams, too; for `predict` a block may be X alone.
    """

    def __init__(self, blocks: Callable[[], Any]) -> None:
        if not callable(blocks):
            kind = type(blocks).__name__
            cure = "bp.data.Stream(lambda: iter(blocks))"
            if isinstance(blocks, Iterator):
                cure = "an iterator is used up after one epoch: give the function that makes it"
            raise TypeError(f"blocks: expected a function that begins an epoch's iterator, got {kind}; {cure}")
        self.blocks = blocks

    def __repr__(self) -> str:
        return f"Stream({getattr(self.blocks, '__name__', self.blocks)!s})"

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a stream is no array: net.fit, predict and evaluate take it as X, without y")

    _copies = True  # blocks may change when the next is asked for
    _has_targets = True

    def _epoch(self, permutation: Permutation | None) -> Iterator[Any]:
        """Begins an epoch; permutation: of blocks, for streams that can give them in any order."""
        begun = self.blocks()
        if not isinstance(begun, Iterator) and not hasattr(type(begun), "__iter__"):
            raise TypeError(
                "blocks: expected a function that returns an iterator of (X, y), got one that returns "
                f"{type(begun).__name__}"
            )
        return iter(begun)

    def _described(self) -> str:
        """What tells it from another, where a run goes on."""
        return "of a stream"

    def _names(self, model: Model) -> Mapping[str, tuple[str, ...]]:
        """Names of the columns of its blocks, by input, where these are no data frames; after the first block."""
        return {}


class Late(Exception):
    """The next part did not come in time."""


class Part(NamedTuple):
    """Rows of a stream that are trained together: the first n of `data` in this order (None: as they lie).

    room: the memory that they lie in, by name, for a part to come.
    """

    data: Data
    n: int
    order: np.ndarray | None
    room: Room


class Checked:
    """A stream as a call reads it: each block checked, and of the same form as the first.

    called: what messages call X, y and the weights.  names: of X's columns by input, known from the first block on.
    """

    def __init__(
        self, stream: Stream, model: Model, loss: Any, check_finite: bool, class_weight: Any,
        names: Mapping[str, tuple[str, ...]], called: tuple[str, str, str] = ("X", "y", "sample_weight"),
    ) -> None:  # fmt: skip
        if not stream._has_targets:
            raise ValueError("target: expected bp.data.files(paths, target=...) for what there is to learn, got None")
        self.stream, self.model, self.loss, self.check_finite = stream, model, loss, check_finite
        self.class_weight, self.called, self.names = class_weight, called, names
        self.table: np.ndarray | None = None  # of class weights, from the first block on
        self.form: Any = None

    def block(self, number: int, value: Any) -> Data:
        """Block `number`, without class weights."""
        X, y, weight = _validate.examples(f"block {number}", value)
        X_, y_, weight_ = (f"{name} of block {number}" for name in self.called)
        self.names = {**_validate.feature_names_of(X_, X, self.model.inputs), **self.names}
        data = Data(
            self.model, X, y, self.loss, weight, self.check_finite, (X_, y_, weight_), self.names, in_blocks=True
        )
        if self.form is None:
            self.names = {**self.stream._names(self.model), **self.names}
            self.form = _form(data)
            self.table = _class_weights.table_of(self.class_weight, data)
        elif (form := _form(data)) != self.form:
            name = next(name for name in form if form[name] != self.form[name])
            what = f"{name} of block {number}" if name in ("X", "y") else f"block {number}"
            raise ValueError(
                f"{what}: expected {self.form[name]} as in the first block, got {form[name]}; all blocks of a stream "
                "have one form"
            )
        return data

    def weighted(self, data: Data) -> Data:
        """With class weights."""
        return data if self.table is None else _class_weights.weighted(data, self.table)

    def blocks(self, permutation: Permutation | None = None) -> Iterator[Data]:
        """Of an epoch; it holds none while the next is asked for."""
        given, number = self.stream._epoch(permutation), 0
        try:
            while (value := next(given, _END)) is not _END:
                data = [self.block(number, value)]
                del value
                yield data.pop()
                number += 1
        finally:
            if hasattr(given, "close"):
                given.close()
        if not number:
            raise ValueError(
                "blocks: expected at least one block in an epoch, got none; where a generator was used up by the epoch "
                "before, give the function that makes it"
            )

    def first(self) -> Data:
        """The first block of an epoch, with class weights."""
        blocks = self.blocks()
        try:
            return self.weighted(next(blocks))
        finally:
            blocks.close()  # type: ignore[attr-defined]


def _form(data: Data) -> dict[str, str]:
    """What all blocks have in common, in words."""
    kinds = [f"{'whole numbers' if t.is_integer else 'numbers'} of shape (n{_shape(t.array)})" for t in data.targets]
    weight = data.weight
    return {
        "y": ", ".join(kinds),
        "weights": "no sample_weight" if weight is None else f"sample_weight of shape (n{_shape(weight)})",
    }


def _shape(array: Any) -> str:
    return "".join(f", {size}" for size in array.shape[1:]) or ","


class Blocks(Checked):
    """The stream that a call of `fit` trains on, in parts.

    batch: rows of a batch.  seed: of the order of rows, where they are shuffled; else None.  rows_of_epoch: of the last
    epoch that was read to its end; 0: not known.
    """

    def __init__(self, *of: Any, batch: int, seed: int | None) -> None:
        super().__init__(*of)
        self.batch, self.seed, self.rows_of_epoch = batch, seed, 0
        self._reader: _Reader | None = None
        self._free: list[Room] = []  # of parts that are done: fresh pages cost as much as the copy
        self._taken: Room = {}  # of the last part that was taken

    def begin(self, epoch: int) -> None:
        """An epoch, of this number; one that has begun and of which nothing was taken goes on."""
        reader = self._reader
        if reader is None or (reader.epoch, reader.taken) != (epoch, 0):
            self.close()
            self._reader = _Reader(self._parts(epoch), epoch)

    def peek(self) -> Part:
        """The first part of the epoch that has begun, which will be taken."""
        assert self._reader is not None
        part = self._reader.peek()
        assert part is not None  # an epoch without rows is an error
        return part

    def take(self, deadline: float = math.inf) -> Part | None:
        """The next part; None: the epoch has no more.  Raises what the producer raised, and Late where the part
        does not come before the deadline, of time.perf_counter; it may be asked for again."""
        assert self._reader is not None
        part = self._reader.peek(deadline)
        if part is None:
            self.rows_of_epoch = self._reader.taken
            return None
        self._reader.taken += part.n
        if self._taken:
            self._free.append(self._taken)
        self._taken = part.room
        self._reader.pop()
        return part

    def close(self, wait: bool = True) -> None:
        """Ends the epoch, and its iterator, once the producer has ended what it is doing; wait: for a while for that,
        not for a producer that hangs."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            if wait:
                reader.join(_PATIENCE)

    def _order(self, n: int, purpose: int, number: int, epoch: int) -> np.ndarray:
        assert self.seed is not None
        return _core.permutation(n, self.seed, purpose, epoch % 2**32, number)

    def _parts(self, epoch: int) -> Iterator[Part]:
        """Whole batches, then what is left over."""
        shuffled = self.seed is not None
        permutation = (lambda n: self._order(n, BLOCKS, 0, epoch)) if shuffled else None
        rest: list[Part] = []  # fewer rows than a batch has
        number = count = 0
        blocks = self.blocks(permutation)
        try:
            while (data := next(blocks, None)) is not None:
                order = self._order(data.n, SHUFFLE, number, epoch) if shuffled else None
                number, count = number + 1, count + data.n
                rest.append(Part(data, data.n, order, {}))
                data = None
                whole = count // self.batch * self.batch
                if not whole:
                    rest[-1] = self._joined(rest[-1:], None)
                    continue
                part = self._joined(rest, self._free.pop() if self._free else {})._replace(n=whole)
                count -= whole
                rest = [_left_over(part)] if count else []
                yield part._replace(data=self.weighted(part.data))
                part = None  # type: ignore[assignment]  # the producer makes the next while it is trained
        finally:
            blocks.close()  # type: ignore[attr-defined]
        if count:
            last = self._joined(rest, None)
            yield last._replace(data=self.weighted(last.data))

    def _joined(self, parts: list[Part], room: Room | None) -> Part:
        """All rows in arrays that nobody else has, which lie in this room; None: in one of their own."""
        if len(parts) == 1 and not self.stream._copies:
            return parts[0]
        data, spare = copy.copy(parts[0].data), self.batch if room is not None else 0
        of, room = [part.data for part in parts], {} if room is None else room
        data.arrays = [
            _concatenated([each.arrays[k] for each in of], room, f"X {k}", spare) for k in range(len(data.arrays))
        ]
        data.targets = [
            target._replace(array=_concatenated([each.targets[k].array for each in of], room, f"y {k}", spare))
            for k, target in enumerate(data.targets)
        ]
        if data.weight is not None:
            data.weight = _concatenated([each.weight for each in of], room, "weight", spare)
        data.n = len(data.arrays[0])
        if parts[0].order is None:
            return Part(data, data.n, None, room)
        starts = np.cumsum([0, *(each.n for each in of)])
        orders = [part.order + start for part, start in zip(parts, starts, strict=False)]
        return Part(data, data.n, np.concatenate(orders), room)


def _concatenated(arrays: Sequence[Any], room: Room, name: str, spare: int) -> np.ndarray:
    """A copy, in this room, which is made anew where it is too small, for as many rows as the last has and `spare`
    in front; whole numbers stay such."""
    if any(isinstance(array, _core.SparseRows) for array in arrays):
        raise TypeError("X: expected dense blocks of a stream, got sparse ones; use block.toarray()")
    dtypes = {array.dtype for array in arrays}
    dtype = np.result_type(*dtypes)
    if len(dtypes) > 1 and all(each.kind in "iub" for each in dtypes):
        dtype = np.dtype(np.int64)
    n, shape = sum(map(len, arrays)), arrays[0].shape[1:]
    held = room.get(name)
    if held is None or len(held) < n or (held.dtype, held.shape[1:]) != (dtype, shape):
        del held
        room.pop(name, None)  # before there is another
        held = room[name] = np.empty((max(n, len(arrays[-1]) + spare), *shape), dtype)
    return np.concatenate(arrays, out=held[:n], casting="unsafe")


def _left_over(part: Part) -> Part:
    """What is behind the whole batches, in its order, in arrays of its own."""
    rows: Any = slice(part.n, None) if part.order is None else part.order[part.n :]
    data = copy.copy(part.data)
    data.arrays = [array[rows].copy() for array in data.arrays]
    data.targets = [target._replace(array=target.array[rows].copy()) for target in data.targets]
    data.weight = None if data.weight is None else data.weight[rows].copy()
    data.n = len(data.arrays[0])
    return Part(data, data.n, None if part.order is None else np.arange(data.n), {})


class _Reader(threading.Thread):
    """Makes the parts of an epoch, one ahead of those that were taken."""

    def __init__(self, parts: Iterator[Part], epoch: int) -> None:
        super().__init__(name="bpcore stream", daemon=True)
        self.epoch, self.taken = epoch, 0
        self._parts = parts
        self._slot: list[Any] = []  # a part, None at the end, or an exception
        self._changed = threading.Condition()
        self._stopped = False
        self.start()

    def run(self) -> None:
        try:
            while self._has_room():
                self._put(next(self._parts, None))
        except BaseException as error:  # it is raised where the part was to be taken
            self._put(error)
        finally:
            try:
                self._parts.close()  # type: ignore[attr-defined]
            except Exception as error:
                _errors.warn(f"stream: what makes the blocks raised {error!r} as it was closed")

    def _has_room(self) -> bool:
        """Once the last part was taken; not where no more are wanted."""
        with self._changed:
            while self._slot and not self._stopped:
                self._changed.wait()
            return not self._stopped

    def _put(self, item: Any) -> None:
        with self._changed:
            self._slot.append(item)
            self._stopped = self._stopped or not isinstance(item, Part)
            self._changed.notify_all()

    def peek(self, deadline: float = math.inf) -> Part | None:
        """Waits for what comes next; Ctrl-C is heard.  Late: see Blocks.take."""
        with self._changed:
            while not self._slot:
                left = deadline - time.perf_counter()
                if left <= 0:
                    raise Late
                self._changed.wait(min(left, 60.0))
            item: Any = self._slot[0]
        if isinstance(item, BaseException):
            raise item
        return item

    def pop(self) -> None:
        """It is taken."""
        with self._changed:
            self._slot.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        """No more are wanted."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Held(Checked):
    """A stream on which a network is evaluated: in constant memory, a block at a time."""

    measures: tuple[Any, ...] = ()  # which need all answers at once

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        first = self.first()
        self.of_outputs, self.has_accuracy, self.column, self.advise = (
            first.of_outputs, first.has_accuracy, first.column, first.advise,
        )  # fmt: skip

    def check_units(self, model: Model) -> None:
        """Each block is checked as it comes."""

    def evaluate(self, model: Model, n_threads: int, l2: float = 0.0) -> dict[str, float]:
        """See Data.evaluate."""
        self.model = model
        sums: Any = None
        judged: Any = None
        for block in self.blocks():
            data = self.weighted(block)
            sums = _sum(sums, data.sums(model, n_threads))
            if data.judged and data.has_accuracy:
                judged = _sum(judged, data.judged.sums(model, n_threads))
            last = data
        if any(not weight for _, weight, _ in sums):
            raise ValueError(f"{self.called[2]}: expected at least one weight above zero, got only zeros")
        return last.means(model, sums, judged, l2)


def _sum(sums: Sums | None, more: Sums) -> Sums:
    if sums is None:
        return more
    return [tuple(a + b for a, b in zip(*both, strict=True)) for both in zip(sums, more, strict=True)]  # type: ignore[misc]


def predict(stream: Stream, model: Model, n_threads: int) -> Iterator[Any]:
    """The outputs for each block, as it is asked for."""
    given, number = stream._epoch(None), 0
    try:
        while (value := next(given, _END)) is not _END:
            name = f"X of block {number}"
            X = value[0] if type(value) is tuple and value else value
            arrays = model.read(X, name, empty=True, takes_sparse=True)
            answers = _data.predict(model, arrays, n_threads)
            del value, X, arrays
            yield answers[0] if len(answers) == 1 else tuple(answers)
            number += 1
    finally:
        if hasattr(given, "close"):
            given.close()

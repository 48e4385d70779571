"""What `fit` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bpcore import _history_views, _validate
from bpcore._errors import DivergenceError


@dataclass(eq=False)
class History(dict[str, list[float]]):
    """One entry an epoch.

    `epoch` counts from the network's first, as verbose=1 prints it: a second `fit` of 3 epochs has 4, 5, 6.  `loss` is
    the weighted mean over the epoch's batches as they were trained; `val_loss` and `val_accuracy` are empty
    without validation data (and accuracy without classes); `seconds` is the time spent training; `lr` is the
    optimiser's at the epoch's last step, empty for one that has none.
    Of several outputs, `outputs` holds the loss of each as it was trained, without its weight: "digit_loss" for an
    output named digit; and what `evaluate` says of it on the validation data: "val_digit_loss" and, of classes,
    "val_digit_accuracy".  `metrics` holds those that `fit` was asked for: "val_f1_macro", and with train_metrics=True
    "f1_macro", of the training data at the epoch's end.  history["loss"] is history.loss, and so are all others.
    `error` is the DivergenceError that ended this network's training in `fit_many`, or None.  `stopped_by` says what
    ended training before all epochs were made: "callback", "max_steps", "max_seconds" or "optimizer" (LBFGS has found
    no further step); the last epoch may then be a part of one.  None: all epochs were made, or an exception came.
    `message` says why an optimiser ended by itself before the last epoch, as LBFGS does where nothing is left to gain;
    else it is None.
    It is a read-only dict of what has values: pandas.DataFrame(history); KeyError names what there is.  The lists are
    plain ones: what is appended to them, or put in their place, is there in the dict.  It prints as a table; `to_frame`
    and `plot` make a frame and a picture of it.
    """

    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    outputs: dict[str, list[float]] = field(default_factory=dict)
    lr: list[float] = field(default_factory=list)
    error: DivergenceError | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)
    stopped_by: str | None = None
    message: str | None = None

    def _columns(self) -> dict[str, list[float]]:
        """All lists by name, the empty ones, too."""
        return {**{name: getattr(self, name) for name in _COLUMNS}, **self.outputs, **self.metrics}

    def __post_init__(self) -> None:
        self._show()

    def _add(
        self, epoch: int, loss: list[float], seconds: list[float], rates: list[float],
        outputs: dict[str, list[float]], lr: list[float],
    ) -> None:  # fmt: skip
        """Epochs after number `epoch`; see Loop.log."""
        self.epoch += range(epoch + 1, epoch + 1 + len(loss))
        self.loss += loss
        self.seconds += seconds
        self.samples_per_second += rates
        self.lr += lr
        for name, losses in outputs.items():
            self.outputs[name] += losses

    def _show(self) -> None:
        """Columns that have values by now become items."""
        for name in _COLUMNS:
            if values := getattr(self, name):
                dict.__setitem__(self, name, values)
        for columns in (self.outputs, self.metrics):
            if columns:
                dict.update(self, {name: values for name, values in columns.items() if values})

    def _shown(self) -> dict[str, list[float]]:
        """The items, which are the columns that have values by now, whoever put them there."""
        shown = {name: values for name, values in self._columns().items() if values}
        held, present = ([(name, id(values)) for name, values in dict.items(d)] for d in (self, shown))
        if held != present:
            dict.clear(self)
            dict.update(self, shown)
        return shown

    def __getitem__(self, name: str) -> list[float]:
        shown = self._shown()
        return shown[name if name in shown else _validate.key("history", name, shown)]

    def get(self, name: str, default: Any = None) -> Any:
        """As dict.get."""
        return self._shown().get(name, default)

    def copy(self) -> dict[str, list[float]]:
        """A dict that may be changed, of the same lists."""
        return self._shown()

    def keys(self) -> Any:
        """As dict.keys."""
        return self._shown().keys()

    def values(self) -> Any:
        """As dict.values."""
        return self._shown().values()

    def items(self) -> Any:
        """As dict.items."""
        return self._shown().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._shown())

    def __len__(self) -> int:
        return len(self._shown())

    def __contains__(self, name: object) -> bool:
        return name in self._shown()

    def __or__(self, other: Any) -> Any:
        return self._shown() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._shown()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History):
            return all(getattr(self, name) == getattr(other, name) for name in self.__dataclass_fields__)
        return self._shown() == other

    __hash__ = None  # as of a dict

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("history: expected to be read only; dict(history) may be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # pickled by bpcore 0.1

    def _title(self) -> str:
        """How many epochs, and why no more."""
        ended = f", {self.error.what} not finite" if self.error else ""
        ended += f", stopped by {self.stopped_by}" if self.stopped_by else ""
        ended += f"; {self.message}" if self.message else ""
        n = max(map(len, self._columns().values()))
        return f"History of {n} epoch{'s' * (n != 1)}{ended}"

    def __repr__(self) -> str:
        columns = self._shown()
        return _history_views.text(self._title(), columns) if columns else self._title()

    def _repr_html_(self) -> str:
        return _history_views.page(self._title(), self._shown())

    def to_frame(self) -> Any:
        """A pandas.DataFrame of the columns, by epoch.  ImportError without pandas, an extra: bpcore[pandas]."""
        return _history_views.frame(self._shown(), "epoch", "history.to_frame")

    def plot(self) -> Any:
        """A matplotlib Figure of losses, metrics and the learning rate over epochs, each where there is such.

        It is pyplot's: notebooks show it, scripts by pyplot.show().  ValueError for a history without epochs;
        ImportError without matplotlib, an extra: bpcore[plot].
        """
        return _history_views.figure(self._shown())

    def _level(self) -> None:
        """Columns that miss the last epoch, within which an exception came, have NaN for it."""
        for values in self._columns().values():
            if values:
                values += [float("nan")] * (len(self.loss) - len(values))


_NO_COLUMNS = ("outputs", "error", "metrics", "stopped_by", "message")
_COLUMNS = tuple(name for name in History.__dataclass_fields__ if name not in _NO_COLUMNS)

"""What bpcore raises beyond ValueError and TypeError."""

from __future__ import annotations

import sys
import warnings


class DivergenceError(ArithmeticError):
    """The loss or a parameter stopped being finite; the network keeps its last finite parameters, or has those of
    the epoch that a callback such as EarlyStopping restores.

    `epoch` and `batch` (both from 1; epochs of all fits of this network) say where it happened, `what` is "loss",
    "parameters", or "theta" where others than `fit` have written numbers to theta that are not finite.  `advice` says
    what to change, by what X, y, the loss and the optimiser are.
    """

    def __init__(self, what: str, epoch: int, batch: int, advice: str = "") -> None:
        super().__init__(what, epoch, batch, advice)
        self.what, self.epoch, self.batch, self.advice = what, epoch, batch, advice

    def __str__(self) -> str:
        if self.what == "theta":
            return (
                f"theta holds numbers that are not finite in epoch {self.epoch}, batch {self.batch}, and fit writes "
                "none: a callback has, or whoever wrote to net.theta or net.params before; write finite numbers there"
            )
        verb = "is" if self.what == "loss" else "are"
        return (
            f"the {self.what} {verb} no longer finite in epoch {self.epoch}, batch {self.batch}; the network keeps the "
            f"parameters of the step before, or has those that a callback restores. {self.advice}".rstrip()
        )


def warn(message: str | Warning, category: type[Warning] = UserWarning, within: tuple[str, ...] = ("bpcore",)) -> None:
    """Warns of the line that called the packages `within`."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in within:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

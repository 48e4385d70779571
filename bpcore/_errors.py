"""What bpcore raises beyond ValueError and TypeError."""

from __future__ import annotations


class DivergenceError(ArithmeticError):
    """The loss or a parameter stopped being finite; the network keeps its last finite parameters.

    `epoch` and `batch` (both from 1) say where it happened.
    """

    def __init__(self, what: str, epoch: int, batch: int) -> None:
        super().__init__(what, epoch, batch)
        self.what, self.epoch, self.batch = what, epoch, batch

    def __str__(self) -> str:
        return (
            f"the {self.what} is no longer finite in epoch {self.epoch}, batch {self.batch}; the network keeps "
            "its last finite parameters. Lower lr, scale the inputs, or use a loss that is stable with the "
            "output (softmax with cross_entropy, logistic with binary_cross_entropy)."
        )

"""What `fit` prints: a line an epoch, or one line that is written again and again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpcore._training import Loop

_SECONDS = 0.1  # at least, between two states of a line that is rewritten


def begin(loop: Loop) -> Lines | None:
    """For a call of `fit` that begins now; None where it prints nothing.

    verbose=1: one line that is rewritten, through tqdm where it is installed, in a terminal or notebook; in a log, and
    of several networks, a line an epoch.  verbose=2: a line an epoch everywhere.
    """
    if not loop.call.verbose:
        return None
    if loop.call.verbose == 2 or loop.call.label or not _is_live():
        return Lines(loop)
    try:
        from tqdm import tqdm
    except ImportError:
        return Rewritten(loop)
    return Bar(loop, tqdm)


def _is_live() -> bool:
    """Whether what is printed can be written over: in a terminal, or in a notebook, whose output is none."""
    shell = sys.modules.get("IPython")
    in_notebook = shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
    return in_notebook or bool(sys.stdout and sys.stdout.isatty())


class Lines:
    """A line an epoch."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.start = time.perf_counter()
        self.epochs = loop.epochs_left  # to be made from now on

    def within(self) -> None:
        """After a slice."""

    def epoch(self) -> None:
        """After an epoch."""
        print("  ".join(self.words()), flush=True)

    def close(self) -> None:
        """Whatever ended the fit."""

    def done(self) -> float:
        """Epochs made, with what is done of one that is begun."""
        rows, of = self.loop.run.progress()[3] if self.loop.within_epoch else 0, self.loop.rows_of_epoch
        return self.epochs - self.loop.epochs_left + (min(1.0, rows / of) if of else 0.0)

    def words(self) -> list[str]:
        """The epoch, its losses and metrics, samples a second, and the time that is left: of one that is begun what is
        known, the rest of the epoch before."""
        loop, history = self.loop, self.loop.state.history
        loss, weight, _, rows, _, _ = loop.run.progress()
        if loop.within_epoch:
            number, speed = loop.model.epoch + 1, rows / max(1e-9, time.perf_counter() - loop.epoch_start)
            running = loss / weight if weight else float("nan")
        else:
            number, speed, running = history.epoch[-1], history.samples_per_second[-1], history.loss[-1]
        words = [f"{loop.call.label}epoch {number}/{loop.last_epoch}", f"loss {running:.5g}"]
        if history.val_loss:
            words.append(f"val_loss {history.val_loss[-1]:.5g}")
        if history.val_accuracy:
            words.append(f"val_accuracy {history.val_accuracy[-1]:.4f}")
        more = {**history.outputs, **history.metrics}
        words += [f"{name} {values[-1]:.5g}" for name, values in more.items() if values]
        words.append(f"{speed:,.0f} samples/s")
        if not loop.call.label and (left := self.seconds_left()):
            words.append(f"{_clock(left)} left")
        return words

    def seconds_left(self) -> float:
        """If what is left goes on as fast as what is done, validation and callbacks included."""
        now, done = time.perf_counter(), self.done()
        left = (self.epochs - done) * (now - self.start) / done if done else 0.0
        return max(0.0, min(left, self.loop.deadline - now))


class Rewritten(Lines):
    """One line, which a carriage return takes back."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.shown, self.length = 0.0, 0

    def within(self) -> None:
        if time.perf_counter() - self.shown > _SECONDS:
            self.show()

    def epoch(self) -> None:
        if self.loop.epochs_left == 0 or time.perf_counter() - self.shown > _SECONDS:
            self.show()

    def show(self) -> None:
        """Writes over what is there."""
        self.shown = time.perf_counter()
        import shutil  # for those who need it

        line = "  ".join(self.words())[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line:<{self.length}}", end="", flush=True)
        self.length = len(line)

    def close(self) -> None:
        """The last state stays."""
        if self.loop.state.history.epoch and self.loop.epochs_left:  # something stopped it
            self.show()
        if self.length:
            print(flush=True)


class Bar(Rewritten):
    """A bar of tqdm's."""

    def __init__(self, loop: Loop, tqdm: Any) -> None:
        super().__init__(loop)
        form = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(total=self.epochs, file=sys.stdout, bar_format=form)

    def show(self) -> None:
        self.shown = time.perf_counter()
        epoch, *rest = self.words()
        self.bar.n = self.done()
        self.bar.set_description_str(epoch, refresh=False)
        self.bar.set_postfix_str("  ".join(word for word in rest if not word.endswith(" left")), refresh=False)
        self.bar.refresh()

    def close(self) -> None:
        """The last state stays."""
        super().close()
        self.bar.close()


def _clock(seconds: float) -> str:
    """h:mm:ss, or m:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"

"""The command line, `bpcore` and `python -m bpcore`: one module a command, imported when it is called.

It is a package beside bpcore, not within, so that `bpcore --help` need not import bpcore, and NumPy with it: 0.3 s.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from bpcore_cli._arguments import parse
from bpcore_cli._errors import Wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in argv and returns its exit status: 0, 1 where the run failed, 2 for wrong use, 130 after
    Ctrl-C, 141 where nobody reads on; SystemExit where the arguments do not parse, and after --help."""
    try:
        try:
            options = parse(argv)
            with warnings.catch_warnings():
                return _attempt(options.command, options)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 141
    except KeyboardInterrupt:
        after_echo = "\n" if sys.stderr.isatty() else ""  # a terminal has shown ^C
        print(f"{after_echo}interrupted", file=sys.stderr)
        return 130


def _attempt(command: str, options: object) -> int:
    """The status of a command; what it raises for its user is one line."""
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        return int(importlib.import_module(f"bpcore_cli.{command}").run(options) or 0)
    except BrokenPipeError:
        raise
    except Wrong as error:
        return _say(command, str(error), 2)
    except (ArithmeticError, OSError, MemoryError, ImportError) as error:  # bp.DivergenceError is the first
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        return _say(command, text or type(error).__name__, 1)


def _warn(message: Warning | str, *_: object) -> None:
    """In place of warnings.showwarning, which shows a line of bpcore's source."""
    print(f"bpcore: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _say(command: str, text: str, status: int) -> int:
    print(f"bpcore {command}: error: {' '.join(text.split())}", file=sys.stderr)
    return status

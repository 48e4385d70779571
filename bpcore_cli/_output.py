"""Where results go: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from bpcore_cli._errors import Wrong


def check_writable(path: str | None, option: str = "--out", inputs: Sequence[str] = ()) -> None:
    """Wrong where a file of that name cannot be written, or is one of the inputs, before the work is done."""
    if path is None:
        return
    if os.path.exists(path) and any(os.path.exists(each) and os.path.samefile(path, each) for each in inputs):
        raise Wrong(f"{option}: expected another file than those that are read, got {path!r}")
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise Wrong(f"{option}: expected a name of a file, and {path!r} is a folder")
    if not os.path.isdir(folder):
        raise Wrong(f"{option}: there is no folder {folder!r}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Wrong(f"{option}: {folder!r} may not be written to")


@contextlib.contextmanager
def writing(path: str | None) -> Iterator[TextIO]:
    """A text file beside `path`, renamed to it once all is written, gone where that fails; None: standard output."""
    if path is None:
        yield sys.stdout
        return
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

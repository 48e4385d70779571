"""Which columns of a file a network reads."""

from __future__ import annotations

from collections.abc import Sequence

from bpcore_cli._errors import Wrong, listed, nearest
from bpcore_cli._files import File
from bpcore_cli._models import Model


def of_network(file: File, model: Model, others: Sequence[int | None]) -> list[int]:
    """Numbers of the columns that the network reads, in its order: by name where both have names, else all columns but
    the `others`; Wrong where they do not fit."""
    if model.names and file.is_named:
        missing = [name for name in model.names if name not in file.names]
        if missing:
            near = nearest(missing[0], [name for name in file.names if name not in model.names])
            raise Wrong(
                f"{file.path}: expected the columns that {model.path} was trained on, and {listed(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing.{near} It has {listed(file.names, 20)}"
            )
        return [file.names.index(name) for name in model.names]
    rest = [k for k in range(len(file.names)) if k not in others]
    if len(rest) != model.n_inputs:
        raise Wrong(
            f"{file.path}: expected {model.n_inputs} columns, as many as {model.path} reads, got {len(rest)}: "
            f"{listed([file.names[k] for k in rest], 20)}; --id COL names one that it does not read"
        )
    return rest

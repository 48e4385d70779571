"""`bpcore export`: a network in another format."""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Callable

import bpcore as bp
from bpcore import _io
from bpcore_cli._errors import refused
from bpcore_cli._models import load
from bpcore_cli._output import check_writable


def _write_torch(net: bp.Network, path: str) -> None:
    """The module, as torch.save has it."""
    module = bp.to_torch(net)
    import torch

    held = io.BytesIO()
    torch.save(module, held)
    _io.write_whole(path, [held.getvalue()])


WRITERS: dict[str, Callable[..., None]] = {"c": bp.export_c, "onnx": bp.export_onnx, "torch": _write_torch}  # by --to


def run(options: Namespace) -> None:
    """`bpcore export MODEL --to c|onnx|torch --out FILE`."""
    check_writable(options.out, inputs=[options.model])
    net = load(options.model)
    with refused():
        WRITERS[options.to](net, options.out)
    print(f"saved {options.out}")

"""`bpcore export`: a network in another format."""

from __future__ import annotations

from argparse import Namespace

import bpcore as bp
from bpcore_cli._errors import refused
from bpcore_cli._models import load
from bpcore_cli._output import check_writable

WRITERS = {"c": bp.export_c}  # by --to


def run(options: Namespace) -> None:
    """`bpcore export MODEL --to c --out FILE`."""
    check_writable(options.out)
    net = load(options.model)
    with refused():
        WRITERS[options.to](net, options.out)
    print(f"saved {options.out}")

"""`bpcore info`: what is in a file of a network, or how bpcore was built."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import bpcore as bp
from bpcore._config import config
from bpcore_cli._models import load


def run(options: Namespace) -> None:
    """`bpcore info [MODEL]`."""
    if options.model is None:
        if options.json:
            print(json.dumps(config()))
        else:
            bp.show_config()
        return
    net = load(options.model)
    found = describe(net)
    if options.json:
        print(json.dumps(found))
        return
    print(net.summary())
    print(f"inputs: {_shapes(net.inputs)}; outputs: {_shapes(net.outputs)}")
    for name, columns in net.feature_names.items():
        print(f"columns of {name}: {', '.join(map(repr, columns))}")
    print(f"optimiser: {net.optimizer or 'none'}; epochs {net.epoch}, steps {net.step}, seed {net.seed}")
    if net.moments:
        print(f"learnt from data: {', '.join(net.moments)}")


def describe(net: bp.Network) -> dict[str, Any]:
    """What is known of a network, as JSON can hold it."""
    return {
        "inputs": net.inputs,
        "outputs": net.outputs,
        "layers": [repr(layer) for layer in net.layers],
        "parameters": {name: list(array.shape) for name, array in net.params.items()},
        "n_params": net.n_params,
        "dtype": str(net.dtype),
        "feature_names": net.feature_names,
        "optimizer": repr(net.optimizer) if net.optimizer else None,
        "epoch": net.epoch,
        "step": net.step,
        "seed": net.seed,
        "moments": list(net.moments),
    }


def _shapes(shapes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())

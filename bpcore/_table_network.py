"""Networks of a table: how one is made, and what a file or a part of one has of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from bpcore import _table, _validate
from bpcore._dropout import Dropout
from bpcore._embedding import Embedding
from bpcore._layers import Dense, Input, Layer
from bpcore._moments import Moments
from bpcore._operations import Reshape, concat
from bpcore._table import Table

if TYPE_CHECKING:
    from bpcore._model import Model
    from bpcore._network import Network
    from bpcore._symbols import Symbol


class Stored:
    """A table that is being read from a file: its bytes."""

    def __init__(self, stored: np.ndarray) -> None:
        self.stored = stored


def network(
    kind: type[Network], table: Any, hidden: Any, activation: Any, dropout: Any, embedding: Any, output: Any,
    dtype: Any, seed: Any,
) -> Network:  # fmt: skip
    """See Network.from_table."""
    if not isinstance(table, Table):
        raise TypeError(f"table: expected a bp.Table, got {table!r} of type {type(table).__name__}")
    embedding = _validate.integer("embedding", embedding, 1, _validate.MAX_UNITS)
    layers = _hidden(hidden, activation, _validate.real("dropout", dropout, 0.0, 1.0, open_high=True))
    if output is not None and not isinstance(output, Layer):
        raise TypeError(f"output: expected a layer, got {output!r} of type {type(output).__name__}")
    if table.target is None and output is None:
        raise ValueError(f"output: expected a layer, since {table!r} has no target that says which")
    last = Dense(1) if table.classes is None else Dense(len(table.classes), "softmax")
    inputs = {"numbers": Input(len(table.features), name="numbers")} if table.features else {}
    ends: list[Symbol] = list(inputs.values())
    if table.embedded:
        inputs["codes"] = Input(len(table.embedded), integer=True, name="codes")
        ends.append(Reshape(-1)(Embedding(table.n_codes, embedding, name="levels")(inputs["codes"])))
    h = concat(ends) if len(ends) > 1 else ends[0]
    for layer in [*layers, last if output is None else output]:
        h = layer(h)
    net = kind(list(inputs.values()), h, dtype=dtype, seed=seed)
    model = net._model
    check(table, model)
    if table.embedded:
        model.params["levels.E"][table.unseen] = 0  # training never moves them
    if output is None and table.classes is None:
        target: Any = table._target
        moments = Moments(np.array([target.mean]), np.array([target.scale])).settled()
        model.target_moments = {model.outputs[0].name: moments}
    model.table = table
    return net


def _hidden(hidden: Any, activation: Any, dropout: float) -> list[Layer]:
    """Layers of them, where there are numbers of units."""
    if isinstance(hidden, (str, int)) or not isinstance(hidden, Iterable):
        raise TypeError(f"hidden: expected a list of units and layers, (256, 128), got {hidden!r}")
    layers: list[Layer] = []
    for i, each in enumerate(hidden):
        if isinstance(each, Layer):
            layers.append(each)
            continue
        layers.append(Dense(_validate.integer(f"hidden[{i}]", each, 1, _validate.MAX_UNITS), activation))
        layers += [Dropout(dropout)] if dropout else []
    return layers


def check(table: Table, model: Model) -> None:
    """ValueError where the network does not read what the table makes of a frame, or its target has other classes."""
    wanted = {"numbers": len(table.features), "codes": len(table.embedded)}
    inputs = {node.name: node for node in model.inputs}
    if list(inputs) != table.inputs or any(node.shape != (wanted[name],) for name, node in inputs.items()):
        raise ValueError(f"expected inputs as the table has them, {table.inputs} of {wanted}, got {list(inputs)}")
    if any(node.layer.integer != (name == "codes") or node.n_labels < table.n_codes * (name == "codes")
           for name, node in inputs.items()):  # fmt: skip
        raise ValueError(f"expected an Embedding of the table's {table.n_codes} codes")
    if table.classes is not None:
        n, shapes = len(table.classes), [node.shape for node in model.outputs]
        if shapes != [(n,)] and not (n == 2 and shapes == [(1,)]):
            raise ValueError(f"output: expected a unit for each of the {n} classes of the target, got {shapes}")


def restored(model: Model) -> Table:
    """The table whose bytes a file has, checked against the network."""
    try:
        table = _table.from_json(bytes(model.table.stored).decode())  # type: ignore[union-attr]
    except RecursionError:
        raise ValueError("its columns are nested too deeply") from None
    check(table, model)
    return table


def of_part(model: Model, part: Model) -> Table | None:
    """The table of a part that begins at all the inputs; the target is that of the whole network's output."""
    if model.table is None or [node.name for node in part.inputs] != model.table.inputs:
        return None
    same = [node.name for node in part.outputs] == [node.name for node in model.outputs]
    return model.table if same else model.table.without_target()

"""`bpcore predict`: the answers of a network to the rows of a file, block by block."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np

import bpcore as bp
from bpcore_cli._columns import of_network
from bpcore_cli._errors import Wrong
from bpcore_cli._files import open_file
from bpcore_cli._models import Model
from bpcore_cli._output import check_writable, writing


def run(options: Namespace) -> None:
    """`bpcore predict MODEL DATA`."""
    if options.threads:
        bp.set_num_threads(options.threads)
    check_writable(options.out, inputs=[options.model, options.data])
    model = Model(options.model)
    if options.proba and not model.is_classes:
        raise Wrong(f"--proba: expected a network that ends in classes, and {options.model} answers with numbers")
    with open_file(options.data) as file:
        key = None if options.id is None else file.number(options.id, "--id")
        columns = of_network(file, model, [key])
        with writing(options.out) as out:
            write = _json_rows(out) if options.json else _csv_rows(out)
            for block in file.blocks(columns, key):
                answers = model.net.predict(model.rows(block.numbers))
                write(dict(_fields(model, answers, options.id, block.words, options.proba)))


def _fields(
    model: Model, answers: np.ndarray, key: str | None, ids: list[str] | None, proba: bool
) -> Iterator[tuple[str, list[Any]]]:
    """Columns of the result by name."""
    if key is not None and ids is not None:
        yield key, ids
    predictions = model.predictions(answers)
    if predictions.ndim == 1:
        yield "prediction", predictions.tolist()
    else:
        yield from ((f"prediction_{k}", column.tolist()) for k, column in enumerate(predictions.T))
    if proba:
        for k, column in enumerate(model.probabilities(answers).T):
            yield f"probability_{k}", column.tolist()


Write = Callable[[dict[str, list[Any]]], None]


def _csv_rows(out: TextIO) -> Write:
    writer, begun = csv.writer(out, lineterminator="\n"), False

    def write(fields: dict[str, list[Any]]) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(fields)
            begun = True
        writer.writerows(zip(*fields.values(), strict=True))

    return write


def _json_rows(out: TextIO) -> Write:
    """An object a line."""

    def write(fields: dict[str, list[Any]]) -> None:
        for row in zip(*fields.values(), strict=True):
            out.write(json.dumps(dict(zip(fields, row, strict=True))) + "\n")

    return write

"""Columns of numbers, a History's above all, as text, as HTML, as a frame of pandas and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

_ENDS = 5  # rows that are shown of the beginning and of the end, where there are many
_NO_CURVES = ("epoch", "seconds", "samples_per_second")


def _rows(columns: Mapping[str, Sequence[Any]], every: bool) -> list[tuple[str, ...]]:
    """The cells of the names and of each row; of many rows, unless every one is wanted, the first and the last, with
    dots between them."""
    cells = [[_cell(name, value) for value in values] for name, values in columns.items()]
    rows = list(zip_longest(*cells, fillvalue=""))
    if len(rows) > 2 * _ENDS + 1 and not every:
        rows = [*rows[:_ENDS], ("...",) * len(columns), *rows[-_ENDS:]]
    return [tuple(columns), *rows]


def _cell(name: str, value: Any) -> str:
    if name == "samples_per_second":
        return f"{value:,.0f}"
    return f"{value:.5g}" if isinstance(value, float) else f"{value}"


def text(title: str, columns: Mapping[str, Sequence[Any]], every: bool = False) -> str:
    """A line for the names, and one for each row, beneath a title."""
    rows = _rows(columns, every)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join([title, *lines])


def page(title: str, columns: Mapping[str, Sequence[Any]], every: bool = False) -> str:
    """The same as an HTML table; names of outputs and metrics are the user's, and are escaped."""
    import html  # for those who need it

    head, *rows = ([html.escape(cell) for cell in row] for row in _rows(columns, every))
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><caption>{html.escape(title)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def frame(columns: Mapping[str, Sequence[Any]], index: str, caller: str) -> Any:
    """A pandas.DataFrame, by the column `index` where there is one."""
    try:
        import pandas
    except ImportError:
        raise ImportError(f"{caller} needs pandas: pip install 'bpcore[pandas]'") from None
    table = pandas.DataFrame({name: pandas.Series(values) for name, values in columns.items()})
    return table.set_index(index) if index in columns else table


def figure(columns: Mapping[str, Sequence[float]], caller: str = "history.plot") -> Any:
    """A matplotlib Figure: losses, metrics and the learning rate, over epochs, of what there is."""
    pyplot = import_pyplot(caller)
    curves = {name: values for name, values in columns.items() if name not in _NO_CURVES}
    panels = {
        "loss": [name for name in curves if name.endswith("loss")],
        "metrics": [name for name in curves if name != "lr" and not name.endswith("loss")],
        "lr": [name for name in curves if name == "lr"],
    }
    shown = {title: names for title, names in panels.items() if names}
    if not shown:
        raise ValueError(f"{caller}: expected a history with epochs, got one without")
    picture, axes = pyplot.subplots(1, len(shown), squeeze=False, figsize=(4.5 * len(shown), 3.2), layout="constrained")
    for panel, (title, names) in zip(axes[0], shown.items(), strict=True):
        for name in names:
            epochs = columns["epoch"] if "epoch" in columns else range(1, 1 + len(curves[name]))
            marker = "o" if len(curves[name]) == 1 else None  # a line of one point is nothing
            panel.plot(epochs[: len(curves[name])], curves[name], label=name, marker=marker)
        panel.set(title=title, xlabel="epoch")
        panel.legend()
    return picture


def import_pyplot(caller: str) -> Any:
    """matplotlib.pyplot, or the ImportError that says how to install it."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(f"{caller} needs matplotlib: pip install 'bpcore[plot]'") from None
    return pyplot

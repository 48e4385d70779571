"""What fit prints while it runs, and histories as tables."""

import io
import re
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from fitting import X, Y, make

import bpcore as bp
from bpcore import _history_views


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """The lines as a terminal shows them: a carriage return goes back to the first column."""
        rows = []
        for line in self.getvalue().split("\n"):
            row = ""
            for part in line.split("\r"):
                row = part + row[len(part) :]
            rows.append(row.rstrip())
        return rows


@pytest.fixture
def terminal(monkeypatch):
    """Opens one, for what is printed from then on; tqdm is not installed."""

    def opened(columns=200):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setitem(sys.modules, "tqdm", None)
        monkeypatch.setenv("COLUMNS", str(columns))
        return out

    return opened


NUMBER = r"[-+\d.e]+"


def test_a_terminal_has_one_line_that_is_rewritten(terminal, monkeypatch):
    screen = terminal()
    from bpcore import _progress

    monkeypatch.setattr(_progress, "_SECONDS", -1.0)  # each slice and epoch
    make().fit(X, Y, epochs=7, batch_size=10, validation_split=0.2, verbose=1, metrics="r2")
    assert screen.getvalue().count("\n") == 1 and screen.getvalue().count("epoch 3/7") >= 2
    pattern = rf"epoch 7/7  loss {NUMBER}  val_loss {NUMBER}  val_r2 {NUMBER}  [\d,]+ samples/s"
    first, last = screen.screen()
    assert re.fullmatch(pattern, first) and last == ""
    states = screen.getvalue().split("\r")
    assert re.match(rf"epoch 1/7  loss {NUMBER}  [\d,]+ samples/s  \d:\d\d left", states[1])


@pytest.mark.parametrize("verbose, live", [(2, True), (1, False), (2, False), (True, False)])
def test_elsewhere_a_line_an_epoch(verbose, live, terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr(Terminal, "isatty", lambda self: live)
    make().fit(X, Y, epochs=3, verbose=verbose)
    lines = screen.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert [" left" in line for line in lines] == [True, True, False] and "\r" not in screen.getvalue()


def test_of_several_outputs_the_loss_of_each(terminal):
    screen = terminal()
    x = bp.Input(X.shape[1])
    net = bp.Network(x, [bp.Dense(1, name="a")(x), bp.Dense(1, name="b")(x)])
    net.fit(X, [Y[:, :1], Y[:, 1:]], validation_split=0.2, verbose=2)
    names = "loss", "val_loss", "a_loss", "b_loss", "val_a_loss", "val_b_loss"
    assert re.match("epoch 1/1" + "".join(f"  {name} {NUMBER}" for name in names), screen.getvalue())


def test_several_networks_have_a_line_for_each_epoch(terminal):
    screen = terminal()
    bp.fit_many([make(), make(seed=2)], X, Y, epochs=2, verbose=1)
    lines = sorted(line.split("  ")[:2] for line in screen.getvalue().splitlines())
    assert lines == [[f"nets[{k}]", f"epoch {e}/2"] for k in (0, 1) for e in (1, 2)]


@pytest.mark.parametrize("end", ["Ctrl-C", "max_steps", "callback"])
def test_the_last_state_stays_whatever_ends_fit(end, terminal):
    screen = terminal()
    def stop(state):
        if end == "Ctrl-C" and state.epoch == 2:
            raise KeyboardInterrupt
        if end == "callback" and state.epoch == 2:
            state.stop()

    most = 9 if end == "max_steps" else None
    try:
        make().fit(X, Y, epochs=99, batch_size=10, callbacks=stop, verbose=1, max_steps=most)
    except KeyboardInterrupt:
        assert end == "Ctrl-C"
    first, last = screen.screen()
    assert first.startswith("epoch 2/99") and last == ""


def test_a_line_is_cut_at_the_edge_of_the_terminal(terminal):
    screen = terminal(columns=30)
    make().fit(X, Y, epochs=2, verbose=1)
    assert max(map(len, screen.getvalue().split("\r"))) <= 30


def test_the_time_that_is_left(terminal, monkeypatch):
    screen = terminal()
    from bpcore import _progress

    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    turn = [lambda state: now.__setitem__(0, now[0] + 30.0)]
    make().fit(X, Y, epochs=4, callbacks=turn, verbose=2)
    assert [line.split("  ")[-1] for line in screen.getvalue().splitlines()][1:3] == ["0:30 left", "0:20 left"]
    assert _progress._clock(3725.4) == "1:02:05"


@pytest.mark.parametrize("verbose", [-1, 3, "yes", None, 1.0])
def test_what_is_no_verbose(verbose):
    with pytest.raises((TypeError, ValueError), match="verbose: expected an integer"):
        make().fit(X, Y, verbose=verbose)


# ---- histories ----


def test_a_history_prints_as_a_table():
    history = make().fit(X, Y, epochs=3, validation_split=0.2)
    title, names, *rows = repr(history).splitlines()
    assert title == "History of 3 epochs" and names.split() == list(history)
    for i, row in enumerate(rows):
        cells = [float(cell) for cell in row.replace(",", "").split()]
        np.testing.assert_allclose(cells, [values[i] for values in history.values()], rtol=1e-3, atol=0.5)
    long = repr(make().fit(X, Y, epochs=40, max_steps=70)).splitlines()
    assert long[0] == "History of 35 epochs, stopped by max_steps" and len(long) == 2 + 5 + 1 + 5
    assert [line.split()[0] for line in long[2:]] == ["1", "2", "3", "4", "5", "...", "31", "32", "33", "34", "35"]
    assert len(set(map(len, long[1:]))) == 1  # the columns are aligned


def test_the_html_is_a_table_whose_names_are_escaped():
    x = bp.Input(3)
    net = bp.Network(x, [bp.Dense(1, name="<script>alert(1)<b>")(x), bp.Dense(1, name="a&b")(x)])
    history = net.fit(X, [Y[:, :1], Y[:, 1:]], epochs=2)
    opened, closed, cells = [], [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            opened.append(tag)

        def handle_endtag(self, tag):
            closed.append(tag)

        def handle_data(self, data):
            cells.append(data)

    Reader().feed(history._repr_html_())
    assert sorted(opened) == sorted(closed) and set(opened) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert cells[0] == "History of 2 epochs" and cells[1 : 1 + len(history)] == list(history)
    assert opened.count("td") == 2 * len(history)


def test_an_epoch_in_which_an_exception_came_has_nan_where_it_has_no_value():
    def raises(y, a):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls.append(1) or 0.5

    def look(state):
        seen.append(state.history)

    calls, seen = [], []
    metric = bp.metrics.Metric(raises, better="higher", name="mine")
    with pytest.raises(KeyboardInterrupt):
        make().fit(X, Y, epochs=5, validation_split=0.2, metrics=metric, callbacks=look)
    assert {len(values) for values in seen[0].values()} == {3} and np.isnan(seen[0]["val_mine"]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("method, module", [("to_frame", "pandas"), ("plot", "matplotlib")])
def test_what_is_not_installed_is_named(method, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"pandas": "pandas", "matplotlib": "plot"}[module]
    with pytest.raises(ImportError, match=rf"history.{method} needs {module}: pip install 'bpcore\[{extra}\]'"):
        getattr(make().fit(X, Y), method)()


def test_columns_of_other_lengths_and_none():
    assert repr(bp.History()) == "History of 0 epochs" and "<table>" in bp.History()._repr_html_()
    assert _history_views.text("t", {"a": [1, 2], "b": [0.5]}) == "t\na    b\n1  0.5\n2     "

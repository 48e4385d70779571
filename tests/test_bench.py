"""The benchmarks: harness, floor, report; NumPy and bpcore train alike."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module", autouse=True)
def bench_on_the_path():
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))


def run(library, threads, rate):
    return {"library": library, "threads": threads, "samples_per_second": {"median": rate}, "percent_of_peak": 1.0}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("sizes", [(6, 5, 3), (4, 3, 1)])
def test_libraries_train_alike(sizes, optimizer):
    import bench_epoch
    import harness
    from adapters import Spec

    options = Namespace(libraries=["bpcore:native", "bpcore:blas", "numpy"], rounds=1, seconds=0.01)
    with harness.workers(options.libraries, [1]) as crew:
        result = bench_epoch.measure(crew, Spec(sizes, batch=64, optimizer=optimizer), options, flops=1e9)
    assert result["losses_agree"], result
    assert result["best_peer"] == "numpy"
    assert len(result["runs"]) == 3


def test_ratio_is_of_the_best_with_variants():
    import bench_epoch
    import harness

    runs = [run("a:x", 1, 10.0), run("a:y", 2, 30.0), run("b", 1, 12.0), run("b", 2, 15.0), run("c", 1, 5.0)]
    assert harness.ratio(runs, "a:x", bench_epoch.rate) == (2.0, "b")
    assert harness.ratio(runs[:2], "a:x", bench_epoch.rate) == (None, None)
    assert [one["threads"] for one in harness.best(runs, bench_epoch.rate)] == [1, 2, 2, 1]


def test_missing_libraries_are_named(capsys, monkeypatch):
    import harness

    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: name == "numpy")
    assert harness.installed(["numpy", "torch:compile"]) == ["numpy"]
    assert "torch:compile" in capsys.readouterr().err


def test_the_floor_is_the_slower_of_products_and_weights():
    import bench_scaling
    from adapters import Spec

    figures = {"flops": 1e12, "update": {1 << 14: 1e12, 1 << 28: 1e9}}
    assert bench_scaling.floor(Spec((8, 8), batch=1000), 1, figures)[1] == "FMA"
    seconds, bound = bench_scaling.floor(Spec((1000, 1000), batch=1), 1, figures)
    assert bound == f"{1 << 18} KiB"
    assert seconds == pytest.approx(3 * 4 * 1001 * 1000 / 1e9)


def test_the_cost_of_a_barrier(tmp_path):
    import bench_barrier

    lines = subprocess.check_output([bench_barrier.build(tmp_path), "2", "3", "0.0005"], text=True)
    found = bench_barrier.parse(lines)
    assert 0 < found["barrier"] < 1
    assert len(found["steps"]) == 32
    for step in found["steps"][16:]:
        assert 0.5 * step["work"] < step["alone"] < 1  # the work is done
    steps = [{"work": w, "alone": w, "together": t} for w, t in ((1, 0.9), (2, 3), (3, 2), (4, 2))]
    assert bench_barrier.smallest(steps) == 3
    assert bench_barrier.smallest(steps[:2]) is None


def test_the_report_writes_between_its_markers(tmp_path, monkeypatch):
    import report

    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    report.README.write_text("before\n<!-- table epoch -->\nold\n<!-- end -->\nafter\n")
    runs = [run("bpcore:blas", 1, 1e6), run("bpcore:native", 2, 4e6), run("numpy", 1, 2e6)]
    result = {"net": "2-8-1/4", "runs": runs, "losses_agree": True}
    machine = {"cpu": "some CPU", "cores_allowed": 2, "date": "2026-01-01 00:00"}
    content = {"machine": machine, "results": [result]}
    monkeypatch.setattr(report, "results", lambda name: content if name == "epoch" else None)
    report.write_tables()
    once = report.README.read_text()
    assert "| 2-8-1, 4 | 4 M | 2 M | 2 |" in once
    assert "old" not in once and once.startswith("before\n") and once.endswith("<!-- end -->\nafter\n")
    report.write_tables()
    assert report.README.read_text() == once


def test_numpy_predicts_probabilities():
    from adapters import Spec, numpy_, start_weights

    spec = Spec((4, 6, 3), batch=5)
    predict = numpy_.Predict(spec, start_weights(spec, 0), np.ones((5, 4), np.float32))
    np.testing.assert_allclose(predict.run(2).sum(axis=1), 1, rtol=1e-6)


def test_every_graph_trains_alike_on_one_and_two_threads():
    import bench_graph
    import harness

    options = Namespace(libraries=["bpcore"], rounds=1, seconds=0.01)
    with harness.workers(options.libraries, [1, 2]) as crew:
        for case in bench_graph.CASES:
            result = bench_graph.measure(crew, case, options)
            assert result["loss_disagreement"] == 0
            assert result["best_peer"] is None

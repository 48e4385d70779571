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

    documents = [tmp_path / "README.md", tmp_path / "performance.md"]
    monkeypatch.setattr(report, "DOCUMENTS", documents)
    for document, name in zip(documents, ("epoch", "epoch_other"), strict=True):
        document.write_text(f"before\n<!-- table {name} -->\nold\n<!-- end -->\nafter\n")
    runs = [run("bpcore:blas", 1, 1e6), run("bpcore:native", 2, 4e6), run("numpy", 1, 2e6)]
    result = {"net": "2-8-1/4", "runs": runs, "losses_agree": True}
    machine = {"cpu": "some CPU", "cores_allowed": 2, "date": "2026-01-01 00:00"}
    content = {"machine": machine, "results": [result]}
    monkeypatch.setattr(report, "results", lambda name: content if name == "epoch" else None)
    report.write_tables()
    once, other = (document.read_text() for document in documents)
    assert "old" in other  # without results it stays as it is
    assert "| 2-8-1, 4 | 4 M | 2 M | 2 |" in once
    assert "old" not in once and once.startswith("before\n") and once.endswith("<!-- end -->\nafter\n")
    report.write_tables()
    assert documents[0].read_text() == once
    assert report.epoch(content) in once


def test_every_table_has_its_place():
    import report

    texts = "".join(document.read_text(encoding="utf-8") for document in report.DOCUMENTS)
    assert [texts.count(f"<!-- table {name} -->\n") for name in report.TABLES] == [1] * len(report.TABLES)


@pytest.mark.parametrize(
    "bench, words, name",
    [
        ("bench_epoch", "", "epoch.json"),
        ("bench_epoch", "--rounds 9 --threads 1 2", "epoch.json"),
        ("bench_epoch", "--nets 784-128-10/64", "epoch_part.json"),
        ("bench_epoch", "--nets 784-128-10/64 --name mine", "mine.json"),
        ("bench_epoch", "--set other --optimizer adam", "epoch_other_adam.json"),
        ("bench_epoch", "--set other --threads 1 --quick", "epoch_other_part_quick.json"),
        ("bench_predict", "--rows 1", "predict_part.json"),
        ("bench_predict", "--libraries numpy", "predict_part.json"),
        ("bench_jacobian", "--threads 1", "jacobian_part.json"),
        ("bench_memory", "--processes 3", "memory.json"),
        ("bench_memory", "--libraries numpy", "memory_part.json"),
        ("bench_scaling", "--sweeps width", "scaling_part.json"),
        ("bench_backward", "--widths 4", "backward_part.json"),
        ("bench_many", "--optimizer adam --networks 64", "many_adam.json"),
        ("bench_many", "--networks 1 16", "many_part.json"),
        ("bench_ensemble", "--members 4", "ensemble_part.json"),
        ("bench_graph", "--cases gru --quick", "graph_quick.json"),  # the others' results are kept
    ],
)
def test_a_part_is_written_beside_the_whole(bench, words, name, monkeypatch):
    import importlib

    import harness

    module = importlib.import_module(bench)
    monkeypatch.setattr(harness, "installed", list)
    monkeypatch.setattr(sys, "argv", [bench, *words.split()])
    options = module.arguments()
    default = bench.removeprefix("bench_")
    assert harness.results_file(getattr(options, "name", default), options).name == name


def test_curves_that_part_or_rise_disagree():
    import harness

    assert harness.disagreement([[2.0, 1.0]]) == harness.disagreement([[2.0, 1.0]] * 3) == 0
    assert harness.disagreement([[2.0, 1.0], [2.0, 1.1]]) == pytest.approx(0.1)
    assert harness.disagreement([[2.0, 1.0], [2.0, 2.0]]) == harness.disagreement([[float("nan"), 1.0]]) == np.inf


def test_memory_is_of_training_that_agrees(monkeypatch):
    import bench_memory
    import harness

    monkeypatch.setattr(bench_memory, "installed", lambda library: {"installed_bytes": 0})
    monkeypatch.setattr(sys, "argv", ["bench_memory", "--libraries", "bpcore", "numpy", "--quick"])
    written = []
    monkeypatch.setattr(harness, "write_json", lambda name, options, content: written.append(content))
    assert bench_memory.main() == 0
    (content,) = written
    assert 0 < content["loss_disagreement"] < bench_memory.TOLERANCE
    assert all(result["peak_bytes"] > 0 and len(result["losses"]) == 2 for result in content["results"])
    monkeypatch.setattr(bench_memory, "TOLERANCE", 0.0)
    monkeypatch.setattr(bench_memory, "measure", lambda *_: content["results"].pop())
    assert bench_memory.main() == 1


def test_scaling_compares_the_losses_of_the_threads():
    import bench_scaling
    import harness
    from adapters import Spec

    options = Namespace(rounds=1, seconds=0.01)
    peaks = dict.fromkeys((1, 2), {"flops": 1e12, "update": {1 << 28: 1e9}})
    with harness.workers(["bpcore"], [1, 2]) as crew:
        results = bench_scaling.measure(crew, Spec((8, 8, 8), 64), peaks, options)
        assert [result["same_losses"] for result in results] == [True, True]
        crew[1].time = lambda count: (0.01 * count, [2.0, 1.0])
        results = bench_scaling.measure(crew, Spec((8, 8, 8), 64), peaks, options)
        assert [result["same_losses"] for result in results] == [False, False]


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


def test_a_row_of_a_table():
    import bench_epoch
    import harness

    runs = [{**run("a", n, n * 1e6), "ms": {"median": 2 / n, "min": 1.8 / n, "max": 2.2 / n}} for n in (1, 2)]
    result = {"runs": runs, "ratio": 1.234, "best_peer": "b"}
    shown = (["a", "b"], bench_epoch.rate, "ms", "{:.1f}".format)
    assert harness.cells(result, *shown, True) == ["1.0 +-10 x2", "-", "1.23", "b"]
    assert harness.cells(result, *shown, False)[2] == "-"
    assert harness.cells({"runs": runs, "ratio": None, "best_peer": None}, *shown, True)[2:] == ["-", "-"]


def test_predictions_and_jacobians_are_compared():
    import bench_jacobian
    import bench_predict
    import harness
    from adapters import Spec

    options = Namespace(libraries=["bpcore", "numpy"], rounds=1, seconds=0.01)
    with harness.workers(options.libraries, [1, 2]) as crew:
        assert [str(worker) for worker in crew[1:3]] == ["bpcore, 2 threads", "numpy, 1 thread"]
        result = bench_predict.measure(crew, Spec((4, 6, 3), batch=5), 5, options)
        assert result["answers_agree"] and result["best_peer"] == "numpy"
        assert len(bench_predict.row(result, options.libraries)) == len(bench_predict.head(options.libraries)) == 5
        options.libraries = ["bpcore"]
        assert bench_jacobian.measure(crew[:2], options)["answers_differ"] == 0


def test_versions_are_compared_pair_by_pair():
    import bench_versions
    import harness

    tree = BENCH.parent
    options = Namespace(threads=[1, 2], rounds=3, seconds=0.01)
    with harness.workers(["bpcore"], options.threads, [tree, tree]) as crew:
        assert [worker.threads for worker in crew] == [1, 1, 2, 2]
        assert all(worker.path.is_relative_to(tree) for worker in crew)
        for case in (bench_versions.case("3-4-2/8"), bench_versions.case("residual")):
            results = bench_versions.measure(crew, case, "adam", options)
            assert [result["threads"] for result in results] == [1, 2]
            for result in results:
                assert result["loss_disagreement"] == 0 and 0.05 < result["ratio"]["median"] < 20
                assert bench_versions.row(result)[-1] == "same"
        crew[1].make = lambda *_, **__: crew[1].call("nothing")
        failed = bench_versions.measure(crew, bench_versions.case("3-4-2/8"), "sgd", options)
        assert "nothing" in failed[0]["failed"] and bench_versions.row(failed[1])[3:] == ["-"] * 5


def test_a_version_that_git_does_not_know_leaves_nothing_behind():
    import bench_versions
    import harness

    with pytest.raises(harness.WorkerError, match="no-such-version"), bench_versions.built("no-such-version"):
        pass
    with bench_versions.built(str(BENCH.parent)) as tree:
        assert tree == BENCH.parent


def test_ratios_are_of_the_same_round(monkeypatch):
    import bench_versions
    import harness

    class Still:
        threads = 1
        make = staticmethod(lambda kind, **_: None)
        time = staticmethod(lambda epochs: (0.0, [2.0, 1.0]))

    rounds = [[4.0, 8.0, 2.0], [2.0, 2.0, 4.0]]
    monkeypatch.setattr(harness, "alternate", lambda *_: [harness.Timing(1, seconds) for seconds in rounds])
    options = Namespace(threads=[1], rounds=3, seconds=0.1)
    (result,) = bench_versions.measure([Still, Still], ((2, 2), 4), "sgd", options)
    assert result["ratio"] == {"median": 2.0, "min": 0.5, "max": 4.0}


def test_an_ensemble_is_compared_with_one_member_and_with_all_in_turn():
    import bench_ensemble
    import harness
    from adapters import Spec

    for spread in (False, True):
        options = Namespace(libraries=bench_ensemble.LIBRARIES, rounds=1, seconds=0.001, spread=spread)
        with harness.workers(options.libraries, [1]) as crew:
            result = bench_ensemble.measure(crew, Spec((4, 6, 3), batch=1), 3, 2, options)
        assert result["answers_agree"] and len(bench_ensemble.row(result, options.libraries)) == 8


def test_many_networks_are_compared_with_one_after_the_other(monkeypatch):
    import bench_many
    import harness
    import report
    from adapters import Spec

    options = Namespace(libraries=["bpcore", "bpcore:apart"], rounds=1, seconds=0.01)
    monkeypatch.setattr(bench_many, "STEPS", 4)
    with harness.workers(options.libraries, [1]) as crew:
        result = bench_many.measure(crew, Spec((4, 6, 3), batch=5), 3, options)
        assert result["loss_disagreement"] == 0 and result["ratio"] is None and result["over_apart"] > 0
        assert len(bench_many.row(result, options.libraries)) == 8
        result |= {
            "runs": [*result["runs"], {"library": "torch:compile", "rows_per_second": {"median": 2e6}}],
            "ratio": 3.5,
        }
        head, _, line = report.many({"results": [result]}).splitlines()
        assert head.count("|") == line.count("|") == 8 and "PyTorch" in head and line.endswith("| 3.5 |")
        libraries, curves = [worker.library for worker in crew], [worker.time(2)[1] for worker in crew]
    assert len(curves[0]) == 2 and len(set(curves[0][0])) == 3  # each network from first weights of its own
    curves[1][1][2] *= 1 + 1e-12
    assert bench_many.disagreement(libraries, curves) == np.inf
    assert 0 < bench_many.disagreement(["bpcore", "torch"], curves) < 1e-11
    curves[1][1][2] = curves[1][0][2]
    assert bench_many.disagreement(["bpcore", "torch"], curves) == np.inf  # it does not fall

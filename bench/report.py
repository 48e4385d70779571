"""Write the tables of figures in the README, docs/performance.md and docs/many.md, and the plots, from bench/results.

    python bench/report.py

A table stands between the lines <!-- table NAME --> and <!-- end -->, where NAME is one of TABLES; a table without
its results file stays as it is. Plots go to docs/img, and the README shows them under their tables.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import harness
from bench_epoch import rate
from bench_many import rate as many_rate
from bench_predict import rate as predict_rate

ROOT = harness.HERE.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "many.md")
IMAGES = ROOT / "docs" / "img"
SUBJECT = "bpcore"
NAMES = {"numpy": "NumPy", "sklearn": "scikit-learn", "torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime"}
MIB = 1 << 20
Figure = Callable[[dict[str, Any]], float]


def results(name: str) -> dict[str, Any] | None:
    path = harness.RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def named(family: str) -> str:
    return NAMES.get(family, family)


def best(runs: list[dict[str, Any]], figure: Figure) -> dict[str, dict[str, Any]]:
    """The best run of each library, whichever its variant and threads."""
    runs = [{**run, "library": harness.family(run["library"])} for run in runs]
    return {run["library"]: run for run in harness.best(runs, figure)}


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.3g}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def epoch(content: dict[str, Any]) -> str:
    """Samples a second."""
    rows = []
    for result in content["results"]:
        runs = best(result["runs"], rate)
        ratio, _ = harness.ratio(result["runs"], SUBJECT, rate)
        share = max(run["percent_of_peak"] for run in result["runs"] if harness.family(run["library"]) == SUBJECT)
        cells = [harness.number(rate(run)) for run in runs.values()]
        rows.append(
            [
                result["net"].replace("/", ", "),
                *cells,
                times(ratio) if result["losses_agree"] else "-",
                f"{share:.{share < 1:d}f} %",
            ]
        )
    return markdown(["net, batch", *map(named, runs), "ratio to the best peer", "of FMA peak"], rows)


def epoch_plotted(content: dict[str, Any]) -> str:
    return f"{epoch(content)}\n\n![training](docs/img/training.svg)"


def predict(content: dict[str, Any]) -> str:
    """Microseconds a call."""
    rows = []
    for result in content["results"]:
        runs = best(result["runs"], predict_rate)
        ratio, _ = harness.ratio(result["runs"], SUBJECT, predict_rate)
        cells = [microseconds(run) for run in runs.values()]
        rows.append([result["net"], f"{result['rows']:,}", *cells, times(ratio) if result["answers_agree"] else "-"])
    table = markdown(["net", "rows", *map(named, runs), "ratio to the best peer"], rows)
    return f"{table}\n\n![latency](docs/img/latency.svg)"


def microseconds(run: dict[str, Any]) -> str:
    value = 1e6 * run["seconds"]["median"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def graph(content: dict[str, Any]) -> str:
    """Milliseconds a training step."""
    libraries = list(dict.fromkeys(harness.family(run["library"]) for of in content["results"] for run in of["runs"]))
    rows = []
    for result in content["results"]:
        runs = best(result["runs"], rate)
        cells = [f"{runs[name]['step_ms']['median']:.2g}" if name in runs else "-" for name in libraries]
        ratio = times(result["ratio"]) if result["ratio"] and result["losses_agree"] else "-"
        rows.append([result["title"], *cells, ratio])
    return markdown(["training step, ms", *map(named, libraries), "ratio to the best peer"], rows)


def many(content: dict[str, Any]) -> str:
    """Model-rows a second."""
    rows = []
    for result in content["results"]:
        runs = best([run for run in result["runs"] if run["library"] != "bpcore:apart"], many_rate)
        apart = max(many_rate(run) for run in result["runs"] if run["library"] == "bpcore:apart")
        ours, *others = (many_rate(run) for run in runs.values())
        ratios = [times(ours / apart), times(result["ratio"])] if result["losses_agree"] else ["-", "-"]
        cells = map(harness.number, (ours, apart, *others))
        rows.append([result["net"].replace("/", ", "), str(result["networks"]), *cells, *ratios])
    _, *peers = map(named, runs)
    ways = ["`fit_many`", "one by one", *peers, "over one by one", "over the best peer"]
    return markdown(["net, batch", "networks", *ways], rows)


def memory(content: dict[str, Any]) -> str:
    rows = [
        [
            named(result["library"]),
            f"{result['peak_bytes'] / MIB:.0f} MiB",
            f"{1e3 * result['import_seconds']:.0f} ms",
            f"{result['installed_bytes'] / MIB:.1f} MiB",
        ]
        for result in content["results"]
    ]
    return markdown(["library", "memory in training", "import", "installed"], rows)


TABLES = {
    "epoch": epoch_plotted,
    "epoch_adam": epoch,
    "epoch_other": epoch,
    "graph": graph,
    "many": many,
    "predict": predict,
    "memory": memory,
}


def write_tables() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name, table in TABLES.items():
            begin, place, end = text.partition(f"<!-- table {name} -->\n")
            content = results(name)
            if content and place:
                after = end[end.index("<!-- end -->") :]
                text = f"{begin}{place}{table(content)}\n\n{machine(content)}\n{after}"
                print(f"{document.name}: {name}")
        document.write_text(text, encoding="utf-8")


def machine(content: dict[str, Any]) -> str:
    described = content["machine"]
    peaks = content.get("peaks", {})
    flops = f", float32 FMA peak {peaks['1']['flops'] / 1e9:.0f} GFLOP/s a core" if "1" in peaks else ""
    return f"*{described['cpu']}, {described['cores_allowed']} cores{flops}; {described['date'][:10]}.*"


def plot_training(content: dict[str, Any]) -> None:
    runs = {result["net"]: best(result["runs"], rate) for result in content["results"]}
    ratios = {
        net: {peer: rate(of[SUBJECT]) / rate(run) for peer, run in of.items() if peer != SUBJECT}
        for net, of in runs.items()
    }
    bars("training", ratios, "times as fast as the peer", "bpcore's training throughput over each peer's, float32")


def plot_latency(content: dict[str, Any]) -> None:
    seconds = {
        result["net"]: {
            library: 1e6 * run["seconds"]["median"] for library, run in best(result["runs"], predict_rate).items()
        }
        for result in content["results"]
        if result["rows"] == 1
    }
    bars("latency", seconds, "microseconds", "Predicting a single row, float32 (less is better)")


def plot_losses(content: dict[str, Any]) -> None:
    """docs/img/optimizers.svg: validation losses by epochs, a panel a task."""
    pyplot = drawing("optimizers")
    tasks = list(dict.fromkeys(result["task"] for result in content["results"]))
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(10, 4), layout="constrained")
    for axes, task in zip(panels, tasks, strict=True):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
        for result in content["results"]:
            if result["task"] == task:
                losses = result["val_loss"]
                axes.plot(range(1, len(losses) + 1), losses, label=result["optimizer"], linewidth=1.2)
        axes.set(title=task, xlabel="epoch", yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss")
    panels[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    keep(figure, "optimizers")


PLOTS = {"epoch": plot_training, "predict": plot_latency, "optimizers_curves": plot_losses}


def drawing(name: str) -> Any:
    """pyplot, for a file of this name."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text, not outlines of letters
    from matplotlib import pyplot

    return pyplot


def keep(figure: Any, name: str) -> None:
    """docs/img/NAME.svg."""
    path = IMAGES / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path.read_text())  # a hundredth of a point
    path.write_text(re.sub(r"\s*\n(?=L )", "", svg))  # a curve is a line
    print(path.relative_to(ROOT))


def bars(name: str, heights: dict[str, dict[str, float]], unit: str, title: str) -> None:
    """docs/img/NAME.svg: for each net a bar a library, from 1."""
    pyplot = drawing(name)
    libraries = list(next(iter(heights.values())))
    width = 0.8 / len(libraries)
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for i, library in enumerate(libraries):
        at = [x + (i - (len(libraries) - 1) / 2) * width for x in range(len(heights))]
        above_one = [of[library] - 1 for of in heights.values()]
        axes.bar(at, above_one, width, bottom=1, label=named(library), zorder=2)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(heights)), list(heights), rotation=15, ha="right", fontsize="small")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    keep(figure, name)


def main() -> int:
    write_tables()
    for name, plot in PLOTS.items():
        if content := results(name):
            plot(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What each command takes.  Nothing heavy is imported here: this is all that `--help` needs."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from bpcore_cli._errors import nearest

MAX_THREADS = 256  # bpcore._threads.MAX_THREADS; a test compares them
_UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_DEFAULT = "default %(default)s"
_DATA = "a file: CSV (also .gz, or - for standard input), Parquet, Arrow, NPY or NPZ"


class Parser(argparse.ArgumentParser):
    """Whose errors are one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """SystemExit(2)."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options; SystemExit where argv is not understood."""
    parser, commands = _parsers()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        arguments[1:1] = _configured(commands["train"], arguments[1:])
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = commands[options.command]
        known = [name for action in command._actions for name in action.option_strings]
        command.error(f"there is no {unknown[0]!r} here.{nearest(unknown[0], known)}")
    return options


def _configured(train: Parser, arguments: list[str]) -> list[str]:
    """The options that a file of --config holds, which those on the command line override."""
    look = Parser(prog=train.prog, add_help=False)
    look.add_argument("--config")
    path = look.parse_known_args(arguments)[0].config
    if path is None:
        return []
    import tomllib  # for those who need it

    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except (OSError, ValueError) as error:
        train.error(f"--config: {path}: {getattr(error, 'strerror', None) or error}")
    known = [name[2:] for action in train._actions for name in action.option_strings if name.startswith("--")]
    known = [name for name in known if name not in ("help", "config")]
    found: list[str] = []
    for name, value in settings.items():
        if name not in known:
            train.error(f"--config: {path}: there is no option {name!r}.{nearest(name, known)}")
        if isinstance(value, list):
            value = ",".join(map(str, value))
        if isinstance(value, bool):
            found += [f"--{name}"] * value
        elif isinstance(value, (str, int, float)):
            found.append(f"--{name}={value}")
        else:
            train.error(f"--config: {path}: {name}: expected a number, a string, true, false or a list, got {value!r}")
    return found


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """Of the command line, and of each command."""
    parser = Parser(prog="bpcore", description="Neural networks trained and run on the CPU.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (_train, _tune, _predict, _evaluate, _serve, _export, _bench, _info, _demo):
        add(commands)
    return parser, commands.choices


class _Version(argparse.Action):
    """--version, which imports bpcore only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from bpcore._version import __version__

        print(f"bpcore {__version__}")
        parser.exit()


# ---- commands ----


def _train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network for a column of a file")
    train.add_argument("data", metavar="DATA", help=_DATA)
    _target(train)
    _problem(train)
    train.add_argument("--hidden", type=widths, default=(256, 128), metavar="UNITS", help="default 256,128")
    train.add_argument("--activation", default="relu", metavar="NAME", help="of hidden layers; " + _DEFAULT)
    train.add_argument("--dropout", type=real(0, 1, True), default=0.0, metavar="RATE", help=_DEFAULT)
    train.add_argument("--optimizer", default="adam", metavar="NAME", help=_DEFAULT)
    train.add_argument("--lr", type=real(0, math.inf), metavar="RATE", help="default: the optimiser's")
    train.add_argument(
        "--weight-decay", type=real(0, math.inf, True), metavar="RATE", help="a penalty; default: the optimiser's"
    )
    train.add_argument("--batch-size", type=batch_size, default=32, metavar="N", help="or all; " + _DEFAULT)
    _length(train)
    train.add_argument("--max-seconds", type=seconds, metavar="TIME", help="as in 90, 90s, 5min, 1h")
    train.add_argument("--checkpoint", metavar="DIR", help="a folder in which the run is kept, every 10 s")
    train.add_argument("--resume", action="store_true", help="go on with the run in --checkpoint DIR")
    train.add_argument("--out", metavar="FILE", help="where to save the network (safetensors)")
    train.add_argument("--keep-interrupted", action="store_true", help="save it after Ctrl-C, too")
    train.add_argument("--config", metavar="FILE", help="TOML: options by their names, as in hidden = [256, 128]")
    _json(train)
    _threads(train)


def _tune(commands: Any) -> None:
    tune = commands.add_parser("tune", help="search for a network for a column of a file")
    tune.add_argument("data", metavar="DATA", help=_DATA)
    _target(tune)
    tune.add_argument(
        "--budget", type=seconds, default=60.0, metavar="TIME", help="as in 90, 90s, 5min, 1h; default 60s"
    )
    _problem(tune)
    _length(tune)
    tune.add_argument("--out", metavar="FILE", help="where to save the best network (safetensors)")
    _json(tune)
    _threads(tune)


def _predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="write a network's answers to the rows of a file")
    _model_and_data(predict)
    predict.add_argument("--id", metavar="COL", help="a column that is no input, and is written beside each answer")
    predict.add_argument("--proba", action="store_true", help="also write the probability of each class")
    predict.add_argument("--out", metavar="FILE", help="default: standard output")
    _json(predict, "write a JSON object for each row, instead of CSV")
    _threads(predict)


def _evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="say how well a network answers the rows of a file")
    _model_and_data(evaluate)
    _target(evaluate)
    evaluate.add_argument("--loss", default="auto", metavar="NAME", help="that it was trained with; " + _DEFAULT)
    _json(evaluate)
    _threads(evaluate)


def _serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="answer over HTTP: POST /predict, GET /health, GET /metadata")
    serve.add_argument("model", metavar="MODEL", help="a file that net.save or bpcore train wrote")
    serve.add_argument("--port", type=integer(0, 65535), default=8000, metavar="N", help="0: a free one; " + _DEFAULT)
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help=_DEFAULT + "; 0.0.0.0: whoever reaches it"
    )
    serve.add_argument(
        "--allow-host", action="append", metavar="NAME", help="a name by which it may be asked, beside its address"
    )
    serve.add_argument("--max-connections", type=integer(1, 10_000), default=64, metavar="N", help=_DEFAULT)
    serve.add_argument(
        "--max-bytes", type=integer(1, 2**31), default=2**24, metavar="N", help="of a request; " + _DEFAULT
    )
    serve.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="TIME", help="for a request to come, whole; " + _DEFAULT
    )
    _threads(serve)


def _export(commands: Any) -> None:
    export = commands.add_parser("export", help="write a network in another format")
    export.add_argument("model", metavar="MODEL", help="a file that net.save or bpcore train wrote")
    export.add_argument(
        "--to", choices=("c", "onnx", "torch"), required=True,
        help="c: one file of C99; onnx: needs onnx; torch: torch.load(FILE, weights_only=False) gives the module",
    )  # fmt: skip
    export.add_argument("--out", required=True, metavar="FILE", help="where to write it")


def _bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="this machine's speed, beside NumPy and what else is installed")
    bench.add_argument("--budget", type=seconds, default=30.0, metavar="TIME", help="default 30s")
    _json(bench)
    _threads(bench)


def _info(commands: Any) -> None:
    info = commands.add_parser("info", help="what is in a file of a network; without one, how bpcore was built")
    info.add_argument("model", nargs="?", metavar="MODEL", help="a file that net.save or bpcore train wrote")
    _json(info)


def _demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="train a network on handwritten digits")
    demo.add_argument("--net", default="64-128-10", metavar="SIZES", help=_DEFAULT)
    demo.add_argument("--epochs", type=integer(1, 2**31), default=30, metavar="N", help=_DEFAULT)
    _seed(demo)
    _threads(demo)


# ---- options that several have ----


def _model_and_data(parser: Any) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that net.save or bpcore train wrote")
    parser.add_argument("data", metavar="DATA", help=_DATA)


def _target(parser: Any) -> None:
    column = "name of a column, or its number from 0 in a file without names"
    parser.add_argument("--target", required=True, metavar="COL", help=f"what is predicted: {column}")
    parser.add_argument("--id", metavar="COL", help="a column that is no input")


def _problem(parser: Any) -> None:
    parser.add_argument(
        "--task", choices=("auto", "classification", "regression"), default="auto",
        help="auto: whole numbers of at most 10 values, each there 10 times on average, are classes",
    )  # fmt: skip
    parser.add_argument("--loss", default="auto", metavar="NAME", help="auto: cross_entropy, or squared_error")
    parser.add_argument(
        "--validation", type=real(0, 1, True), default=0.2, metavar="SHARE", help="of the rows, held out; " + _DEFAULT
    )
    _seed(parser)


def _length(parser: Any) -> None:
    parser.add_argument("--epochs", type=integer(1, 2**31), default=200, metavar="N", help="at most; " + _DEFAULT)
    parser.add_argument(
        "--patience", type=integer(1, 2**31), default=20, metavar="N",
        help="stop when so many epochs have not lowered the loss on held-out rows; the best is kept; " + _DEFAULT,
    )  # fmt: skip


def _json(parser: Any, words: str = "write the result as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=words)


def _seed(parser: Any) -> None:
    parser.add_argument("--seed", type=integer(0, 2**64 - 1), default=0, metavar="N", help=_DEFAULT)


def _threads(parser: Any) -> None:
    parser.add_argument("--threads", type=integer(1, MAX_THREADS), metavar="N", help="default: as many as may be used")


# ---- types ----


def integer(low: int, high: int) -> Callable[[str], int]:
    """argparse type: an integer in low..high."""

    def parse_integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text}")
        return value

    parse_integer.__name__ = "integer"  # which argparse names
    return parse_integer


def real(low: float, high: float, low_too: bool = False) -> Callable[[str], float]:
    """argparse type: a number between low and high; low_too: or low itself."""

    def parse_real(text: str) -> float:
        value = float(text)
        if not (low < value < high or (low_too and value == low)):
            least = f"{'at least' if low_too else 'above'} {low:g}"
            most = "" if math.isinf(high) else f" and below {high:g}"
            raise argparse.ArgumentTypeError(f"expected a number {least}{most}, got {text}")
        return value

    parse_real.__name__ = "number"
    return parse_real


def seconds(text: str) -> float:
    """argparse type: 90, 90s, 5min or 1h, in seconds."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(s|min|h|)", text)
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a time above 0 as in 90s, 5min or 1h, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def batch_size(text: str) -> int | None:
    """argparse type: a number of rows, or all."""
    return None if text == "all" else integer(1, 2**31)(text)


def widths(text: str) -> tuple[int, ...]:
    """argparse type: 256,128 as (256, 128)."""
    parts = text.split(",")
    if not all(re.fullmatch(r"[1-9][0-9]{0,6}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected units of layers as in 256,128, got {text!r}")
    return tuple(map(int, parts))

"""What the benchmarks of recognition share: options, the people to measure on, results that are kept between calls."""

import argparse
import datetime
import hashlib
import json
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report import describe_machine, write_section
from model.bundle import Bundle
from training.evaluation.run import compare
from training.evaluation.scoring import EvaluationResult
from training.importing.frame_model import ImportOptions
from training.importing.to_bundle import import_frame_model

MEASURES = "rank-1", "mAP"

QUICK = {
    "network.frame_height": "64",
    "network.frame_width": "32",
    "network.embedding": "16",
    "network.attention_channels": "8",
    "start.weights": "none",
    "batch.people": "4",
    "validation_share": "0.4",
}
"""Changes of a recipe with which a run on a few drawn people takes a second or two."""

console = Console(stderr=True)


@dataclass(frozen=True)
class EvalData:
    """People on whom models are measured, and the protocol."""

    name: str
    data: tuple[Path, ...]
    protocol: str

    def measure(self, models: Sequence[Path]) -> list[EvaluationResult]:
        """Measure models, as `not3d evaluate --against` does; the first one decides who the validation people are."""
        return compare(models, self.data, options={"protocol": self.protocol}, console=console)


def add_eval_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data."""
    data: dict[str, Any] = {"type": existing, "metavar": "PATH"}
    parser.add_argument("--data", action="append", required=True, help="a training dataset; may be repeated", **data)
    parser.add_argument("--other-site", help="people of a site that is used for no training", **data)
    parser.add_argument("--mars", help="MARS, or an excerpt of it, with its test people", **data)


def add_output(parser: argparse.ArgumentParser, name: str, page: str) -> None:
    """Add the options that say where results go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/recognition") / name,
        metavar="DIR",
        help="keeps what is finished; the same command continues after an interruption (default: %(default)s)",
    )
    add_page(parser, name, page)


def add_page(parser: argparse.ArgumentParser, name: str, page: str) -> None:
    """Add the options that say where the section goes."""
    parser.add_argument(
        "--page", type=existing, metavar="FILE", help=f"write the section into this page (default: {page})"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test in seconds, with meaningless figures")
    parser.set_defaults(default_page=Path(page), section=name)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of training runs."""
    parser.add_argument("--device", default="auto", help="of the training: auto, cpu or cuda")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a value of the recipe in all runs"
    )


def eval_data(arguments: argparse.Namespace) -> list[EvalData]:
    """Return all kinds of people for which data was given."""
    found = [EvalData("people set aside", tuple(arguments.data), "validation")]
    if arguments.other_site:
        found.append(EvalData("other site", (arguments.other_site,), "other-site"))
    if arguments.mars:
        found.append(EvalData("MARS, an excerpt", (arguments.mars,), "mars"))
    return found


def changes(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the changes of the recipe that `--quick` and `--set` make."""
    given = dict(text.split("=", 1) for text in arguments.set)
    return (QUICK if arguments.quick else {}) | given


def existing(text: str) -> Path:
    """Return a path that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def named(text: str) -> tuple[str, Path]:
    """Return name and existing path of `NAME=PATH`."""
    name, equals, path = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH (got {text})")
    return name, existing(path)


def open_model(path: Path, out: Path) -> Path:
    """Return a checkpoint or bundle; an .onnx file is imported once into `out`, with clips of one frame."""
    if path.suffix != ".onnx":
        return path
    bundle = out / "imported" / path.stem
    if not bundle.is_dir():
        import_frame_model(path, bundle, ImportOptions(clip_length=1))
    return bundle


def digest(path: Path) -> str:
    """Return what identifies a checkpoint, or a bundle by its network and preprocessing."""
    if path.is_dir():
        return Bundle.load(path).embedding_space
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def kept(path: Path, key: Any, compute: Callable[..., Any], *arguments: Any) -> Any:
    """Return the JSON value that an earlier call with the same key stored at `path`, or compute and store it."""
    key = json.loads(json.dumps(key))
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] == key:
            return content["value"]
    value = json.loads(json.dumps(compute(*arguments)))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps({"key": key, "value": value}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
    return value


def figures(result: EvaluationResult) -> dict[str, Any]:
    """Return the figures of a result that the tables show, as JSON values."""
    counts = {name: result.figures[name] for name in ("people", "queries", "gallery")}
    measured = {name: [result.figures[name], *result.intervals[name]] for name in MEASURES}
    return {**counts, **measured}


def measure(tested: EvalData, checkpoint: Path) -> dict[str, Any]:
    """Return the figures of one model on one kind of people."""
    return figures(tested.measure([checkpoint])[0])


def conclude(arguments: argparse.Namespace, text: str, section: str | None = None) -> None:
    """Print a section, and write it into its page, unless the run was a smoke test and no page was named."""
    print(text, flush=True)
    page = arguments.page or (None if arguments.quick else arguments.default_page)
    if page is not None:
        write_section(page, section or arguments.section, text)
        console.print(f"written to {page}", highlight=False)


def compose(title: str, text: str, table: str, after: str = "") -> str:
    """Return a section: heading, command and machine, a paragraph, a table, and a paragraph after it."""
    parts = [f"## {title}", _origin(), _fill(text), table, _fill(after)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _fill(text: str) -> str:
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)


def _origin() -> str:
    """Return the command, without the folders of this machine, with the machine and the month."""
    shown: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument in ("--out", "--page"):
            next(arguments, None)
        elif not argument.startswith(("--out=", "--page=")):
            name, equals, value = argument.rpartition("=")
            shown.append(f"{name}{equals}{Path(value).name}" if "/" in value else argument)
    command = f"python -m benchmarks.recognition {shlex.join(shown)}"
    month = datetime.datetime.now(datetime.UTC).strftime("%B %Y")
    return f"```sh\n{command}\n```\n\n{_fill(f'{month}. {describe_machine()}.')}"


def spread(values: Iterable[float], sign: str = "") -> str:
    """Return the mean of values and, if there are several, the least and the largest."""
    numbers = list(values)
    mean = f"{sum(numbers) / len(numbers):{sign}.1f}"
    return mean if len(numbers) == 1 else f"{mean} ({min(numbers):{sign}.1f} to {max(numbers):{sign}.1f})"

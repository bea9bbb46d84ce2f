"""``not3d train``, ``evaluate`` and ``export``: doors to `training`, whose dependencies come with an extra."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from not3d.commands import Failure, Interrupted, load, messages, results

Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        exists=True,
        help="MARS, Market-1501 (a folder or .tar), or person/camera/tracklet/*.jpg; may be repeated.",
    ),
]


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of one that we ship.")],
    data: Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Where the run is kept.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the recipe; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a network as a recipe says; prints the checkpoint.

    The model is chosen on people of the data who are set aside, never on a test set. Datasets given together
    share their person ids. Ctrl-C loses the epoch under way; [bold]--resume[/] goes on after the last one.

    Example: [bold]not3d train bundled -d market1501 -d mars --out runs/bundled[/]
    """
    overrides = dict(_parse_change(change) for change in changes or [])
    with _training("trainer") as trainer:
        path = load("training.recipe", "train").find_recipe(recipe)
        try:
            checkpoint = trainer.train(path, data, out, resume=resume, overrides=overrides, device=device)
        except KeyboardInterrupt:
            raise Interrupted(f"go on with --resume (finished epochs are in {out})") from None
    results.print(str(checkpoint), soft_wrap=True, highlight=False)


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_BUNDLE", exists=True)],
    data: Data,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Write evaluation.json here.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="[bold]mars[/]: its own queries; [bold]cross-camera[/]: every tracklet asks the other cameras; "
            "[bold]validation[/]: the same for the people whom the model's training set aside; "
            "[bold]auto[/]: mars for MARS's layout, else cross-camera.",
        ),
    ] = "auto",
    max_clips: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use at most N evenly spaced clips of a tracklet.")
    ] = None,
) -> None:
    """Measure rank-1 and mAP of a checkpoint or a bundle on a dataset."""
    with _training("evaluation.run") as run:
        figures = run.evaluate(model, data, out=out, protocol=protocol, max_clips=max_clips, console=messages)
    table = Table("measure", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in figures.items():
        table.add_row(str(name), f"{value:.2f}" if isinstance(value, float) else str(value))
    results.print(table)


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Where the bundle goes.")],
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            help="Crops of people to compare the bundle with PyTorch on. [dim]Default: the training data, if here.[/]",
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="TYPE", help="How weights are stored: fp16 (half the file) or fp32.")
    ] = "fp16",
) -> None:
    """Write a checkpoint as a bundle, which the service loads.

    Nothing is written where the bundle's embeddings differ from PyTorch's.
    """
    if weights not in {"fp16", "fp32"}:
        raise Failure(f"--weights {weights}: fp16 or fp32")
    with _training("export") as module, messages.status("Exporting and comparing"):
        report = module.export_bundle(checkpoint, out, crops=crops, weights=weights)
    table = Table("engine", "arithmetic", "largest difference", "smallest cosine", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in report.differences:
        table.add_row(row.engine, row.precision, f"{row.max_difference:.1e}", f"{row.min_cosine:.6f}")
    messages.print(f"Compared with PyTorch on {report.clips} clips of {report.crops}:", highlight=False)
    messages.print(table)
    for note in report.notes:
        messages.print(note, soft_wrap=True, highlight=False)
    results.print(str(out), soft_wrap=True, highlight=False)


@contextmanager
def _training(name: str) -> Iterator[ModuleType]:
    """The module ``training.<name>``; its expected errors become one message.

    Raises:
        Failure: one of them, or an extra that is missing.
    """
    module = load(f"training.{name}", "train")
    from model.bundle import BundleError  # noqa: PLC0415 - what follows needs the extra that was just loaded
    from model.engines import EngineError  # noqa: PLC0415
    from model.frames import FrameError  # noqa: PLC0415
    from training.checkpoint import CheckpointError  # noqa: PLC0415
    from training.datasets.tracklet import DatasetError  # noqa: PLC0415
    from training.evaluation.run import EvaluationError  # noqa: PLC0415
    from training.export import ExportError  # noqa: PLC0415
    from training.recipe import RecipeError  # noqa: PLC0415
    from training.trainer import TrainingError  # noqa: PLC0415

    expected = (
        BundleError,
        CheckpointError,
        DatasetError,
        EngineError,
        EvaluationError,
        ExportError,
        FrameError,
        RecipeError,
        TrainingError,
    )
    try:
        yield module
    except expected as error:
        raise Failure(str(error)) from error


def _parse_change(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals or not name:
        raise Failure(f"--set {change}: write NAME=VALUE")
    return name, value

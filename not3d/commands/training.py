"""`not3d train`, `evaluate` and `export`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich import box
from rich.table import Column, Table

from model.errors import extra
from not3d.commands import Failure, Interrupted, messages, print_message, print_result, results

if TYPE_CHECKING:
    from training.evaluation.scoring import EvaluationResult
    from training.export.bundle_assembly import ExportResult

Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        exists=True,
        help="A dataset of any kind that `not3d datasets list` names; may be repeated.",
    ),
]

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="The file of a recipe, or the name of one in the package.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the recipe; may be repeated."),
]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="Do what the program of the paper does where the recipe follows the paper or our choice.",
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda (never run on a GPU).")]


def train(
    recipe: RecipeName,
    data: Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in DIR.")] = False,
    changes: Changes = None,
    device: Device = "auto",
    split: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Which split to train on (PRID2011, iLIDS-VID: 0 to 9).")
    ] = None,
    transfer: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            exists=True,
            dir_okay=False,
            help="Start from the backbone and attention weights of this checkpoint.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE_OR_CHECKPOINT",
            exists=True,
            help="Start from all weights of this model, for example to fine-tune it for a site.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            exists=True,
            file_okay=False,
            help="The model whose features a recipe with distillation losses learns from.",
        ),
    ] = None,
    as_published: AsPublished = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network (torch.compile): a slow start, then faster.")
    ] = False,
) -> None:
    """Train a network from a recipe, and print the path of the checkpoint.

    The best model is chosen on validation people of the training data, never on a test set. Datasets that are given
    together share their person ids. Ctrl-C writes a checkpoint, and [bold]--resume[/] continues from it with the same
    result. With several GPUs or machines, [bold]torchrun --nproc-per-node 2 -m -- not3d train ...[/] divides each
    batch; without the [bold]--[/], torchrun takes [bold]--start[/] for an option of its own.

    Example: [bold]not3d train light -d market1501 -d mars --out runs/light[/]
    """
    overrides = parse_changes(changes)
    with extra("train"):
        from training.loop import trainer
        from training.loop.run import LAST
        from training.recipe import find_recipe
    path = find_recipe(recipe)
    try:
        checkpoint = trainer.train(
            path,
            data,
            out,
            resume=resume,
            overrides=overrides,
            device=device,
            console=messages,
            split=split,
            transfer=transfer,
            compile=compiled,
            teacher=teacher,
            start=start,
            as_published=as_published,
        )
    except KeyboardInterrupt:
        left = (out / LAST).is_file()
        raise Interrupted(f"continue with --resume ({out})" if left else "no checkpoint was written yet") from None
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, only the first prints
        print_result(str(checkpoint))


def adapt_teacher(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            exists=True,
            file_okay=False,
            help="An ONNX model of single frames, as `import` writes it.",
        ),
    ],
    data: Data,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Folder of the new bundle.")],
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="The file of a recipe, or the name of one in the package.")
    ] = "adapted-teacher",
    share: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the fine-tuned weights in the mean.")
    ] = 0.5,
    changes: Changes = None,
    device: Device = "auto",
) -> None:
    """Fine-tune a teacher on the training people, so that a network can learn from it with `train --teacher`.

    The new bundle has the mean of the weights before and after, because fine-tuning alone makes a teacher forget people
    of other sites. Accuracy is printed for both and for the mean, on people set aside as `train` does.

    Example: [bold]not3d adapt-teacher models/teacher -d market1501 -d mars --out models/adapted[/]
    """
    with extra("train"):
        from training.loop.teacher_adaptation import adapt_teacher as adapt
        from training.recipe import find_recipe
    written = adapt(
        find_recipe(recipe),
        teacher,
        data,
        out,
        share=share,
        overrides=parse_changes(changes),
        device=device,
        console=messages,
    )
    print_result(str(written.bundle.path))


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_BUNDLE", exists=True, help="The model to measure.")],
    data: Data,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Write evaluation.json and report.html here."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="[bold]mars[/], [bold]mars-all-queries[/], [bold]mars-official[/]: MARS's own queries, by three "
            "conventions; [bold]benchmark[/]: another dataset's own queries; [bold]cross-camera[/]: each tracklet is a "
            "query for the other cameras; [bold]other-site[/]: the same, without its own camera in the gallery; "
            "[bold]validation[/]: cross-camera, for the validation people of the model's training; [bold]auto[/]: "
            "mars, benchmark, or cross-camera if there are no test lists.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Split of PRID2011 or iLIDS-VID: 0 to 9, or [bold]all[/] for the mean, which is "
            "fair only for a model that was trained on none of the splits.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="cosine or euclidean.")] = None,
    feature: Annotated[str | None, typer.Option(metavar="NAME", help="For a checkpoint: batch_normed or raw.")] = None,
    max_clips: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use at most N clips of a tracklet.")
    ] = None,
    clip_choice: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which N clips: [bold]even[/]ly spaced, the [bold]first[/], or [bold]random[/] ones without overlap.",
        ),
    ] = None,
    clip_seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Random seed of random clips.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CHECKPOINT_OR_BUNDLE",
            exists=True,
            help="Measure this model on the same tracklets, in one table; may be repeated.",
        ),
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Re-rank by k-reciprocal neighbours.")] = False,
    rerank_form: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What is re-ranked: [bold]unit[/] vectors, or, as the program of fantastic does ([bold]published[/]), "
            "the features as they are, in half precision.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the confidence intervals and the open set.")] = 1,
) -> None:
    """Measure a checkpoint or a bundle on a dataset: ranking, verification, open set, with confidence intervals.

    Without options, a checkpoint is measured as its recipe says, and a bundle as the service ranks.

    Example: [bold]not3d evaluate runs/mine/best.pt -d mars --protocol mars-official --out report[/]
    """
    options = {
        "protocol": protocol,
        "metric": metric,
        "feature": feature,
        "max_clips": max_clips,
        "clip_choice": clip_choice,
        "clip_seed": clip_seed,
        "rerank_form": rerank_form,
    }
    given = {name: value for name, value in options.items() if value is not None}
    given |= {"rerank": True} if rerank else {}
    if split is not None and split != "all" and not split.isdecimal():
        raise Failure(f"--split must be a number from 0, or all (got {split})")
    if against:
        if split == "all":
            raise Failure("--against compares models on one split: give its number instead of all")
        with extra("train"):
            from training.evaluation.run import compare
        number = None if split is None else int(split)
        _show_comparison(
            compare([model, *against], data, options=given, split=number, seed=seed, console=messages), out
        )
        return
    splits: Sequence[int | None] | Literal["all"] = "all" if split == "all" else [None if split is None else int(split)]
    with extra("train"):
        from training.evaluation.report import write_report
        from training.evaluation.run import evaluate_splits
        from training.evaluation.scoring import summarise_splits
    outcomes = evaluate_splits(model, data, splits, options=given, seed=seed, console=messages)
    if out is not None:
        for outcome in outcomes:
            folder = out if len(outcomes) == 1 else out / f"split-{outcome.figures['split']}"
            print_message(str(write_report(outcome, folder)))
    if len(outcomes) == 1:
        figures, intervals = outcomes[0].figures, outcomes[0].intervals
    else:
        figures, intervals = summarise_splits(outcomes), {}
        if out is not None:
            (out / "evaluation.json").write_text(json.dumps({"figures": figures}, indent=2) + "\n", encoding="utf-8")
    table = Table("measure", "value", "95% interval", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in figures.items():
        low_high = "{:.2f} to {:.2f}".format(*intervals[name]) if name in intervals else ""
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        table.add_row(str(name), "too few" if shown == "nan" else shown, low_high)
    results.print(table)


def _show_comparison(outcomes: "list[EvaluationResult]", out: Path | None) -> None:
    """Print a row for each model, with intervals, and write the figures of all models to evaluation.json."""
    measures = ("rank-1", "rank-5", "mAP")
    first = outcomes[0].figures
    print_message(f"{first['data']}, {first['protocol']}")
    print_message(f"{first['people']} people, {first['queries']} queries, {first['gallery']} tracklets in the gallery")
    columns = [Column(f"{name} [dim](95%)[/]", no_wrap=True) for name in measures]
    table = Table("model", *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for outcome in outcomes:
        cells = [
            f"{outcome.figures[name]:.1f} ({outcome.intervals[name][0]:.1f} to {outcome.intervals[name][1]:.1f})"
            for name in measures
        ]
        table.add_row(str(outcome.figures["model"]), *cells)
    results.print(table)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        content = [outcome.as_json() for outcome in outcomes]
        (out / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", exists=True, dir_okay=False, help="What `train` or `import` wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", file_okay=False, help="Folder of the bundle.")],
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            help="Crops of people for the comparison with PyTorch. [dim]Default: the training data, if it exists[/]",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model. [dim]Default: that of the recipe[/]")
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="TYPE", help="How weights are stored: fp16 (half the file) or fp32.")
    ] = "fp16",
) -> None:
    """Write a checkpoint as a bundle for the service, with the weights from which `train --start` can begin.

    Nothing is written if the bundle's embeddings differ from those of PyTorch.
    """
    if weights not in {"fp16", "fp32"}:
        raise Failure(f"--weights must be fp16 or fp32 (got {weights})")
    with extra("train"):
        from training.export.export import export_bundle
    with messages.status("Exporting and comparing"):
        report = export_bundle(checkpoint, out, crops=crops, weights=cast(Literal["fp16", "fp32"], weights), name=name)
    show_export(report)


def show_export(report: "ExportResult") -> None:
    """Print what was written and how much it differs from its source."""
    table = Table("engine", "arithmetic", "largest difference", "smallest cosine", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in report.differences:
        table.add_row(row.engine, row.precision, f"{row.max_difference:.1e}", f"{row.min_cosine:.6f}")
    messages.print(f"Compared with {report.reference} on {report.clips} clips of {report.crops}:", highlight=False)
    messages.print(table)
    for note in report.notes:
        print_message(note)
    print_result(str(report.path))


def parse_changes(changes: list[str] | None) -> dict[str, str]:
    """Return the `NAME=VALUE` of the options `--set` as a dictionary."""
    parsed = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise Failure(f"--set must be NAME=VALUE (got {change})")
        parsed[name] = value
    return parsed

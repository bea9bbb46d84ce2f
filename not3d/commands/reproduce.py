"""`not3d reproduce`: rows of the papers' tables, the paper's figures and your own side by side."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, Interrupted, messages, results
from not3d.commands.training import AsPublished, Changes, Device, parse_changes

if TYPE_CHECKING:
    from training.reproduction.report import Comparison
    from training.reproduction.reproduce import Selected, Split
    from training.reproduction.training import ReproductionSettings

SKIPPED = 3
"""Exit status if rows were skipped because their dataset was not given."""


def reproduce(
    *,
    paper: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="[bold]not3d[/], [bold]fantastic[/] or [bold]aas-rfu[/]."),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|NAME", help="As the paper prints it, such as IV, or 4. [dim]Default: all[/]"),
    ] = None,
    row: Annotated[str | None, typer.Option(metavar="NAME", help="One row, or a pattern such as '*-mars'.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", "-d", metavar="DIR", exists=True, help="MARS, PRID2011, iLIDS-VID; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            file_okay=False,
            help="Folder for the runs, reproduction.json and reproduction.md. "
            "[dim]Default: runs/reproduction, or runs/smoke.[/]",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Split of PRID2011 and iLIDS-VID: 0 to 9, or [bold]all[/] for mean and deviation; default 0.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="ImageNet weights instead of a download; [bold]BACKBONE=FILE[/] for one backbone; may be repeated.",
        ),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            metavar="SHARE",
            help="Choose the epoch on this share of the training people, who then do not train. [dim]Default: 0, all "
            "train and the last epoch is kept.[/]",
        ),
    ] = 0.0,
    as_published: AsPublished = False,
    changes: Changes = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Test each row: a small version, for seconds, on one MARS-like folder. The figures mean nothing.",
        ),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show papers, tables and rows, and run nothing.")] = False,
    device: Device = "auto",
) -> None:
    """Run or resume rows of the papers' tables, and print the papers' figures next to your own.

    Each row is a recipe. Finished rows are not trained again, rows that differ only in inference share a training, and
    after Ctrl-C the same command continues. Rows without their dataset are skipped, and the exit status is then 3.

    Example: [bold]not3d reproduce --paper not3d --table 4 -d mars -d prid_2011[/]
    """
    overrides = parse_changes(changes)
    files = dict(_parse_weights(weight) for weight in weights or [])
    with extra("train"):
        from training.reproduction.papers import select_rows
        from training.reproduction.reproduce import find_data
        from training.reproduction.training import ReproductionSettings
    selected = select_rows(paper, table, row)
    if listed:
        _list(selected)
        return
    if paper is None and not smoke:
        raise Failure("--paper must be not3d, fantastic or aas-rfu; --list shows their tables and rows")
    settings = ReproductionSettings(
        data=find_data(data or [], smoke=smoke),
        out=out or Path("runs", "smoke" if smoke else "reproduction"),
        overrides=overrides,
        weights=files,
        device=device,
        smoke=smoke,
        held_out=held_out,
        as_published=as_published,
        console=Console(quiet=True) if smoke else messages,
    )
    skipped = _run(selected, settings, _parse_split(split))
    if skipped:
        raise typer.Exit(SKIPPED)


def _run(selected: Sequence["Selected"], settings: "ReproductionSettings", split: "Split") -> bool:
    """Run the rows, write the report after each, and return whether any row was skipped."""
    from training.reproduction.report import write_report
    from training.reproduction.reproduce import drop_models, run_row

    found: list[Comparison] = []
    files: list[Path] = []
    started, busy = time.perf_counter(), time.process_time()
    try:
        for number, item in enumerate(selected, 1):
            begun = time.perf_counter()
            comparisons = run_row(item, settings, split=split)
            found += comparisons
            files = write_report(found, settings.out, smoke=settings.smoke)
            outcome = comparisons[0].skipped or f"{time.perf_counter() - begun:.1f} s"
            meaning = "; smoke, its figures mean nothing" if settings.smoke and item[2].data else ""
            messages.print(
                f"{number}/{len(selected)} {comparisons[0].name}: {outcome}{meaning}", soft_wrap=True, highlight=False
            )
    except KeyboardInterrupt:
        raise Interrupted("the same command continues from here") from None
    finally:
        if settings.smoke:
            drop_models(settings)
        if found:
            _show(found, smoke=settings.smoke)
    took, skipped = time.perf_counter() - started, sum(bool(comparison.skipped) for comparison in found)
    messages.print(
        f"{len(selected) - skipped} of {len(selected)} rows in {took:.0f} s ({time.process_time() - busy:.0f} s of "
        f"processor time), {skipped} skipped; written to "
        f"{' and '.join(map(str, files))}",
        soft_wrap=True,
        highlight=False,
    )
    return skipped > 0


def _show(found: Sequence["Comparison"], *, smoke: bool) -> None:
    """Print the figures of each row, and below them its conditions and what differs from the paper."""
    from training.reproduction import report

    results.print("Paper's figures and own, in percent; memory in MB", highlight=False)
    for comparison in found:
        figures = _table(*report.HEADINGS[1:], title=escape(comparison.name))
        for _, *cells in report.figure_lines(comparison, smoke):
            figures.add_row(*map(escape, cells))
        results.print(figures)
        if comparison.row.data is not None:
            _, *cells = report.condition_line(comparison)
            named = zip(report.CONDITIONS[1:], cells, strict=True)
            line = "; ".join(f"{heading} {cell}" for heading, cell in named if cell)
            results.print(f"Conditions, paper | own: {line}", soft_wrap=True, highlight=False, markup=False)
        for remark in [comparison.skipped] if comparison.skipped else comparison.unlike:
            results.print(f"- {remark}", soft_wrap=True, highlight=False, markup=False)
    if smoke and any(comparison.row.data for comparison in found):
        results.print(report.MEANINGLESS, style="bold", soft_wrap=True)


def _list(selected: Sequence["Selected"]) -> None:
    """Print papers, tables and rows."""
    tables = {(paper.name, table.name): (paper, table) for paper, table, _ in selected}
    for (paper_name, table_name), (paper, table) in tables.items():
        results.print(f"\n{paper.title}", style="dim", highlight=False)
        results.print(
            f"[bold]--paper {paper_name} --table {paper.printed(table)} or {table_name}[/]  {escape(table.title)}",
            highlight=False,
        )
        shown = _table("row", "data", "recipe", "paper's figures")
        for _, _, row in (item for item in selected if item[0] is paper and item[1] is table):
            before = ", then ".join(reversed(row.kinds_before))
            kinds = f"{row.data or 'none'}, after {before}" if before else row.data or "none"
            figures = ", ".join(f"{measure} {value:g}" for measure, value in row.figures.items())
            shown.add_row(row.name, kinds, row.recipe, figures)
        results.print(shown)


def _table(*headings: str, title: str | None = None) -> Table:
    """Return a table that folds names and does not cut them, because they are typed again."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    return shown


def _parse_split(text: str | None) -> "Split":
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise Failure(f"--split must be a number from 0, or all (got {text})")
    return int(text)


def _parse_weights(text: str) -> tuple[str, str]:
    """Split `BACKBONE=FILE`; `FILE` alone is for every backbone."""
    backbone, equals, file = text.rpartition("=")
    if "://" not in file and not Path(file).is_file():
        raise Failure(f"--weights {text}: {file} does not exist")
    return (backbone, file) if equals else ("", file)

"""``not3d gallery``: backups of a gallery, and whether it is whole; on its files, beside a running service too."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from not3d.commands import Failure, load, messages, results

app = typer.Typer(help="The gallery's files: back up, restore, check, move.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="NOT3D_DATA_DIR", metavar="DIR", help="Folder of the gallery.")
]
DEFAULT_DATA_DIR = Path("data")


@contextmanager
def gallery_module(name: str) -> Iterator[Any]:
    """A module of `service.gallery`, whose refusals end the command with their sentence."""
    module = load(f"service.gallery.{name}", "cpu")
    records = load("service.gallery.records", "cpu")
    try:
        yield module
    except records.GalleryError as error:
        raise Failure(str(error)) from error


@app.command()
def snapshot(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder; its name appears once all is on disk.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Copy the gallery as it is now, while the service goes on.

    The copy has everything that was acknowledged before, and nothing of what
    was erased before. It takes the space of the database, and some time: see
    docs/gallery.md. Vectors in it are personal data like those in the gallery.

    Example: [bold]not3d gallery snapshot --data-dir data backups/monday[/]
    """
    with gallery_module("snapshot") as snapshots, messages.status(f"Copying {escape(str(data_dir))}"):
        manifest = snapshots.take_snapshot(data_dir, out)
    results.print(
        f"{out}: {manifest.records:,} records of space {manifest.embedding_space}, {manifest.size / 1e6:,.1f} MB",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="SNAPSHOT", help="A folder that [bold]snapshot[/] wrote.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Put a snapshot into a new data directory, for the service to start on.

    Every file is checked first, and a directory that holds something is left
    alone. What was erased after the snapshot was taken is there again.

    Example: [bold]not3d gallery restore backups/monday --data-dir data-new[/]
    """
    with gallery_module("snapshot") as snapshots, messages.status(f"Restoring {escape(str(source))}"):
        manifest = snapshots.restore(source, data_dir)
    results.print(
        f"{data_dir}: {manifest.records:,} records of space {manifest.embedding_space} (model {manifest.model_name})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    messages.print(
        f"It is the gallery of {_moment(manifest.created)}: what was enrolled since is missing, and "
        "[yellow]what was erased since is there again[/]. Erase that anew before the service answers.",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data directory, in use or not, or a snapshot.")],
) -> None:
    """Check that a gallery or a snapshot is whole: every page, row, vector and digest.

    Reads all of it and changes nothing. Ends with status 1 where data are
    damaged; a saved index that cannot be used is only a remark, since it is
    made anew from the records.

    Example: [bold]not3d gallery verify backups/monday[/]
    """
    with gallery_module("verify") as module, messages.status(f"Reading {escape(str(folder))}"):
        report = module.verify(folder)
    results.print(_table(folder, report))
    for remark in report.remarks:
        results.print(f"  [yellow]remark[/] {escape(remark)}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        results.print(f"  [red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if not report.whole:
        advice = (
            "use another snapshot"
            if report.manifest
            else "stop the service, keep the folder, and restore a snapshot into a new one (not3d gallery restore); "
            "what was enrolled since then has to be enrolled again"
        )
        raise Failure(f"{folder} is damaged: {advice}")
    messages.print("It is whole.")


def _table(folder: Path, report: Any) -> Table:
    table = Table(str(folder), "snapshot" if report.manifest else "gallery", box=box.SIMPLE_HEAD, pad_edge=False)
    if report.manifest:
        table.add_row("taken", _moment(report.manifest.created))
    if report.stamp:
        table.add_row("embedding space", report.stamp.embedding_space)
        table.add_row("dimension", str(report.stamp.dimension))
        table.add_row("model", escape(report.stamp.model_name))
    for name, count in report.counts.items():
        table.add_row(name, f"{count:,}")
    return table


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"

"""``not3d gallery``: backups, archives and the audit log of a gallery; reads its files beside a running service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.markup import escape
from rich.table import Table

from not3d.commands import Failure, Interrupted, load, messages, results, show_progress

app = typer.Typer(help="The gallery's files: back up, restore, check, move.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="NOT3D_DATA_DIR", metavar="DIR", help="Folder of the gallery.")
]
Address = Annotated[
    str,
    typer.Option(
        "--gallery",
        envvar="NOT3D_GALLERY",
        metavar="ADDRESS",
        help="[bold]embedded[/] is the one in --data-dir, [bold]milvus://HOST:PORT[/] that of a Milvus server.",
    ),
]
ModelBundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        envvar="NOT3D_BUNDLE",
        help="For Milvus: the model whose vectors are meant. [dim]Default: the one in the package.[/]",
    ),
]
DEFAULT_DATA_DIR = Path("data")
EMBEDDED = "embedded"


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
    with gallery_module("archive.snapshot") as snapshots, messages.status(f"Copying {escape(str(data_dir))}"):
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
    log: Annotated[
        Path | None,
        typer.Option(
            "--erase-again",
            metavar="AUDIT",
            exists=True,
            help="An audit log that goes on after the snapshot: a data directory, or a file of "
            "[bold]not3d gallery audit --json[/].",
        ),
    ] = None,
) -> None:
    """Put a snapshot into a new data directory, for the service to start on.

    Every file is checked first, and a directory that holds something is left
    alone. What was erased after the snapshot was taken is there again, unless
    [cyan]--erase-again[/] says what it was: then every deletion and erasure
    of that audit log that the snapshot does not know of is made once more,
    before the directory holds a gallery that a service could start on.

    Example: [bold]not3d gallery restore backups/monday --data-dir data-new[/]
    """
    with gallery_module("archive.replay_erasures") as replay_erasures:
        entries = [] if log is None else replay_erasures.read_log(log)
    erased = 0

    def erase(folder: Path, stamp: Any) -> None:
        nonlocal erased
        if log is not None:
            with _opened(folder, stamp) as gallery:
                erased = replay_erasures.erase_again(gallery, entries)

    with gallery_module("archive.snapshot") as snapshots, messages.status(f"Restoring {escape(str(source))}"):
        manifest = snapshots.restore(source, data_dir, erase)
    results.print(
        f"{data_dir}: {manifest.records:,} records of space {manifest.embedding_space} (model {manifest.model_name})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    since = f"It is the gallery of {_moment(manifest.created)}: what was enrolled since is missing, and"
    if log is None:
        remark = f"{since} [yellow]what was erased since is there again[/]. Erase that anew before the service answers."
        messages.print(remark, highlight=False, soft_wrap=True)
        return
    messages.print(f"{since} of what was erased since, {erased:,} records were there again and are erased again.")


@app.command()
def compact(*, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Write the database anew, without what removed records leave behind.

    Gives back the space of what was removed. Vectors of removed records are
    overwritten within a minute without this; pieces of their metadata and
    thumbnails may stay in unused parts of the file until then. The service has
    to be stopped first, and meanwhile it takes the space of the copy.

    Example: [bold]not3d gallery compact --data-dir data[/]
    """
    with gallery_module("archive.compact") as module, messages.status(f"Compacting {escape(str(data_dir))}"):
        before, after = module.compact(data_dir)
    results.print(
        f"{data_dir}: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now",
        highlight=False,
        markup=False,
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
    with gallery_module("archive.verify") as module, messages.status(f"Reading {escape(str(folder))}"):
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


@app.command("export")
def export_records(
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="The new file.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    gallery: Address = EMBEDDED,
    bundle: ModelBundle = None,
) -> None:
    """Write all records as Parquet, while the service goes on.

    One row per record with its vector, times, camera, metadata as JSON, and
    thumbnail; what has expired is left out. pandas, polars, DuckDB and
    [bold]import[/] read it. Needs the extra [cyan]parquet[/].

    Example: [bold]not3d gallery export --data-dir data monday.parquet[/]
    """
    with (
        _parquet() as parquet,
        _records(parquet, data_dir, gallery, bundle) as (pieces, stamp, total),
        show_progress() as progress,
    ):
        task = progress.add_task("Exporting", total=total)
        records = parquet.export_records(pieces, stamp, out, lambda done: progress.update(task, completed=done))
    size = out.stat().st_size / 1e6
    results.print(
        f"{out}: {records:,} records of space {stamp.embedding_space}, {size:,.1f} MB",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command("import")
def import_records(
    source: Annotated[Path, typer.Argument(metavar="IN.parquet", help="A file that [bold]export[/] wrote.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    skip: Annotated[
        bool, typer.Option("--skip-existing", help="Leave ids that are enrolled as they are; goes on after a break.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace ids that are enrolled.")] = False,
    gallery: Address = EMBEDDED,
    bundle: ModelBundle = None,
) -> None:
    """Enrol the records of a Parquet file; makes the gallery where there is none.

    Nothing is changed where one of the ids is enrolled already, unless
    [cyan]--skip-existing[/] or [cyan]--replace[/] says what to do with it. Vectors
    of another embedding space are refused. A service on this data directory
    has to be stopped first; one on Milvus goes on. Needs the extra [cyan]parquet[/].

    Example: [bold]not3d gallery import monday.parquet --data-dir data-new[/]
    """
    if skip and replace:
        raise typer.BadParameter("--skip-existing and --replace exclude each other")
    on_conflict = "skip" if skip else "replace" if replace else "error"
    with _parquet() as parquet:
        archive = parquet.Archive(source)
        with (
            (
                _opened(data_dir, archive.stamp)
                if gallery == EMBEDDED
                else _on_server(*_settings_and_model(gallery, bundle))
            ) as target,
            show_progress() as progress,
        ):
            task = progress.add_task("Importing", total=archive.records)
            try:
                outcome = parquet.import_records(
                    archive, target, on_conflict, lambda done: progress.update(task, completed=done)
                )
            except KeyboardInterrupt:
                again = "with --skip-existing it goes on where it was" if on_conflict != "replace" else "run it again"
                raise Interrupted(f"what was enrolled stays; {again}") from None
    counts = [f"{outcome.enrolled:,} enrolled"]
    for count, word in ((outcome.replaced, "replaced"), (outcome.skipped, "skipped"), (outcome.expired, "expired")):
        counts += [f"{count:,} {word}"] if count else []
    results.print(", ".join(counts), highlight=False, markup=False, soft_wrap=True)


@app.command()
def audit(
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The newest N. [dim]Default: 20, all with --json[/]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each entry, newest first.")] = False,
) -> None:
    """Show who removed what in a data directory: deletions, erasures and what expired.

    Entries have the time, the fingerprint of the API key, the condition and
    how many records went, and are never changed. Keep a copy elsewhere
    ([cyan]--json[/]): [bold]restore --erase-again[/] takes it.

    Example: [bold]not3d gallery audit --data-dir data --json > audit.jsonl[/]
    """
    with gallery_module("archive.replay_erasures") as replay_erasures:
        entries = replay_erasures.read_log(data_dir)[: limit or (None if as_json else 20)]
    if as_json:
        for entry in entries:
            results.print(replay_erasures.dump(entry), highlight=False, markup=False, soft_wrap=True)
        return
    table = Table("time", "action", "by", "records", "condition", "receipt", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in entries:
        condition = json.dumps(entry.filter, ensure_ascii=False)
        words = (_moment(entry.time), entry.action, entry.by, f"{entry.erased:,}", condition, entry.receipt)
        table.add_row(*map(escape, words))
    results.print(table)


@contextmanager
def _parquet() -> Iterator[Any]:
    load("pyarrow", "parquet")
    with gallery_module("archive.parquet") as module:
        yield module


@contextmanager
def _records(parquet: Any, data_dir: Path, address: str, bundle: Path | None) -> Iterator[tuple[Any, Any, int]]:
    """The records of a gallery in pieces, what they have in common, and about how many they are."""
    if address != EMBEDDED:
        settings, model = _settings_and_model(address, bundle)
        with gallery_module("embedded.database") as database, _on_server(settings, model) as gallery:
            stamp = database.Stamp(model.embedding_space, model.spec.dimension, model.spec.name)
            yield parquet.gallery_records(gallery), stamp, gallery.count()
        return
    with gallery_module("archive.read_only") as module, module.open_stored(data_dir) as stored:
        total = stored.connection.execute("SELECT count(*) FROM tracklets").fetchone()[0]
        yield parquet.stored_records(stored), stored.stamp, total


@contextmanager
def _opened(data_dir: Path, stamp: Any) -> Iterator[Any]:
    """The gallery of a stopped service, to write into; made where there is none."""
    with gallery_module("embedded.gallery") as embedded:
        gallery = embedded.EmbeddedGallery.open(
            data_dir, embedding_space=stamp.embedding_space, dimension=stamp.dimension, model_name=stamp.model_name
        )
        try:
            yield gallery
        finally:
            gallery.close()


@contextmanager
def _on_server(settings: Any, model: Any) -> Iterator[Any]:
    """The gallery of a model's embedding space on a Milvus server."""
    with gallery_module("opening") as opening:
        gallery = opening.open_gallery(settings, model)
        try:
            yield gallery
        finally:
            gallery.close()


def _settings_and_model(address: str, bundle: Path | None) -> tuple[Any, Any]:
    bundles = load("model.bundle", "cpu")
    given = {"gallery": address} | ({"bundle": bundle} if bundle else {})
    try:
        settings = load("service.settings", "cpu").Settings(**given)
        return settings, bundles.Bundle.load(settings.bundle)
    except ValidationError as error:
        raise Failure(f"--gallery: {error.errors(include_url=False)[0]['msg']}") from error
    except bundles.BundleError as error:
        raise Failure(str(error)) from error


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

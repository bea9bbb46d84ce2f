"""`not3d gallery`: snapshots, checks, Parquet and the audit log of a gallery, also while a service uses it."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich import box
from rich.markup import escape
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, Interrupted, count_of, messages, print_message, print_result, results, show_progress
from not3d.commands.audit import check_chain

if TYPE_CHECKING:
    from service.gallery import Gallery, OnConflict, Record
    from service.gallery.archive.verify import VerificationReport
    from service.gallery.embedded.database import Stamp

app = typer.Typer(help="Back up, restore, verify, export and import a gallery.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="NOT3D_DATA_DIR", metavar="DIR", help="Folder of the gallery.")
]
Address = Annotated[
    str,
    typer.Option(
        "--gallery",
        envvar="NOT3D_GALLERY",
        metavar="ADDRESS",
        help="[bold]embedded[/] is the gallery in --data-dir, [bold]milvus://HOST:PORT[/] the one on a Milvus server.",
    ),
]
ModelBundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        envvar="NOT3D_BUNDLE",
        help="For Milvus: the model of the vectors. [dim]Default: the model in the package.[/]",
    ),
]
DEFAULT_DATA_DIR = Path("data")
EMBEDDED = "embedded"


@app.command()
def snapshot(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder. Its name appears when all is on disk.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Copy the gallery while the service runs.

    The copy has every change that was acknowledged before, and no data of
    records that were erased before. It needs as much space as the database;
    docs/figures/gallery.md has measured times. Vectors are personal data, in a
    copy too.

    Example: [bold]not3d gallery snapshot --data-dir data backups/monday[/]
    """
    with extra("cpu"):
        from service.gallery.archive.snapshot import take_snapshot
    with messages.status(f"Copying {escape(str(data_dir))}"):
        manifest = take_snapshot(data_dir, out)
    print_result(
        f"{out}: {count_of(manifest.records, 'record')} of space {manifest.embedding_space}, "
        f"{manifest.size / 1e6:,.1f} MB"
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
            help="An audit log that is newer than the snapshot: a data directory, or a file of "
            "[bold]not3d gallery audit --json[/].",
        ),
    ] = None,
) -> None:
    """Copy a snapshot into a new data directory, on which the service can start.

    Every file is checked first. A directory that is not empty is refused.
    The snapshot still has the records that were erased after it was taken.
    [cyan]--erase-again[/] names an audit log, and every deletion and erasure in
    it that the snapshot does not have is repeated, before a service can start
    on the directory.

    Example: [bold]not3d gallery restore backups/monday --data-dir data-new[/]
    """
    with extra("cpu"):
        from service.gallery.archive import replay_erasures, snapshot
    entries = [] if log is None else replay_erasures.read_audit_log(log)
    erased = 0

    def erase(folder: Path, stamp: "Stamp") -> None:
        nonlocal erased
        if log is not None:
            with _embedded(folder, stamp) as gallery:
                erased = replay_erasures.replay_erasures(gallery, entries)

    with messages.status(f"Restoring {escape(str(source))}"):
        manifest = snapshot.restore(source, data_dir, erase)
    print_result(
        f"{data_dir}: {count_of(manifest.records, 'record')} of space {manifest.embedding_space} "
        f"(model {manifest.model_name})"
    )
    age = f"This is the gallery of {_format_time(manifest.created)}. Records enrolled after that are missing."
    if log is None:
        messages.print(
            f"{age} [yellow]Records erased after that are in it again[/]: erase them before the service answers.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        print_message(f"{age} Erased again, because they were erased after that: {count_of(erased, 'record')}.")


@app.command()
def compact(*, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Write the database again, without the space and data of removed records.

    Without this command, vectors of removed records are overwritten by the
    next sweep and the next save of the index. Parts of their metadata and
    thumbnails may stay in unused parts of the file until it runs. Stop the
    service first. The command needs the space of a copy.

    Example: [bold]not3d gallery compact --data-dir data[/]
    """
    with extra("cpu"):
        from service.gallery.archive import compact
    with messages.status(f"Compacting {escape(str(data_dir))}"):
        before, after = compact.compact(data_dir)
    print_result(f"{data_dir}: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data directory, in use or not, or a snapshot.")],
) -> None:
    """Check every page, row, vector and digest of a gallery or a snapshot.

    Reads all files and changes none. Ends with status 1 if data are damaged.
    A saved index that cannot be used is only a remark, because the service
    rebuilds it from the records.

    Example: [bold]not3d gallery verify backups/monday[/]
    """
    with extra("cpu"):
        from service.gallery.archive import verify
    with messages.status(f"Reading {escape(str(folder))}"):
        report = verify.verify(folder)
    results.print(_report_table(folder, report))
    for remark in report.remarks:
        results.print(f"  [yellow]remark[/] {escape(remark)}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        results.print(f"  [red]problem[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if not report.is_intact:
        advice = (
            "use another snapshot"
            if report.manifest
            else "stop the service, keep the folder, and restore a snapshot into a new one (not3d gallery restore); "
            "then enrol again what was enrolled after the snapshot"
        )
        raise Failure(f"{folder} is damaged: {advice}")
    print_message("No damage found.")


@app.command("export")
def export_records(
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="A new file.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    gallery: Address = EMBEDDED,
    bundle: ModelBundle = None,
) -> None:
    """Write all records to a Parquet file while the service runs.

    One row for each record, with its vector, times, camera, metadata as JSON,
    and thumbnail. Expired records are left out. pandas, polars, DuckDB and
    [bold]import[/] read the file. Needs the extra [cyan]parquet[/].

    Example: [bold]not3d gallery export --data-dir data monday.parquet[/]
    """
    with extra("parquet"):
        import pyarrow  # noqa: F401
    with extra("cpu"):
        from service.gallery.archive import parquet
    with _records(data_dir, gallery, bundle) as (batches, stamp, total), show_progress() as progress:
        task = progress.add_task("Exporting", total=total)
        count = parquet.export_records(batches, stamp, out, lambda done: progress.update(task, completed=done))
    size = out.stat().st_size / 1e6
    print_result(f"{out}: {count_of(count, 'record')} of space {stamp.embedding_space}, {size:,.1f} MB")


@app.command("import")
def import_records(
    source: Annotated[Path, typer.Argument(metavar="IN.parquet", help="A file that [bold]export[/] wrote.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    skip: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Keep the records of ids that exist. Also continues an interrupted import."
        ),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the records of ids that exist.")] = False,
    gallery: Address = EMBEDDED,
    bundle: ModelBundle = None,
) -> None:
    """Enrol the records of a Parquet file; creates the gallery if there is none.

    If one of the ids exists, nothing is enrolled, unless [cyan]--skip-existing[/]
    or [cyan]--replace[/] is given. Vectors of another embedding space are refused.
    Stop the service on this data directory first; a service on Milvus can run.
    Needs the extra [cyan]parquet[/].

    Example: [bold]not3d gallery import monday.parquet --data-dir data-new[/]
    """
    if skip and replace:
        raise typer.BadParameter("give --skip-existing or --replace, not both")
    with extra("parquet"):
        import pyarrow  # noqa: F401
    with extra("cpu"):
        from service.gallery.archive import parquet
    on_conflict: OnConflict = "skip" if skip else "replace" if replace else "error"
    file = parquet.RecordFile(source)
    opened = _embedded(data_dir, file.stamp) if gallery == EMBEDDED else _on_server(gallery, bundle)[0]
    with opened as target, show_progress() as progress:
        task = progress.add_task("Importing", total=file.records)
        try:
            counts = parquet.import_records(
                file, target, on_conflict, lambda done: progress.update(task, completed=done)
            )
        except KeyboardInterrupt:
            advice = "run the command again" if replace else "continue with --skip-existing"
            raise Interrupted(f"the records enrolled so far stay; {advice}") from None
    parts = [f"{counts.enrolled:,} enrolled"]
    for count, word in ((counts.replaced, "replaced"), (counts.skipped, "skipped"), (counts.expired, "expired")):
        parts += [f"{count:,} {word}"] if count else []
    print_result(", ".join(parts))


@app.command()
def audit(
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The newest N. [dim]Default: 20, all with --json[/]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each entry, newest first.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash chain instead, as [bold]not3d audit verify[/].")
    ] = False,
) -> None:
    """Show the removals of a data directory: deletions, erasures, expired records.

    [bold]not3d audit show[/] lists searches and all other entries too.

    An entry has the time, the fingerprint of the API key, the condition and
    the number of records. Entries are never changed. Keep a copy elsewhere
    ([cyan]--json[/]): [bold]restore --erase-again[/] reads it.

    Example: [bold]not3d gallery audit --data-dir data --json > audit.jsonl[/]
    """
    if verify:
        check_chain(data_dir)
        return
    with extra("cpu"):
        from service.gallery.archive.replay_erasures import read_audit_log, to_json
    entries = read_audit_log(data_dir)[: limit or (None if as_json else 20)]
    if as_json:
        for entry in entries:
            print_result(to_json(entry))
        return
    table = Table("time", "action", "by", "records", "condition", "receipt", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in entries:
        condition = json.dumps(dict(entry.filter), ensure_ascii=False)
        cells = (_format_time(entry.time), entry.action, entry.by, f"{entry.erased:,}", condition, entry.receipt)
        table.add_row(*map(escape, cells))
    results.print(table)


@contextmanager
def _records(
    data_dir: Path, address: str, bundle: Path | None
) -> "Iterator[tuple[Iterator[list[Record]], Stamp, int]]":
    """Open a gallery and give its records in batches, their embedding space, and about how many there are."""
    from service.gallery.archive.parquet import records_of_files, records_of_gallery
    from service.gallery.archive.read_only import open_read_only

    if address == EMBEDDED:
        with open_read_only(data_dir) as files:
            total = files.connection.execute("SELECT count(*) FROM tracklets").fetchone()[0]
            yield records_of_files(files), files.stamp, total
        return
    opened, stamp = _on_server(address, bundle)
    with opened as gallery:
        yield records_of_gallery(gallery), stamp, gallery.count()


def _embedded(data_dir: Path, stamp: "Stamp") -> "AbstractContextManager[Gallery]":
    """Open the gallery of a stopped service for writing, or create it."""
    from service.gallery.embedded.gallery import EmbeddedGallery

    return closing(
        EmbeddedGallery.open(
            data_dir, embedding_space=stamp.embedding_space, dimension=stamp.dimension, model_name=stamp.model_name
        )
    )


def _on_server(address: str, bundle: Path | None) -> "tuple[AbstractContextManager[Gallery], Stamp]":
    """Open the gallery of a model's embedding space on a Milvus server."""
    from model.bundle import Bundle
    from service.gallery import opening
    from service.gallery.embedded.database import Stamp
    from service.settings import Settings

    try:
        settings = Settings(gallery=address, bundle=bundle) if bundle else Settings(gallery=address)
    except ValidationError as error:
        raise Failure(f"--gallery: {error.errors(include_url=False)[0]['msg']}") from error
    space = settings.named_space or Bundle.load(settings.bundle).space
    gallery = opening.open_gallery(settings, space)
    return closing(gallery), Stamp(space.name, space.dimension, space.model)


def _report_table(folder: Path, report: "VerificationReport") -> Table:
    table = Table(str(folder), "snapshot" if report.manifest else "gallery", box=box.SIMPLE_HEAD, pad_edge=False)
    if report.manifest:
        table.add_row("taken", _format_time(report.manifest.created))
    if report.stamp:
        table.add_row("embedding space", report.stamp.embedding_space)
        table.add_row("dimension", str(report.stamp.dimension))
        table.add_row("model", escape(report.stamp.model_name))
    for name, count in report.counts.items():
        table.add_row(name, f"{count:,}")
    return table


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"

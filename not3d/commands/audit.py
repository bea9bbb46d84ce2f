"""`not3d audit`: show, verify and export the audit log of a service, also while it runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, print_message, print_result, results

app = typer.Typer(help="Show, verify and export who searched for whom.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="NOT3D_DATA_DIR", metavar="DIR", help="Data directory of the service.")
]
DEFAULT_DATA_DIR = Path("data")


@app.command()
def show(
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest N.")] = 20,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Only entries of this kind, such as [bold]search[/].")
    ] = None,
) -> None:
    """Show the newest entries: searches, reads of vectors, replacements, removals, verdicts, changes of keys."""
    with extra("cpu"):
        from service.audit.database import reading
        from service.audit.entries import read_page
    table = Table("time", "kind", "by", "operator", "records", "details", box=box.SIMPLE_HEAD, pad_edge=False)
    with reading(data_dir) as connection:
        for entry in read_page(connection, limit, kinds=kind or ()):
            details = entry.details
            operator = str(details.pop("operator", ""))
            named = f"{len(entry.records)}" + (f" (+{entry.erased_records} erased)" if entry.erased_records else "")
            time = f"{entry.time:%Y-%m-%d %H:%M:%S} UTC"
            cells = (time, entry.kind, entry.by, operator, named, json.dumps(details, ensure_ascii=False))
            table.add_row(*map(escape, cells))
    results.print(table)


@app.command()
def verify(
    source: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A file that [bold]export[/] wrote, instead of --data-dir.")
    ] = None,
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION:HASH",
            help="An entry that must be in the log, as an earlier [bold]verify[/] printed it: it shows that the end "
            "of the log was not cut off.",
        ),
    ] = None,
) -> None:
    """Check the hash chain: that no entry was changed, removed or inserted.

    Keep the last line elsewhere, and give it to a later check as [cyan]--expect[/].

    Example: [bold]not3d audit verify --data-dir data[/]
    """
    check_chain(data_dir if source is None else source, expect)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file; one line of JSON for each entry.")],
    *,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write all entries with their hashes to a file, oldest first, which [bold]verify[/] can check elsewhere.

    The file says who searched for whom. The export itself becomes an entry of the log.

    Example: [bold]not3d audit export audit.jsonl --data-dir data[/]
    """
    with extra("cpu"):
        from service.audit.export import export_log
    count = export_log(data_dir, out)
    print_result(f"{out}: {count:,} entries")


def check_chain(source: Path, expect: str | None = None) -> None:
    """Verify a log and print the result. Raises `Failure` if it is not what was written."""
    with extra("cpu"):
        from service.audit.export import verify_source
    checked = verify_source(source, expect)
    if checked.fault:
        raise Failure(f"{source}: entry {checked.fault.position} {checked.fault.reason}")
    print_message(f"{source}: {checked.entries:,} entries, none was changed, removed or inserted; the last one is")
    print_result(f"{checked.position}:{checked.hash.hex()}")

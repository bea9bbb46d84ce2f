"""`not3d case`: cases of a running service, and the check of an exported one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from not3d.client import Client
from not3d.client.responses import Case
from not3d.commands import Failure, print_message, print_result, results
from not3d.commands.records import AsJson
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Operator, Timeout, Url
from service.cases.archive import verify_archive

app = typer.Typer(help="Make, judge, close and export cases, and verify an exported one.", no_args_is_help=True)

CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="The id of the case.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the case.")],
    *,
    purpose: Annotated[str, typer.Option(metavar="TEXT", help="Why the person is searched for.")],
    enrolled: Annotated[str | None, typer.Option("--id", metavar="ID", help="The query: an enrolled tracklet.")] = None,
    operator: Operator = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Make a case and print its id. Without [cyan]--id[/] the first search with it sets the query."""
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        case = client.create_case(name, purpose, query=None if enrolled is None else {"id": enrolled})
    if as_json:
        _print_json(case.answer)
    else:
        print_result(case.id)


@app.command("list")
def list_cases(
    *,
    closed: Annotated[bool, typer.Option("--closed", help="Only closed cases.")] = False,
    opened: Annotated[bool, typer.Option("--open", help="Only open cases.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """List the newest cases."""
    if closed and opened:
        raise typer.BadParameter("give one of --open and --closed, or none", param_hint="--closed")
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        cases = client.cases(status="closed" if closed else "open" if opened else None)
    if as_json:
        _print_json([case.answer for case in cases])
        return
    table = Table("id", "name", "status", "same", "different", "unsure", "by", box=box.SIMPLE_HEAD, pad_edge=False)
    for case in cases:
        counts = (str(case.counts.get(kind, 0)) for kind in ("same", "different", "unsure"))
        table.add_row(*map(Text, (case.id, case.name, case.status, *counts, case.created_by)))
    results.print(table)


@app.command()
def show(
    case: CaseArgument,
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Show a case with all verdicts."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        _show(client.case(case), as_json=as_json)


@app.command()
def judge(
    case: CaseArgument,
    record: Annotated[str, typer.Argument(metavar="ID", help="The record.")],
    verdict: Annotated[
        str, typer.Argument(metavar="VERDICT", help="same, different, unsure, or none to take it back.")
    ],
    *,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    operator: Operator = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Say whether a record shows the person of the query."""
    if verdict not in ("same", "different", "unsure", "none"):
        raise typer.BadParameter(f"must be same, different, unsure or none (got {verdict})", param_hint="VERDICT")
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        if verdict == "none":
            found = client.delete_verdict(case, record)
        else:
            found = client.put_verdict(case, record, verdict, note=note)  # type: ignore[arg-type]
        _show(found, as_json=as_json)


@app.command()
def close(
    case: CaseArgument,
    *,
    operator: Operator = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Close a case: it can be searched with and exported, but not changed."""
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        client.change_case(case, status="closed")


@app.command()
def reopen(
    case: CaseArgument,
    *,
    operator: Operator = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Open a closed case again."""
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        client.change_case(case, status="open")


@app.command()
def delete(
    case: CaseArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Remove a case with its query, its pictures and its verdicts; needs a key with the scope [cyan]admin[/]."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        found = client.case(case)
        if not yes and not typer.confirm(f"Remove the case {found.name} with its query and verdicts?", err=True):
            raise Failure("nothing was removed")
        client.delete_case(case)


@app.command()
def export(
    case: CaseArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="A new zip file.")],
    *,
    operator: Operator = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 120.0,
) -> None:
    """Write a case to a zip file that opens without the service, and verify it."""
    if out.exists():
        raise Failure(f"{out} exists: name a new file")
    with Client(url, api_key, timeout, operator=operator, ca_file=ca_file) as client:
        data = client.export_case(case)
    out.write_bytes(data)
    verify(out)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What [bold]export[/] or the page wrote.")],
    *,
    expect: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="The SHA-256 of the manifest, as an earlier [bold]verify[/] printed it."),
    ] = None,
) -> None:
    """Check that an exported case is complete and that nothing was changed, removed or added.

    The files are compared with the manifest in the file. If both were
    replaced, only [cyan]--expect[/] shows it: compare with the SHA-256 that the
    service's audit log has. Needs no service.
    """
    case, digest = verify_archive(file)
    if expect is not None and expect.lower() != digest:
        raise Failure(f"{file}: its manifest has the SHA-256 {digest}, not {expect}: it is another export")
    print_message(f"{file}: case {case}, nothing was changed, removed or added; the SHA-256 of its manifest is")
    print_result(digest)


def _show(case: Case, *, as_json: bool) -> None:
    if as_json:
        _print_json(case.answer)
        return
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    counted = ", ".join(f"{kind} {count}" for kind, count in case.counts.items())
    for name, value in (
        ("case", case.id),
        ("name", case.name),
        ("purpose", case.purpose),
        ("status", case.status),
        ("created by", case.created_by),
        ("verdicts that count", counted),
    ):
        facts.add_row(name, Text(value))
    results.print(facts)
    table = Table("record", "verdict", "author", "note", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in case.verdicts:
        table.add_row(*map(Text, (each.id, each.verdict, each.author, each.note)))
    results.print(table)


def _print_json(answer: Mapping[str, Any] | list[Mapping[str, Any]]) -> None:
    results.print_json(json.dumps(answer))

"""`not3d list`, `delete`, `erase` and `cameras`: the records of a running service."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich import box
from rich.table import Column, Table
from rich.text import Text

from not3d.client import Client
from not3d.client.responses import NamingCase
from not3d.commands import Failure, count_of, print_message, print_result, results
from not3d.commands.conditions import (
    After,
    Before,
    CameraIds,
    CreatedAfter,
    CreatedBefore,
    ExcludeCameraIds,
    JsonMetadata,
    MetadataOption,
    TimeOfDayOption,
    WithoutTime,
    json_pairs,
    pairs,
)
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Timeout, Url

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer of the service as JSON.")]


def list_records(
    *,
    camera: Annotated[str | None, typer.Option(metavar="ID", help="Records of this camera.")] = None,
    after: After = None,
    before: Before = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    without_time: WithoutTime = False,
    metadata: MetadataOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Records on the page.")] = 100,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="The cursor of the next page, as the last one said.")
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """List records of a running service, in the order of their ids."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        page = client.list(
            camera_id=camera,
            after=after,
            before=before,
            created_after=created_after,
            created_before=created_before,
            without_time=without_time,
            metadata=pairs(metadata),
            limit=limit,
            cursor=cursor,
        )
    if as_json:
        results.print_json(json.dumps(page.answer))
        return
    table = Table(Column("id", overflow="fold"), box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("camera", "from (UTC)", "to (UTC)", "frames", "pictures"):
        table.add_column(name)
    for record in page.items:
        times = (_time(record.start_time), _time(record.end_time))
        cells = (record.id, record.camera_id or "-", *times, str(record.frames), str(record.thumbnails))
        table.add_row(*map(Text, cells))
    results.print(table)
    if page.next_cursor:
        print_message(f"There are more: --cursor {page.next_cursor}")


def cameras(
    *,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """List the cameras that have records."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        found = client.cameras()
    if as_json:
        results.print_json(json.dumps([camera.answer for camera in found]))
        return
    table = Table("camera", "records", "first (UTC)", "last (UTC)", box=box.SIMPLE_HEAD, pad_edge=False)
    for camera in found:
        cells = (camera.camera_id or "-", f"{camera.records:,}", _time(camera.first_time), _time(camera.last_time))
        table.add_row(*map(Text, cells))
    results.print(table)


def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The records.")],
    *,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Remove records of a running service, by id. It is no error if one does not exist."""
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        for id_ in ids:
            client.delete(id_)


def erase(
    *,
    camera_ids: CameraIds = None,
    exclude_camera_ids: ExcludeCameraIds = None,
    after: After = None,
    before: Before = None,
    time_of_day: TimeOfDayOption = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    without_time: WithoutTime = False,
    metadata: JsonMetadata = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 120.0,
) -> None:
    """Erase all records of a running service that meet every condition.

    Shows first how many these are, and asks. The receipt names the entry of
    the audit log.

    Example: [bold]not3d erase --before 2026-05-01T00:00:00Z[/]
    """
    given = {
        "camera_ids": camera_ids or None,
        "exclude_camera_ids": exclude_camera_ids or (),
        "after": after,
        "before": before,
        "time_of_day": time_of_day,
        "created_after": created_after,
        "created_before": created_before,
        "without_time": without_time,
        "metadata": json_pairs(metadata),
    }
    if not any(given.values()):
        raise typer.BadParameter("give at least one condition, such as --before", param_hint="conditions")
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        counted = client.erase(**given, dry_run=True)  # type: ignore[arg-type]
        if counted.without_time:
            left_out = count_of(counted.without_time, "record")
            print_message(f"Left out by the condition on time, because they have no time: {left_out}.")
        _print_cases(counted.cases)
        if dry_run:
            erased = counted
        else:
            if not yes and not typer.confirm(f"Erase {count_of(counted.matched, 'record')}?", err=True):
                raise Failure("nothing was erased")
            expected = None if yes else counted.matched  # the number that was agreed to
            erased = client.erase(**given, expected=expected)  # type: ignore[arg-type]
    if as_json:
        results.print_json(json.dumps(erased.answer))
    elif dry_run:
        print_result(f"{count_of(erased.matched, 'record')} would be erased")
    else:
        print_result(f"{count_of(erased.erased, 'record')} erased; receipt {erased.receipt_id}")


def _print_cases(cases: Sequence[NamingCase]) -> None:
    for case in cases:
        print_message(f"Case {case.id} ({case.status}, {case.name}) {_TELLS[case.query]}; verdicts: {case.verdicts}.")
    if any(case.query == "footage" for case in cases):
        print_message(
            "An erasure leaves this footage in the case. Look at it on the page, and if it shows the person, remove "
            "the case: not3d case delete CASE"
        )


_TELLS: Final = {
    "record": "asks with one of the records",
    "footage": "keeps footage that, as an operator said, shows the person of one of the records",
    None: "has verdicts on the records",
}


def _time(value: datetime | None) -> str:
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if value else "-"

"""`not3d vectors`: enrol vectors that another system computed."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from not3d.client import Client, ProblemError
from not3d.commands import Failure, count_of, print_message, print_result, show_progress
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Timeout, Url
from not3d.enrol.vectors import VectorRecord, read_vectors

_SHOWN = 20
_FATAL = {401, 403, 507}
"""Refusals that the next record would get too."""


def vectors(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="JSON Lines or .parquet.")
    ],
    *,
    space: Annotated[
        str | None, typer.Option(metavar="NAME", help="Check that the service has vectors of this space.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Records that are sent at the same time.")] = 4,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Enrol vectors that another system computed.

    A line of a JSON Lines file is one record: [bold]id[/], [bold]embedding[/] (numbers, or
    base64 of little-endian float32), and if known [bold]camera_id[/], [bold]start_time[/],
    [bold]end_time[/], [bold]metadata[/], [bold]expires_at[/], [bold]embedding_space[/]. A Parquet file has the same
    names as columns. A record replaces the one with its id, so the command can
    be repeated. Records that are refused are listed, and the status is 1.

    Example: [bold]not3d vectors tracks.jsonl --space my-reid[/]
    """
    refused: list[str] = []
    sent = 0
    with Client(url, api_key, timeout, ca_file=ca_file) as client:
        info = client.info()
        if space is not None and space != info.embedding_space:
            raise Failure(
                f"the service at {client.url} has vectors of the space {info.embedding_space}, not {space}: vectors of "
                "two models cannot be compared, so use a service of that space"
            )
        with show_progress() as progress:
            task = progress.add_task("Enrolling", total=None)
            for _, fault in _send_all(client, chain.from_iterable(map(read_vectors, files)), space, workers):
                if fault is None:
                    sent += 1
                else:
                    refused.append(fault)
                progress.update(task, completed=sent + len(refused))
    _report(sent, refused)


def _send_all(
    client: Client, records: Iterator[VectorRecord], space: str | None, workers: int
) -> Iterator[tuple[VectorRecord, str | None]]:
    """Send records, a few at a time; yield each with why it was refused, or `None`."""
    running: dict[Future[str | None], VectorRecord] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            for record in records:
                running[pool.submit(_send, client, record, space)] = record
                if len(running) >= 2 * workers:
                    yield from _finish(running)
            while running:
                yield from _finish(running)
        finally:
            for future in running:
                future.cancel()


def _finish(running: dict[Future[str | None], VectorRecord]) -> Iterator[tuple[VectorRecord, str | None]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _send(client: Client, record: VectorRecord, space: str | None) -> str | None:
    if record.fault is not None:
        return f"{record.place}: {record.fault}"
    fields: dict[str, Any] = {"embedding_space": space, **record.fields}
    # JSON has no such numbers, so they could not be sent.
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in fields["embedding"]):
        return f"{record.place} (id {record.id}): embedding: a component is not a finite number"
    try:
        client.put(id=record.id, **fields)
    except ProblemError as problem:
        if problem.status in _FATAL:
            raise
        return f"{record.place} (id {record.id}): {problem.detail or problem}"
    return None


def _report(sent: int, refused: Sequence[str]) -> None:
    print_result(f"{sent:,} enrolled" + (f", {len(refused):,} refused" if refused else ""))
    for fault in refused[:_SHOWN]:
        print_message(fault)
    if refused:
        more = f" ({len(refused) - _SHOWN:,} more are not shown)" if len(refused) > _SHOWN else ""
        raise Failure(
            f"{count_of(len(refused), 'record')} refused{more}: correct what is named and run the command again"
        )

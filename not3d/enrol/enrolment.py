"""Sending many tracklets to the gallery, several at a time, until each is enrolled, skipped or refused.

Running it again is how it resumes: ids do not change, and what is enrolled by then is skipped.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from not3d.client import Client, ProblemError
from not3d.client.responses import Embedded
from not3d.client.retry import RepeatedlyAborted, RetryPolicy
from not3d.enrol.discovery import Item, open_item, source_of
from not3d.enrol.footage import Footage, FootageError

PATIENCE_SECONDS = 300.0
"""For how long a service that is busy, restarting or gone is asked again, by default."""
ASK_EACH = 200
"""Looking for one id takes as long as listing about so many records."""
_FATAL = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.INSUFFICIENT_STORAGE}
"""Refusals that the next tracklet would get as well."""


class Result(StrEnum):
    """What became of a tracklet."""

    ENROLLED = "enrolled"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tracklet, and why.

    ``source`` is where its footage lies, ``status`` the service's answer where it gave one (HTTP), ``left_out`` the
    number of frames that it could not use.
    """

    id: str
    source: str
    result: Result
    reason: str = ""
    status: int | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Terms:
    """How tracklets are enrolled.

    Args:
        replace: tracklets whose id is enrolled replace what is there, otherwise they are skipped.
        max_clips: at most so many evenly spaced clips of each are computed.
        camera: of all of them, in place of their own.
        start_time: of all of them, in place of their own.
        patience: seconds for which a service that is busy, restarting or gone is asked again.
    """

    replace: bool = False
    max_clips: int | None = None
    camera: str | None = None
    start_time: datetime | None = None
    patience: float = PATIENCE_SECONDS

    def apply(self, footage: Footage) -> Footage:
        """The footage with the camera and the time that all of it gets."""
        changes: dict[str, Any] = {"camera": self.camera} if self.camera else {}
        if self.start_time:
            changes["start_time"] = self.start_time
        return replace(footage, **changes) if changes else footage


def find_enrolled(client: Client, ids: Collection[str], found: Callable[[int], None] = lambda _count: None) -> set[str]:
    """Those ids that are enrolled already, whatever footage they were enrolled from.

    Of many, the gallery's ids are listed page by page; of a few in a large gallery each is asked for.

    Args:
        client: of the service.
        ids: of what is to be enrolled.
        found: told how many have been found, every now and then.

    Raises:
        ClientError: the service refuses or does not answer.
    """
    facts = client.info()
    wanted, enrolled = set(ids), set[str]()
    if len(wanted) * ASK_EACH < facts.gallery["records"]:
        for name in wanted:
            if _is_enrolled(client, name):
                enrolled.add(name)
                found(len(enrolled))
        return enrolled
    cursor: str | None = None
    while True:
        page = client.list(limit=facts.limits["max_page"], cursor=cursor)
        enrolled.update(wanted.intersection(record.id for record in page.items))
        found(len(enrolled))
        cursor = page.next_cursor
        if cursor is None:
            return enrolled


def enroll_all(
    clients: Client | Sequence[Client],
    items: Iterable[Item],
    *,
    terms: Terms = Terms(),
    workers: int = 2,
    report: Callable[[Outcome], None],
) -> None:
    """Enrol every tracklet; ``report`` gets each outcome as it is known, in no order.

    A refused tracklet does not stop the others. Footage is read as it is needed, a few tracklets ahead. Several clients
    take turns; their services must share one gallery.

    Raises:
        ClientError: no tracklet can be enrolled for now: the service is gone or busy for longer than the patience, its
            disk is full, or the key is not valid. Tracklets reported until then are enrolled.
    """
    clients = [clients] if isinstance(clients, Client) else clients
    running: set[Future[Outcome]] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="enrol")
    patience = RetryPolicy(terms.patience)

    def collect(below: int) -> None:
        while len(running) >= max(below, 1):
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                running.remove(future)
                report(future.result())

    try:
        for number, item in enumerate(items):
            running.add(pool.submit(enroll, clients[number % len(clients)], item, terms, patience))
            collect(2 * workers)
        collect(1)
    finally:
        # Requests under way are waited for, so that nothing is enrolled after this has returned.
        patience.end()
        pool.shutdown(cancel_futures=True)


def enroll(client: Client, item: Item, terms: Terms, patience: RetryPolicy) -> Outcome:
    """Enrol one tracklet, however often that takes. Errors as in `enroll_all`."""
    source = source_of(item)
    try:
        footage = terms.apply(open_item(item))
        if footage.video is None and not footage.frames:
            return Outcome(item.id, source, Result.REFUSED, "no box of it lies inside the video's frames")
        answer = patience.call(client, lambda: _send(client, footage, terms))
    except ProblemError as error:
        if error.status in _FATAL:
            raise
        if error.status == HTTPStatus.CONFLICT and not terms.replace:
            return Outcome(item.id, source, Result.SKIPPED, "its id was taken by the time it was sent", error.status)
        return Outcome(item.id, source, Result.REFUSED, str(error), error.status)
    except RepeatedlyAborted as error:
        return Outcome(item.id, source, Result.REFUSED, str(error))
    except (FootageError, OSError) as error:
        return Outcome(item.id, source, Result.REFUSED, f"cannot be read: {error}")
    return Outcome(item.id, source, Result.ENROLLED, left_out=len(answer.rejected_frames))


def _send(client: Client, footage: Footage, terms: Terms) -> Embedded:
    given: dict[str, Any] = {
        "video": footage.video,
        "camera_id": footage.camera or None,
        "start_time": footage.start_time,
        "end_time": footage.end_time,
        "metadata": footage.metadata,
        "max_clips": terms.max_clips,
    }
    if terms.replace:
        return client.put(footage.id, footage.frames or None, **given)
    return client.embed(footage.frames or None, id=footage.id, **given)


def _is_enrolled(client: Client, name: str) -> bool:
    try:
        client.get(name)
    except ProblemError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True

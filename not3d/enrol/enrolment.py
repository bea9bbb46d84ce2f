"""Sending many tracklets to the gallery, several at a time, until each is enrolled, skipped or refused.

To resume, run it again: ids do not change, and tracklets that are enrolled already are skipped.
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
from not3d.enrol.discovery import FootageError, Item, LocalTracklet, open_item, source_of

RETRY_SECONDS = 300.0
"""For how long calls to a service that is busy, restarting or unreachable are repeated by default."""
LISTED_PER_LOOKUP = 200
"""Asking for one id takes as long as listing about so many records."""
_FATAL = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.INSUFFICIENT_STORAGE}
"""Refusals that the next tracklet would get too."""


class Result(StrEnum):
    """What became of a tracklet."""

    ENROLLED = "enrolled"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tracklet, and why.

    `source` is the path of its footage, `status` the HTTP status if the service answered, `left_out` the number of
    frames that the service could not use.
    """

    id: str
    source: str
    result: Result
    reason: str = ""
    status: int | None = None
    left_out: int = 0


@dataclass(frozen=True)
class EnrolOptions:
    """How tracklets are enrolled.

    Args:
        replace: whether a tracklet whose id is enrolled replaces the record; otherwise it is skipped.
        max_clips: how many evenly spaced clips of each are computed at most.
        camera: of all tracklets, instead of their own.
        start_time: of all tracklets, instead of their own.
        retry_seconds: how long calls to a service that is busy, restarting or unreachable are repeated.
    """

    replace: bool = False
    max_clips: int | None = None
    camera: str | None = None
    start_time: datetime | None = None
    retry_seconds: float = RETRY_SECONDS

    def apply(self, tracklet: LocalTracklet) -> LocalTracklet:
        """Return the tracklet with the camera and the time that all tracklets get."""
        changes: dict[str, Any] = {"camera": self.camera} if self.camera else {}
        if self.start_time:
            changes["start_time"] = self.start_time
        return replace(tracklet, **changes) if changes else tracklet


def find_enrolled(client: Client, ids: Collection[str], found: Callable[[int], None] = lambda _count: None) -> set[str]:
    """Return the ids that are enrolled already, from whatever footage.

    If there are many, the ids of the gallery are listed page by page; a few ids in a large gallery are asked for one by
    one.

    Args:
        client: of the service.
        ids: of the tracklets to enrol.
        found: called now and then with the number of ids found so far.

    Raises:
        ClientError: the service refuses or does not answer.
    """
    facts = client.info()
    wanted, enrolled = set(ids), set[str]()
    if len(wanted) * LISTED_PER_LOOKUP < facts.gallery["records"]:
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
    options: EnrolOptions = EnrolOptions(),
    workers: int = 2,
    report: Callable[[Outcome], None],
) -> None:
    """Enrol all tracklets; `report` gets each outcome as soon as it is known, in any order.

    A refused tracklet does not stop the others. Footage is read when it is needed, a few tracklets ahead. Several
    clients take turns; their services must share one gallery.

    Raises:
        ClientError: no tracklet can be enrolled for now: the service is unreachable or busy for too long, its disk is
            full, or the key is not valid. The tracklets reported until then are enrolled.
    """
    clients = [clients] if isinstance(clients, Client) else clients
    running: set[Future[Outcome]] = set()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="enrol")
    retry = RetryPolicy(seconds=options.retry_seconds, idempotent=True)

    def collect(below: int) -> None:
        while len(running) >= max(below, 1):
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                running.remove(future)
                report(future.result())

    try:
        for number, item in enumerate(items):
            running.add(pool.submit(enroll, clients[number % len(clients)], item, options, retry))
            collect(2 * workers)
        collect(1)
    finally:
        # Wait for the requests in progress, so that nothing is enrolled after this function has returned.
        retry.stop()
        pool.shutdown(cancel_futures=True)


def enroll(client: Client, item: Item, options: EnrolOptions, retry: RetryPolicy) -> Outcome:
    """Enrol one tracklet with as many attempts as it takes. Errors as in `enroll_all`."""
    source = source_of(item)
    try:
        tracklet = options.apply(open_item(item))
        if tracklet.video is None and not tracklet.frames:
            return Outcome(item.id, source, Result.REFUSED, "none of its boxes lies inside the video's frames")
        answer = retry.call(lambda: _send(client, tracklet, options), client.is_ready)
    except ProblemError as error:
        if error.status in _FATAL:
            raise
        if error.status == HTTPStatus.CONFLICT and not options.replace:
            return Outcome(item.id, source, Result.SKIPPED, "its id was enrolled meanwhile", error.status)
        return Outcome(item.id, source, Result.REFUSED, str(error), error.status)
    except RepeatedlyAborted as error:
        return Outcome(item.id, source, Result.REFUSED, str(error))
    except (FootageError, OSError) as error:
        return Outcome(item.id, source, Result.REFUSED, f"cannot be read: {error}")
    return Outcome(item.id, source, Result.ENROLLED, left_out=len(answer.rejected_frames))


def _send(client: Client, tracklet: LocalTracklet, options: EnrolOptions) -> Embedded:
    given: dict[str, Any] = {
        "video": tracklet.video,
        "camera_id": tracklet.camera or None,
        "start_time": tracklet.start_time,
        "end_time": tracklet.end_time,
        "metadata": tracklet.metadata,
        "max_clips": options.max_clips,
    }
    if options.replace:
        return client.put(tracklet.id, tracklet.frames or None, **given)
    return client.embed(tracklet.frames or None, id=tracklet.id, **given)


def _is_enrolled(client: Client, name: str) -> bool:
    try:
        client.get(name)
    except ProblemError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True

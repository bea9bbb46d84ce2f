"""Sending many tracklets to the gallery, several at a time, until each is enrolled, skipped or refused.

To resume, run it again: ids do not change, and tracklets that are enrolled already are skipped.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from not3d.client import Client, ProblemError
from not3d.client.responses import Embedded
from not3d.client.retry import RepeatedlyAborted, RetryPolicy
from not3d.enrol.comparison import DIGEST, Comparison, EnrolledFootage, compare, digest_of, find_record
from not3d.enrol.ids import printable
from not3d.enrol.tracklets import FootageError, Item, LocalTracklet

RETRY_SECONDS = 300.0
"""For how long calls to a service that is busy, restarting or unreachable are repeated by default."""
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
    frames that the service could not use, `warnings` what is probably wrong with the footage.
    """

    id: str
    source: str
    result: Result
    reason: str = ""
    status: int | None = None
    left_out: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnrolOptions:
    """How tracklets are enrolled.

    Args:
        replace: whether a tracklet whose id is enrolled replaces the record; otherwise it is compared with the record,
            and skipped if its footage is the same.
        max_clips: how many evenly spaced clips of each are computed at most.
        retry_seconds: how long calls to a service that is busy, restarting or unreachable are repeated.
    """

    replace: bool = False
    max_clips: int | None = None
    retry_seconds: float = RETRY_SECONDS


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
        while running:
            full = len(running) >= below
            done, _ = wait(running, None if full else 0, FIRST_COMPLETED)
            for future in done:
                running.remove(future)
                report(future.result())
            if not full:  # the next item may take minutes: what is known by now is not kept until then
                return

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
    source = printable(item.source)

    def refused(reason: str, status: int | None = None) -> Outcome:
        return Outcome(item.id, source, Result.REFUSED, reason, status)

    try:
        tracklet = item.open()
        if tracklet.problem:
            return refused(tracklet.problem)
        try:
            answer = retry.call(lambda: _send(client, tracklet, options), client.is_ready)
        except ProblemError as error:
            if error.status != HTTPStatus.CONFLICT or options.replace:
                raise
            record = retry.call(lambda: find_record(client, tracklet.id), client.is_ready)
            if record is None:
                return refused(f"{error}; the record is gone since then", error.status)
            comparison, reason = compare(tracklet, EnrolledFootage.of(record))
            if comparison is not Comparison.OTHER:
                result = Result.REFUSED if reason else Result.SKIPPED
                return Outcome(item.id, source, result, reason or "it was enrolled meanwhile", error.status)
            if not tracklet.fallback_id or tracklet.fallback_id == tracklet.id:
                return refused("its id was given to other footage meanwhile", error.status)
            return enroll(client, replace(tracklet, id=tracklet.fallback_id), options, retry)
    except ProblemError as error:
        if error.status in _FATAL:
            raise
        return refused(str(error), error.status)
    except RepeatedlyAborted as error:
        return refused(str(error))
    except (FootageError, OSError) as error:
        return refused(f"cannot be read: {printable(str(error))}")
    left_out = len(answer.rejected_frames) + tracklet.left_out
    return Outcome(item.id, source, Result.ENROLLED, left_out=left_out, warnings=tuple(answer.warnings))


def _send(client: Client, tracklet: LocalTracklet, options: EnrolOptions) -> Embedded:
    given: dict[str, Any] = {
        "video": tracklet.video,
        "boxes": tracklet.boxes or None,
        "camera_id": tracklet.camera or None,
        "start_time": tracklet.start_time,
        "end_time": tracklet.end_time,
        "metadata": tracklet.metadata | {DIGEST: digest_of(tracklet)},
        "max_clips": options.max_clips,
    }
    if options.replace:
        return client.put(tracklet.frames or None, id=tracklet.id, **given)
    return client.embed(tracklet.frames or None, id=tracklet.id, **given)

"""Sending many tracklets to the gallery, several at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from not3d.answers import Embedded
from not3d.client import Client, ProblemError
from not3d.footage import Footage


def enroll_all(
    client: Client,
    footage: Iterable[Footage],
    *,
    replace: bool = False,
    workers: int = 2,
    max_clips: int | None = None,
    report: Callable[[Footage, Embedded | str], None],
) -> None:
    """Enrol every tracklet; ``report`` gets each as it is done, with the answer or with why it was refused.

    With ``max_clips`` at most that many evenly spaced clips of each are computed. A refused tracklet does not stop the
    others. The footage is read as it is needed, a few tracklets ahead.

    Raises:
        UnreachableError: the service does not answer; tracklets reported until then are enrolled.
    """
    running: dict[Future[Embedded | str], Footage] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="enrol")

    def collect(below: int) -> None:
        while len(running) >= max(below, 1):
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                report(running.pop(future), future.result())

    try:
        for item in footage:
            running[pool.submit(_enroll, client, item, replace=replace, max_clips=max_clips)] = item
            collect(2 * workers)
        collect(1)
    finally:
        pool.shutdown(cancel_futures=True)


def _enroll(client: Client, footage: Footage, *, replace: bool, max_clips: int | None) -> Embedded | str:
    if footage.video is None and not footage.frames:
        return "no box of it lies inside the video's frames"
    try:
        if replace:
            return client.put(
                footage.id,
                footage.frames or None,
                video=footage.video,
                camera_id=footage.camera or None,
                start_time=footage.start_time,
                end_time=footage.end_time,
                metadata=footage.metadata,
                max_clips=max_clips,
            )
        return client.embed(
            footage.frames or None,
            video=footage.video,
            id=footage.id,
            camera_id=footage.camera or None,
            start_time=footage.start_time,
            end_time=footage.end_time,
            metadata=footage.metadata,
            max_clips=max_clips,
        )
    except ProblemError as error:
        return str(error)

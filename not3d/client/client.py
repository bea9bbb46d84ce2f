"""The Python client of the service.

with Client("http://127.0.0.1:8000") as client:
    client.embed(sorted(Path("tracklet").glob("*.jpg")), id="gate-1", camera_id="gate")
    for hit in client.search(id="gate-1", exclude_same_camera=True).hits:
        print(hit.rank, hit.id, hit.score)
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from not3d.client.request_fields import filter_fields, flag, timestamp, tracklet_fields
from not3d.client.responses import AuditEntry, Embedded, Erased, Info, Json, Page, Record, SearchResult

Frame = Path | bytes
"""An encoded image (JPEG, PNG or WebP): its file or its bytes."""
Box = tuple[int, float, float, float, float]
"""Index of the full frame counted from 0, then x, y, width and height in pixels."""

MAX_ATTEMPTS = 6
MAX_PAUSE_SECONDS = 10.0
_PASSING = frozenset({429, 503})
"""Statuses that say "later": nothing was done with the request."""


class ClientError(Exception):
    """A call did not succeed; the message says why."""


class UnreachableError(ClientError):
    """The service did not answer, or not in time."""


class ProblemError(ClientError):
    """The service refused; ``errors`` name the fields and frames at fault as its problem document does (RFC 9457).

    ``retry_after`` is in how many seconds it wants to be asked again, where it says.
    """

    def __init__(
        self, status: int, title: str, detail: str, errors: Sequence[Json] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(f"{title} ({status}): {detail}" if detail else f"{title} ({status})")
        self.status = status
        self.retry_after = retry_after
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)


class Client:
    """Talks to one service; safe to use from several threads. Close it, or use it in a ``with`` statement.

    Every call raises `ProblemError` where the service refuses and `UnreachableError` where it does not answer. A
    service that is at its limit (503, 429) is asked again, when it says to and a bounded number of times.

    Args:
        url: where the service listens.
        api_key: sent as a bearer token, where the service asks for one.
        timeout: seconds that one step (connecting, sending, waiting for the answer) may take.
        attempts: how often a call is made while the service is at its limit.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._attempts = attempts
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            # The service is a neighbour: proxies from the environment are not meant for it.
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ClientError(f"{url} is not a URL: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def embed(
        self,
        frames: Sequence[Frame] | None = None,
        *,
        video: Path | None = None,
        boxes: Sequence[Box] | None = None,
        id: str | None = None,
        camera_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        metadata: Json | None = None,
        expires_at: datetime | None = None,
        max_clips: int | None = None,
        enroll: bool = True,
        include_embedding: bool = False,
    ) -> Embedded:
        """Make a tracklet's embedding and, unless ``enroll`` is false, add it to the gallery.

        Send the crops as ``frames`` in time order or as a ``video``; with ``boxes`` these are full frames, or a full
        video, out of which the service cuts the crops. Times need a time zone. With ``max_clips`` at most that many
        evenly spaced clips are computed, in less time and less exactly. The service erases the record at
        ``expires_at``, or after its own default.
        """
        fields = tracklet_fields(
            id=id,
            camera_id=camera_id,
            start_time=start_time,
            end_time=end_time,
            metadata=metadata,
            expires_at=expires_at,
            boxes=boxes,
            max_clips=max_clips,
        )
        flags = {"enroll": flag(enroll), "include_embedding": flag(include_embedding)}
        return Embedded.read(self._send("POST", "/embed", fields=fields, frames=frames, video=video, params=flags))

    def put(
        self,
        id: str,
        frames: Sequence[Frame] | None = None,
        *,
        video: Path | None = None,
        boxes: Sequence[Box] | None = None,
        embedding: Sequence[float] | None = None,
        embedding_space: str | None = None,
        camera_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        metadata: Json | None = None,
        expires_at: datetime | None = None,
        max_clips: int | None = None,
    ) -> Embedded:
        """Add a tracklet, or replace the one of this id: footage as in `embed`, or an ``embedding`` made earlier."""
        fields = tracklet_fields(
            camera_id=camera_id,
            start_time=start_time,
            end_time=end_time,
            metadata=metadata,
            expires_at=expires_at,
            boxes=boxes,
            max_clips=max_clips,
        )
        if embedding is not None:
            fields["embedding"] = list(embedding)
        if embedding_space is not None:
            fields["embedding_space"] = embedding_space
        return Embedded.read(self._send("PUT", _record_path(id), fields=fields, frames=frames, video=video))

    def search(
        self,
        frames: Sequence[Frame] | None = None,
        *,
        video: Path | None = None,
        boxes: Sequence[Box] | None = None,
        id: str | None = None,
        embedding: Sequence[float] | None = None,
        embedding_space: str | None = None,
        camera_id: str | None = None,
        max_clips: int | None = None,
        top_k: int = 10,
        min_score: float | None = None,
        camera_ids: Sequence[str] | None = None,
        exclude_camera_ids: Sequence[str] = (),
        after: datetime | None = None,
        before: datetime | None = None,
        metadata: Json | None = None,
        exclude_same_camera: bool = False,
        rerank: bool = False,
    ) -> SearchResult:
        """Rank the gallery by likeness to a query: footage as in `embed`, an enrolled ``id``, or an ``embedding``.

        Args:
            camera_id: the query's own camera, which ``exclude_same_camera`` leaves out.
            max_clips: of footage, compute at most that many evenly spaced clips.
            min_score: leave out hits of a lower cosine similarity.
            camera_ids: search these cameras only.
            exclude_camera_ids: leave these cameras out.
            after: only tracklets seen at or after this time.
            before: only tracklets seen at or before this time.
            metadata: only tracklets whose metadata holds these values.
            rerank: order the best hits anew by their own neighbours (k-reciprocal re-ranking).
        """
        chosen = filter_fields(camera_ids, exclude_camera_ids, after, before, metadata)
        fields = tracklet_fields(id=id, camera_id=camera_id, boxes=boxes, max_clips=max_clips) | {"top_k": top_k}
        options = {
            "min_score": min_score,
            "filter": chosen or None,
            "exclude_same_camera": exclude_same_camera or None,
            "rerank": rerank or None,
            "embedding": None if embedding is None else list(embedding),
            "embedding_space": embedding_space,
        }
        fields |= {name: value for name, value in options.items() if value is not None}
        return SearchResult.read(self._send("POST", "/search", fields=fields, frames=frames, video=video))

    def get(self, id: str, *, include_embedding: bool = False) -> Record:
        """One record; `ProblemError` 404 where there is none."""
        return Record.read(
            self._call("GET", _record_path(id), params={"include_embedding": flag(include_embedding)}).json()
        )

    def thumbnail(self, id: str) -> bytes:
        """The small picture (a JPEG) kept with a record; `ProblemError` 404 where there is none."""
        return self._call("GET", f"{_record_path(id)}/thumbnail").content

    def delete(self, id: str) -> None:
        """Take a record out of the gallery; nothing happens where there is none."""
        self._call("DELETE", _record_path(id))

    def erase(
        self,
        *,
        camera_ids: Sequence[str] | None = None,
        exclude_camera_ids: Sequence[str] = (),
        after: datetime | None = None,
        before: datetime | None = None,
        metadata: Json | None = None,
        dry_run: bool = False,
    ) -> Erased:
        """Take every record that passes the filter out of the gallery; a filter without conditions is refused."""
        body = {"filter": filter_fields(camera_ids, exclude_camera_ids, after, before, metadata), "dry_run": dry_run}
        return Erased.read(self._call("POST", "/gallery/erase", json=body).json())

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """Who removed which records, newest first, of entries older than the receipt ``before``."""
        params = {"limit": str(limit)} | ({"before": before} if before else {})
        return [AuditEntry.read(entry) for entry in self._call("GET", "/audit", params=params).json()["entries"]]

    def info(self) -> Info:
        """Version, model, engine, gallery and limits of the service."""
        return Info.read(self._call("GET", "/info").json())

    def is_ready(self) -> bool:
        """Whether the service answers and has passed its self-test. Never raises for a service that is not there."""
        try:
            return self._http.get("/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait for a service that is starting.

        Raises:
            UnreachableError: it was not ready within ``timeout`` seconds.
        """
        until = time.monotonic() + timeout
        while not self.is_ready():
            if time.monotonic() > until:
                raise UnreachableError(f"the service at {self.url} was not ready within {timeout:g} seconds")
            time.sleep(0.1)

    def records(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> Iterator[Record]:
        """Every record of the gallery, or those of a camera or a time, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(camera_id=camera_id, after=after, before=before, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """One page of the gallery's records."""
        params: dict[str, str | int] = {"limit": limit}
        params |= {name: timestamp(value) for name, value in (("after", after), ("before", before)) if value}
        params |= {name: value for name, value in (("camera_id", camera_id), ("cursor", cursor)) if value}
        return Page.read(self._call("GET", "/gallery", params=params).json())

    def _send(
        self,
        method: str,
        path: str,
        *,
        fields: Mapping[str, Any],
        frames: Sequence[Frame] | None,
        video: Path | None,
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """Footage goes as a form, everything else as JSON."""
        if frames is not None and (video is not None or not frames):
            raise ValueError("send either frames, at least one, or a video")
        if frames is None and video is None:
            return _json(self._call(method, path, params=params, json=fields))
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        uploads: list[tuple[str, tuple[str, bytes]]] = [
            ("frames", (f"{number}", frame.read_bytes() if isinstance(frame, Path) else frame))
            for number, frame in enumerate(frames or ())
        ]
        return _json(self._call(method, path, params=params, data=form, files=uploads, video=video))

    def _call(self, method: str, path: str, *, video: Path | None = None, **request: Any) -> httpx.Response:
        for attempt in range(1, self._attempts + 1):
            with ExitStack() as stack:
                if video is not None:
                    # Opened anew for each attempt: the one before has read it to its end.
                    request["files"] = [("video", (video.name, stack.enter_context(video.open("rb"))))]
                try:
                    response = self._http.request(method, path, **request)
                except httpx.TimeoutException as error:
                    raise UnreachableError(f"the service at {self.url} did not answer in time") from error
                except httpx.ConnectError as error:
                    raise UnreachableError(f"no service answers at {self.url}: {error}") from error
                except httpx.TransportError as error:
                    raise UnreachableError(f"the connection to {self.url} broke: {error}") from error
            if response.is_success:
                return response
            if response.status_code not in _PASSING or attempt == self._attempts:
                break
            time.sleep(_pause(response, attempt))
        raise _problem(response)


def _json(response: httpx.Response) -> Json:
    answer: Json = response.json()
    return answer


def _pause(response: httpx.Response, attempt: int) -> float:
    """Seconds to wait: what the service says, else doubling from half a second; never more than the bound."""
    said = _retry_after(response)
    return min(0.25 * 2**attempt if said is None else said, MAX_PAUSE_SECONDS)


def _retry_after(response: httpx.Response) -> float | None:
    said = response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else None


def _problem(response: httpx.Response) -> ProblemError:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        document = response.json()
        return ProblemError(
            response.status_code,
            document["title"],
            document.get("detail", ""),
            document.get("errors") or (),
            _retry_after(response),
        )
    # Not the service's own: something between it and us answered.
    return ProblemError(
        response.status_code,
        response.reason_phrase or "Error",
        response.text[:200].strip(),
        retry_after=_retry_after(response),
    )


def _record_path(record_id: str) -> str:
    return f"/gallery/{quote(record_id, safe='')}"

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

from not3d.client.responses import (
    Answer,
    AuditEntry,
    AuditPage,
    ClientError,
    Embedded,
    Erased,
    Info,
    Json,
    Page,
    ProblemError,
    Record,
    SearchResult,
    UnreachableError,
    read,
)
from not3d.client.retry import MAX_ATTEMPTS, RetryPolicy

Frame = Path | bytes
"""An encoded image (JPEG, PNG or WebP): a file or its bytes."""
Box = tuple[int, float, float, float, float]
"""Index of the full frame counted from 0, then x, y, width and height in pixels."""


class Client:
    """A connection to one service, which several threads may share. Close it, or use it in a `with` statement.

    Every call raises `ProblemError` if the service refuses and `UnreachableError` if it does not answer. If the service
    is busy (503, 429), the call is repeated after the time in its `Retry-After` header.

    Args:
        url: the address of the service.
        api_key: sent as a bearer token, for a service that requires one.
        timeout: seconds that one step (connecting, sending, waiting for the answer) may take.
        attempts: maximum number of attempts for a call while the service is busy.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._retry = RetryPolicy(attempts=attempts)
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            # Ignore proxies from the environment: the service usually runs in the same network.
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
        """Compute a tracklet's embedding and, unless `enroll` is false, add it to the gallery.

        Send the crops as `frames` in time order, or as a `video`. With `boxes`, these are full frames or a full video,
        and the service cuts out the crops. Times need a time zone. With `max_clips`, at most that many evenly spaced
        clips are computed, which is faster but less exact. The service erases the record at `expires_at`, or after its
        own default time.
        """
        fields = _given(
            id=id,
            camera_id=camera_id,
            start_time=start_time,
            end_time=end_time,
            metadata=metadata,
            expires_at=expires_at,
            boxes=boxes,
            max_clips=max_clips,
        )
        flags = {"enroll": _flag(enroll), "include_embedding": _flag(include_embedding)}
        return self._send(Embedded, "POST", "/embed", fields=fields, frames=frames, video=video, params=flags)

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
        """Add a tracklet, or replace the one with this id: footage as in `embed`, or an existing `embedding`."""
        fields = _given(
            camera_id=camera_id,
            start_time=start_time,
            end_time=end_time,
            metadata=metadata,
            expires_at=expires_at,
            boxes=boxes,
            max_clips=max_clips,
            embedding=embedding,
            embedding_space=embedding_space,
        )
        return self._send(Embedded, "PUT", _record_path(id), fields=fields, frames=frames, video=video)

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
        prior: float | None = None,
        min_probability: float | None = None,
        camera_ids: Sequence[str] | None = None,
        exclude_camera_ids: Sequence[str] = (),
        after: datetime | None = None,
        before: datetime | None = None,
        metadata: Json | None = None,
        exclude_same_camera: bool = False,
        rerank: bool = False,
    ) -> SearchResult:
        """Rank the gallery by similarity to a query: footage as in `embed`, an enrolled `id`, or an `embedding`.

        `camera_id` is the query's own camera; `exclude_same_camera` leaves out its tracklets. `max_clips` limits the
        clips that are computed from footage. Hits with a cosine similarity below `min_score` are left out. A hit passes
        the filters if its camera is in `camera_ids` and not in `exclude_camera_ids`, it was seen at or after `after`
        and at or before `before`, and its metadata has the values of `metadata`. `rerank` reorders the best hits by
        their neighbours (k-reciprocal re-ranking).

        If the service has a calibration, each hit has the probability that it shows the query's person, under `prior`:
        expected matches / searched records, by default the service's. Hits below `min_probability` are left out; it is
        refused (409) if hits have no probability.
        """
        fields = _given(
            id=id,
            camera_id=camera_id,
            boxes=boxes,
            max_clips=max_clips,
            top_k=top_k,
            min_score=min_score,
            prior=prior,
            min_probability=min_probability,
            filter=_filter(camera_ids, exclude_camera_ids, after, before, metadata) or None,
            exclude_same_camera=exclude_same_camera or None,
            rerank=rerank or None,
            embedding=embedding,
            embedding_space=embedding_space,
        )
        return self._send(SearchResult, "POST", "/search", fields=fields, frames=frames, video=video)

    def get(self, id: str, *, include_embedding: bool = False) -> Record:
        """Return one record; `ProblemError` 404 if it does not exist."""
        params = {"include_embedding": _flag(include_embedding)}
        return read(Record, self._call("GET", _record_path(id), params=params).content)

    def thumbnail(self, id: str) -> bytes:
        """Return the small picture (a JPEG) of a record; `ProblemError` 404 if there is none."""
        return self._call("GET", f"{_record_path(id)}/thumbnail").content

    def delete(self, id: str) -> None:
        """Remove a record from the gallery, if it exists."""
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
        """Remove every record that passes the filter; a filter without conditions is refused."""
        body = {"filter": _filter(camera_ids, exclude_camera_ids, after, before, metadata), "dry_run": dry_run}
        return read(Erased, self._call("POST", "/gallery/erase", json=body).content)

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """Return the entries of the audit log, newest first; with `before`, only those older than this receipt."""
        params = _given(limit=limit, before=before or None)
        return list(read(AuditPage, self._call("GET", "/audit", params=params).content).entries)

    def info(self) -> Info:
        """Return version, model, engine, gallery and limits of the service."""
        return read(Info, self._call("GET", "/info").content)

    def is_ready(self) -> bool:
        """Return whether the service answers and has passed its self-test; false also if it is unreachable."""
        try:
            return self._http.get("/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait for a service that is starting.

        Raises:
            UnreachableError: it was not ready within `timeout` seconds.
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
        """Return all records of the gallery, or those of a camera or a time, page by page."""
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
        """Return one page of the gallery's records."""
        params = _given(limit=limit, after=after, before=before, camera_id=camera_id or None, cursor=cursor or None)
        return read(Page, self._call("GET", "/gallery", params=params).content)

    def _send(
        self,
        kind: type[Answer],
        method: str,
        path: str,
        *,
        fields: Mapping[str, Any],
        frames: Sequence[Frame] | None,
        video: Path | None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send footage as a form, anything else as JSON."""
        if frames is not None and (video is not None or not frames):
            raise ValueError("send either at least one frame or a video")
        if frames is None and video is None:
            return read(kind, self._call(method, path, params=params, json=fields).content)
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        uploads: list[tuple[str, tuple[str, bytes]]] = [
            ("frames", (f"{number}", frame.read_bytes() if isinstance(frame, Path) else frame))
            for number, frame in enumerate(frames or ())
        ]
        return read(kind, self._call(method, path, params=params, data=form, files=uploads, video=video).content)

    def _call(self, method: str, path: str, *, video: Path | None = None, **request: Any) -> httpx.Response:
        return self._retry.call(lambda: self._call_once(method, path, video, request))

    def _call_once(self, method: str, path: str, video: Path | None, request: dict[str, Any]) -> httpx.Response:
        with ExitStack() as stack:
            if video is not None:
                # Opened for each attempt, because the previous one has read the file to its end.
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
        raise _problem(response)


def _problem(response: httpx.Response) -> ProblemError:
    after = response.headers.get("retry-after", "")
    retry_after = float(after) if after.isdecimal() else None
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        document = response.json()
        return ProblemError(
            response.status_code,
            document["title"],
            document.get("detail", ""),
            document.get("errors") or (),
            retry_after,
        )
    # A proxy answered instead of the service.
    return ProblemError(
        response.status_code,
        response.reason_phrase or "Error",
        response.text[:200].strip(),
        retry_after=retry_after,
    )


def _record_path(record_id: str) -> str:
    return f"/gallery/{quote(record_id, safe='')}"


def _flag(value: bool) -> str:
    """Return a boolean as text for the query string."""
    return "true" if value else "false"


def _filter(
    camera_ids: Sequence[str] | None,
    exclude_camera_ids: Sequence[str],
    after: datetime | None,
    before: datetime | None,
    metadata: Json | None,
) -> dict[str, Any]:
    return _given(
        camera_ids=camera_ids,
        exclude_camera_ids=exclude_camera_ids or None,
        after=after,
        before=before,
        metadata=metadata or None,
    )


def _given(**values: Any) -> dict[str, Any]:
    """Return the values that are not `None`, as JSON values; `ValueError` for a time without a time zone."""
    return {name: _as_json(value) for name, value in values.items() if value is not None}


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

"""The Python client of the service.

with Client("http://127.0.0.1:8000") as client:
    client.embed(sorted(Path("tracklet").glob("*.jpg")), id="gate-1", camera_id="gate")
    for hit in client.search(id="gate-1", exclude_same_camera=True).hits:
        print(hit.rank, hit.id, hit.score)
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from not3d.client.alerts import AlertCalls
from not3d.client.cases import CaseCalls
from not3d.client.clips import choose_frames
from not3d.client.responses import (
    Answer,
    AuditEntry,
    AuditPage,
    Camera,
    ClientError,
    Embedded,
    Erased,
    Info,
    Json,
    Page,
    Record,
    SearchResult,
    Track,
    UnreachableError,
    read,
    read_list,
)
from not3d.client.retry import MAX_ATTEMPTS, RetryPolicy
from not3d.client.transport import problem_of, trust, without_login

Frame = Path | bytes
"""An encoded image (JPEG, PNG, WebP or BMP): a file or its bytes."""
Box = tuple[int, float, float, float, float]
"""Index of the full frame counted from 0, then x, y, width and height in pixels."""
TimeOfDay = tuple[str, str] | tuple[str, str, str]
"""A part of each day, from and to, and if it is not in UTC the offset: `("22:00", "06:00", "+02:00")`."""


class Client(AlertCalls, CaseCalls):
    """A connection to one service, which several threads may share. Close it, or use it in a `with` statement.

    Every call raises `ProblemError` if the service refuses and `UnreachableError` if it does not answer. If the service
    is busy (503, 429), the call is repeated after the time in its `Retry-After` header.

    Args:
        url: the address of the service.
        api_key: sent as a bearer token, for a service that requires one.
        timeout: seconds that one step (connecting, sending, waiting for the answer) may take.
        ca_file: PEM file of the authority that signed the service's certificate. Default: the authorities that the
            system trusts, or those in the variables `SSL_CERT_FILE` and `SSL_CERT_DIR`.
        attempts: maximum number of attempts for a call while the service is busy.
        operator: the person at the keyboard, for the audit log and as the author of verdicts (`X-Operator`).
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        attempts: int = MAX_ATTEMPTS,
        *,
        operator: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._retry = RetryPolicy(attempts=attempts)
        self._clip_length: int | None = None
        self.url = url.rstrip("/")
        headers = {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
        if operator:
            headers[b"X-Operator"] = operator.encode()
        verify = trust(ca_file)
        if not self.url.startswith(("http://", "https://")):
            raise ClientError(f"{without_login(url)} is not a URL of the service; write http://host:8000")
        try:
            # Ignore proxies from the environment: the service usually runs in the same network.
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, trust_env=False, verify=verify
            )
        except httpx.InvalidURL as error:
            reason = "" if "@" in url else f": {error}"  # it can hold a part of a password
            raise ClientError(f"{without_login(url)} is not a URL{reason}") from (None if "@" in url else error)

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
        clips are computed, which is faster but less exact; only their frames and boxes are read and sent, so a tracklet
        may have any length. The service erases the record at `expires_at`, or after its own default time.
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
        return self._embed("POST", "/embed", fields, frames, video, flags)

    def put(
        self,
        frames: Sequence[Frame] | None = None,
        *,
        id: str,
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
        return self._embed("PUT", _record_path(id), fields, frames, video)

    def search(
        self,
        frames: Sequence[Frame] | None = None,
        *,
        video: Path | None = None,
        boxes: Sequence[Box] | None = None,
        id: str | None = None,
        embedding: Sequence[float] | None = None,
        embedding_space: str | None = None,
        ids: Sequence[str] = (),
        embeddings: Sequence[Sequence[float]] = (),
        reject_ids: Sequence[str] = (),
        combine: Literal["mean", "max"] | None = None,
        case: str | None = None,
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
        time_of_day: TimeOfDay | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        without_time: bool = False,
        exclude_same_camera: bool = False,
        rerank: bool = False,
        paged: bool = False,
        purpose: str | None = None,
    ) -> SearchResult:
        """Rank the gallery by similarity to a query: footage as in `embed`, an enrolled `id`, or an `embedding`.

        `camera_id` is the query's own camera; `exclude_same_camera` leaves out its tracklets. `max_clips` limits the
        clips that are computed from footage. Hits with a cosine similarity below `min_score` are left out. A hit passes
        the filters if its camera is in `camera_ids` and not in `exclude_camera_ids`, it was seen at or after `after`
        and at or before `before`, its time overlaps `time_of_day` of some day, and its metadata has the values of
        `metadata`; `without_time` finds only records without a time, and `created_after` and `created_before` are about
        the time of enrolment. `rerank` reorders the best hits by their neighbours (k-reciprocal re-ranking).

        `ids` and `embeddings` are further examples of the same person, and `reject_ids` are tracklets of other people;
        none of them is in the results. `combine` says how a record is compared with several examples: with their mean
        (the service's default), or with each of them, of which the best score counts ("max"). A `case` adds its query
        and its verdicts.

        If the service has a calibration, each hit has the probability that it shows the query's person, under `prior`:
        expected matches / searched records, by default the service's. Hits below `min_probability` are left out; it is
        refused (409) if hits have no probability.

        `purpose` says in the audit log why the search was made; a service may refuse searches without it. If the result
        is `paged`, `more` returns the next hits.
        """
        fields = _given(
            id=id,
            ids=list(ids) or None,
            embeddings=[list(values) for values in embeddings] or None,
            reject_ids=list(reject_ids) or None,
            combine=combine,
            case=case,
            camera_id=camera_id,
            boxes=boxes,
            max_clips=max_clips,
            top_k=top_k,
            min_score=min_score,
            prior=prior,
            min_probability=min_probability,
            filter=_filter(
                camera_ids,
                exclude_camera_ids,
                after,
                before,
                metadata,
                time_of_day,
                created_after,
                created_before,
                without_time,
            )
            or None,
            exclude_same_camera=exclude_same_camera or None,
            rerank=rerank or None,
            paged=paged or None,
            purpose=purpose,
            embedding=embedding,
            embedding_space=embedding_space,
        )
        frames, fields, _ = self._choose(frames, fields)
        return self._send(SearchResult, "POST", "/search", fields=fields, frames=frames, video=video)

    def more(self, result: SearchResult, top_k: int | None = None) -> SearchResult:
        """Return the next hits after a paged result, by default as many; nothing is embedded again.

        Each record is returned at most once. The service keeps a search for ten minutes: `ProblemError` 404 after that.

        Raises:
            ValueError: the result has no `next_cursor`: it was not paged, or has no more hits.
        """
        if result.next_cursor is None:
            raise ValueError("the result has no next_cursor: search with paged=True, and stop when it is None")
        fields = _given(cursor=result.next_cursor, top_k=top_k)
        return read(SearchResult, self._call("POST", "/search", json=fields).content)

    def get(self, id: str, *, include_embedding: bool = False) -> Record:
        """Return one record; `ProblemError` 404 if it does not exist."""
        params = {"include_embedding": _flag(include_embedding)}
        return read(Record, self._call("GET", _record_path(id), params=params).content)

    def thumbnail(self, id: str, frame: int | None = None) -> bytes:
        """Return a small picture (a JPEG) of a record, the middle one or one in time order; 404 if there is none."""
        params = {} if frame is None else {"frame": frame}
        return self._call("GET", f"{_record_path(id)}/thumbnail", params=params).content

    def track(
        self,
        id: str,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
        prior: float | None = None,
        max_steps: int | None = None,
        purpose: str | None = None,
    ) -> Track:
        """Return probable appearances of the person of a record in time order, within 12 hours of it by default.

        Without a calibration, links have no probability, and `min_score` is needed.
        """
        params = _given(
            after=after,
            before=before,
            min_score=min_score,
            min_probability=min_probability,
            prior=prior,
            max_steps=max_steps,
            purpose=purpose,
        )
        return read(Track, self._call("GET", f"{_record_path(id)}/track", params=params).content)

    def patch(self, id: str, **fields: Any) -> Record:
        """Change `camera_id`, `start_time`, `end_time`, `metadata` or `expires_at` of a record; `None` clears one."""
        body = {name: None if value is None else _as_json(value) for name, value in fields.items()}
        return read(Record, self._call("PATCH", _record_path(id), json=body).content)

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
        time_of_day: TimeOfDay | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        without_time: bool = False,
        dry_run: bool = False,
        expected: int | None = None,
    ) -> Erased:
        """Remove every record that passes the filter, as in `search`; a filter without conditions is refused.

        With `expected`, the number that a dry run counted, nothing is removed if another number passes now (409).
        """
        chosen = _filter(
            camera_ids,
            exclude_camera_ids,
            after,
            before,
            metadata,
            time_of_day,
            created_after,
            created_before,
            without_time,
        )
        body = {"filter": chosen, "dry_run": dry_run, **_given(expected=expected)}
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
                raise UnreachableError(
                    f"the service at {without_login(self.url)} was not ready within {timeout:g} seconds"
                )
            time.sleep(0.1)

    def records(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        without_time: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[Record]:
        """Return all records of the gallery, or those that pass the conditions of `list`, page by page."""
        cursor: str | None = None
        while True:
            page = self.list(
                camera_id=camera_id,
                after=after,
                before=before,
                created_after=created_after,
                created_before=created_before,
                without_time=without_time,
                metadata=metadata,
                cursor=cursor,
            )
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def cameras(self) -> Sequence[Camera]:
        """Return the cameras that have records; the last one may be `None`, of records without a camera."""
        return read_list(Camera, self._call("GET", "/cameras").content)

    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        without_time: bool = False,
        metadata: Mapping[str, str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return one page of the gallery's records.

        Values of `metadata` are texts as people type them: "3" finds the number and the text.
        """
        params = _given(
            limit=limit,
            after=after,
            before=before,
            created_after=created_after,
            created_before=created_before,
            without_time="true" if without_time else None,
            camera_id=camera_id or None,
            cursor=cursor or None,
        )
        params |= {f"metadata.{key}": value for key, value in (metadata or {}).items()}
        return read(Page, self._call("GET", "/gallery", params=params).content)

    def _embed(
        self,
        method: str,
        path: str,
        fields: dict[str, Any],
        frames: Sequence[Frame] | None,
        video: Path | None,
        params: Mapping[str, str] | None = None,
    ) -> Embedded:
        frames, fields, chosen = self._choose(frames, fields)
        answer = self._send(Embedded, method, path, fields=fields, frames=frames, video=video, params=params)
        if chosen is None:
            return answer
        rejected = tuple(replace(frame, index=chosen[frame.index]) for frame in answer.rejected_frames)
        return replace(answer, rejected_frames=rejected)

    def _choose(
        self, frames: Sequence[Frame] | None, fields: dict[str, Any]
    ) -> tuple[Sequence[Frame] | None, dict[str, Any], Sequence[int] | None]:
        """Leave out frames and boxes that `max_clips` does not use.

        Returns:
            Frames and fields to send, and the chosen indices, of the boxes if there are boxes; `None` for all.
        """
        boxes: Sequence[Box] | None = fields.get("boxes")
        count = len(boxes or frames or ())
        if (max_clips := fields.get("max_clips")) is None or max_clips < 1 or count <= max_clips:
            return frames, fields, None
        if self._clip_length is None:
            self._clip_length = self.info().clip_length
        chosen = choose_frames(count, self._clip_length, max_clips)
        if len(chosen) == count:
            return frames, fields, None
        if boxes is None:
            return [(frames or ())[index] for index in chosen], fields, chosen
        order = sorted(range(count), key=lambda index: boxes[index][0])
        chosen = [order[place] for place in chosen]
        kept = [boxes[index] for index in chosen]
        if frames is None:
            return None, fields | {"boxes": kept}, chosen
        numbers = sorted({box[0] for box in kept})
        if numbers[0] < 0 or numbers[-1] >= len(frames):
            return frames, fields, None  # the service says which box is wrong
        renumbered = [(numbers.index(number), *rest) for number, *rest in kept]
        return [frames[number] for number in numbers], fields | {"boxes": renumbered}, chosen

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

    @contextmanager
    def _stream(self, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Give an answer that is still being sent."""
        try:
            with self._http.stream("GET", path, **request) as response:
                if not response.is_success:
                    response.read()
                    raise problem_of(response)
                yield response
        except httpx.TransportError as error:
            raise UnreachableError(f"the connection to {without_login(self.url)} broke: {error}") from error

    def _call(self, method: str, path: str, *, video: Path | None = None, **request: Any) -> httpx.Response:
        return self._retry.call(lambda: self._call_once(method, path, video, request))

    def _call_once(self, method: str, path: str, video: Path | None, request: dict[str, Any]) -> httpx.Response:
        with ExitStack() as stack:
            if video is not None:
                # Opened for each attempt, because the previous one has read the file to its end.
                request["files"] = [("video", ("video", stack.enter_context(video.open("rb"))))]
            try:
                response = self._http.request(method, path, **request)
            except httpx.TimeoutException as error:
                raise UnreachableError(f"the service at {without_login(self.url)} did not answer in time") from error
            except httpx.ConnectError as error:
                raise UnreachableError(f"no service answers at {without_login(self.url)}: {error}") from error
            except httpx.TransportError as error:
                raise UnreachableError(f"the connection to {without_login(self.url)} broke: {error}") from error
        if response.is_success:
            return response
        raise problem_of(response)


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
    time_of_day: TimeOfDay | None,
    created_after: datetime | None,
    created_before: datetime | None,
    without_time: bool,
) -> dict[str, Any]:
    daily = time_of_day and dict(zip(("from", "to", "utc_offset"), time_of_day, strict=False))
    return _given(
        camera_ids=camera_ids,
        exclude_camera_ids=exclude_camera_ids or None,
        after=after,
        before=before,
        time_of_day=daily,
        created_after=created_after,
        created_before=created_before,
        without_time=without_time or None,
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

"""The calls of the client about watchlists and alerts."""

import json
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal

import httpx

from not3d.client.responses import Alert, AlertPage, ProblemError, UnreachableError, Watchlist, read, read_list

STREAM_SILENCE: Final = 45.0
"""Seconds without a heartbeat (15 s) after which a stream is broken."""
RECONNECT_SECONDS: Final = 3.0
MAX_BUSY_SECONDS: Final = 60.0
"""Maximum time before the next attempt, however long a busy service or its proxy asks to wait."""


class AlertCalls:
    """Calls about watchlists and alerts, for `Client`, which has `_call` and `_stream`."""

    @abstractmethod
    def _call(self, method: str, path: str, **request: Any) -> httpx.Response: ...

    @abstractmethod
    def _stream(self, path: str, **request: Any) -> AbstractContextManager[httpx.Response]: ...

    def put_watchlist(
        self,
        name: str,
        *,
        ids: Sequence[str] = (),
        embeddings: Sequence[Sequence[float]] = (),
        case: str | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
        prior: float | None = None,
        filter: Mapping[str, Any] | None = None,
        cooldown: float | None = None,
        expires_at: datetime | None = None,
        replaces: Watchlist | Literal["any", "none"] = "any",
    ) -> Watchlist:
        """Watch for a person in all tracklets that are enrolled from now on; needs a key with the scope `admin`.

        Args:
            name: of the watchlist. One of this name is replaced; without `ids`, `embeddings` and `case` it keeps its
                examples.
            ids: enrolled tracklets that show the person.
            embeddings: vectors `[D]` of the person.
            case: copy the query, the confirmed and the rejected records of this case.
            min_score: raise alerts from this cosine on; exactly one of it and `min_probability`.
            min_probability: raise alerts from this probability on; needs a calibration.
            prior: probability that a new tracklet shows the person before its score is known.
            filter: as in the HTTP API, such as `{"camera_ids": ["gate"]}`.
            cooldown: seconds between two alerts on one camera. Default: 60.
            expires_at: when the watchlist ends.
            replaces: "none" to make a new one only, or the watchlist as it was read, so that no change of someone else
                is lost. If another one is stored, `ProblemError` 412.
        """
        given = {
            "ids": list(ids) or None,
            "embeddings": [list(map(float, each)) for each in embeddings] or None,
            "case": case,
            "min_score": min_score,
            "min_probability": min_probability,
            "prior": prior,
            "filter": None if filter is None else dict(filter),
            "cooldown": cooldown,
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        body = {field: value for field, value in given.items() if value is not None}
        headers = {}
        if isinstance(replaces, Watchlist):
            headers = {"If-Match": f'"{replaces.answer["updated_at"]}"'}
        elif replaces == "none":
            headers = {"If-None-Match": "*"}
        return read(Watchlist, self._call("PUT", f"/watchlists/{name}", json=body, headers=headers).content)

    def watchlists(self) -> Sequence[Watchlist]:
        """Return all watchlists, by name."""
        body = json.loads(self._call("GET", "/watchlists").content)
        return read_list(Watchlist, json.dumps(body["items"]).encode())

    def watchlist(self, name: str) -> Watchlist:
        """Return a watchlist; `ProblemError` 404 if it does not exist."""
        return read(Watchlist, self._call("GET", f"/watchlists/{name}").content)

    def delete_watchlist(self, name: str) -> None:
        """Remove a watchlist with its vectors, if it exists; its alerts stay."""
        self._call("DELETE", f"/watchlists/{name}")

    def alerts(
        self,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 100,
        watchlists: Sequence[str] = (),
        judged_after: datetime | None = None,
    ) -> AlertPage:
        """Return alerts: newest first; after an alert or a page's `cursor` oldest first.

        With `judged_after` only those that have a verdict of a later time.
        """
        params: dict[str, Any] = {"limit": limit, "watchlist": list(watchlists)}
        if judged_after is not None:
            params["judged_after"] = judged_after.isoformat()
        params |= {name: value for name, value in (("after", after), ("before", before)) if value is not None}
        body = self._call("GET", "/alerts", params=params).content
        items = json.dumps(json.loads(body).get("items", ())).encode()
        return replace(read(AlertPage, body), items=read_list(Alert, items))

    def alert(self, id: str) -> Alert:
        """Return an alert; `ProblemError` 404 if it does not exist."""
        return read(Alert, self._call("GET", f"/alerts/{id}").content)

    def judge_alert(self, id: str, verdict: Literal["same", "different", "unsure"] | None) -> Alert:
        """Say whether the tracklet of an alert shows the person, or take back (`None`) what this operator said."""
        path = f"/alerts/{id}/verdict"
        answer = self._call("DELETE", path) if verdict is None else self._call("PUT", path, json={"verdict": verdict})
        return read(Alert, answer.content)

    def follow_alerts(self, *, after: str | None = None, watchlists: Sequence[str] = ()) -> Iterator[Alert]:
        """Yield alerts as they are raised, without end; after `after`, or from now on.

        If the connection breaks or the service restarts, this connects again and goes on after the last alert.

        Raises:
            ProblemError: the service refuses for another reason than that it is busy.
        """
        last = after
        while last is None:
            # Without a cursor, alerts of a break before the first one would be lost.
            try:
                last = self.alerts(limit=1).cursor
            except UnreachableError:
                time.sleep(RECONNECT_SECONDS)
        while True:
            headers = {"Last-Event-ID": last, "Accept": "text/event-stream"}
            timeout = httpx.Timeout(STREAM_SILENCE)
            params = {"watchlist": list(watchlists)}
            pause = RECONNECT_SECONDS
            try:
                with self._stream("/alerts/stream", params=params, headers=headers, timeout=timeout) as answer:
                    for data in _events(answer.iter_lines()):
                        alert = read(Alert, data.encode())
                        last = alert.id
                        yield alert
            except UnreachableError:
                pass
            except ProblemError as error:
                if error.status not in {429, 502, 503, 504}:
                    raise
                pause = max(pause, min(error.retry_after or 0.0, MAX_BUSY_SECONDS))
            time.sleep(pause)


def _events(lines: Iterator[str]) -> Iterator[str]:
    """Yield the data of each event of a stream; comments and other fields are left out."""
    data: list[str] = []
    for line in lines:
        if not line and data:
            yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))

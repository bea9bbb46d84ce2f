"""Alerts and watchlists as rows of Milvus."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np

from service.gallery import checks, clock
from service.gallery.checks import Row
from service.gallery.milvus.schema import NEVER, split
from service.gallery.watch.records import Alert, AlertVerdict, Watchlist, WatchVector, time_of_id

ALERT: Final = ("alert", "digest", "uid", "watchlist", "record", "camera_id", "example", "moment", "content")
DELIVERY: Final = ("delivery", "webhook", "alert", "tries", "due", "claim", "dead")
"""The fields of an alert and of a delivery, without their unused vectors."""
NEW_DELIVERY: Final = {"tries": 0, "claim": 0, "dead": 0}


def moment_of(row: Row) -> int:
    """Return when a tracklet appeared, for the cool-down: now if it has no time."""
    if row.start_time is not None:
        return row.start_time
    return clock.now() if row.end_time is None else row.end_time


def time_of(row: Mapping[str, Any]) -> int:
    """Return when an alert was raised, in microseconds since 1970."""
    return time_of_id(row["alert"])


def encode_camera(camera_id: str | None) -> str:
    """Return a camera as it is stored: empty if there is none."""
    return "" if camera_id is None else f"={camera_id}"


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _datetime(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def encode_alert(alert: Alert, moment: int) -> dict[str, Any]:
    """Return the row of an alert; `moment` is when its tracklet appeared."""
    content = {
        "start_time": _text(alert.start_time),
        "end_time": _text(alert.end_time),
        "score": alert.score,
        "probability": alert.probability,
        "calibration": None if alert.calibration is None else dict(alert.calibration),
        "example_camera": alert.example_camera,
        "verdicts": [[each.author, each.key, each.verdict, each.time.isoformat()] for each in alert.verdicts],
    }
    return {
        "alert": alert.id,
        "vector": [0.0, 0.0],
        "digest": alert.id[17:],
        "uid": alert.watchlist_uid,
        "watchlist": alert.watchlist,
        "record": alert.record,
        "camera_id": encode_camera(alert.camera_id),
        "example": alert.example or "",
        "moment": moment,
        "content": split(json.dumps(content)),
    }


def decode_alert(row: Mapping[str, Any]) -> Alert:
    """Read what `encode_alert` returned."""
    content = json.loads("".join(row["content"]))
    return Alert(
        id=row["alert"],
        watchlist=row["watchlist"],
        watchlist_uid=row["uid"],
        record=row["record"],
        camera_id=row["camera_id"][1:] if row["camera_id"] else None,
        start_time=_datetime(content["start_time"]),
        end_time=_datetime(content["end_time"]),
        score=content["score"],
        probability=content["probability"],
        calibration=content["calibration"],
        example=row["example"] or None,
        example_camera=content["example_camera"],
        verdicts=tuple(
            AlertVerdict(author, key, verdict, datetime.fromisoformat(time))
            for author, key, verdict, time in content["verdicts"]
        ),
    )


def encode_watchlist(watchlist: Watchlist) -> dict[str, Any]:
    """Return the row of a watchlist, with a stamp that no other version of it has."""
    content = {
        "uid": watchlist.uid,
        "min_score": watchlist.min_score,
        "min_probability": watchlist.min_probability,
        "prior": watchlist.prior,
        "filter": checks.audit_condition(watchlist.filter),
        "cooldown": watchlist.cooldown,
        "expires_at": _text(watchlist.expires_at),
        "created_at": _text(watchlist.created_at),
        "updated_at": _text(watchlist.updated_at),
        "created_by": watchlist.created_by,
        "vectors": [[each.role, each.record, each.camera_id, each.source, _pack(each)] for each in watchlist.vectors],
    }
    ends = watchlist.expires_at
    text = json.dumps(content)
    return {
        "name": watchlist.name,
        "vector": [0.0, 0.0],
        "stamp": f"{clock.now():016x}{np.random.default_rng().integers(2**63):016x}",
        "expires_at": NEVER if ends is None else clock.to_microseconds(ends, "expires_at"),
        "content": split(text),
    }


def decode_watchlist(row: Mapping[str, Any]) -> Watchlist:
    """Read what `encode_watchlist` returned."""
    content = json.loads("".join(row["content"]))
    vectors = content.pop("vectors")
    times = {name: _datetime(content.pop(name)) for name in ("expires_at", "created_at", "updated_at")}
    return Watchlist(
        name=row["name"],
        filter=checks.parse_condition(content.pop("filter")),
        vectors=tuple(
            WatchVector(np.frombuffer(base64.b64decode(packed), "<f4").astype(np.float32), role, record, camera, source)
            for role, record, camera, source, packed in vectors
        ),
        **times,  # type: ignore[arg-type]  # only expires_at may be None
        **content,
    )


def _pack(vector: WatchVector) -> str:
    return base64.b64encode(vector.vector.astype("<f4").tobytes()).decode("ascii")

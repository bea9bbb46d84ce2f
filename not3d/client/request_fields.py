"""What the client's arguments are in the service's JSON; what was not given is left out."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from not3d.client.responses import Json


def flag(value: bool) -> str:
    """A boolean behind the `?`."""
    return "true" if value else "false"


def timestamp(value: datetime) -> str:
    """RFC 3339. Raises `ValueError` for a time without a zone."""
    if value.tzinfo is None:
        raise ValueError(f"{value} has no time zone")
    return value.isoformat()


def tracklet_fields(
    *,
    camera_id: str | None,
    boxes: Sequence[tuple[int, float, float, float, float]] | None,
    max_clips: int | None,
    id: str | None = None,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    metadata: Json | None = None,
    expires_at: datetime | None = None,
) -> dict[str, Any]:
    """The fields that were given, as JSON values."""
    fields = {
        "id": id,
        "camera_id": camera_id,
        "start_time": start_time and timestamp(start_time),
        "end_time": end_time and timestamp(end_time),
        "metadata": None if metadata is None else dict(metadata),
        "expires_at": expires_at and timestamp(expires_at),
        "boxes": None if boxes is None else [list(box) for box in boxes],
        "max_clips": max_clips,
    }
    return {name: value for name, value in fields.items() if value is not None}


def filter_fields(
    camera_ids: Sequence[str] | None,
    exclude_camera_ids: Sequence[str],
    after: datetime | None,
    before: datetime | None,
    metadata: Json | None,
) -> dict[str, Any]:
    """The conditions that were given."""
    conditions: dict[str, Any] = {
        "camera_ids": None if camera_ids is None else list(camera_ids),
        "exclude_camera_ids": list(exclude_camera_ids) or None,
        "after": after and timestamp(after),
        "before": before and timestamp(before),
        "metadata": dict(metadata) if metadata else None,
    }
    return {name: value for name, value in conditions.items() if value is not None}

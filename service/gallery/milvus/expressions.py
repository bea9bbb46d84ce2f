"""Filters in Milvus's language of conditions."""

from collections.abc import Iterable

from service.gallery import checks
from service.gallery.milvus.schema import camera_text, term_text
from service.gallery.records import Filter

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
"""What the language does not take as it is, within quotes."""


def condition(filter: Filter, now: int | None) -> str:
    """What a row must fulfil to pass `filter`, and not to have expired at `now`, in microseconds since 1970.

    Without `now`, expired rows pass as well. Raises `InvalidArgument` for times without a zone, an interval that ends
    before it begins, and what is not JSON.
    """
    parts = [] if now is None else [f"expires_at > {now}"]
    if filter.camera_ids is not None:
        parts.append(f"camera_id in {_cameras(filter.camera_ids, 'camera_ids')}")
    if filter.exclude_camera_ids:
        parts.append(f"camera_id not in {_cameras(filter.exclude_camera_ids, 'exclude_camera_ids')}")
    after, before = checks.interval_of(filter)
    if after is not None:
        parts.append(f"last >= {after}")
    if before is not None:
        parts.append(f"first <= {before}")
    if terms := [term_text(term) for term in checks.terms_of(dict(filter.metadata))]:
        parts.append(f"ARRAY_CONTAINS_ALL(terms, {quoted_list(terms)})")
    if filter.exclude_ids:
        for one in filter.exclude_ids:
            checks.check_text(one, "exclude_ids")
        parts.append(f"id not in {quoted_list(filter.exclude_ids)}")
    return " and ".join(parts)


def quoted(text: str) -> str:
    """A text as a literal, which nothing in it can end."""
    return f'"{text.translate(_ESCAPES)}"'


def quoted_list(texts: Iterable[str]) -> str:
    """Texts as a list of literals."""
    return f"[{', '.join(map(quoted, texts))}]"


def _cameras(cameras: Iterable[str], name: str) -> str:
    stored = []
    for one in cameras:
        checks.check_text(one, name)
        stored.append(camera_text(one))
    return quoted_list(stored)

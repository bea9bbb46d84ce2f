"""The files of an exported case: `case.json`, a page, and the pictures. No vector is in them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from service.cases.archive import indent_json, to_json
from service.cases.page import render_page, render_record
from service.cases.records import CaseError, CaseQuery, Verdict
from service.cases.view import IDS_AT_ONCE, CaseOutline
from service.gallery.clock import format_timestamp
from service.gallery.records import Record, json_values
from service.gallery.visible import VisibleGallery

_FILE_OVERHEAD = 300
"""Bytes that a file has in an archive and in its manifest at most, besides its content and its name."""


class ExportTooLarge(CaseError):
    """The files of a case have more bytes than an answer may have."""


class _Files:
    """The files of an export.

    Attributes:
        pictures: by name.
        records: those of `case.json`, as JSON text.
        items: those of the page, as HTML, each with its verdict.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self.pictures: dict[str, bytes] = {}
        self.records: list[bytes] = []
        self.items: list[tuple[str | None, bytes]] = []

    def add_picture(self, name: str, jpeg: bytes) -> None:
        self._count(len(jpeg) + 3 * len(name) + _FILE_OVERHEAD)
        self.pictures[name] = jpeg

    def add_record(self, description: Mapping[str, Any]) -> None:
        record, item = indent_json(description, 4), render_record(description).encode()
        self._count(len(record) + len(item))
        self.records.append(record)
        self.items.append((description["verdict"], item))

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise ExportTooLarge(
                f"its files have more than {self._max_bytes} bytes, a quarter of NOT3D_MAX_PENDING_BYTES: ask the "
                "operator for a larger one, or give the verdicts in several cases"
            )


async def export_files(
    outline: CaseOutline, gallery: VisibleGallery, facts: Mapping[str, Any], max_bytes: int, limiter: CapacityLimiter
) -> dict[str, bytes]:
    """Return the files of a case by their names.

    Records are read some hundreds at a time, and each is kept only as what the files say about it.

    Args:
        outline: the case.
        gallery: has the records and the pictures.
        facts: `service`, `model` and `calibration` for `case.json`.
        max_bytes: maximum size of the files, without the facts of the case itself.
        limiter: of the threads that write the texts.

    Raises:
        ExportTooLarge: the files are larger.
    """
    files = _Files(max_bytes)

    async def keep(name: str, record: Record) -> list[str]:
        paths = []
        for frame in range(record.thumbnail_count):
            if jpeg := await gallery.thumbnail(record.id, frame):
                paths.append(path := f"pictures/{name}-{frame}.jpg")
                files.add_picture(path, jpeg)
        return paths

    given: dict[str, list[Verdict]] = {}
    for each in outline.verdicts:
        given.setdefault(each.record, []).append(each)
    query = outline.case.query
    of_query = await gallery.get(query.id) if query and query.id is not None else None
    vector = of_query.embedding if of_query else query.vector if query else None
    for frame, jpeg in enumerate(query.pictures if query else ()):
        files.add_picture(f"pictures/query-{frame}.jpg", jpeg)
    query_pictures = await keep("query", of_query) if of_query else sorted(files.pictures)

    def write(records: Sequence[Record], pictures: Mapping[str, Sequence[str]]) -> None:
        for record in records:
            files.add_record(_describe(record, outline, given[record.id], vector, pictures[record.id]))

    ids = list(given)
    for start in range(0, len(ids), IDS_AT_ONCE):
        chunk = ids[start : start + IDS_AT_ONCE]
        records = await gallery.get_all(chunk)
        found = [(number, records[id_]) for number, id_ in enumerate(chunk, start + 1) if id_ in records]
        pictures = {record.id: await keep(f"{number:05}", record) for number, record in found}
        await to_thread.run_sync(write, [record for _, record in found], pictures, limiter=limiter)

    def finish() -> dict[str, bytes]:
        content = {
            **_describe_case(outline),
            "query": None if query is None else _describe_query(query, of_query, query_pictures),
            **facts,
        }
        texts = {"case.json": to_json(content, records=files.records), "index.html": render_page(content, files.items)}
        return files.pictures | texts

    return await to_thread.run_sync(finish, limiter=limiter)


def _describe_case(outline: CaseOutline) -> dict[str, Any]:
    case = outline.case
    return {
        "id": case.id,
        "name": case.name,
        "purpose": case.purpose,
        "created_at": format_timestamp(case.created_at),
        "created_by": case.created_by,
        "closed_at": case.closed_at and format_timestamp(case.closed_at),
        "closed_by": case.closed_by,
        "confirmations": outline.confirmations,
    }


def _describe(
    record: Record,
    outline: CaseOutline,
    verdicts: Sequence[Verdict],
    vector: NDArray[np.float32] | None,
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Return what the files say about a record, with its score with the query's `vector` `[D]`."""
    return {
        "id": record.id,
        "verdict": outline.decided.get(record.id),
        "score": None if vector is None else round(float(np.dot(vector, record.embedding)), 6),
        "camera_id": record.camera_id,
        "start_time": record.start_time and format_timestamp(record.start_time),
        "end_time": record.end_time and format_timestamp(record.end_time),
        "created_at": format_timestamp(record.created_at),
        "metadata": json_values(record.metadata),
        "pictures": list(pictures),
        "verdicts": [
            {
                "verdict": each.verdict,
                "author": each.author,
                "key": each.key,
                "time": format_timestamp(each.time),
                "note": each.note,
            }
            for each in verdicts
        ],
    }


def _describe_query(query: CaseQuery, record: Record | None, pictures: Sequence[str]) -> dict[str, Any]:
    """Return a query without its vector, which its SHA-256 names: of its float32 numbers, little endian."""
    vector = record.embedding if record else query.vector
    return {
        "id": query.id,
        "camera_id": record.camera_id if record else query.camera_id,
        "sha256": None if vector is None else hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest(),
        "pictures": list(pictures),
    }

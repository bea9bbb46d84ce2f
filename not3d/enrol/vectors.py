"""Vectors that another system computed, in files: JSON Lines or Parquet, one record in each line or row."""

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.errors import Not3dError, extra

FIELDS = ("camera_id", "start_time", "end_time", "metadata", "expires_at", "embedding_space")
"""What a record may have besides `id` and `embedding`, as in `PUT /gallery/{id}`."""
_SPACE = b"not3d.embedding_space"
"""Where `not3d gallery export` names the space of a file."""
_ROWS = 500


class VectorFileError(Not3dError):
    """A file that cannot be read, or a line of it that is no record. The message names both."""


@dataclass(frozen=True)
class VectorRecord:
    """One record as it is sent: `place` says where it was, `fields` are those of `PUT /gallery/{id}`.

    `fault` says why it cannot be sent; `None` if it can.
    """

    place: str
    id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


def read_vectors(path: Path) -> Iterator[VectorRecord]:
    """Yield the records of a file: Parquet if its name ends in `.parquet`, otherwise JSON Lines.

    A line that is no record has a `fault`, so that all others can be sent.

    Raises:
        VectorFileError: the file cannot be read.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)


def _read_lines(path: Path) -> Iterator[VectorRecord]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _to_record(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError) as error:
        raise VectorFileError(f"{path} cannot be read as JSON Lines: {error}") from error


def _to_record(place: str, line: str) -> VectorRecord:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return VectorRecord(place, fault=f"is not JSON: {error}")
    if not isinstance(row, dict):
        return VectorRecord(place, fault="is not a JSON object with id and embedding")
    return _check(place, row)


def _read_parquet(path: Path) -> Iterator[VectorRecord]:
    with extra("parquet"):
        import pyarrow
        import pyarrow.parquet
    try:
        file = pyarrow.parquet.ParquetFile(path)
        known = [name for name in ("id", "embedding", *FIELDS) if name in file.schema_arrow.names]
        space = (file.schema_arrow.metadata or {}).get(_SPACE, b"").decode()
        number = 0
        for batch in file.iter_batches(_ROWS, columns=known):
            for row in batch.to_pylist():
                number += 1
                place = f"{path}, row {number}"
                yield _check(place, _plain(row) | ({"embedding_space": space} if space else {}))
    except (OSError, pyarrow.ArrowException) as error:
        raise VectorFileError(f"{path} cannot be read as Parquet: {error}") from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a table as it would be in JSON: times as text, and metadata, which may be text, as an object."""
    found = {}
    for name, value in row.items():
        if value is None:
            continue
        if isinstance(value, datetime):
            found[name] = (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        elif name == "metadata" and isinstance(value, str):
            try:
                found[name] = json.loads(value)
            except ValueError:
                found[name] = value  # the service says what is wrong
        else:
            found[name] = value
    return found


def _check(place: str, row: dict[str, Any]) -> VectorRecord:
    id_, embedding = row.get("id"), row.get("embedding")
    if not isinstance(id_, str) or not id_:
        return VectorRecord(place, fault="has no id, a text")
    if unknown := sorted(row.keys() - {"id", "embedding", *FIELDS}):
        return VectorRecord(place, id_, fault=f"has the unknown field {unknown[0]}; known are {', '.join(FIELDS)}")
    if isinstance(embedding, str):
        try:
            embedding = _from_base64(embedding)
        except (ValueError, binascii.Error, struct.error):
            return VectorRecord(place, id_, fault="embedding is text, but not base64 of little-endian float32")
    if not isinstance(embedding, list):
        return VectorRecord(place, id_, fault="has no embedding, an array of numbers or base64 of float32")
    others = {name: value for name, value in row.items() if name in FIELDS and value is not None}
    return VectorRecord(place, id_, {"embedding": embedding, **others})


def _from_base64(text: str) -> list[float]:
    data = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))

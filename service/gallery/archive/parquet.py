"""Records as a Parquet file, for moving them between galleries and for analysis elsewhere.

One row per record, all of one embedding space, which the file names in its metadata under keys that begin with
`not3d.`. The only module that knows pyarrow, which comes with the extra `parquet`.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as untyped_pyarrow
import pyarrow.parquet as untyped_parquet

from service.gallery import clock
from service.gallery.archive.read_only import Stored
from service.gallery.embedded import rows
from service.gallery.embedded.database import Stamp, owner_only, sync_directory, translate
from service.gallery.protocol import Gallery
from service.gallery.records import Filter, GalleryError, InvalidArgument, OnConflict, Record

# Their stubs are incomplete.
pa: Any = untyped_pyarrow
pq: Any = untyped_parquet

FORMAT = "1"
_PREFIX = "not3d."
_BYTES_OF_A_GROUP = 32 * 2**20
_ROWS_OF_A_CHANGE = 1000
_QUESTIONS = 8

Report = Callable[[int], object]
"""Is told how many rows are done, again and again."""


@dataclass(slots=True)
class Imported:
    """What became of a file's rows; `enrolled` are new ids."""

    enrolled: int = 0
    replaced: int = 0
    skipped: int = 0
    expired: int = 0


def stored_records(stored: Stored) -> Iterator[list[Record]]:
    """All records of a gallery's files as they are at one moment, with thumbnails, in pieces, oldest first."""
    connection = stored.connection
    connection.execute("BEGIN")
    numbers = rows.numbers_where(connection, Filter(), clock.now()).tolist()
    size = _rows_of_a_group(stored.stamp.dimension)
    for start in range(0, len(numbers), size):
        piece = numbers[start : start + size]
        found = connection.execute(
            "SELECT number, jpeg FROM thumbnails WHERE number IN (SELECT value FROM json_each(?))",
            (json.dumps(piece),),
        )
        thumbnails = dict(found)
        records = rows.by_number(connection, piece)
        yield [replace(record, thumbnail=thumbnails.get(number)) for number, record in zip(piece, records, strict=True)]
    connection.execute("COMMIT")


def gallery_records(gallery: Gallery) -> Iterator[list[Record]]:
    """All records of any gallery, with thumbnails, in pieces, by ids; what is enrolled meanwhile may be missing."""
    cursor, size = None, min(_rows_of_a_group(gallery.dimension), 1000)
    while True:
        page = gallery.list(limit=size, cursor=cursor)
        with ThreadPoolExecutor(_QUESTIONS) as pool:
            pictured = [record.id for record in page.items if record.has_thumbnail]
            thumbnails = dict(zip(pictured, pool.map(gallery.thumbnail, pictured), strict=True))
        yield [replace(record, thumbnail=thumbnails.get(record.id)) for record in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return


def export_records(pieces: Iterator[list[Record]], stamp: Stamp, out: Path, report: Report = lambda _rows: None) -> int:
    """Write records to the new file `out`; how many. One row group per piece.

    The name appears once all is on disk. Raises `GalleryError` where it exists or cannot be written, `DiskFull`.
    """
    if out.exists():
        raise GalleryError(f"{out} exists: an export is written to a new file")
    part = out.with_name(f"{out.name}.part")
    schema, count = _schema(stamp), 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "xb", opener=owner_only) as file:
                # Vectors do not become smaller by compression; what lies beside them does.
                packed = {name: "none" if name == "embedding.list.element" else "zstd" for name in _paths(schema)}
                with pq.ParquetWriter(file, schema, compression=packed) as writer:
                    for records in pieces:
                        writer.write_table(_to_table(records, schema, stamp.dimension))
                        count += len(records)
                        report(count)
                file.flush()
                os.fsync(file.fileno())
            part.rename(out)
            sync_directory(out.parent)
        except FileExistsError as error:
            raise GalleryError(
                f"{part} is being written by another export, or left of one that was broken off: remove it then"
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise translate(error, out.parent) from error
    return count


class Archive:
    """A Parquet file of records, read piece by piece.

    Raises `GalleryError` where it is another kind of file or lacks a column.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise GalleryError(f"there is no file {path}") from error
        except (OSError, pa.ArrowException) as error:
            raise GalleryError(f"{path} is no Parquet file, or damaged: {error}") from error
        self.stamp = self._read_stamp()
        self._schema = _schema(self.stamp)
        missing = set(self._schema.names) - set(self._file.schema_arrow.names)
        if missing:
            raise GalleryError(f"{path} lacks the column {min(missing)}")
        for name in ("start_time", "end_time", "expires_at", "created_at"):
            if getattr(self._file.schema_arrow.field(name).type, "tz", None) is None:
                raise GalleryError(f"{path} has times without a time zone in the column {name}")

    @property
    def records(self) -> int:
        """How many rows there are."""
        return int(self._file.metadata.num_rows)

    def ids(self) -> Iterator[list[str]]:
        """The ids alone, in pieces."""
        for batch in self._read(["id"]):
            yield batch.column("id").to_pylist()

    def pieces(self) -> Iterator[list[Record]]:
        """The records in the file's order, with thumbnails. Raises `GalleryError` for a row that is no record."""
        done = 0
        for batch in self._read(self._schema.names):
            yield self._to_records(batch, done)
            done += len(batch)

    def _read(self, names: list[str]) -> Iterator[Any]:
        schema = pa.schema([self._schema.field(name) for name in names])
        try:
            for batch in self._file.iter_batches(_ROWS_OF_A_CHANGE, columns=names):
                # In our types, whatever another program has made of them: text and times come in several.
                yield pa.Table.from_batches([batch]).select(names).cast(schema).combine_chunks()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise GalleryError(f"{self._path} cannot be read: {error}") from error

    def _read_stamp(self) -> Stamp:
        found = {key.decode(): value.decode() for key, value in (self._file.schema_arrow.metadata or {}).items()}
        kept = {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}
        if "format" not in kept:
            raise GalleryError(
                f"{self._path} does not say of which embedding space it is, in the file's metadata under "
                f"{_PREFIX}embedding_space: vectors of different models must not meet"
            )
        if kept["format"] != FORMAT:
            raise GalleryError(
                f"{self._path} is of format {kept['format']}, and this program reads {FORMAT}: use the version that "
                "wrote it"
            )
        try:
            return Stamp(kept["embedding_space"], int(kept["dimension"]), kept["model"])
        except (KeyError, ValueError) as error:
            raise GalleryError(f"{self._path} lacks {_PREFIX}{error} in its metadata") from error

    def _to_records(self, table: Any, before: int) -> list[Record]:
        lists = table.column("embedding").combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # of no rows
            lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
        vectors = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(
            -1, self.stamp.dimension
        )
        plain = table.drop_columns(["embedding"]).to_pylist()
        records = []
        for position, (row, vector) in enumerate(zip(plain, vectors, strict=True)):
            try:
                metadata = json.loads(row.pop("metadata"))
            except (TypeError, ValueError, RecursionError) as error:
                fault = "is nested too deeply" if isinstance(error, RecursionError) else "is no JSON"
                raise GalleryError(
                    f"{self._path}, row {before + position} (id {row['id']!r}): metadata {fault}"
                ) from error
            records.append(
                Record(**row, embedding=vector, metadata=metadata, has_thumbnail=row["thumbnail"] is not None)
            )
        return records


def import_records(
    archive: Archive,
    gallery: Gallery,
    on_conflict: OnConflict = "error",
    report: Report = lambda _rows: None,
) -> Imported:
    """Enrol a file's records, about a thousand in a durable step; records that have expired are left out.

    With "error" nothing is enrolled where one of the ids is taken or there twice, and nothing is replaced that somebody
    else enrols meanwhile. After an interruption, "skip" goes on where it ended. Raises `GalleryError`, before anything
    is changed where the spaces or dimensions differ.
    """
    found = Stamp(gallery.embedding_space, gallery.dimension, "")
    if (found.embedding_space, found.dimension) != (archive.stamp.embedding_space, archive.stamp.dimension):
        raise GalleryError(
            f"the file is of embedding space {archive.stamp.embedding_space}, dimension {archive.stamp.dimension} "
            f"(model {archive.stamp.model_name}), and the gallery of space {found.embedding_space}, dimension "
            f"{found.dimension}: vectors of different models cannot be compared"
        )
    if on_conflict == "error":
        _refuse_taken(archive, gallery)
    outcome, done = Imported(), 0
    for piece in archive.pieces():
        now = clock.to_datetime(clock.now())
        wanted = [record for record in piece if record.expires_at is None or record.expires_at > now]
        outcome.expired += len(piece) - len(wanted)
        try:
            existing = gallery.enrol(wanted, "replace" if on_conflict == "replace" else "skip")
        except InvalidArgument as error:
            raise GalleryError(
                f"of the rows from {done} to {done + len(piece) - 1} of the file none was enrolled, those before were: "
                f"{error}"
            ) from error
        outcome.enrolled += len(wanted) - len(existing)
        if on_conflict == "replace":
            outcome.replaced += len(existing)
        else:
            outcome.skipped += len(existing)
        done += len(piece)
        if existing and on_conflict == "error":
            raise GalleryError(
                f"{min(existing)!r} was enrolled by somebody else meanwhile and is left as it is; of the file's first "
                f"{done} rows all others are enrolled: skip or replace what is there"
            )
        report(done)
    return outcome


def _refuse_taken(archive: Archive, gallery: Gallery) -> None:
    is_empty, taken, first = not gallery.count(), 0, ""
    seen: set[str] = set()
    for ids in archive.ids():
        for id_ in ids:
            if id_ in seen:
                raise GalleryError(f"the file has the id {id_!r} twice")
            seen.add(id_)
        found = set() if is_empty else _enrolled(gallery, ids)
        taken, first = taken + len(found), first or min(found, default="")
    if taken:
        raise GalleryError(
            f"{taken} of the file's {archive.records} ids are enrolled already, such as {first!r}, and nothing was "
            "changed: skip or replace them"
        )


def _enrolled(gallery: Gallery, ids: Sequence[str]) -> set[str]:
    """Which of these ids are taken; asked side by side, since a server takes milliseconds for each."""
    with ThreadPoolExecutor(_QUESTIONS) as pool:
        found = pool.map(gallery.get, ids)
        return {id_ for id_, record in zip(ids, found, strict=True) if record is not None}


def _schema(stamp: Stamp) -> Any:
    time = pa.timestamp("us", "UTC")
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), stamp.dimension), nullable=False),
        pa.field("camera_id", pa.string()),
        pa.field("start_time", time),
        pa.field("end_time", time),
        pa.field("expires_at", time),
        pa.field("created_at", time, nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
        pa.field("thumbnail", pa.binary()),
    ]
    facts = {
        "format": FORMAT,
        "embedding_space": stamp.embedding_space,
        "dimension": str(stamp.dimension),
        "model": stamp.model_name,
    }
    return pa.schema(fields, {f"{_PREFIX}{key}": value for key, value in facts.items()})


def _paths(schema: Any) -> list[str]:
    return ["embedding.list.element" if name == "embedding" else name for name in schema.names]


def _to_table(records: list[Record], schema: Any, dimension: int) -> Any:
    flat = np.concatenate([record.embedding for record in records] or [np.empty(0, np.float32)])
    columns = []
    for field in schema:
        if field.name == "embedding":
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimension))
        elif field.name == "metadata":
            columns.append(pa.array([json.dumps(record.metadata) for record in records], field.type))
        else:
            columns.append(pa.array([getattr(record, field.name) for record in records], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _rows_of_a_group(dimension: int) -> int:
    return max(1, _BYTES_OF_A_GROUP // (4 * dimension))

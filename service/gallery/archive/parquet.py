"""Export records to a Parquet file and import them, to move them between galleries or analyse them elsewhere.

A file has one row for each record, all of one embedding space. Its metadata name the space under keys that begin with
`not3d.`. Only this module uses pyarrow, from the extra `parquet`.
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
from service.gallery.archive.read_only import GalleryFiles
from service.gallery.archive.snapshot import new_path
from service.gallery.embedded import rows
from service.gallery.embedded.database import Stamp, owner_only
from service.gallery.protocol import Gallery
from service.gallery.records import Filter, GalleryError, InvalidArgument, OnConflict, Record, json_text

# Their stubs are incomplete.
pa: Any = untyped_pyarrow
pq: Any = untyped_parquet

FORMAT = "1"
_PREFIX = "not3d."
_ROW_GROUP_BYTES = 32 * 2**20
_ROWS_PER_STEP = 1000
_THREADS = 8

Progress = Callable[[int], object]
"""Called many times with the number of rows that are done."""


@dataclass(slots=True)
class ImportCounts:
    """How many rows of a file were enrolled under a new id, replaced a record, were skipped, or had expired."""

    enrolled: int = 0
    replaced: int = 0
    skipped: int = 0
    expired: int = 0


def records_of_files(files: GalleryFiles) -> Iterator[list[Record]]:
    """Yield all records of one state of a gallery's files with their thumbnails, in batches, oldest first."""
    connection = files.connection
    connection.execute("BEGIN")
    numbers, _ = rows.numbers_where(connection, Filter(), clock.now())
    size = _rows_per_group(files.stamp.dimension)
    for start in range(0, len(numbers), size):
        batch = numbers[start : start + size]
        thumbnails = rows.thumbnails_by_number(connection, batch)
        records = rows.by_number(connection, batch)
        yield [
            replace(record, thumbnails=thumbnails.get(number, ()))
            for number, record in zip(batch, records, strict=True)
        ]
    connection.execute("COMMIT")


def records_of_gallery(gallery: Gallery) -> Iterator[list[Record]]:
    """Yield all records of a gallery with their thumbnails, in batches, ordered by id.

    Records that are enrolled meanwhile may be missing.
    """
    cursor, size = None, min(_rows_per_group(gallery.dimension), 1000)
    while True:
        page = gallery.list(limit=size, cursor=cursor)
        with ThreadPoolExecutor(_THREADS) as pool:
            wanted = [(record.id, frame) for record in page.items for frame in range(record.thumbnail_count)]
            read = pool.map(lambda one: gallery.thumbnail(*one), wanted)
            thumbnails = dict(zip(wanted, read, strict=True))
        yield [
            # A record that was removed meanwhile has none.
            replace(
                record,
                thumbnails=tuple(
                    jpeg for frame in range(record.thumbnail_count) if (jpeg := thumbnails[record.id, frame])
                ),
            )
            for record in page.items
        ]
        cursor = page.next_cursor
        if cursor is None:
            return


def export_records(
    batches: Iterator[list[Record]], stamp: Stamp, out: Path, on_progress: Progress = lambda _rows: None
) -> int:
    """Write records to the new file `out`, one row group for each batch. The name appears when all is on disk.

    Returns:
        How many records were written.

    Raises:
        GalleryError: the file exists or cannot be written.
        DiskFull: there is no space for the file.
    """
    schema, count = _schema(stamp), 0
    # Compression makes the other columns smaller, but not the vectors.
    compression = {name: "none" if name == "embedding.list.element" else "zstd" for name in _paths(schema)}
    with new_path(out) as part, open(part, "xb", opener=owner_only) as file:
        with pq.ParquetWriter(file, schema, compression=compression) as writer:
            for records in batches:
                writer.write_table(_to_table(records, schema, stamp.dimension))
                count += len(records)
                on_progress(count)
        file.flush()
        os.fsync(file.fileno())
    return count


class RecordFile:
    """A Parquet file of records, read in batches.

    Raises:
        GalleryError: the file is of another kind, or a column is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError as error:
            raise GalleryError(f"{path} does not exist") from error
        except (OSError, pa.ArrowException) as error:
            raise GalleryError(f"{path} is not a Parquet file, or is damaged: {error}") from error
        self.stamp = self._read_stamp()
        self._schema = _schema(self.stamp)
        if "thumbnails" not in self._file.schema_arrow.names:  # a file of an earlier version
            self._schema = self._schema.remove(self._schema.get_field_index("thumbnails"))
        missing = set(self._schema.names) - set(self._file.schema_arrow.names)
        if missing:
            raise GalleryError(f"{path} has no column {min(missing)}")
        for name in ("start_time", "end_time", "expires_at", "created_at"):
            if getattr(self._file.schema_arrow.field(name).type, "tz", None) is None:
                raise GalleryError(f"{path} has times without a time zone in column {name}")

    @property
    def records(self) -> int:
        """How many rows the file has."""
        return int(self._file.metadata.num_rows)

    def ids(self) -> Iterator[list[str]]:
        """Yield only the ids, in batches."""
        for batch in self._read(["id"]):
            yield batch.column("id").to_pylist()

    def batches(self) -> Iterator[list[Record]]:
        """Yield the records in the order of the file, with thumbnails. Raises `GalleryError` for an invalid row."""
        done = 0
        for batch in self._read(self._schema.names):
            yield self._to_records(batch, done)
            done += len(batch)

    def _read(self, names: list[str]) -> Iterator[Any]:
        schema = pa.schema([self._schema.field(name) for name in names])
        try:
            for batch in self._file.iter_batches(_ROWS_PER_STEP, columns=names):
                # Other programs may write other types of text and times: convert them.
                yield pa.Table.from_batches([batch]).select(names).cast(schema).combine_chunks()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise GalleryError(f"{self._path} cannot be read: {error}") from error

    def _read_stamp(self) -> Stamp:
        found = {key.decode(): value.decode() for key, value in (self._file.schema_arrow.metadata or {}).items()}
        facts = {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}
        if "format" not in facts:
            raise GalleryError(
                f"{self._path} does not name its embedding space ({_PREFIX}embedding_space in the file's metadata): "
                "vectors of different models cannot be compared"
            )
        if facts["format"] != FORMAT:
            raise GalleryError(
                f"{self._path} has format {facts['format']}, but this program reads {FORMAT}: use the version of the "
                "program that wrote it"
            )
        try:
            return Stamp(facts["embedding_space"], int(facts["dimension"]), facts["model"])
        except (KeyError, ValueError) as error:
            raise GalleryError(f"{self._path} has no valid {_PREFIX}{error} in its metadata") from error

    def _to_records(self, table: Any, before: int) -> list[Record]:
        lists = table.column("embedding").combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # a table without rows
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
                fault = "is nested too deeply" if isinstance(error, RecursionError) else "is not JSON"
                raise GalleryError(
                    f"{self._path}, row {before + position} (id {row['id']!r}): metadata {fault}"
                ) from error
            one, several = row.pop("thumbnail"), row.pop("thumbnails", None)
            thumbnails = tuple(several or ([] if one is None else [one]))
            records.append(
                Record(
                    **row,
                    embedding=vector,
                    metadata=metadata,
                    thumbnail_count=len(thumbnails),
                    thumbnails=thumbnails,
                )
            )
        return records


def import_records(
    file: RecordFile,
    gallery: Gallery,
    on_conflict: OnConflict = "error",
    on_progress: Progress = lambda _rows: None,
) -> ImportCounts:
    """Enrol the records of a file, about a thousand in one durable step. Records that have expired are left out.

    After an interruption, "skip" continues the import.

    Args:
        file: the records.
        gallery: the gallery in which they are enrolled.
        on_conflict: what happens if an id exists. With "error" nothing is enrolled if one exists or occurs twice in the
            file, and no record is replaced that another client enrols meanwhile.
        on_progress: called after each step.

    Raises:
        GalleryError: the embedding spaces differ (then nothing is changed), a row is invalid, or an id exists.
    """
    if (gallery.embedding_space, gallery.dimension) != (file.stamp.embedding_space, file.stamp.dimension):
        raise GalleryError(
            f"the file has embedding space {file.stamp.embedding_space} and dimension {file.stamp.dimension} (model "
            f"{file.stamp.model_name}), but the gallery has space {gallery.embedding_space} and dimension "
            f"{gallery.dimension}: vectors of different models cannot be compared"
        )
    if on_conflict == "error":
        _refuse_conflicts(file, gallery)
    counts, done = ImportCounts(), 0
    for batch in file.batches():
        now = clock.to_datetime(clock.now())
        wanted = [record for record in batch if record.expires_at is None or record.expires_at > now]
        counts.expired += len(batch) - len(wanted)
        try:
            existing = gallery.enrol(wanted, "replace" if on_conflict == "replace" else "skip")
        except InvalidArgument as error:
            raise GalleryError(
                f"rows {done} to {done + len(batch) - 1} of the file were not enrolled, all rows before them were: "
                f"{error}"
            ) from error
        counts.enrolled += len(wanted) - len(existing)
        if on_conflict == "replace":
            counts.replaced += len(existing)
        else:
            counts.skipped += len(existing)
        done += len(batch)
        if existing and on_conflict == "error":
            raise GalleryError(
                f"another client enrolled {min(existing)!r} meanwhile, and it was not replaced; all others of the "
                f"file's first {done} rows are enrolled. Import again, and skip or replace existing ids"
            )
        on_progress(done)
    return counts


def _refuse_conflicts(file: RecordFile, gallery: Gallery) -> None:
    is_empty, existing, first = not gallery.count(), 0, ""
    seen: set[str] = set()
    for ids in file.ids():
        for id_ in ids:
            if id_ in seen:
                raise GalleryError(f"duplicate id {id_!r} in the file")
            seen.add(id_)
        found = set() if is_empty else _existing(gallery, ids)
        existing, first = existing + len(found), first or min(found, default="")
    if existing:
        raise GalleryError(
            f"{existing} of the file's {file.records} ids are enrolled already, such as {first!r}, so nothing was "
            "changed: skip or replace existing ids"
        )


def _existing(gallery: Gallery, ids: Sequence[str]) -> set[str]:
    """Return which of these ids are enrolled. Asks in parallel, since a server needs milliseconds for each."""
    with ThreadPoolExecutor(_THREADS) as pool:
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
        pa.field("thumbnails", pa.list_(pa.binary())),
    ]
    facts = {
        "format": FORMAT,
        "embedding_space": stamp.embedding_space,
        "dimension": str(stamp.dimension),
        "model": stamp.model_name,
    }
    return pa.schema(fields, {f"{_PREFIX}{key}": value for key, value in facts.items()})


def _paths(schema: Any) -> list[str]:
    return [f"{name}.list.element" if name in ("embedding", "thumbnails") else name for name in schema.names]


def _to_table(records: list[Record], schema: Any, dimension: int) -> Any:
    flat = np.concatenate([record.embedding for record in records] or [np.empty(0, np.float32)])
    columns = []
    for field in schema:
        if field.name == "embedding":
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimension))
        elif field.name == "metadata":
            columns.append(pa.array([json_text(record.metadata) for record in records], field.type))
        elif field.name == "thumbnail":  # the one that is shown alone
            columns.append(pa.array([_middle(record.thumbnails) for record in records], field.type))
        elif field.name == "thumbnails":
            several = [list(record.thumbnails) if len(record.thumbnails) > 1 else None for record in records]
            columns.append(pa.array(several, field.type))
        else:
            columns.append(pa.array([getattr(record, field.name) for record in records], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _middle(thumbnails: Sequence[bytes]) -> bytes | None:
    return thumbnails[len(thumbnails) // 2] if thumbnails else None


def _rows_per_group(dimension: int) -> int:
    return max(1, _ROW_GROUP_BYTES // (4 * dimension))

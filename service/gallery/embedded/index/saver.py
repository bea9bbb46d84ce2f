"""Loads the index from its file and the database at the start, and saves it from time to time."""

import logging
import secrets
import sqlite3
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.allocator import trim_memory
from service.gallery.embedded.database import Stamp
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.centring import CameraSums, Centring
from service.gallery.embedded.index.columns import Columns, FilterValues
from service.gallery.embedded.index.file import Header, IndexFileError
from service.gallery.embedded.index.flat import FlatVectors, Vectors, unit_rows
from service.gallery.embedded.index.gpu import GpuMirror, open_mirror
from service.gallery.embedded.index.index import Index
from service.gallery.embedded.index.rebuild import (
    ROWS_AT_ONCE,
    chunks,
    fits_exact,
    make_vectors,
    read_sample,
    tune_vectors,
)
from service.gallery.embedded.rows import vectors_after, vectors_of, version_of
from service.gallery.embedded.writer import Change, Writer
from service.gallery.records import GalleryBroken, GalleryError

log = logging.getLogger(__name__)

# The index is saved after this many changes if they are also a fifth of all rows.
_MIN_CHANGES_TO_SAVE = 10_000
_CHANGED_MEANWHILE = "the database changed while its index was loaded: another program writes to it"
_PAUSE_FACTOR = 50
"""The next save that is not urgent waits for this many times the duration of the last one."""


@dataclass(frozen=True, slots=True)
class LoadedIndex:
    """An index at the start.

    `token` is that of the file it came from, or `None` if there is no file any more. `unsaved` counts the changes that
    the file lacks.
    """

    index: Index
    token: str | None
    unsaved: int


def load_index(
    connection: sqlite3.Connection,
    directory: Path,
    stamp: Stamp,
    exact_bytes: int,
    gpu_bytes: int = 0,
    camera_centring: bool = False,
) -> LoadedIndex:
    """Load the saved index and bring it up to date with the database, or build it from the database.

    If none was saved and there are too many rows to compare all of them, this trains an index, which takes minutes for
    a million rows. `exact_bytes`, `gpu_bytes` and `camera_centring` are those of `EmbeddedGallery.open`.

    Raises:
        GalleryError: a row of the database has no vector.
    """
    version = version_of(connection)
    columns = _read_columns(connection)
    vectors: Vectors = FlatVectors(stamp.dimension)
    token, removed = None, 0
    index_file.remove_unfinished(directory)  # it may hold vectors that were erased later
    try:
        vectors, token, removed = _load_saved(directory, index_file.accepted_tokens(connection), stamp, columns.numbers)
    except IndexFileError as error:
        log.warning(
            "the saved index %s cannot be used, because %s: building it from %d records",
            directory / index_file.FILE_NAME,
            error,
            columns.size,
        )
        with suppress(IsADirectoryError):
            index_file.remove(directory)  # it may hold vectors that were erased

    def sample(count: int) -> NDArray[np.float32]:
        read = partial(vectors_of, connection, dimension=stamp.dimension)
        return read_sample(columns.numbers, count, stamp.dimension, read)

    unsuitable = isinstance(vectors, FlatVectors) and not fits_exact(columns.size, stamp.dimension, 2 * exact_bytes)
    if unsuitable:
        vectors = make_vectors(columns.size, stamp.dimension, exact_bytes, sample)
    missing = columns.size - len(vectors)
    if missing:
        log.info("reading %d vectors into the index", missing)
        _append_missing(connection, vectors, columns.numbers[len(vectors) :])
    if unsuitable:
        tune_vectors(vectors, sample)
    centring = _sum_up(connection, columns, stamp.dimension) if camera_centring else None
    if centring is not None:
        centring.start(vectors, columns)
    mirror = open_mirror(stamp.dimension, gpu_bytes) if gpu_bytes and centring is None else None
    if mirror is not None:
        _fill_mirror(connection, mirror, columns.numbers, stamp.dimension)
    return LoadedIndex(Index(vectors, columns, version, mirror, centring), token, missing + removed)


def _load_saved(
    directory: Path, tokens: list[str], stamp: Stamp, numbers: NDArray[np.int64]
) -> tuple[Vectors, str | None, int]:
    """Load the file without the rows that were removed after it was saved.

    Returns:
        The vectors of the first of the rows `numbers`, the file's token, and how many rows were removed.
    """
    try:
        vectors, saved, token = index_file.load(directory, tokens, stamp)
    except FileNotFoundError as error:
        if not tokens:
            return FlatVectors(stamp.dimension), None, 0  # none was ever saved
        raise IndexFileError("it is missing") from error
    present = np.isin(saved, numbers)
    if not np.array_equal(saved[present], numbers[: np.count_nonzero(present)]):
        raise IndexFileError("its rows are not those of the database")
    removed = int(np.count_nonzero(~present))
    if removed:
        vectors = vectors.subset(present, nullcontext)
        # Otherwise a crash before the next save would leave erased vectors on the disk.
        index_file.remove(directory)
    return vectors, None if removed else token, removed


def _read_columns(connection: sqlite3.Connection) -> Columns:
    columns = Columns()
    found = connection.execute(
        "SELECT number, camera_id, start_time, end_time, expires_at, created_at FROM tracklets ORDER BY number"
    )
    while chunk := found.fetchmany(ROWS_AT_ONCE):
        columns.append([FilterValues(*row) for row in chunk])
    return columns


def _append_missing(connection: sqlite3.Connection, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
    """Append the vectors of these rows, which are the last rows of the database."""
    for part in chunks(numbers):
        found, rows = vectors_after(connection, int(part[0]) - 1, len(part), vectors.dimension)
        if not np.array_equal(found, part):
            raise GalleryError(_CHANGED_MEANWHILE)
        vectors.append(rows)


def _sum_up(connection: sqlite3.Connection, columns: Columns, dimension: int) -> Centring:
    """Read all vectors to sum up those of each camera: an approximate index does not have them."""
    sums, names = CameraSums(dimension), [*columns.camera_ids, None]
    start = 0
    for part in chunks(columns.numbers):
        found, rows = vectors_after(connection, int(part[0]) - 1, len(part), dimension)
        if not np.array_equal(found, part):
            raise GalleryError(_CHANGED_MEANWHILE)
        sums.add_all([names[code] for code in columns.cameras[start : start + len(part)]], rows)
        start += len(part)
    return Centring(sums)


def _fill_mirror(connection: sqlite3.Connection, mirror: GpuMirror, numbers: NDArray[np.int64], dimension: int) -> None:
    for part in chunks(numbers):
        found, rows = vectors_of(connection, part, dimension)
        mirror.append(found, unit_rows(rows))
        if not mirror.in_use:
            return


class IndexSaver:
    """Saves the index after many changes, after an erasure, and when the gallery closes.

    A failure is only logged, because the index can always be built from the database. The old file is then removed:
    that frees its space, and no erased vector stays in it.
    """

    def __init__(self, directory: Path, stamp: Stamp, loaded: LoadedIndex, writer: Writer) -> None:
        self._directory = directory
        self._stamp = stamp
        self._index = loaded.index
        self._writer = writer
        self._condition = threading.Condition()
        self._requested = False
        self._urgent = False
        self._not_before = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._token = loaded.token
        self._failed = False
        """Whether the last save failed."""
        self._unsaved = loaded.unsaved
        self._removed = 0
        """Of the unsaved changes, the removals: their rows may still be in the file. `load_index` has left none."""

    def on_commit(self, added: int, removed: int) -> None:
        """Count changes, and request a save before the next start would have to read many vectors.

        These saves are urgent, unless the last one failed: there are enough changes between two of them that the disk
        is not kept busy.
        """
        with self._condition:
            self._unsaved += added + removed
            self._removed += removed
            due = self._unsaved >= max(_MIN_CHANGES_TO_SAVE, len(self._index) // 5)
        if due:
            self.request(urgent=not self._failed)

    def request(self, *, urgent: bool = False) -> None:
        """Have the index saved in the background, now or later.

        A save that is not `urgent` waits for fifty times the duration of the last one. Otherwise a large gallery whose
        records expire one by one would be written every minute.
        """
        with self._condition:
            if self._closed:
                return
            self._requested = True
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._start()
            self._condition.notify_all()

    def request_purge(self, *, urgent: bool) -> None:
        """Request a save if rows that were removed may still be in the file."""
        with self._condition:
            if self._removed:
                self.request(urgent=urgent)

    def close(self) -> None:
        """Wait for a running save, then save the changes after it."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        if self._unsaved:
            self._save()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="gallery-index-saver", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the change is committed, so its caller must not see an error
            log.warning("the index cannot be saved now: %s", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._closed and (left := self._seconds_left()) != 0:
                        self._condition.wait(left)
                    if self._closed:
                        return
                    self._requested = self._urgent = False
                start = time.monotonic()
                self._save()
                self._not_before = time.monotonic() + _PAUSE_FACTOR * (time.monotonic() - start)
        finally:
            with self._condition:
                self._thread = None

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next save, or `None` if none is requested."""
        if not self._requested:
            return None
        return 0 if self._urgent else max(0, self._not_before - time.monotonic())

    def _save(self) -> None:
        try:
            self._index.check()
        except GalleryBroken:  # the file is newer than a broken index
            return
        token = secrets.token_hex(16)

        def expect_token(connection: sqlite3.Connection, change: Change) -> None:
            connection.execute("UPDATE gallery SET index_token = ?, next_index_token = ?", (self._token, token))
            change.other = True

        with self._condition:
            unsaved, self._unsaved = self._unsaved, 0
            removed, self._removed = self._removed, 0
        try:
            vectors, alive, numbers = self._index.live_rows()
            # The order matters. The token is committed after the rows were chosen, so every database with this token,
            # also one restored from a backup, is newer than these rows. It is committed before the file is replaced,
            # so the database accepts the old and the new file, whichever a crash leaves.
            self._writer.run(expect_token)
            space, dimension = self._stamp.embedding_space, self._stamp.dimension
            header = Header(token, space, dimension, len(numbers), vectors.kind, vectors.parameters())
            index_file.save(self._directory, header, numbers, vectors.serialise(alive, self._index.read_lock))
            self._token, self._failed = token, False
            trim_memory()
        except Exception as error:  # noqa: BLE001 (a thread that ended would not save again, nor remove erased vectors)
            log.warning(
                "the index could not be saved; it is saved or built again later: %s", str(error) or type(error).__name__
            )
            self._token = None
            with self._condition:
                self._failed, self._urgent = True, False  # also what was requested during this save waits
                self._unsaved += unsaved
                self._removed += removed
            try:
                self._writer.storage.check_identity()  # the file of another gallery must stay
                index_file.remove(self._directory)
            except (GalleryError, OSError) as remove_error:
                log.warning("the old index file could not be removed either: %s", remove_error)

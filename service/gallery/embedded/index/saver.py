"""From the database and the saved index to a loaded one, and back to the disk now and then."""

import logging
import secrets
import sqlite3
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.database import Stamp
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.columns import Columns, Entry
from service.gallery.embedded.index.file import Header, IndexFileError
from service.gallery.embedded.index.flat import FlatVectors, Vectors, unit_rows
from service.gallery.embedded.index.gpu import GpuMirror, open_mirror
from service.gallery.embedded.index.index import Index
from service.gallery.embedded.index.malloc import give_back_freed
from service.gallery.embedded.index.rebuild import draw, fits_exact, make_vectors, tune_vectors
from service.gallery.embedded.stored_vectors import read_after, read_some
from service.gallery.embedded.writer import Change, Writer
from service.gallery.records import GalleryBroken, GalleryError

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 4096
# The index is saved again once this many rows, and a fifth of all, came or went.
_FEWEST_CHANGES_TO_SAVE = 10_000
_PAUSE = 50
"""Times as long as a save took, before the next one that is not urgent."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An index, the token of the file it came from (`None` for none that may stay), and how far that was behind."""

    index: Index
    token: str | None
    behind: int


def load_index(
    connection: sqlite3.Connection, directory: Path, stamp: Stamp, exact_bytes: int, gpu_bytes: int = 0
) -> Loaded:
    """The index of exactly the rows in the database: as saved and brought up to date, else built anew.

    Where none was saved and the rows are too many to compare all of them, this trains one, which takes minutes for a
    million. With `gpu_bytes` a GPU, where FAISS finds one, gets a copy of at most so many bytes. Raises `GalleryError`
    where a row of the database is without its vector.
    """
    version, *tokens = connection.execute("SELECT version, index_token, next_index_token FROM gallery").fetchone()
    columns = _read_columns(connection)
    vectors: Vectors = FlatVectors(stamp.dimension)
    token, gone = None, 0
    # Left of a save that was killed; it may have vectors that were erased since.
    index_file.remove_part(directory)
    try:
        vectors, token, gone = _load_saved(directory, [known for known in tokens if known], stamp, columns.numbers)
    except IndexFileError as error:
        log.warning(
            "the saved index %s cannot be used, because %s: building it anew from %d records",
            directory / index_file.FILE_NAME,
            error,
            columns.size,
        )
        with suppress(IsADirectoryError):
            index_file.remove(directory)  # for all one knows it has what was erased

    def sample(count: int) -> NDArray[np.float32]:
        chosen = draw(columns.numbers, count)
        starts = range(0, len(chosen), _ROWS_AT_ONCE)
        return np.concatenate(
            [read_some(connection, chosen[start : start + _ROWS_AT_ONCE], stamp.dimension)[1] for start in starts]
        )

    unsuitable = isinstance(vectors, FlatVectors) and not fits_exact(columns.size, stamp.dimension, 2 * exact_bytes)
    if unsuitable:
        vectors = make_vectors(columns.size, stamp.dimension, exact_bytes, sample)
    missing = columns.size - len(vectors)
    if missing:
        log.info("reading %d vectors into the index", missing)
        _append_missing(connection, vectors, columns.numbers[len(vectors) :])
    if unsuitable:
        tune_vectors(vectors, sample)
    mirror = open_mirror(stamp.dimension, gpu_bytes) if gpu_bytes else None
    if mirror is not None:
        _fill_mirror(connection, mirror, columns.numbers, stamp.dimension)
    return Loaded(Index(vectors, columns, version, mirror), token, missing + gone)


def _load_saved(
    directory: Path, tokens: list[str], stamp: Stamp, numbers: NDArray[np.int64]
) -> tuple[Vectors, str | None, int]:
    """The saved vectors of the first of these rows, the file's token, and how many rows in it are gone since."""
    try:
        vectors, saved, token = index_file.load(directory, tokens, stamp.embedding_space, stamp.dimension)
    except FileNotFoundError as error:
        if not tokens:
            return FlatVectors(stamp.dimension), None, 0  # none was saved so far
        raise IndexFileError("it is missing") from error
    kept = np.isin(saved, numbers)
    if not np.array_equal(saved[kept], numbers[: np.count_nonzero(kept)]):
        raise IndexFileError("its rows are not the database's")
    gone = int(np.count_nonzero(~kept))
    if gone:
        vectors = vectors.kept(kept, nullcontext)
        # Whoever was erased shall not stay in the file because of a crash before it was next saved.
        index_file.remove(directory)
    return vectors, None if gone else token, gone


def _read_columns(connection: sqlite3.Connection) -> Columns:
    columns = Columns()
    found = connection.execute(
        "SELECT number, camera_id, start_time, end_time, expires_at FROM tracklets ORDER BY number"
    )
    while chunk := found.fetchmany(_ROWS_AT_ONCE):
        columns.append([Entry(*row) for row in chunk])
    return columns


def _append_missing(connection: sqlite3.Connection, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
    """Append the vectors of these rows, which are the last ones, chunk by chunk."""
    for start in range(0, len(numbers), _ROWS_AT_ONCE):
        chunk = numbers[start : start + _ROWS_AT_ONCE]
        found, rows = read_after(connection, int(chunk[0]) - 1, len(chunk), vectors.dimension)
        if not np.array_equal(found, chunk):
            raise GalleryError("the database changed while its index was loaded: another program writes to it")
        vectors.append(rows)


def _fill_mirror(connection: sqlite3.Connection, mirror: GpuMirror, numbers: NDArray[np.int64], dimension: int) -> None:
    for start in range(0, len(numbers), _ROWS_AT_ONCE):
        chunk = numbers[start : start + _ROWS_AT_ONCE]
        found, rows = read_some(connection, chunk, dimension)
        mirror.append(found, unit_rows(rows))
        if not mirror.in_use:
            return


class IndexSaver:
    """Writes the index to disk after many changes, after an erasure, and at the end.

    A save that fails is only logged, since the index can always be built from the database, and takes the old file
    with it: that frees its space, and leaves nothing of what was erased.
    """

    def __init__(self, directory: Path, stamp: Stamp, loaded: Loaded, writer: Writer) -> None:
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
        self._unsaved = loaded.behind
        # Of these, removed ones that the file in place may have. What it had at the start was taken out or is there.
        self._removed = 0

    def note(self, added: int, removed: int) -> None:
        """Count rows that came or went, and have the index saved before a start would have to read many of them.

        That does not keep the disk busy, for each save has a fifth of all rows behind it; but where the last one failed
        the next is put off as any other.
        """
        with self._condition:
            self._unsaved += added + removed
            self._removed += removed
            due = self._unsaved >= max(_FEWEST_CHANGES_TO_SAVE, len(self._index) // 5)
        if due:
            self.request(urgent=self._token is not None)

    def request(self, *, urgent: bool = False) -> None:
        """Have the index saved in the background, as it is now or later.

        Unless it is `urgent`, the disk is not kept busy with it: between two saves there is fifty times as long as one
        takes. Without that, a large gallery whose records expire one by one would be written every minute.
        """
        with self._condition:
            if self._closed:
                return
            self._requested = True
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._start()
            self._condition.notify_all()

    def request_without_removed(self, *, urgent: bool) -> None:
        """`request`, unless the file in place has nothing that was removed."""
        with self._condition:
            if self._removed:
                self.request(urgent=urgent)

    def close(self) -> None:
        """Wait for a save under way, and save what changed since."""
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
        except RuntimeError as error:  # what it was called for is committed already
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
                self._not_before = time.monotonic() + _PAUSE * (time.monotonic() - start)
        finally:
            with self._condition:
                self._thread = None

    def _seconds_left(self) -> float | None:
        """Until the next save; `None` where none is wanted."""
        if not self._requested:
            return None
        return 0 if self._urgent else max(0, self._not_before - time.monotonic())

    def _save(self) -> None:
        try:
            self._index.check()
        except GalleryBroken:  # the file in place is the better one
            return
        token = secrets.token_hex(16)

        def expect(connection: sqlite3.Connection, change: Change) -> None:
            connection.execute("UPDATE gallery SET index_token = ?, next_index_token = ?", (self._token, token))
            change.other = True

        with self._condition:
            unsaved, self._unsaved = self._unsaved, 0
            removed, self._removed = self._removed, 0
        try:
            vectors, alive, numbers = self._index.living()
            # Told after this and before the file takes its place: every database that expects this token, a restored
            # backup too, is later than these rows, and a crash on the way leaves the old file or the new one, both
            # known.
            self._writer.run(expect)
            facts = Header(
                token, self._stamp.embedding_space, self._stamp.dimension, len(numbers), vectors.kind, vectors.facts()
            )
            index_file.save(self._directory, facts, numbers, vectors.pieces(alive, self._index.hold))
            self._token = token
            give_back_freed()
        except Exception as error:  # noqa: BLE001 (a thread that ended would never save again, nor take out the erased)
            log.warning(
                "the index could not be saved; with the next save, or at the next start, it will be made anew: %s",
                str(error) or type(error).__name__,
            )
            self._token = None
            with self._condition:
                self._unsaved += unsaved
                self._removed += removed
            self._forget()

    def _forget(self) -> None:
        try:
            index_file.remove(self._directory)
        except OSError as error:
            log.warning("the old index file could not be removed either: %s", error)

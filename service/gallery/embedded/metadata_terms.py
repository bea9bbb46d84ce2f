"""A cache of the rows that have a metadata term, so that a search does not read all of them from the database."""

import sqlite3
import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from service.gallery.embedded.index.columns import enlarged

_CAPACITY = 8_000_000
"""Row numbers that are kept for all terms together, eight bytes each."""
_MIN_CACHED_ROWS = 1000
"""Terms with fewer rows are not cached, because reading them takes no time."""
_MAX_VERSIONS = 256
"""Versions that are distinguished for each term; rows read at an older version count as read at the oldest of these."""


class MetadataTerms:
    """The row numbers of the most recently used terms, safe for threads.

    Row numbers are given in the order of commits and never used twice, and a row never changes. So all new rows of a
    term have greater numbers than those that were read, and only they are read. Removed rows stay in the answer,
    because the index knows that they are dead.

    Searches read snapshots of different versions at the same time. A newer snapshot may lack rows that are still
    enrolled in an older one. Therefore each part of a term is kept with the version it was read from, and a snapshot
    uses only parts of its own or an older version.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._cached: OrderedDict[bytes, _TermRows] = OrderedDict()
        self._size = 0

    def numbers(self, connection: sqlite3.Connection, digest: bytes, version: int) -> NDArray[np.int64]:
        """Return the numbers of all rows with this term in a snapshot.

        Args:
            connection: the snapshot.
            digest: the term, from `terms_of`.
            version: the snapshot's version.

        Returns:
            Row numbers `[n]`, ascending, which must not be written to. Some may be of rows that are removed, or
            enrolled after the snapshot.
        """
        with self._lock:
            term = self._cached.get(digest)
            if term is not None:
                self._cached.move_to_end(digest)
            known = np.empty(0, np.int64) if term is None else term.until(version)
        new = _read(connection, digest, int(known[-1]) if len(known) else 0)
        if term is not None and not len(new):
            return known
        with self._lock:
            if term is None and len(new) >= _MIN_CACHED_ROWS and digest not in self._cached:
                term = self._cached[digest] = _TermRows()
            if term is not None and self._cached.get(digest) is term and term.size == len(known):
                self._size -= len(term.buffer)
                term.append(new, version)
                self._size += len(term.buffer)
                self._evict()
                return term.until(version)
        return np.concatenate([known, new])

    def _evict(self) -> None:
        """Drop the least recently used terms until the rest fits, also a term that is too large by itself."""
        while self._size > self._capacity:
            _, term = self._cached.popitem(last=False)
            self._size -= len(term.buffer)


class _TermRows:
    """The row numbers of one term, in a buffer whose first `size` elements never change."""

    def __init__(self) -> None:
        self.buffer: NDArray[np.int64] = np.empty(0, np.int64)
        self.size = 0
        self._versions: list[tuple[int, int]] = []
        """Versions, and how many numbers had been read at each; both ascending."""

    def until(self, version: int) -> NDArray[np.int64]:
        """Return the numbers that were read at this or an older version."""
        count = bisect_right(self._versions, version, key=itemgetter(0))
        return self.buffer[: self._versions[count - 1][1] if count else 0]

    def append(self, new: NDArray[np.int64], version: int) -> None:
        size = self.size + len(new)
        if size > len(self.buffer):
            # Callers that have a view of the old buffer keep it.
            self.buffer = enlarged(self.buffer, size + size // 4)
        self.buffer[self.size : size] = new
        self.size = size
        self._versions.append((version, size))
        del self._versions[:-_MAX_VERSIONS]


def _read(connection: sqlite3.Connection, digest: bytes, after: int) -> NDArray[np.int64]:
    # As one text: a million rows through Python's cursor take three times as long and block other threads.
    text = connection.execute(
        "SELECT group_concat(number) FROM (SELECT number FROM metadata_terms WHERE digest = ? AND number > ? "
        "ORDER BY number)",
        (digest, after),
    ).fetchone()[0]
    if text is None:
        return np.empty(0, np.int64)
    numbers: NDArray[np.int64] = np.fromstring(text, np.int64, sep=",")
    return numbers

"""Which rows have a metadata term, kept in memory: a filter that most rows pass is not read through at every search."""

import sqlite3
import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

_CAPACITY = 8_000_000
"""Numbers that are kept of all terms together, eight bytes each."""
_FEWEST = 1000
"""Numbers of a term that is worth keeping; fewer are read in no time."""
_MARKS = 256
"""Parts of a term whose version is known; the oldest ones count as of a later version together."""


class Terms:
    """The row numbers of the terms that were asked for last, safe for threads.

    A number is never given twice and what it stands for never changes, and numbers are given in the order of commits.
    So the rows that a term gains all lie behind those that were read, and only they are read again. Rows that it loses
    stay in the answer: nothing is told about them but a number, and the index knows that they are gone.

    Snapshots of several versions of the database ask side by side. What a later one has read may lack rows that were
    removed since an earlier one, in which they are still enrolled. Therefore each part that was read bears its version,
    and a snapshot takes only those up to its own.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, _Term] = OrderedDict()
        self._room = 0

    def numbers(self, connection: sqlite3.Connection, digest: bytes, version: int) -> NDArray[np.int64]:
        """The numbers `[n]`, ascending, of all rows with this term in the snapshot of `connection`, and of some others.

        `version` is the snapshot's. The others are rows that are removed, or enrolled later. Not to be written to.
        """
        with self._lock:
            term = self._known.get(digest)
            if term is not None:
                self._known.move_to_end(digest)
            known = np.empty(0, np.int64) if term is None else term.until(version)
        new = _read(connection, digest, int(known[-1]) if len(known) else 0)
        if term is not None and not len(new):
            return known
        with self._lock:
            if term is None and len(new) >= _FEWEST and digest not in self._known:
                term = self._known[digest] = _Term()
            if term is not None and self._known.get(digest) is term and term.size == len(known):
                self._room -= len(term.room)
                term.append(new, version)
                self._room += len(term.room)
                self._forget()
                return term.until(version)
        return np.concatenate([known, new])

    def _forget(self) -> None:
        """Drop the terms that were not asked for the longest, until the rest has room; a term too large for it, too."""
        while self._room > self._capacity:
            _, term = self._known.popitem(last=False)
            self._room -= len(term.room)


class _Term:
    """Numbers in an array with room behind them; what lies before `size` never changes."""

    def __init__(self) -> None:
        self.room: NDArray[np.int64] = np.empty(0, np.int64)
        self.size = 0
        # At which version the numbers up to which place had been read, both ascending.
        self._marks: list[tuple[int, int]] = []

    def until(self, version: int) -> NDArray[np.int64]:
        """What was read up to a version; nothing for one that is older than all marks."""
        mark = bisect_right(self._marks, version, key=itemgetter(0))
        return self.room[: self._marks[mark - 1][1] if mark else 0]

    def append(self, new: NDArray[np.int64], version: int) -> None:
        """Add what was read behind the last number."""
        size = self.size + len(new)
        if size > len(self.room):
            # Those who have a part of the old one keep it.
            grown = np.empty(size + size // 4, np.int64)
            grown[: self.size] = self.room[: self.size]
            self.room = grown
        self.room[self.size : size] = new
        self.size = size
        self._marks.append((version, size))
        del self._marks[:-_MARKS]


def _read(connection: sqlite3.Connection, digest: bytes, after: int) -> NDArray[np.int64]:
    # As one text, because a million rows through Python's cursor take three times as long, and hold up other threads.
    text = connection.execute(
        "SELECT group_concat(number) FROM (SELECT number FROM metadata_terms WHERE digest = ? AND number > ? "
        "ORDER BY number)",
        (digest, after),
    ).fetchone()[0]
    if text is None:
        return np.empty(0, np.int64)
    numbers: NDArray[np.int64] = np.fromstring(text, np.int64, sep=",")
    return numbers

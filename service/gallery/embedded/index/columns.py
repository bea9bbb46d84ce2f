"""The filter's columns in memory, row for row beside the vectors of the index."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)

# A record without times: later than any `before`, earlier than any `after`.
_NEVER_STARTS = np.iinfo(np.int64).max
_NEVER_ENDS = np.iinfo(np.int64).min
_NEVER_EXPIRES = np.iinfo(np.int64).max
_NO_CAMERA = -1
_WIDEST_TABLE = 8
"""Times as many numbers as rows that are looked up in a table: in a byte for each number."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row's number and what filters ask about it; times in microseconds since 1970."""

    number: int
    camera_id: str | None
    start_time: int | None
    end_time: int | None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Conditions on rows, as `Filter` means them: times in microseconds, `only` and `without` numbers that SQL found.

    Each of `only` is the ascending numbers of the rows of one condition, all of which must hold.
    """

    now: int
    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: int | None = None
    before: int | None = None
    only: tuple[NDArray[np.int64], ...] = ()
    without: NDArray[np.int64] | None = None


class Columns:
    """Number, camera and times of every row, in ascending order of numbers.

    A removed row keeps its position, marked dead: positions are those of the vectors in the index, and moving gigabytes
    for one deletion would stop all searches. `at` makes columns without it. Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self.size = 0
        self.living = 0
        self._codes: dict[str, int] = {}
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._cameras: NDArray[np.int32] = np.empty(0, np.int32)
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        self._expiries: NDArray[np.int64] = np.empty(0, np.int64)
        self._first_expiry = _NEVER_EXPIRES
        self._alive: NDArray[np.bool_] = np.empty(0, np.bool_)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The number at every position `[size]`, ascending, dead ones included."""
        return self._numbers[: self.size]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which positions hold a row that is still enrolled `[size]`."""
        return self._alive[: self.size]

    def append(self, entries: Sequence[Entry]) -> None:
        """Add rows whose numbers are greater than all before."""
        end = self.size + len(entries)
        self._reserve(end)
        new = slice(self.size, end)
        self._numbers[new] = [entry.number for entry in entries]
        self._cameras[new] = [self._code(entry.camera_id) for entry in entries]
        self._starts[new] = [_first(entry.start_time, entry.end_time, _NEVER_STARTS) for entry in entries]
        self._ends[new] = [_first(entry.end_time, entry.start_time, _NEVER_ENDS) for entry in entries]
        expiries = [_NEVER_EXPIRES if entry.expires_at is None else entry.expires_at for entry in entries]
        self._expiries[new] = expiries
        self._first_expiry = min(self._first_expiry, *expiries, _NEVER_EXPIRES)
        self._alive[new] = True
        self.size = end
        self.living += len(entries)

    def remove(self, numbers: Sequence[int]) -> None:
        """Mark rows dead. Every number must be a living row's."""
        positions = np.searchsorted(self.numbers, np.array(numbers, np.int64))
        self._alive[positions] = False
        self.living -= len(numbers)
        if (self._expiries[positions] <= self._first_expiry).any():  # else every search would look for expired rows
            self._first_expiry = self._earliest_expiry()

    def at(self, numbers: NDArray[np.int64]) -> "Columns":
        """The columns of these rows, ascending numbers that are all here, dead ones included."""
        kept = np.searchsorted(self.numbers, numbers)
        columns = Columns()
        columns._codes = dict(self._codes)
        columns._numbers = self._numbers[kept]
        columns._cameras = self._cameras[kept]
        columns._starts = self._starts[kept]
        columns._ends = self._ends[kept]
        columns._expiries = self._expiries[kept]
        columns._alive = self._alive[kept]
        columns.size = len(numbers)
        columns._first_expiry = columns._earliest_expiry()
        columns.living = int(np.count_nonzero(columns._alive))
        if not np.array_equal(columns._numbers, numbers):
            raise ValueError("rows that never were here")
        return columns

    def _earliest_expiry(self) -> int:
        return int(self._expiries[: self.size].min(initial=_NEVER_EXPIRES, where=self.alive))

    def unexpired(self, now: int) -> int:
        """How many living rows have not expired."""
        if now < self._first_expiry:
            return self.living
        return int(np.count_nonzero(self.alive & (self._expiries[: self.size] > now)))

    def mask(self, selection: RowFilter) -> NDArray[np.bool_] | None:
        """Which positions pass `[size]`; `None` where all do."""
        conditions = self._conditions(selection)
        passing = next(conditions, None)
        if passing is not None:
            for condition in conditions:
                passing &= condition
        return passing

    def _conditions(self, selection: RowFilter) -> Iterator[NDArray[np.bool_]]:
        """One after the other, each its own array, what not every row passes."""
        if self.living < self.size:
            yield self.alive.copy()
        if selection.now >= self._first_expiry:
            yield self._expiries[: self.size] > selection.now
        if selection.camera_ids is not None:
            yield self._of_cameras(selection.camera_ids)
        if selection.exclude_camera_ids:
            yield ~self._of_cameras(selection.exclude_camera_ids)
        if selection.after is not None:
            yield self._ends[: self.size] >= selection.after
        if selection.before is not None:
            yield self._starts[: self.size] <= selection.before
        for numbers in selection.only:
            yield self._of_numbers(numbers)
        if selection.without is not None and len(selection.without):
            yield ~self._of_numbers(selection.without)

    def _of_cameras(self, camera_ids: Iterable[str]) -> NDArray[np.bool_]:
        wanted = np.zeros(len(self._codes) + 1, np.bool_)  # the last is that of rows without a camera
        wanted[self._known(camera_ids)] = True
        passing: NDArray[np.bool_] = wanted[self._cameras[: self.size]]
        return passing

    def _of_numbers(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not self.size:
            return np.zeros(0, np.bool_)
        first, last = int(self._numbers[0]), int(self._numbers[self.size - 1])
        numbers = numbers[slice(*np.searchsorted(numbers, (first, last + 1)))]
        if last - first < _WIDEST_TABLE * self.size:  # a table by number takes a tenth of the time of a search for each
            table = np.zeros(last - first + 1, np.bool_)
            table[numbers - first] = True
            looked_up: NDArray[np.bool_] = table[self.numbers - first]
            return looked_up
        passing = np.zeros(self.size, np.bool_)
        places = np.searchsorted(self.numbers, numbers)
        passing[places[self._numbers[places] == numbers]] = True
        return passing

    def _known(self, camera_ids: Iterable[str]) -> NDArray[np.int32]:
        return np.array([self._codes[name] for name in camera_ids if name in self._codes], np.int32)

    def _code(self, camera_id: str | None) -> int:
        if camera_id is None:
            return _NO_CAMERA
        return self._codes.setdefault(camera_id, len(self._codes))

    def _reserve(self, size: int) -> None:
        if size <= len(self._numbers):
            return
        room = max(size, 2 * len(self._numbers), 1024)
        self._numbers = _grown(self._numbers, room)
        self._cameras = _grown(self._cameras, room)
        self._starts = _grown(self._starts, room)
        self._ends = _grown(self._ends, room)
        self._expiries = _grown(self._expiries, room)
        self._alive = _grown(self._alive, room)


def _grown(column: NDArray[S], room: int) -> NDArray[S]:
    grown: NDArray[S] = np.empty(room, column.dtype)
    grown[: len(column)] = column
    return grown


def _first(preferred: int | None, otherwise: int | None, neither: int) -> int:
    if preferred is not None:
        return preferred
    return neither if otherwise is None else otherwise

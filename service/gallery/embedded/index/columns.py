"""What filters ask about each row, in memory: one array for each column, in the order of the index's vectors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.gallery.checks import DAY, DailyWindow
from service.gallery.clock import to_datetime
from service.gallery.records import CameraSummary

S = TypeVar("S", bound=np.generic)

# A record without times starts after every `before` and ends before every `after`.
_NEVER_STARTS = np.iinfo(np.int64).max
_NEVER_ENDS = np.iinfo(np.int64).min
_NEVER_EXPIRES = np.iinfo(np.int64).max
_NO_CAMERA = -1
_MAX_TABLE_FACTOR = 8
"""Row numbers are looked up in a table of bytes if it has at most this many bytes for each row."""


@dataclass(frozen=True, slots=True)
class FilterValues:
    """One row's number and the values that filters ask about; times in microseconds since 1970."""

    number: int
    camera_id: str | None
    start_time: int | None
    end_time: int | None
    expires_at: int | None = None
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A `Filter` in the terms of the index: times in microseconds, metadata and ids as row numbers.

    `term_rows` has the rows of each metadata term, ascending; a row must be in all of them. Rows in `exclude_rows` and
    rows that have expired at `now` do not pass.
    """

    now: int
    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: int | None = None
    before: int | None = None
    term_rows: tuple[NDArray[np.int64], ...] = ()
    exclude_rows: NDArray[np.int64] | None = None
    created_after: int | None = None
    created_before: int | None = None
    without_time: bool = False
    daily: DailyWindow | None = None


class Columns:
    """Number, camera and times of every row, in ascending order of numbers. Not safe for threads.

    A removed row keeps its position and is marked dead: positions are the same as in the vectors, and moving gigabytes
    for one deletion would stop all searches. `subset` makes a copy without it.
    """

    def __init__(self) -> None:
        self.size = 0
        self.live = 0
        self._camera_codes: dict[str, int] = {}
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._cameras: NDArray[np.int32] = np.empty(0, np.int32)
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
        self._expiries: NDArray[np.int64] = np.empty(0, np.int64)
        self._created: NDArray[np.int64] = np.empty(0, np.int64)
        self._first_expiry = _NEVER_EXPIRES
        self._alive: NDArray[np.bool_] = np.empty(0, np.bool_)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The row number at every position `[size]`, ascending, dead rows included."""
        return self._numbers[: self.size]

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which positions hold a row that is not removed `[size]`."""
        return self._alive[: self.size]

    @property
    def cameras(self) -> NDArray[np.int32]:
        """The code of the camera at every position `[size]`: its index in `camera_ids`, or -1 without a camera."""
        return self._cameras[: self.size]

    @property
    def camera_ids(self) -> list[str]:
        """The cameras by their codes, also those whose rows were all removed."""
        return list(self._camera_codes)

    def camera_code(self, camera_id: str | None) -> int:
        """Return the code of a camera; -1 if there is none or the columns do not know it."""
        return _NO_CAMERA if camera_id is None else self._camera_codes.get(camera_id, _NO_CAMERA)

    def append(self, rows: Sequence[FilterValues]) -> None:
        """Add rows. Their numbers must ascend and be greater than all numbers so far."""
        end = self.size + len(rows)
        self._reserve(end)
        new = slice(self.size, end)
        self._numbers[new] = [row.number for row in rows]
        self._cameras[new] = [self._new_camera_code(row.camera_id) for row in rows]
        self._starts[new] = [_first_known(row.start_time, row.end_time, _NEVER_STARTS) for row in rows]
        self._ends[new] = [_first_known(row.end_time, row.start_time, _NEVER_ENDS) for row in rows]
        expiries = [_NEVER_EXPIRES if row.expires_at is None else row.expires_at for row in rows]
        self._expiries[new] = expiries
        self._first_expiry = min(self._first_expiry, *expiries, _NEVER_EXPIRES)
        self._created[new] = [row.created_at for row in rows]
        self._alive[new] = True
        self.size = end
        self.live += len(rows)

    def remove(self, numbers: Sequence[int]) -> None:
        """Mark rows dead. All of them must be live."""
        positions = np.searchsorted(self.numbers, np.array(numbers, np.int64))
        self._alive[positions] = False
        self.live -= len(numbers)
        # Otherwise every later search would look for expired rows that are gone.
        if (self._expiries[positions] <= self._first_expiry).any():
            self._first_expiry = self._earliest_expiry()

    def subset(self, numbers: NDArray[np.int64]) -> "Columns":
        """Copy the columns of some rows `[N]`, ascending; dead rows may be among them.

        Raises:
            ValueError, IndexError: a row is not in these columns.
        """
        positions = np.searchsorted(self.numbers, numbers)
        columns = Columns()
        columns._camera_codes = dict(self._camera_codes)
        columns._numbers = self._numbers[positions]
        columns._cameras = self._cameras[positions]
        columns._starts = self._starts[positions]
        columns._ends = self._ends[positions]
        columns._expiries = self._expiries[positions]
        columns._created = self._created[positions]
        columns._alive = self._alive[positions]
        columns.size = len(numbers)
        columns._first_expiry = columns._earliest_expiry()
        columns.live = int(np.count_nonzero(columns._alive))
        if not np.array_equal(columns._numbers, numbers):
            raise ValueError("some of these row numbers are not in the columns")
        return columns

    def count_unexpired(self, now: int) -> int:
        """Count the live rows that have not expired."""
        if now < self._first_expiry:
            return self.live
        return int(np.count_nonzero(self.alive & (self._expiries[: self.size] > now)))

    def summarise_cameras(self, now: int) -> list[CameraSummary]:
        """Return each camera of the rows that have not expired, by its id; rows without a camera come last."""
        counted = self.alive & (self._expiries[: self.size] > now)
        codes = self.cameras[counted]
        starts, ends = self._starts[: self.size][counted], self._ends[: self.size][counted]
        slots = len(self._camera_codes) + 1  # the last one is for _NO_CAMERA
        counts = np.bincount(codes % slots, minlength=slots)
        first, last = np.full(slots, _NEVER_STARTS), np.full(slots, _NEVER_ENDS)
        np.minimum.at(first, codes, starts)
        np.maximum.at(last, codes, ends)
        return [
            CameraSummary(
                name,
                int(counts[code]),
                None if first[code] == _NEVER_STARTS else to_datetime(int(first[code])),
                None if last[code] == _NEVER_ENDS else to_datetime(int(last[code])),
            )
            for name, code in [*sorted(self._camera_codes.items()), (None, _NO_CAMERA)]
            if counts[code]
        ]

    def mask(self, row_filter: RowFilter) -> NDArray[np.bool_] | None:
        """Return which positions pass `[size]`, or `None` if all pass."""
        conditions = self._conditions(row_filter)
        passing = next(conditions, None)
        if passing is not None:
            for condition in conditions:
                passing &= condition
        return passing

    def _earliest_expiry(self) -> int:
        return int(self._expiries[: self.size].min(initial=_NEVER_EXPIRES, where=self.alive))

    def _conditions(self, row_filter: RowFilter) -> Iterator[NDArray[np.bool_]]:
        """Yield one new array for each condition that some rows may not meet."""
        if self.live < self.size:
            yield self.alive.copy()
        if row_filter.now >= self._first_expiry:
            yield self._expiries[: self.size] > row_filter.now
        if row_filter.camera_ids is not None:
            yield self._has_camera(row_filter.camera_ids)
        if row_filter.exclude_camera_ids:
            yield ~self._has_camera(row_filter.exclude_camera_ids)
        if row_filter.after is not None:
            yield self._ends[: self.size] >= row_filter.after
        if row_filter.before is not None:
            yield self._starts[: self.size] <= row_filter.before
        if row_filter.without_time:
            yield self._starts[: self.size] == _NEVER_STARTS
        if row_filter.daily is not None:
            yield self._touches(row_filter.daily)
        if row_filter.created_after is not None:
            yield self._created[: self.size] >= row_filter.created_after
        if row_filter.created_before is not None:
            yield self._created[: self.size] <= row_filter.created_before
        for numbers in row_filter.term_rows:
            yield self._has_number(numbers)
        if row_filter.exclude_rows is not None and len(row_filter.exclude_rows):
            yield ~self._has_number(row_filter.exclude_rows)

    def _touches(self, window: DailyWindow) -> NDArray[np.bool_]:
        starts, ends = self._starts[: self.size], self._ends[: self.size]
        timed = starts != _NEVER_STARTS
        since = (np.where(timed, starts, 0) - window.start) % DAY
        lasts = np.where(timed, ends - np.where(timed, starts, 0), 0)
        passing: NDArray[np.bool_] = timed & ((since <= window.length) | (since + lasts >= DAY))
        return passing

    def _has_camera(self, camera_ids: Iterable[str]) -> NDArray[np.bool_]:
        codes = [self._camera_codes[name] for name in camera_ids if name in self._camera_codes]
        wanted = np.zeros(len(self._camera_codes) + 1, np.bool_)  # the last element is for _NO_CAMERA
        wanted[np.array(codes, np.int32)] = True
        passing: NDArray[np.bool_] = wanted[self._cameras[: self.size]]
        return passing

    def _has_number(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not self.size:
            return np.zeros(0, np.bool_)
        first, last = int(self._numbers[0]), int(self._numbers[self.size - 1])
        numbers = numbers[slice(*np.searchsorted(numbers, (first, last + 1)))]
        if last - first < _MAX_TABLE_FACTOR * self.size:  # a table takes a tenth of the time of the search below
            table = np.zeros(last - first + 1, np.bool_)
            table[numbers - first] = True
            looked_up: NDArray[np.bool_] = table[self.numbers - first]
            return looked_up
        passing = np.zeros(self.size, np.bool_)
        positions = np.searchsorted(self.numbers, numbers)
        passing[positions[self._numbers[positions] == numbers]] = True
        return passing

    def _new_camera_code(self, camera_id: str | None) -> int:
        if camera_id is None:
            return _NO_CAMERA
        return self._camera_codes.setdefault(camera_id, len(self._camera_codes))

    def _reserve(self, size: int) -> None:
        if size <= len(self._numbers):
            return
        capacity = max(size, 2 * len(self._numbers), 1024)
        self._numbers = enlarged(self._numbers, capacity)
        self._cameras = enlarged(self._cameras, capacity)
        self._starts = enlarged(self._starts, capacity)
        self._ends = enlarged(self._ends, capacity)
        self._expiries = enlarged(self._expiries, capacity)
        self._created = enlarged(self._created, capacity)
        self._alive = enlarged(self._alive, capacity)


def enlarged(array: NDArray[S], capacity: int) -> NDArray[S]:
    """Copy an array to the start of a longer one; the rest is not initialised."""
    longer: NDArray[S] = np.empty(capacity, array.dtype)
    longer[: len(array)] = array
    return longer


def _first_known(preferred: int | None, otherwise: int | None, neither: int) -> int:
    if preferred is not None:
        return preferred
    return neither if otherwise is None else otherwise

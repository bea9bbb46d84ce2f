"""The filter's columns in memory, row for row beside the vectors of the index."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)

# A record without times: later than any `before`, earlier than any `after`.
_NEVER_STARTS = np.iinfo(np.int64).max
_NEVER_ENDS = np.iinfo(np.int64).min
_NO_CAMERA = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """One row's number and what filters ask about it; times in microseconds since 1970."""

    number: int
    camera_id: str | None
    start_time: int | None
    end_time: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions on rows, as `Filter` means them; `only` and `without` are row numbers that SQL found."""

    camera_ids: tuple[str, ...] | None = None
    exclude_camera_ids: tuple[str, ...] = ()
    after: int | None = None
    before: int | None = None
    only: NDArray[np.int64] | None = None
    without: NDArray[np.int64] | None = None


class Columns:
    """Number, camera and times of every row, in ascending order of numbers.

    A removed row keeps its position, marked dead, until `compact`: positions are those of the vectors in the index,
    and moving gigabytes for one deletion would stop all searches. Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self.size = 0
        self.living = 0
        self._codes: dict[str, int] = {}
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._cameras: NDArray[np.int32] = np.empty(0, np.int32)
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)
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
        self._alive[new] = True
        self.size = end
        self.living += len(entries)

    def remove(self, numbers: Sequence[int]) -> None:
        """Mark rows dead. Every number must be a living row's."""
        positions = np.searchsorted(self.numbers, np.array(numbers, np.int64))
        self._alive[positions] = False
        self.living -= len(numbers)

    def compact(self) -> None:
        """Forget the dead rows; those after them move up."""
        kept = np.flatnonzero(self.alive)
        self._numbers = self._numbers[kept]
        self._cameras = self._cameras[kept]
        self._starts = self._starts[kept]
        self._ends = self._ends[kept]
        self._alive = self._alive[kept]
        self.size = self.living

    def mask(self, selection: Selection) -> NDArray[np.bool_]:
        """Which positions pass `[size]`."""
        passing = self.alive.copy()
        cameras = self._cameras[: self.size]
        if selection.camera_ids is not None:
            passing &= np.isin(cameras, self._known(selection.camera_ids))
        if selection.exclude_camera_ids:
            passing &= ~np.isin(cameras, self._known(selection.exclude_camera_ids))
        if selection.after is not None:
            passing &= self._ends[: self.size] >= selection.after
        if selection.before is not None:
            passing &= self._starts[: self.size] <= selection.before
        if selection.only is not None:
            passing &= np.isin(self.numbers, selection.only)
        if selection.without is not None:
            passing &= ~np.isin(self.numbers, selection.without)
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
        self._alive = _grown(self._alive, room)


def _grown(column: NDArray[S], room: int) -> NDArray[S]:
    grown: NDArray[S] = np.empty(room, column.dtype)
    grown[: len(column)] = column
    return grown


def _first(preferred: int | None, otherwise: int | None, neither: int) -> int:
    if preferred is not None:
        return preferred
    return neither if otherwise is None else otherwise

"""A tracklet as it was sent and what it becomes; without the packages that decode pictures and run models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, float, float, float, float]
"""`(frame, x, y, w, h)`: 0-based index of the full frame, corner and size in pixels."""
FootageErrorKind = Literal["malformed", "too_large", "unsupported", "unusable"]


class FootageFault(NamedTuple):
    """What is wrong with one field (`boxes[3][0]`) or with one frame (0-based index)."""

    reason: str
    field: str | None = None
    frame: int | None = None


class FootageError(Exception):
    """A tracklet that cannot be embedded: why, and each field or frame at fault.

    Args:
        kind: what is wrong, for programs.
        detail: what is wrong, for people.
        faults: the fields at fault.
        frames: index and reason of each frame at fault, in their order.
    """

    def __init__(
        self,
        kind: FootageErrorKind,
        detail: str,
        faults: Sequence[FootageFault] = (),
        frames: Sequence[tuple[int, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.kind: Final[FootageErrorKind] = kind
        self._faults = tuple(faults)
        self._frames = tuple(frames)

    @property
    def count(self) -> int:
        """Number of faults."""
        return len(self._faults) + len(self._frames)

    @property
    def faults(self) -> tuple[FootageFault, ...]:
        """Each field or frame at fault."""
        return (*self._faults, *(FootageFault(reason, frame=index) for index, reason in self._frames))

    @classmethod
    def of_field(cls, field: str, reason: str, kind: FootageErrorKind = "malformed") -> "FootageError":
        """Return the error of one field."""
        return cls(kind, f"{field}: {reason}", [FootageFault(reason, field=field)])


@dataclass(frozen=True)
class Footage:
    """One tracklet as it was sent: encoded `frames`, or the file of a `video`; with `boxes` they are full frames.

    `keep` is what must live as long as the footage: a `video` without a name exists only while it is open.
    """

    frames: list[bytes] = field(default_factory=list)
    video: Path | None = None
    boxes: list[Box] | None = None
    keep: object = None

    @property
    def count(self) -> int | None:
        """Number of tracklet frames, or None if only decoding can tell."""
        if self.boxes is not None:
            return len(self.boxes)
        return None if self.video else len(self.frames)


@dataclass(frozen=True, eq=False)
class TrackletEmbedding:
    """The video feature float32 `[D]` of unit length, the number of frames and clips in it, and the rejected frames.

    `rejected` has index and reason of each. `thumbnails` are JPEGs of evenly spaced usable frames, as many as were
    requested. `warnings` say in sentences what is probably wrong with the footage.
    """

    embedding: NDArray[np.float32]
    frames: int
    clips: int
    rejected: tuple[tuple[int, str], ...]
    thumbnails: tuple[bytes, ...] = ()
    warnings: tuple[str, ...] = ()

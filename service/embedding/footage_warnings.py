"""What is probably wrong with footage that can be embedded."""

from dataclasses import dataclass, field

_LARGE_PIXELS = 500_000
_LARGE_RATIO = 0.55
"""A person's crop of so many pixels is narrower than this; an upright full frame is 9:16 or wider."""


@dataclass
class FootageWarnings:
    """Collects facts about the frames of one tracklet, for `texts`. One thread at a time uses it."""

    _sizes: int = 0
    _full: list[tuple[int, int]] = field(default_factory=list)
    _missing: list[str] = field(default_factory=list)

    def add_size(self, width: int, height: int) -> None:
        """Take the size in pixels of a frame or crop that is used."""
        self._sizes += 1
        if looks_full(width, height):
            self._full.append((width, height))

    def add_missing_frame(self, reason: str) -> None:
        """Take a box of a frame that does not exist."""
        self._missing.append(reason)

    def texts(self) -> tuple[str, ...]:
        """Return one sentence for each thing that is probably wrong."""
        found = []
        if self._full and 2 * len(self._full) >= self._sizes:
            width, height = self._full[0]
            found.append(
                f"{len(self._full)} of {self._sizes} frames have the shape or size of a full frame ({width}x{height} "
                "pixels), but the model expects crops of one person: send crops, or `boxes`"
            )
        if self._missing:
            found.append(
                f"boxes of frames that do not exist: {len(self._missing)} ({self._missing[0]}); check that the "
                "boxes belong to this footage and count its frames from 0"
            )
        return tuple(found)


def looks_full(width: int, height: int) -> bool:
    """Return whether a picture of this size is probably no crop of one person: wider than tall, or large and wide."""
    return width > height or (width * height >= _LARGE_PIXELS and width >= _LARGE_RATIO * height)

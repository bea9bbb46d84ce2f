"""What a video may be, and the errors of one that cannot be used."""

import sys
from dataclasses import dataclass
from typing import Final, Literal

from model.errors import Not3dError
from model.frames import FrameError, FrameLimits, check_size

VideoErrorKind = Literal["unsupported", "unusable", "too_large", "cancelled"]


class VideoError(Not3dError):
    """A video that cannot be used: `kind` for programs, `reason` for people."""

    def __init__(self, kind: VideoErrorKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final[VideoErrorKind] = kind
        self.reason = reason


class VideoEnd(VideoError):
    """The video ended after `frames` frames, before the frame `wanted` (0-based).

    `damaged` is true if the frame is missing although the file declares it.
    """

    def __init__(self, frames: int, wanted: int, *, damaged: bool) -> None:
        super().__init__("unusable", f"the video ends after {frames} frames, before frame {wanted} (counted from 0)")
        self.frames = frames
        self.wanted = wanted
        self.damaged = damaged


@dataclass(frozen=True)
class VideoLimits:
    """Limits for one video.

    `frame` applies to each frame, `max_frames` when all frames are read or counted, and `max_pixels` to all frames that
    are decoded together (frames x width x height). The kernel enforces `cpu_seconds` and `memory` (bytes, in addition
    to the decoder's own libraries); 0 means no limit.
    """

    frame: FrameLimits
    max_frames: int
    max_pixels: int
    cpu_seconds: int = 0
    memory: int = 0

    def check_frame(self, width: int, height: int) -> None:
        """Check the size of a frame.

        Raises:
            VideoError: `too_large`, or `unusable` for a frame that is too small.
        """
        try:
            check_size(width, height, self.frame)
        except FrameError as error:
            raise VideoError("too_large" if error.status == "too_large" else "unusable", error.reason) from None


UNLIMITED = VideoLimits(FrameLimits(max_pixels=sys.maxsize, max_side=sys.maxsize, min_side=0), sys.maxsize, sys.maxsize)
"""For files that the user of the command line chose."""

"""The error of a frame that cannot be used."""

from typing import Literal

from model.errors import Not3dError

FrameStatus = Literal[
    "not_an_image", "unsupported", "undecodable", "too_small", "too_large", "bad_box", "missing_frame"
]
"""`unsupported`: an image, but of a format or kind that is not read. `bad_box`: no box at all, such as one of NaN.
`missing_frame`: a box of a frame that does not exist."""


class FrameError(Not3dError):
    """A frame that cannot be used: `status` for programs, `reason` for people."""

    def __init__(self, status: FrameStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: FrameStatus = status
        self.reason = reason

    def detach(self) -> "FrameError":
        """Return the same error without the stack that it passed, to be kept as a value.

        An exception holds the frames of the functions that it passed, and these hold the encoded picture. Requests
        with thousands of such errors have so many objects that the garbage collector stops all threads for 0.1 s.
        """
        return FrameError(self.status, self.reason)

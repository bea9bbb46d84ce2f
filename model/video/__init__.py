"""Moving pictures: what is read, how large each frame really is, and when it was taken.

Videos are decoded by PyAV (FFmpeg) in processes of their own; `docs/security.md` says why and with which limits.
"""

from model.video.containers import Container, check_video, find_container
from model.video.limits import UNLIMITED, VideoEnd, VideoError, VideoErrorKind, VideoLimits
from model.video.process import STARTER, Event
from model.video.reading import Video, VideoFrame, open_video

__all__ = [
    "STARTER", "UNLIMITED", "Container", "Event", "Video", "VideoEnd", "VideoError", "VideoErrorKind", "VideoFrame",
    "VideoLimits", "check_video", "find_container", "open_video",
]  # fmt: skip

"""The container and the stream that is read."""

import os
from collections.abc import Iterator
from typing import Any, Final

import av
from av.codec.context import Flags, ThreadType
from av.error import FFmpegError
from av.stream import Disposition

from model.decoder.channel import Refused

CONTAINERS: Final = {"mp4": "mov", "matroska": "matroska", "avi": "avi", "mpegts": "mpegts"}
"""The demuxer of each container that `model.video.containers` finds. No other is tried, above all no playlist."""
CODECS: Final = frozenset({
    "av1", "h264", "hevc", "vp9", "vp8", "vvc", "mpeg4", "mpeg2video", "mpeg1video", "h263", "mjpeg", "mjpegb",
    "jpeg2000", "prores", "dnxhd", "dvvideo", "ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "hap",
    "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1", "theora", "flv1", "rawvideo", "v210",
    "v308", "v408", "v410", "yuv4", "ayuv", "r210", "r10k", "png", "tiff", "bmp", "qtrle", "rpza", "cinepak",
    "svq1", "svq3", "zlib", "mszh", "snow", "cfhd", "speedhq", "asv1", "asv2", "cljr", "dirac", "dpx", "targa",
    "jpegls", "ljpeg", "flashsv2", "zmbv",
})  # fmt: skip
"""Decoders of cameras, recorders and editing programs; fewer decoders are less to attack."""
STRICT: Final = {"mjpeg": "explode", "ffv1": "crccheck+explode", "png": "crccheck+explode"}
"""Codecs whose decoder reports damage only if it is asked to."""
MAX_STREAMS: Final = 64


class VideoFile:
    """The container, and the video stream that is read."""

    def __init__(self, file: int, job: dict[str, Any]) -> None:
        self.job = job
        self._file = file
        # Above this size the decoder allocates nothing. Frames between it and the limit are refused with their size.
        pixels = {"max_pixels": str(min(4 * job["max_pixels"], 2**31 - 1))}
        self._options = {"fd": str(file), "protocol_whitelist": "fd", "max_streams": str(MAX_STREAMS), **pixels}
        self._open()
        name = self.stream.codec_context.codec.canonical_name
        if name not in CODECS:
            raise Refused("unsupported", f"the codec {name} is not supported; send H.264, HEVC, AV1, VP9 or MPEG-4")
        self.width, self.height = self.stream.codec_context.width, self.stream.codec_context.height
        if not (self.width and self.height):
            raise Refused("unusable", "the file does not say the size of its frames; the start of the video is missing")
        self.check_size(self.width, self.height)
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.rate = float(rate) if rate else 0.0
        self.declared_frames = self._declare_frames()
        context = self.context = self.stream.codec_context
        self.codec: str = context.name
        self.period = 1 / self.rate if self.rate else 0.04
        context.thread_count = job["threads"]
        context.thread_type = ThreadType.AUTO if job["threads"] != 1 else ThreadType.NONE
        context.copy_opaque = True
        context.flags |= Flags.output_corrupt
        context.options = {**pixels, "err_detect": STRICT.get(name, "")} if name in STRICT else pixels
        try:
            context.open(strict=False)
        except (FFmpegError, ValueError):
            raise Refused("unusable", f"the {name} stream cannot be decoded") from None

    def _open(self) -> None:
        os.lseek(self._file, 0, os.SEEK_SET)
        try:
            self._container = av.open("fd:", format=CONTAINERS[self.job["container"]], options=self._options)
        except (FFmpegError, ValueError, UnicodeError):
            raise Refused("unusable", "the file has no video stream that can be decoded") from None
        self.stream = self._choose_stream()

    def _declare_frames(self) -> int:
        """Return how many frames the file says that it has; 0 if it does not say it.

        Most containers say only a rate and a duration. Pauses and a variable rate make that a wrong number, so the
        packets are counted before a video is refused for it.
        """
        if self.stream.frames > 0:
            return int(self.stream.frames)
        duration = self._container.duration or 0
        frames = int(min(max(0, duration) / av.time_base * self.rate + 0.5, 2**53))
        if frames > min(self.job["max_frames"], self.job["max_decoded_pixels"] // (self.width * self.height)):
            frames = sum(1 for _ in self.packets())
            self._container.close()
            self._open()
        return frames

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the stream."""
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (FFmpegError, ValueError) as error:
                if isinstance(error, MemoryError):
                    raise
                return  # a demuxer continues after damage by itself; an error is its end
            if packet.size:
                yield packet

    def check_size(self, width: int, height: int, what: str = "") -> None:
        """Check the size of a frame; `what` begins the message.

        Raises:
            Refused: it is over a limit.
        """
        pixels, side = self.job["max_pixels"], self.job["max_side"]
        if width * height > pixels or max(width, height) > side:
            allowed = f"at most {pixels} pixels and {side} per side are allowed"
            raise Refused("too_large", f"{what}{width}x{height} pixels, {allowed}")

    def _choose_stream(self) -> Any:
        """Return the video stream that players show: the first that is marked as the default, otherwise the first."""
        streams = self._container.streams.video
        if not streams and self._container.streams.audio:
            raise Refused("unusable", "the file has sound and no video")
        if not streams:
            raise Refused("unusable", "the file has no video stream that can be decoded")
        still = Disposition.attached_pic | Disposition.timed_thumbnails
        moving = [stream for stream in streams if not stream.disposition & still]
        if not moving:
            raise Refused("unusable", "the file has only a still picture, such as a cover, and no video")
        moving.sort(key=lambda stream: not stream.disposition & Disposition.default)
        known = [stream for stream in moving if stream.codec_context is not None]
        if not known:
            raise Refused("unsupported", "the codec of the video is not known; send H.264, HEVC, AV1, VP9 or MPEG-4")
        return known[0]

"""Read request bodies in chunks. Each chunk is checked, so no client can use more memory or disk than allowed."""

import asyncio
import errno
import os
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.http.admission import RequestSlot
from service.http.problems import Problem
from service.settings import Settings
from service.telemetry.metrics import Metrics, current_cost

MAX_OTHER_PARTS = 64
"""Maximum number of parts of a form that are not frames. There are about a dozen field names."""
FLUSH_BYTES = 1024 * 1024
"""A video is written to disk when this many bytes are in memory."""
MIN_BYTES_PER_SECOND = 16 * 1024
"""Minimum average rate of a body that takes longer than `read_seconds`."""


@dataclass
class Upload:
    """The content of a form: encoded frames in their order, or the file of a video; and the text fields."""

    frames: list[bytes] = field(default_factory=list)
    video: Path | None = None
    fields: dict[str, str] = field(default_factory=dict)


def content_type(request: Request) -> tuple[str, bytes | None]:
    """Return the media type in lower case, and the boundary of a multipart body."""
    name, options = parse_options_header(request.headers.get("content-type"))
    return name.decode("latin-1").lower(), options.get(b"boundary")


async def read_body(request: Request, settings: Settings, slot: RequestSlot, weight: int = 1) -> bytearray:
    """Return the complete body.

    Args:
        request: the request.
        settings: the limits.
        slot: counts the bytes.
        weight: bytes of memory to count for each byte of the body.

    Raises:
        Problem: 413 if the body exceeds its limit, 408 if it arrives too slowly, 503 if all bodies together exceed
            their limit.
    """
    body = bytearray()
    async for chunk in _chunks(request, settings, slot, weight):
        body += chunk
    return body


class FormReader:
    """Reads one `multipart/form-data` body.

    Args:
        names: the text fields that the form may have.
        settings: the limits.
        metrics: receives the times of reading (stage "read") and parsing (stage "parse"), also for a refused form.
    """

    def __init__(self, names: Collection[str], settings: Settings, metrics: Metrics) -> None:
        self._names, self._settings, self._metrics = names, settings, metrics
        self._upload = Upload()
        self._disposition: bytes | None = None
        self._header_name = self._header_value = b""
        self._name = ""
        self._part = bytearray()
        self._parts = 0
        self._ended = False
        self._file: BinaryIO | None = None
        self._video = bytearray()

    async def read(self, request: Request, boundary: bytes, slot: RequestSlot) -> Upload:
        """Read the complete form.

        Raises:
            Problem: 400 if the form is malformed or has an unknown field, 413 if it exceeds a limit, 408 if it arrives
                too slowly, 503 if all bodies together exceed their limit, 507 if the disk is too full for the video.
        """
        begin, parsing = time.perf_counter(), 0.0
        try:
            # The methods `_on_...` are named after the callbacks of the parser.
            callbacks: Any = {name[1:]: getattr(self, name) for name in dir(self) if name.startswith("_on_")}
            parser = MultipartParser(boundary, callbacks)
            async for chunk in _chunks(request, self._settings, slot):
                start = time.perf_counter()
                try:
                    parser.write(chunk)
                finally:
                    parsing += time.perf_counter() - start
                if len(self._video) >= FLUSH_BYTES:
                    await asyncio.to_thread(self._flush)
            if not self._ended:
                raise Problem("malformed", "the form ends without its closing boundary")
            await asyncio.to_thread(self._flush)
        except FormParserError as error:
            raise Problem("malformed", f"malformed form: {error}") from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise Problem("disk-full", "the disk is too full to store the video while it is read") from error
            raise
        finally:
            cost = current_cost.get()
            self._metrics.observe_stage("read", time.perf_counter() - begin - parsing, cost)
            self._metrics.observe_stage("parse", parsing, cost)
        return self._upload

    def close(self) -> None:
        """Remove the file of the video, if any."""
        if self._file:
            self._file.close()
            self._file = None
        if self._upload.video:
            self._upload.video.unlink(missing_ok=True)

    def _on_part_begin(self) -> None:
        self._disposition = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise Problem("malformed", "a part of the form has no name in its Content-Disposition")
        name = options[b"name"].decode("utf-8", "replace")
        limits = self._settings
        if name == "frames":
            if len(self._upload.frames) >= limits.max_frames:
                raise Problem.of_field("frames", f"the form has more than {limits.max_frames} frames", "too-large")
        else:
            self._parts += 1
            if self._parts > MAX_OTHER_PARTS:
                raise Problem("too-large", f"the form has more than {MAX_OTHER_PARTS} parts that are not frames")
        if name == "video":
            if self._upload.video:
                raise Problem.of_field("video", "send only one video")
            self._open_video()
        elif name != "frames" and name not in self._names:
            raise Problem.of_field(name[:100], "unknown field")
        elif name in self._upload.fields:
            raise Problem.of_field(name, "duplicate field")
        if (name == "frames" and self._upload.video) or (name == "video" and self._upload.frames):
            raise Problem.of_field(name, "send either frames or a video")
        self._name = name
        self._part = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        limits = self._settings
        if self._name == "video":
            self._video += piece
            return
        self._part += piece
        if self._name == "frames":
            if len(self._part) > limits.max_frame_bytes:
                index = len(self._upload.frames)
                raise Problem.of_frame(index, f"has more than {limits.max_frame_bytes} bytes", "too-large")
        elif len(self._part) > limits.max_field_bytes:
            raise Problem.of_field(self._name, f"has more than {limits.max_field_bytes} bytes", "too-large")

    def _on_part_end(self) -> None:
        if self._name == "frames":
            self._upload.frames.append(bytes(self._part))
        elif self._name != "video":
            try:
                self._upload.fields[self._name] = self._part.decode("utf-8")
            except UnicodeDecodeError:
                raise Problem.of_field(self._name, "is not UTF-8 text") from None

    def _on_end(self) -> None:
        self._ended = True

    def _open_video(self) -> None:
        # The file name that the client sends is never used.
        handle, name = tempfile.mkstemp(prefix="not3d-", suffix=".video", dir=self._settings.temp_dir)
        self._upload.video = Path(name)
        self._file = os.fdopen(handle, "wb")

    def _flush(self) -> None:
        if self._file:
            self._file.write(self._video)
            self._file.flush()
            self._video.clear()


async def _chunks(request: Request, settings: Settings, slot: RequestSlot, weight: int = 1) -> AsyncIterator[bytes]:
    limit = settings.max_request_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Problem("too-large", f"the body must have at most {limit} bytes (got {declared})")
    total, start = 0, time.monotonic()
    stream = request.stream()
    cost = current_cost.get()
    while True:
        try:
            async with asyncio.timeout(settings.read_seconds):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Problem("too-slow", f"no data arrived for {settings.read_seconds:g} seconds") from None
        if chunk is None:
            return
        total += len(chunk)
        if total > limit:
            raise Problem("too-large", f"the body has more than {limit} bytes")
        seconds = time.monotonic() - start
        if seconds > settings.read_seconds and total < seconds * MIN_BYTES_PER_SECOND:
            reason = f"{total} bytes arrived in {seconds:.0f} seconds; the minimum is {MIN_BYTES_PER_SECOND} per second"
            raise Problem("too-slow", reason)
        slot.add_bytes(weight * len(chunk))
        if cost:
            cost.bytes += len(chunk)
        yield chunk

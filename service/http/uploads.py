"""Read request bodies in chunks. Each chunk is checked, so no client can use more memory or disk than allowed."""

import asyncio
import errno
import logging
import os
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.http.admission import RequestSlot
from service.http.fields import MAX_ITEMS
from service.http.problems import Problem, no_model
from service.settings import Settings
from service.telemetry.metrics import Metrics, current_cost

log = logging.getLogger("not3d.service")

MAX_OTHER_PARTS = 64
"""Maximum number of parts of a form that are not frames. There are about a dozen field names."""
FLUSH_BYTES = 1024 * 1024
"""A video is written to disk when this many bytes are in memory."""
ENCODINGS = "gzip"
"""What `Content-Encoding` may say; sent as `Accept-Encoding` with 415."""
GZIP_STEP = 256 * 1024
"""Bytes that are decompressed in one step, in less than a millisecond."""
FORM_STEP = 16 * 1024
"""Bytes of a form that are parsed in one step: in 8 ms if its parts are as small as possible, usually in 0.1 ms."""
TURN_SECONDS = 0.0005
"""After this time in the event loop, a body that is parsed or decompressed gives others a turn."""
MAX_GZIP_RATIO = 100
"""Maximum ratio of decompressed to compressed bytes. JSON with vectors or frames has 1.3 to 4, a bomb up to 1032."""
FREE_GZIP_BYTES = 1024 * 1024
"""The ratio is not limited for so few bytes: a small body of white space is harmless."""
MAX_GZIP_MEMBERS = 1024
"""A compressed body may consist of several members, as block-wise compressors write it."""
STORE_RETRY_SECONDS = 5


class AnonymousFile:
    """A file without a name, in `folder` or in the system's temporary folder.

    Nothing of it is left when the process ends, however it ends. It is closed with the last reference to this object,
    not earlier: until then a thread may open `path`, and another file could get the same number.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path | None) -> None:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            self._descriptor = os.dup(file.fileno())
        # With the number of this process, so that a child process can open it as well.
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def write(self, data: bytes | bytearray) -> None:
        """Append to the file."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


@dataclass
class Upload:
    """The content of a form: encoded frames in their order, or the file of a video; and the text fields."""

    frames: list[bytes] = field(default_factory=list)
    video: AnonymousFile | None = None
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
        footage: whether the form may have frames or a video; otherwise the first one is refused before it is read.
    """

    def __init__(self, names: Collection[str], settings: Settings, metrics: Metrics, *, footage: bool = True) -> None:
        self._names, self._settings, self._metrics, self._footage = names, settings, metrics, footage
        self._upload = Upload()
        self._disposition: bytes | None = None
        self._header_name = self._header_value = b""
        self._name = ""
        self._part = bytearray()
        self._parts = 0
        self._ended = False
        self._video = bytearray()

    async def read(self, request: Request, boundary: bytes, slot: RequestSlot) -> Upload:
        """Read the complete form.

        Raises:
            Problem: 400 if the form is malformed or has an unknown field, 413 if it exceeds a limit, 408 if it arrives
                too slowly, 503 if all bodies together exceed their limit or the video cannot be stored, 507 if the
                disk is too full for it.
        """
        entered, parsing = time.perf_counter(), 0.0
        try:
            # The methods `_on_...` are named after the callbacks of the parser.
            callbacks: Any = {name[1:]: getattr(self, name) for name in dir(self) if name.startswith("_on_")}
            parser = MultipartParser(boundary, callbacks)
            async for chunk in _chunks(request, self._settings, slot):
                async with slot.turn:
                    turn = _Turn()
                    for begin in range(0, len(chunk), FORM_STEP):
                        start = time.perf_counter()
                        try:
                            parser.write(chunk[begin : begin + FORM_STEP])
                        finally:
                            parsing += time.perf_counter() - start
                        await turn.give()
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
            log.error("video not stored", extra={"facts": {"reason": str(error)}})
            detail = f"the video cannot be stored while it is read: {error.strerror or error}"
            raise Problem("busy", detail, retry_after=STORE_RETRY_SECONDS) from error
        finally:
            cost = current_cost.get()
            self._metrics.observe_stage("read", time.perf_counter() - entered - parsing, cost)
            self._metrics.observe_stage("parse", parsing, cost)
        return self._upload

    def close(self) -> None:
        """Let go of what was uploaded: it is freed when nothing computes with it any more."""
        self._upload = Upload()
        self._video = bytearray()

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
        if name in {"frames", "video"} and not self._footage:
            raise no_model(name)
        if name == "frames":
            most = MAX_ITEMS if "max_clips" in self._upload.fields else limits.max_frames
            if len(self._upload.frames) >= most:
                reason = f"the form has more than {most} frames; `max_clips`, sent before them, chooses fewer"
                raise Problem.of_field("frames", reason, "too-large")
        else:
            self._parts += 1
            if self._parts > MAX_OTHER_PARTS:
                raise Problem("too-large", f"the form has more than {MAX_OTHER_PARTS} parts that are not frames")
        if name == "video":
            if self._upload.video:
                raise Problem.of_field("video", "send only one video")
            # The file name that the client sends is never used.
            self._upload.video = AnonymousFile(self._settings.temp_dir)
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

    def _flush(self) -> None:
        if self._upload.video:
            self._upload.video.write(self._video)
            self._video.clear()


async def _chunks(request: Request, settings: Settings, slot: RequestSlot, weight: int = 1) -> AsyncIterator[bytes]:
    """Yield the body, decompressed, in pieces that are checked."""
    limit = settings.max_request_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Problem("too-large", f"the body must have at most {limit} bytes (got {declared[:30]})")
    decompressor = _decompressor(request)
    total = 0
    async for received in _received(request, settings):
        pieces = decompressor.pieces(received) if decompressor else iter((received,))
        while (piece := await _next_piece(pieces, slot) if decompressor else next(pieces, None)) is not None:
            total += len(piece)
            if total > limit:
                raise Problem("too-large", f"the body has more than {limit} bytes")
            slot.add_bytes(weight * len(piece))
            yield piece
    if decompressor:
        decompressor.check_end()


async def _next_piece(pieces: Iterator[bytes], slot: RequestSlot) -> bytes | None:
    async with slot.turn:
        turn = _Turn()
        piece = next(pieces, None)
        await turn.give()
        return piece


class _Turn:
    """The time for which a body was worked on in the event loop."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Give other callbacks a turn if `TURN_SECONDS` have passed."""
        if time.perf_counter() - self._since >= TURN_SECONDS:
            await asyncio.sleep(0)
            self._since = time.perf_counter()


async def _received(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """Yield the bytes of the body as they arrive, which must be fast enough."""
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
        if total > settings.max_request_bytes:
            raise Problem("too-large", f"the body has more than {settings.max_request_bytes} bytes")
        seconds, rate = time.monotonic() - start, settings.min_bytes_per_second
        if seconds > settings.read_seconds and total < seconds * rate:
            reason = f"{total} bytes arrived in {seconds:.0f} seconds; the minimum is {rate} per second"
            raise Problem("too-slow", reason)
        if cost:
            cost.bytes += len(chunk)
        yield chunk


class _Gunzip:
    """Decompresses a gzip body (RFC 1952) within limits."""

    def __init__(self) -> None:
        self._open = self._new()
        self._members = 1
        self._taken = self._made = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decompresses to, in pieces of at most `GZIP_STEP` bytes.

        Raises:
            Problem: 400 if `data` is not gzip, 413 if its ratio or the number of its members is too high.
        """
        self._taken += len(data)
        while data:
            if self._open.eof:
                self._members += 1
                if self._members > MAX_GZIP_MEMBERS:
                    raise Problem("too-large", f"the gzip body has more than {MAX_GZIP_MEMBERS} members")
                self._open = self._new()
            try:
                piece = self._open.decompress(data, GZIP_STEP)
            except zlib.error as error:
                raise Problem("malformed", f"the body is not gzip, as Content-Encoding says: {error}") from None
            self._made += len(piece)
            if self._made > FREE_GZIP_BYTES and self._made > MAX_GZIP_RATIO * self._taken:
                detail = f"the body expands to more than {MAX_GZIP_RATIO} times its size; send it without compression"
                raise Problem("too-large", detail)
            if piece:
                yield piece
            data = self._open.unused_data if self._open.eof else self._open.unconsumed_tail

    def check_end(self) -> None:
        """Check that the body was complete.

        Raises:
            Problem: 400 if it was not.
        """
        if not self._open.eof:
            raise Problem("malformed", "the gzip body ends too early")

    @staticmethod
    def _new() -> Any:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


def _decompressor(request: Request) -> _Gunzip | None:
    codings = [name.strip().lower() for name in ",".join(request.headers.getlist("content-encoding")).split(",")]
    match [name for name in codings if name not in {"", "identity"}]:
        case []:
            return None
        case ["gzip" | "x-gzip"]:
            return _Gunzip()
    detail = f"Content-Encoding must be {ENCODINGS}, once, or absent (got {', '.join(codings)[:100]})"
    raise Problem("unsupported-content", detail, headers={"Accept-Encoding": ENCODINGS})

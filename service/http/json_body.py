"""Take the base64 text of frames out of a JSON body before it is parsed, and decode it.

A JSON parser holds the interpreter's lock until it has read the last byte, and all other threads wait. With frames a
body has a hundred megabytes, without them it is small. The functions here work in steps of a few milliseconds.
"""

import binascii
import re
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import from_json

from service.http.fields import MAX_ITEMS
from service.http.problems import MAX_NAME, Problem

STEP = 2**20
"""Bytes that one call of a C function reads."""
MAX_FIELD_BYTES = 2 * 2**20
"""Maximum bytes of a JSON body without the text of its frames."""
MAX_QUOTES = 32_768
"""Maximum number of quotation marks outside the frames and the metadata, each of which is a step of the interpreter.

A filter may have 2,000 cameras, whose names may contain as many escaped quotation marks."""
_KEY = re.compile(rb"\s*:")
_OPENS_LIST = re.compile(rb"\s*:\s*\[\s*")
_NEXT_TEXT = re.compile(rb'[ \t\r\n]*+,[ \t\r\n]*+"')
_BACKSLASH = 0x5C


@dataclass(frozen=True)
class SplitBody:
    """A JSON body whose frames are empty texts, and the texts of the frames in `data`.

    Attributes:
        fields: the body without the texts.
        data: the complete body.
        spans: start and end of each text in `data`, one after the other. Slices would be objects for the garbage
            collector, thousands for each request that waits.
    """

    fields: bytes
    data: bytearray
    spans: "array[int]"

    @property
    def count(self) -> int:
        """Number of texts."""
        return len(self.spans) // 2

    def frames(self) -> Iterator[memoryview]:
        """Yield the text of each frame, with its escapes."""
        view = memoryview(self.data)
        for start, end in zip(self.spans[::2], self.spans[1::2], strict=True):
            yield view[start:end]


def split_frames(
    data: bytearray, known: Collection[str] | None = None, elsewhere: Mapping[str, str] | None = None, metadata: int = 0
) -> SplitBody:
    """Take the texts of the array `frames` out of a JSON object. What is not valid JSON is left for the parser.

    Args:
        data: the body.
        known: the fields that the object may have. The first other one ends the work: a body has room for a hundred
            thousand of them.
        elsewhere: reasons for unknown fields that belong in another place.
        metadata: maximum bytes of metadata.

    Raises:
        Problem: `too-large` if the rest is larger than `MAX_FIELD_BYTES`, or there are too many texts; `malformed` for
            a field that is not `known`.
    """
    view = memoryview(data)
    kept: list[bytes | bytearray | memoryview] = []
    spans = array("Q")
    size = position = depth = 0  # position: the first byte that is not in `kept` or `spans`
    key: bytes | None = None
    in_frames = False
    quotes = _Quotes(data, MAX_QUOTES + metadata)
    while size <= MAX_FIELD_BYTES and (start := quotes.find(position)) >= 0:
        between = data[position:start] if start - position <= MAX_FIELD_BYTES else b""
        if between != b",":
            depth += sum(map(between.count, (b"[", b"{"))) - sum(map(between.count, (b"]", b"}")))
            in_frames = depth == 2 and (
                (in_frames and b"]" not in between) or (key == b"frames" and bool(_OPENS_LIST.fullmatch(between)))
            )
        end = quotes.find_end(start)
        if end < 0:
            break
        key = None
        if depth == 1 and _KEY.match(data, end + 1, end + STEP):
            key = bytes(data[start + 1 : min(end, start + 2 + MAX_NAME)])
            _check_name(key, known, elsewhere or {})
        size += start - position + 2
        if in_frames:
            spans.extend((start + 1, end))
            count, end = _take_texts(data, end, spans)
            kept += (between, b'""' + b',""' * count)
            size += 3 * count
        else:
            size += end - start - 1
            kept.append(view[position : end + 1])
        position = end + 1
    if size + len(data) - position > MAX_FIELD_BYTES:
        reason = f"has more than {MAX_FIELD_BYTES} bytes without its frames"
        raise Problem.of_field("body", reason, "too-large")
    kept.append(view[position:])
    return SplitBody(b"".join(kept), data, spans)


def _take_texts(data: bytearray, end: int, spans: "array[int]") -> tuple[int, int]:
    """Take the texts that follow the one that ends at `end`, as long as it is simple.

    Returns:
        The number of texts, and the index of the quotation mark that ends the last one.
    """
    count = 0
    while True:
        between = _NEXT_TEXT.match(data, end + 1, end + 1 + STEP)
        if not between:
            return count, end
        start = between.end()
        found = data.find(b'"', start, start + STEP)
        if found < 0 or data[found - 1] == _BACKSLASH:
            return count, end
        if len(spans) >= 2 * MAX_ITEMS:
            raise Problem.of_field("frames", f"has more than {MAX_ITEMS} items", "too-large")
        spans.extend((start, found))
        count += 1
        end = found


def _check_name(key: bytes, known: Collection[str] | None, elsewhere: Mapping[str, str]) -> None:
    name = key.decode("utf-8", "replace")
    if known is not None and b"\\" not in key and name not in known:
        raise Problem.of_field(name, elsewhere.get(name, "unknown field"))


def decode_base64(text: str | memoryview) -> bytes:
    """Decode the base64 text of one frame: a parsed text, or one of `SplitBody.frames()` with its escapes.

    Raises:
        ValueError: the text is not base64.
    """
    decoded: list[bytes] = []
    rest = b""
    padded = False
    for piece in _plain(text):
        block = rest + piece
        if padded:
            raise ValueError("there is data after the padding")
        complete = len(block) - len(block) % 4
        decoded.append(binascii.a2b_base64(block[:complete], strict_mode=True))
        padded = block[:complete].endswith(b"=")
        rest = block[complete:]
    if rest:
        raise ValueError("the padding is incorrect")
    return b"".join(decoded)


def _plain(text: str | memoryview) -> Iterator[bytes]:
    """Yield the text in pieces, without JSON's escapes, which some encoders write for `/` and `+`."""
    if isinstance(text, str):
        if not text.isascii():
            raise ValueError("Only base64 data is allowed")
        plain = text.encode()
        yield from (plain[begin : begin + STEP] for begin in range(0, len(plain), STEP))
        return
    begin = 0
    while begin < len(text):
        end = min(begin + STEP, len(text))
        if end < len(text) and (escape := bytes(text[end - 5 : end]).rfind(b"\\")) >= 0:
            end += escape - 5  # the escape belongs to the next piece
        piece = bytes(text[begin:end])
        yield from_json(b'"' + piece + b'"').encode() if b"\\" in piece else piece
        begin = end


class _Quotes:
    """Finds at most `count` quotation marks of a text, in steps, so that other threads can go on meanwhile."""

    def __init__(self, data: bytearray, count: int) -> None:
        self._data = data
        self._count = self._left = count

    def find(self, start: int) -> int:
        """Return the index of the next one; -1 if there is none."""
        self._left -= 1
        if self._left < 0:
            reason = f"has more than {self._count} quotation marks outside its frames"
            raise Problem.of_field("body", reason, "too-large")
        for begin in range(start, len(self._data), STEP):
            if (found := self._data.find(b'"', begin, begin + STEP)) >= 0:
                return found
        return -1

    def find_end(self, start: int) -> int:
        """Return the index of the one that ends the string that begins with the one at `start`; -1 if none does."""
        end = start
        while (end := self.find(end + 1)) >= 0:
            if self._data[end - 1] != _BACKSLASH or self._count_backslashes(start + 1, end) % 2 == 0:
                return end
        return -1

    def _count_backslashes(self, start: int, end: int) -> int:
        """Return how many there are directly before `end`. Two of them are an escaped one."""
        width = 64
        while True:
            before = self._data[max(start, end - width) : end]
            count = len(before) - len(before.rstrip(b"\\"))
            if count < len(before) or end - width <= start:
                return count
            width *= 8

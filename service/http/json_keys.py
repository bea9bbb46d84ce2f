"""Duplicate keys of JSON objects. The parser keeps the last value silently; other programs may keep the first."""

import json
import re

_MARK = re.compile(rb'["{}]')
_COLON = re.compile(rb"[ \t\r\n]*:")
_CONTENT = re.compile(rb'(?:[^"\\]++|\\.)*+')
_PIECE = 1024 * 1024
"""Bytes that are searched in one call, so that other threads can run in between."""
_BACKSLASH = 0x5C


def find_duplicate_key(data: bytes | bytearray) -> str | None:
    """Return a key that one object has twice, or `None`.

    Args:
        data: valid JSON text. Long strings, such as base64, cost almost nothing.
    """
    objects: list[set[bytes]] = []
    at = 0
    while at < len(data):
        mark = _MARK.search(data, at, at + _PIECE)
        if mark is None:
            at += _PIECE
            continue
        start = at = mark.end()
        if mark[0] == b"{":
            objects.append(set())
        elif mark[0] == b"}":
            objects.pop()
        else:
            at = _end_of_string(data, start) + 1
            if _COLON.match(data, at):
                key = bytes(data[start : at - 1])
                key = json.loads(b'"' + key + b'"').encode() if b"\\" in key else key
                if key in objects[-1]:
                    return key.decode()
                objects[-1].add(key)
    return None


def _end_of_string(data: bytes | bytearray, start: int) -> int:
    """Return the offset of the quote that ends the string whose content begins at `start`."""
    end = data.index(b'"', start)
    if data[end - 1] != _BACKSLASH:
        return end
    at = start
    while True:
        at = _CONTENT.match(data, at, at + _PIECE).end()  # type: ignore[union-attr]  # it matches everywhere
        if data[at : at + 1] == b'"':
            return at

"""H.264 whose fields are coded as pictures of their own (PAFF), which FFmpeg's encoders do not write.

The macroblocks hold raw samples (I_PCM).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Planes = Sequence[NDArray[np.uint8]]
"""Brightness, and the two colours of half the width and height."""
BLOCK = 16
IDR, SLICE, SEQUENCE, PICTURE = 0x65, 0x61, 0x67, 0x68
"""First byte of a unit: a reference, and its type."""


class _Bits:
    def __init__(self) -> None:
        self.text = ""

    def fixed(self, value: int, count: int = 1) -> "_Bits":
        self.text += f"{value:0{count}b}"
        return self

    def exp(self, *values: int) -> "_Bits":
        """Append Exp-Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def aligned(self, stop: str = "") -> bytes:
        text = self.text + stop
        text += "0" * (-len(text) % 8)
        return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def _unit(first: int, content: bytes) -> bytes:
    """Return a unit with a start code; a 3 keeps zeros in it from looking like one."""
    safe = bytearray()
    for byte in content:
        if byte <= 3 and safe[-2:] == b"\0\0":
            safe.append(3)
        safe.append(byte)
    return b"\0\0\0\1" + bytes([first]) + bytes(safe)


def field_pictures(frames: Sequence[tuple[Planes, Planes]], *, bottom_first: bool) -> bytes:
    """Return a stream of frames, each an upper and a lower field of the same size, a multiple of 16 both ways."""
    height, width = frames[0][0][0].shape
    sequence = _Bits().fixed(77, 8).fixed(0, 8).fixed(30, 8).exp(0, 0, 2, 1).fixed(0)
    sequence.exp(width // BLOCK - 1, height // BLOCK - 1).fixed(0).fixed(0).fixed(1).fixed(0).fixed(0)
    picture = _Bits().exp(0, 0).fixed(0).fixed(0).exp(0, 0, 0).fixed(0).fixed(0, 2).exp(0, 0, 0).fixed(1).fixed(0, 2)
    stream = _unit(SEQUENCE, sequence.aligned("1")) + _unit(PICTURE, picture.aligned("1"))
    for number, fields in enumerate(frames):
        for place, lower in enumerate((1, 0) if bottom_first else (0, 1)):
            starts = number == place == 0
            head = _Bits().exp(0, 7, 0).fixed(number % 16, 4).fixed(1).fixed(lower)
            head = head.exp(0).fixed(0, 2) if starts else head.fixed(0)
            head.exp(0, 1)  # no change of quality, no deblocking
            stream += _unit(IDR if starts else SLICE, _samples(head, fields[lower]))
    return stream


def _samples(head: _Bits, planes: Planes) -> bytes:
    height, width = planes[0].shape
    data, bits = b"", head
    for y in range(0, height, BLOCK):
        for x in range(0, width, BLOCK):
            data += bits.exp(25).aligned()  # I_PCM
            bits = _Bits()
            for plane in planes:
                size = BLOCK * plane.shape[1] // width
                top, left = y * size // BLOCK, x * size // BLOCK
                data += plane[top : top + size, left : left + size].tobytes()
    return data + b"\x80"

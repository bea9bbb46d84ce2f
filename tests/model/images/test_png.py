import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_fuzz import make_png, png_chunk
from model.frames import FrameError, FrameLimits, decode_frame
from model.images.png import SIGNATURE
from tests.model.images.samples import PERSON, error_of, save

HEAD = 33
"""Bytes of the signature and of IHDR."""
GREY = 128


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def build(parts: list[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in parts)


def make(width: int, height: int, depth: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """Return a PNG file of equal rows; `more` are the chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * height)
    tail = png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return SIGNATURE + png_chunk(b"IHDR", header) + b"".join(more) + tail


@pytest.mark.parametrize(
    "kind", [b"IDAT", b"tEXt", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"fcTL", b"fdAT", b"PLTE", b"tRNS"]
)
@pytest.mark.parametrize("length", [10_000_000, 0x3FFFFFFF, 0x7FFFFFFF, 0xECFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_declared_length_of_a_chunk_is_not_allocated(kind: bytes, length: int) -> None:
    data = save(PERSON, "PNG")[:HEAD] + struct.pack(">I", length) + kind + b"x" * 16 + b"IEND"
    assert "longer than the file" in error_of(data).reason


def test_every_truncated_png_is_refused() -> None:
    data = save(PERSON, "PNG")
    for length in range(8, len(data) - 1):
        assert error_of(data[:length]).status == "undecodable"


@pytest.mark.parametrize("interlaced", [False, True])
def test_png_with_fewer_rows_than_declared_is_refused_although_its_stream_is_valid(interlaced: bool) -> None:
    parts = chunks(make_png(PERSON, interlaced=interlaced))
    raw = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    for length in (0, 1, len(raw) // 2, len(raw) - 1):
        changed = build([parts[0], (b"IDAT", zlib.compress(raw[:length])), (b"IEND", b"")])
        assert "before the last row" in error_of(changed).reason
    more = build([parts[0], (b"IDAT", zlib.compress(raw + b"\0")), (b"IEND", b"")])
    assert "more pixels" in error_of(more).reason
    bomb = build([parts[0], (b"IDAT", zlib.compress(bytes(50_000_000))), (b"IEND", b"")])
    assert "more pixels" in error_of(bomb).reason
    filtered = build([parts[0], (b"IDAT", zlib.compress(b"\x05" + raw[1:])), (b"IEND", b"")])
    assert "unknown filter" in error_of(filtered).reason


def test_interlaced_and_divided_pngs_are_the_plain_picture() -> None:
    for data in (make_png(PERSON, interlaced=True), make_png(PERSON, pieces=50), make_png(PERSON)):
        np.testing.assert_array_equal(decode_frame(data), PERSON)
    for height, width in ((8, 8), (9, 8), (96, 13)):
        np.testing.assert_array_equal(
            decode_frame(make_png(PERSON[:height, :width], interlaced=True)), PERSON[:height, :width]
        )


def test_large_png_keeps_its_compressed_pixels() -> None:
    picture = np.tile(PERSON, (25, 70, 1))
    data = make_png(picture, pieces=3)
    np.testing.assert_array_equal(decode_frame(data), picture)
    trailing = build(
        [(kind, body + b"garbage" if kind == b"IDAT" else body) for kind, body in chunks(make_png(picture))]
    )
    np.testing.assert_array_equal(decode_frame(trailing), picture)


def test_metadata_reaches_no_decoder() -> None:
    """Neither its size nor its content, which may decompress to gigabytes, has an effect."""
    parts = chunks(save(PERSON, "PNG"))
    bomb = zlib.compress(bytes(20_000_000))
    extra = [
        *((b"iCCP", b"profile\0\0" + bomb), (b"zTXt", b"key\0\0" + bomb), (b"iTXt", b"k\0\1\0\0\0" + bomb)),
        *((b"tEXt", b"key\0" + bytes(1_000_000)), (b"gAMA", b"\0\0\0\1"), (b"cHRM", bytes(3)), (b"sBIT", bytes(9))),
        (b"acTL", bytes(8)),
    ]
    np.testing.assert_array_equal(decode_frame(build([parts[0], *extra, *parts[1:]])), PERSON)


def test_checksums_of_pixels_are_checked() -> None:
    data = bytearray(save(PERSON, "PNG"))
    data[data.index(b"IDAT") - 4 + 12 + 20] ^= 1
    assert "checksum" in error_of(bytes(data)).reason


def test_many_chunks_are_refused() -> None:
    data = save(PERSON, "PNG")
    many = data[:HEAD] + png_chunk(b"tEXt", b"") * 40_000 + data[HEAD:]
    assert "more than 32768 chunks" in error_of(many).reason


@pytest.mark.parametrize(
    ("depth", "colour"), [(3, 0), (16, 3), (4, 2), (8, 1), (8, 5), (0, 6), (32, 2), (8, 7), (255, 255)]
)
def test_headers_that_do_not_exist_are_refused(depth: int, colour: int) -> None:
    header = struct.pack(">IIBBBBB", 16, 16, depth, colour, 0, 0, 0)
    assert "do not exist" in error_of(SIGNATURE + png_chunk(b"IHDR", header) + bytes(40)).reason


def test_animated_png_is_refused_by_name() -> None:
    picture = Image.fromarray(PERSON)
    for options in ({}, {"default_image": True}):
        data = save(picture, "PNG", save_all=True, append_images=[picture.rotate(9), picture.rotate(20)], **options)
        error = error_of(data)
        assert error.status == "unsupported"
        assert "animated" in error.reason
    np.testing.assert_array_equal(decode_frame(save(picture, "PNG", save_all=True)), PERSON)


@pytest.mark.parametrize("hidden", [0, 255])
def test_transparent_pixels_are_mid_grey_in_every_kind_of_png(hidden: int) -> None:
    """Whatever colour a file stores below them."""
    wide = bytes((hidden, 0))
    key = bytes((0, hidden))
    palette = png_chunk(b"PLTE", bytes((hidden,)) * 6)
    cases = {
        "palette": make(16, 16, 8, 3, bytes(16), palette, png_chunk(b"tRNS", b"\0")),
        "palette of 1 bit": make(16, 16, 1, 3, bytes(2), palette, png_chunk(b"tRNS", b"\0\xff")),
        "grey with a key": make(16, 16, 8, 0, bytes((hidden,)) * 16, png_chunk(b"tRNS", key)),
        "grey of 16 bits with a key": make(16, 16, 16, 0, wide * 16, png_chunk(b"tRNS", wide)),
        "grey of 4 bits with a key": make(
            16, 16, 4, 0, bytes((hidden,)) * 8, png_chunk(b"tRNS", bytes((0, hidden & 15)))
        ),
        "grey of 1 bit with a key": make(
            16, 16, 1, 0, bytes((hidden,)) * 2, png_chunk(b"tRNS", bytes((0, hidden & 1)))
        ),
        "RGB with a key": make(16, 16, 8, 2, bytes((hidden,)) * 48, png_chunk(b"tRNS", key * 3)),
        "RGB of 16 bits with a key": make(16, 16, 16, 2, wide * 48, png_chunk(b"tRNS", wide * 3)),
        "grey with alpha": make(16, 16, 8, 4, bytes((hidden, 0)) * 16),
        "grey of 16 bits with alpha": make(16, 16, 16, 4, (wide + b"\0\0") * 16),
        "RGBA": make(16, 16, 8, 6, bytes((hidden, hidden, hidden, 0)) * 16),
        "RGBA of 16 bits": make(16, 16, 16, 6, (wide * 3 + b"\0\0") * 16),
    }
    for name, data in cases.items():
        np.testing.assert_array_equal(decode_frame(data), np.full((16, 16, 3), GREY), err_msg=name)


def test_key_of_16_bits_is_compared_in_16_bits() -> None:
    key = png_chunk(b"tRNS", b"\x40\xff")
    np.testing.assert_array_equal(decode_frame(make(16, 16, 16, 0, b"\x40\xfe" * 16, key)), np.full((16, 16, 3), 0x40))
    key = png_chunk(b"tRNS", b"\x40\xff" * 3)
    np.testing.assert_array_equal(decode_frame(make(16, 16, 16, 2, b"\x40\xfe" * 48, key)), np.full((16, 16, 3), 0x40))


def test_half_transparent_pixels_are_mixed_with_mid_grey() -> None:
    for data in (make(16, 16, 8, 6, b"\xff\x00\x40\x80" * 16), make(16, 16, 16, 6, b"\xff\0\0\0\x40\0\x80\0" * 16)):
        wanted = [round((value * 128 + GREY * 127) / 255) for value in (255, 0, 64)]
        np.testing.assert_array_equal(decode_frame(data), np.tile(wanted, (16, 16, 1)))


def test_transparency_of_a_wrong_length_is_refused() -> None:
    palette = png_chunk(b"PLTE", bytes(6))
    for data in (
        make(16, 16, 8, 3, bytes(16), palette, png_chunk(b"tRNS", bytes(3))),
        make(16, 16, 8, 3, bytes(16)),
        make(16, 16, 8, 3, bytes(16), png_chunk(b"PLTE", bytes(7))),
        make(16, 16, 8, 2, bytes(48), png_chunk(b"tRNS", bytes(5))),
        make(16, 16, 8, 0, bytes(16), png_chunk(b"tRNS", bytes(6))),
    ):
        assert error_of(data).status == "undecodable"


def test_opaque_alpha_changes_nothing() -> None:
    for mode in ("RGBA", "LA"):
        picture = Image.fromarray(PERSON).convert(mode)
        wanted = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(decode_frame(save(picture, "PNG")), wanted)


def test_deep_pngs_are_the_plain_picture() -> None:
    grey = PERSON[..., 0]
    deep = save(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(decode_frame(deep), np.repeat(grey[..., None], 3, axis=2))


def test_pixels_are_bounded_by_the_limit_whatever_the_file_compresses_to() -> None:
    data = make(5000, 5001, 1, 0, bytes(625))
    assert len(data) < 5000
    with pytest.raises(FrameError, match="5000x5001"):
        decode_frame(data, FrameLimits(max_pixels=25_000_000))

import struct

import numpy as np
import pytest
from PIL import Image

from model.frames import decode_frame
from model.images.header import FORMATS
from tests.model.images.samples import PERSON, error_of, save

GREY = 128


def transparent(colour: int) -> Image.Image:
    return Image.fromarray(np.dstack([np.full_like(PERSON, colour), np.zeros(PERSON.shape[:2], np.uint8)]))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}])
def test_every_truncated_webp_is_refused_also_with_a_corrected_length(options: dict[str, object]) -> None:
    data = save(PERSON, "WEBP", **options)
    for length in range(12, len(data) - 8, 3):
        assert error_of(data[:length]).status == "undecodable"
        kind, size = data[12:16], length - 20
        if size > 10:
            shorter = (
                b"RIFF" + struct.pack("<I", 12 + size) + b"WEBP" + kind + struct.pack("<I", size) + data[20:length]
            )
            assert error_of(shorter + bytes(size % 2)).status == "undecodable", length


@pytest.mark.parametrize(
    "options", [{"lossless": True, "exact": True}, {"quality": 90}, {"quality": 90, "exact": True}]
)
def test_transparent_webp_is_mid_grey(options: dict[str, object]) -> None:
    for colour in (0, 255):
        frame = decode_frame(save(transparent(colour), "WEBP", **options))
        np.testing.assert_array_equal(frame, np.full(PERSON.shape, GREY))


def test_half_transparent_webp_is_mixed_with_mid_grey() -> None:
    half = Image.fromarray(np.dstack([PERSON, np.full(PERSON.shape[:2], 128, np.uint8)]))
    wanted = (PERSON.astype(float) * 128 + GREY * 127) / 255
    assert np.abs(decode_frame(save(half, "WEBP", lossless=True)) - wanted).max() <= 1
    assert np.abs(decode_frame(save(half, "WEBP", quality=95)) - wanted).mean() < 4


def test_animated_webp_is_refused_by_name() -> None:
    picture = Image.fromarray(PERSON)
    error = error_of(save(picture, "WEBP", save_all=True, append_images=[picture.rotate(9)]))
    assert error.status == "unsupported"
    assert "animated" in error.reason


def test_canvas_of_a_webp_must_be_the_size_of_its_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = bytearray(save(PERSON, "WEBP", quality=80, exif=exif))
    assert data[12:16] == b"VP8X"
    data[24:27] = (200).to_bytes(3, "little")
    assert "differs from its header" in error_of(bytes(data)).reason


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF, 0xECFFFFFF])
def test_declared_sizes_of_webp_chunks_are_not_trusted(size: int) -> None:
    data = save(PERSON, "WEBP", quality=80)
    for at in (4, 16):
        changed = bytearray(data)
        struct.pack_into("<I", changed, at, size)
        assert "truncated" in error_of(bytes(changed)).reason
    many = data[:4] + struct.pack("<I", len(data) - 8 + 8 * 2000) + data[8:] + b"XMP \0\0\0\0" * 2000
    assert "more than 1024 chunks" in error_of(many).reason


def test_bmp_is_read() -> None:
    picture = Image.fromarray(PERSON)
    np.testing.assert_array_equal(decode_frame(save(picture, "BMP")), PERSON)
    np.testing.assert_array_equal(decode_frame(save(picture.crop((0, 0, 47, 96)), "BMP")), PERSON[:, :47])
    few = picture.quantize(40)
    np.testing.assert_array_equal(decode_frame(save(few, "BMP")), np.asarray(few.convert("RGB")))
    grey = picture.convert("L")
    np.testing.assert_array_equal(decode_frame(save(grey, "BMP")), np.asarray(grey.convert("RGB")))
    np.testing.assert_array_equal(decode_frame(save(picture.convert("RGBA"), "BMP")), PERSON)


def bmp(width: int, height: int, bits: int, compression: int, pixels: bytes, masks: tuple[int, ...] = ()) -> bytes:
    size = 108 if masks else 40
    start = 14 + size
    head = struct.pack("<2sIII", b"BM", start + len(pixels), 0, start)
    body = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    return head + (body + struct.pack(f"<{len(masks)}I", *masks)).ljust(size, b"\0") + pixels


MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def test_rows_from_top_to_bottom_and_alpha_of_a_bmp_are_respected() -> None:
    pixels = np.dstack([PERSON[..., ::-1], np.zeros(PERSON.shape[:2], np.uint8)]).tobytes()
    np.testing.assert_array_equal(decode_frame(bmp(48, -96, 32, 0, pixels)), PERSON)
    np.testing.assert_array_equal(decode_frame(bmp(48, 96, 32, 0, pixels)), PERSON[::-1])
    np.testing.assert_array_equal(decode_frame(bmp(48, -96, 32, 3, pixels, MASKS)), np.full(PERSON.shape, GREY))
    np.testing.assert_array_equal(decode_frame(bmp(48, -96, 32, 3, pixels, (*MASKS[:3], 0))), PERSON)


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2), (16, 0), (16, 3), (1, 0), (24, 4), (24, 5), (0, 0)])
def test_other_kinds_of_bmp_are_refused_by_name(bits: int, compression: int) -> None:
    error = error_of(bmp(48, 96, bits, compression, bytes(48 * 96 * 4), MASKS if compression == 3 else ()))
    assert error.status == "unsupported"
    assert f"BMP file of {bits} bits" in error.reason


@pytest.mark.parametrize(("width", "height"), [(48, 96), (48, -96), (5000, 5000), (-48, 96), (48, -(2**31))])
def test_bmp_that_holds_fewer_pixels_than_it_declares_is_refused(width: int, height: int) -> None:
    assert error_of(bmp(width, height, 24, 0, bytes(48 * 96 * 3 - 1))).status in {"undecodable", "too_large"}


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "JPEG2000", "PPM", "ICO", "AVIF", "DDS", "QOI"])
def test_other_formats_are_refused_by_name_with_the_accepted_ones(format_: str) -> None:
    error = error_of(save(PERSON, format_))
    assert error.status == "unsupported"
    assert FORMATS in error.reason
    assert {"JPEG2000": "JPEG 2000", "PPM": "PNM", "ICO": "icon"}.get(format_, format_) in error.reason


@pytest.mark.parametrize(
    ("brands", "name"),
    [(b"mif1\0\0\0\0mif1avifmiaf", "AVIF"), (b"msf1\0\0\0\0msf1hevc", "HEIC"), (b"heic\0\0\0\0mif1heic", "HEIC")],
)
def test_pictures_in_a_container_are_named_by_all_their_brands(brands: bytes, name: str) -> None:
    error = error_of(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + b"\0\0\0\x20meta")
    assert (error.status, error.reason.split()[0]) == ("unsupported", name)
    assert error_of(b"\0\0\0\x14ftypisom\0\0\0\0isom" + b"mif1").status == "not_an_image"

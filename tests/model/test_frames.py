import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from model.frames import (
    FrameError,
    FrameLimits,
    ImageHeader,
    crop_box,
    decode_frame,
    read_frame,
    read_header,
    resize_frame,
)


@pytest.fixture
def picture(rng):
    """RGB, smooth enough that JPEG keeps it: a gradient with a red square at the top left."""
    y, x = np.mgrid[0:96, 0:48]
    image = np.stack([x * 4, y * 2, (x + y)], axis=-1).astype(np.uint8)
    image[:24, :24] = (250, 10, 10)
    return image


def encode(picture, extension, *options):
    return cv2.imencode(extension, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), list(options))[1].tobytes()


def png_of_size(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("extension", "options", "kind"),
    [
        (".jpg", (), "jpeg"),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "jpeg"),
        (".png", (), "png"),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 90), "webp"),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101), "webp"),  # above 100: lossless
    ],
)
def test_reads_and_decodes_each_format(picture, extension, options, kind):
    data = encode(picture, extension, *options)
    assert read_header(data) == ImageHeader(kind, 48, 96)
    decoded = decode_frame(data)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (96, 48, 3)
    red, green, _ = decoded[12, 12].astype(int)
    assert red > 200
    assert green < 60


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_truncated_files_are_refused(picture, extension):
    data = encode(picture, extension)
    for length in (len(data) // 2, len(data) - 40, 40, 14):
        with pytest.raises(FrameError) as error:
            decode_frame(data[:length])
        assert error.value.status == "undecodable"


def test_jpeg_thumbnail_does_not_hide_truncation(picture):
    data = encode(picture, ".jpg")
    thumbnail = encode(picture[:32, :32], ".jpg")
    application = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + application + data[2:]
    assert decode_frame(whole).shape == (96, 48, 3)
    with pytest.raises(FrameError, match="truncated"):
        decode_frame(whole[:-60])


@pytest.mark.parametrize("data", [b"", b"these are not the bytes of a picture", b"\xff\xd8"])
def test_other_content_is_not_an_image(data):
    with pytest.raises(FrameError) as error:
        decode_frame(data)
    assert error.value.status == "not_an_image"


def test_gigapixel_png_of_few_bytes_is_refused_by_its_header():
    data = png_of_size(30_000, 30_000)
    assert len(data) < 100
    with pytest.raises(FrameError, match="30000x30000") as error:
        decode_frame(data)
    assert error.value.status == "too_large"


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7), (0, 0)])
def test_tiny_images_are_refused(size):
    with pytest.raises(FrameError) as error:
        decode_frame(png_of_size(*size))
    assert error.value.status == "too_small"


def test_byte_limit_is_checked_first(picture):
    with pytest.raises(FrameError, match="bytes") as error:
        decode_frame(encode(picture, ".png"), FrameLimits(max_bytes=100))
    assert error.value.status == "too_large"


def test_damaged_pixels_are_undecodable():
    with pytest.raises(FrameError) as error:
        decode_frame(png_of_size(64, 64))  # a complete file without pixels
    assert error.value.status == "undecodable"


def test_boxes_are_clipped_to_the_frame(picture):
    assert crop_box(picture, -10, -10, 30, 40).shape == (30, 20, 3)
    assert crop_box(picture, 40.4, 80.6, 500, 500).shape == (15, 8, 3)
    np.testing.assert_array_equal(crop_box(picture, 4, 8, 16, 32), picture[8:40, 4:20])


@pytest.mark.parametrize("box", [(48, 0, 20, 20), (-30, 0, 30, 90), (0, 0, 4, 90), (0, 0, -5, 20), (10, 200, 20, 20)])
def test_boxes_outside_are_refused(picture, box):
    with pytest.raises(FrameError) as error:
        crop_box(picture, *box)
    assert error.value.status == "too_small"


def test_resizing_averages_when_shrinking_and_keeps_same_size(rng):
    noise = rng.integers(0, 256, (256, 128, 3), dtype=np.uint8)
    small = resize_frame(noise, 32, 16)
    blocks = noise.reshape(32, 8, 16, 8, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= 1
    assert resize_frame(noise, 512, 256).shape == (512, 256, 3)
    np.testing.assert_array_equal(resize_frame(noise, 256, 128), noise)


@pytest.fixture
def scene(rng):
    """RGB [640, 320]: shapes of several sizes on a gradient, with as much detail as a photograph."""
    y, x = np.mgrid[0:640, 0:320]
    image = np.stack([x * 0.7, y * 0.35, 255 - x * 0.5], axis=-1).astype(np.uint8)
    for _ in range(60):
        corner, size = rng.integers(0, (300, 620)), rng.integers(4, 60, 2)
        colour = rng.integers(0, 256, 3).tolist()
        cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), colour, -1)
    return cv2.GaussianBlur(image, (3, 3), 0)


def test_shrinking_by_less_than_half_is_close_to_averaging(scene):
    for height, width in ((600, 300), (480, 200), (330, 170)):
        averaged = cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA)
        assert np.abs(resize_frame(scene, height, width).astype(float) - averaged).mean() < 3


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_jpeg_is_decoded_to_the_same_pixels_as_by_opencv(scene, options):
    data = encode(scene, ".jpg", *options)
    wanted = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(decode_frame(data), wanted)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_frame_of_less_than_twice_the_size_is_decoded_in_full_size(scene, extension):
    data = encode(scene, extension)
    wanted = resize_frame(decode_frame(data), 330, 120)
    np.testing.assert_array_equal(read_frame(data, 330, 120), wanted)


@pytest.mark.parametrize(("reduction", "size"), [(2, (320, 160)), (4, (160, 80)), (8, (80, 40)), (8, (20, 10))])
def test_large_jpeg_is_decoded_at_a_fraction_of_its_size(scene, reduction, size):
    data = encode(scene, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    found = read_frame(data, *size)
    assert found.shape == (*size, 3)
    in_full = resize_frame(decode_frame(data), *size)
    assert np.abs(found.astype(float) - in_full).mean() < 2
    assert not np.array_equal(found, in_full)  # it was decoded at a smaller size
    flag = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[reduction]
    reduced = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flag), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(found, resize_frame(reduced, *size))


def test_odd_sizes_round_up_as_the_decoder_does(scene):
    for height, width in ((639, 319), (321, 161), (323, 163)):
        data = encode(scene[:height, :width], ".jpg")
        assert read_frame(data, 80, 40).shape == (80, 40, 3)


def test_grey_and_cmyk_jpegs_are_decoded(scene):
    grey = cv2.imencode(".jpg", scene[..., 0])[1].tobytes()
    assert decode_frame(grey).shape == scene.shape
    image = io.BytesIO()
    Image.fromarray(scene).convert("CMYK").save(image, "JPEG", quality=95)
    for frame in (decode_frame(image.getvalue()), read_frame(image.getvalue(), 640, 320)):
        assert np.abs(frame.astype(float) - scene).mean() < 12


def test_damaged_pixels_inside_a_complete_jpeg_are_refused(scene):
    """The decoder would fill the rest with grey."""
    data = bytearray(encode(scene, ".jpg"))
    middle = len(data) // 2
    data[middle : middle + 6] = b"\xff\xd1" * 3
    with pytest.raises(FrameError, match="premature end of data segment") as error:
        decode_frame(bytes(data))
    assert error.value.status == "undecodable"


def test_unused_bytes_before_the_end_of_a_jpeg_are_accepted(scene):
    """Many cameras write them, and the decoder warns about them. All pixels are there."""
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        data = encode(scene, ".jpg", *options)
        np.testing.assert_array_equal(decode_frame(data[:-2] + b"\0\1\2" + data[-2:]), decode_frame(data))
        np.testing.assert_array_equal(decode_frame(data + bytes(100)), decode_frame(data))


def segment(marker, body=b""):
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD7, 0xD8, 0xD9])
def test_markers_without_a_length_cannot_hide_the_size(marker):
    """A decoder skips such a marker; read as a segment, it would hide the true frame header."""
    big = np.zeros((600, 600, 3), np.uint8)
    data = encode(big, ".jpg")
    false_size = segment(0xC0, struct.pack(">BHHB", 8, 64, 64, 3))
    comment = segment(0xFE, bytes(2) + false_size + bytes(20))
    crafted = data[:2] + bytes((0xFF, marker)) + comment + data[2:]
    with pytest.raises(FrameError, match="damaged segment"):
        decode_frame(crafted, FrameLimits(max_side=100))


def test_many_scans_are_refused_before_they_are_decoded(picture):
    data = encode(picture, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_frame(data).shape == picture.shape
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(FrameError, match="more than 32 scans"):
        decode_frame(data[:-2] + scan * 80 + data[-2:])


@pytest.mark.parametrize("filler", [b"\xff" * 1_000_000, segment(0xFE) * 100_000])
def test_endless_headers_are_refused(picture, filler):
    data = encode(picture, ".jpg")
    with pytest.raises(FrameError) as error:
        decode_frame(data[:2] + filler + data[2:])
    assert error.value.status == "undecodable"


def test_png_without_its_header_first_is_refused(picture):
    data = encode(picture, ".png")
    with pytest.raises(FrameError, match="begin with its header"):
        decode_frame(data[:8] + struct.pack(">I", 4) + b"tEXt" + b"abcd" + bytes(4) + data[8:])


def test_exif_orientation_is_applied(picture):
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    data = encode(picture, ".jpg")
    sideways = data[:2] + segment(0xE1, b"Exif\x00\x00" + tiff) + data[2:]
    turned = decode_frame(sideways)
    assert turned.shape == (48, 96, 3)
    np.testing.assert_array_equal(read_frame(sideways, 20, 40), resize_frame(turned, 20, 40))
    red, green, _ = turned[12, -12].astype(int)  # the red square went from the top left to the top right
    assert red > 200
    assert green < 60

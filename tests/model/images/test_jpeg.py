import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from model.frames import FrameError, decode_frame, read_frame
from tests.model.images.samples import PERSON, error_of, save, segment


def test_jpeg_cut_inside_its_pixels_is_refused_although_its_end_was_added() -> None:
    """The decoder would fill the missing rows with grey and only warn."""
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = save(PERSON, "JPEG", quality=95, **options)
        scan = data.index(b"\xff\xda") + 14
        for length in range(scan, len(data) - 3, 97):
            error = error_of(data[:length] + b"\xff\xd9")
            assert error.status == "undecodable", length


def test_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    data = save(PERSON, "JPEG", progressive=True)
    tables = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc4"]
    assert len(tables) > 5
    for at in tables[2:]:
        assert error_of(data[:at] + b"\xff\xd9").reason == "the JPEG file is truncated: scans are missing"


def test_every_truncated_jpeg_is_refused() -> None:
    data = save(PERSON, "JPEG", quality=60)
    for length in range(3, len(data) - 1):
        assert error_of(data[:length]).status == "undecodable"


@pytest.mark.parametrize("format_", ["MPO", "JPEG"])
def test_several_jpeg_pictures_in_one_file_are_refused(format_: str) -> None:
    picture = Image.fromarray(PERSON)
    if format_ == "MPO":
        data = save(PERSON, "MPO", save_all=True, append_images=[picture.rotate(9), picture.resize((20, 30))])
    else:
        data = save(PERSON, "JPEG") + bytes(3) + save(PERSON, "JPEG")
    error = error_of(data)
    assert error.status == "unsupported"
    assert "several JPEG pictures" in error.reason


def test_mpo_of_one_picture_is_read() -> None:
    assert decode_frame(save(PERSON, "MPO")).shape == PERSON.shape


def _photo(kind: int, second: bytes) -> bytes:
    """Return a JPEG with a multi-picture index of a second picture."""
    first = save(PERSON, "JPEG")
    version = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    count = struct.pack("<HHII", 0xB001, 4, 1, 2)
    entries = struct.pack("<HHII", 0xB002, 7, 32, 50)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + version + count + entries + bytes(4)
    index_size = 4 + len(head) + 32
    base = 2 + 4 + 4  # SOI, marker and length, and the mark
    whole = len(first) + 4 + index_size
    rows = struct.pack("<IIIHH", 0x030000, whole, 0, 0, 0) + struct.pack(
        "<IIIHH", kind, len(second), whole - base, 0, 0
    )
    return first[:2] + segment(0xE2, b"MPF\0" + head + rows) + first[2:] + second


def test_photos_of_phones_and_cameras_with_a_preview_or_a_gain_map_are_read() -> None:
    small = save(PERSON[::2, ::2], "JPEG")
    gain_map = small[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0 hdrgm:Version='1.0'") + small[2:]
    assert decode_frame(_photo(0x010001, small)).shape == PERSON.shape
    assert decode_frame(_photo(0, gain_map)).shape == PERSON.shape
    assert error_of(_photo(0, small)).status == "unsupported"
    assert error_of(_photo(0x020003, small)).status == "unsupported"
    removed = _photo(0, small)[: -len(small)]  # by a program that kept the index
    assert decode_frame(removed).shape == PERSON.shape


def test_photo_with_a_short_video_behind_it_is_read() -> None:
    data = save(PERSON, "JPEG")
    np.testing.assert_array_equal(decode_frame(data + b"\0\0\0\x18ftypmp42" + bytes(100)), decode_frame(data))


@pytest.mark.parametrize(
    ("marker", "precision", "words"),
    [(0xC1, 12, "12 bits"), (0xC3, 8, "lossless"), (0xC5, 8, "unusual coding"), (0xF7, 8, "truncated")],
)
def test_unusual_jpegs_are_refused_by_name(marker: int, precision: int, words: str) -> None:
    data = save(PERSON, "JPEG")
    at = data.index(b"\xff\xc0")
    changed = data[: at + 1] + bytes((marker,)) + data[at + 2 : at + 4] + bytes((precision,)) + data[at + 5 :]
    assert words in error_of(changed).reason


def test_jpeg_whose_height_follows_its_pixels_is_refused_by_name() -> None:
    data = save(PERSON, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    error = error_of(data[:at] + bytes(2) + data[at + 2 : -2] + segment(0xDC, struct.pack(">H", 96)) + b"\xff\xd9")
    assert error.status == "unsupported"
    assert "DNL" in error.reason


def test_unknown_version_of_jfif_is_read() -> None:
    data = bytearray(save(PERSON, "JPEG"))
    wanted = decode_frame(bytes(data))
    data[data.index(b"JFIF\0") + 5] = 9
    np.testing.assert_array_equal(decode_frame(bytes(data)), wanted)


def test_cmyk_with_adobe_marker_has_the_right_colours() -> None:
    file = io.BytesIO()
    Image.fromarray(PERSON).convert("CMYK").save(file, "JPEG", quality=95)
    for frame in (decode_frame(file.getvalue()), read_frame(file.getvalue(), *PERSON.shape[:2])):
        assert np.abs(frame.astype(float) - PERSON).mean() < 5


def test_damaged_orientation_is_ignored() -> None:
    data = cv2.imencode(".jpg", PERSON[..., ::-1])[1].tobytes()
    for tiff in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"XX*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\xff\xff" + bytes(30)):
        turned = data[:2] + segment(0xE1, b"Exif\0\0" + tiff) + data[2:]
        np.testing.assert_array_equal(decode_frame(turned), decode_frame(data))


def test_reason_names_the_damage() -> None:
    data = save(PERSON, "JPEG", quality=95)
    middle = len(data) // 2
    with pytest.raises(FrameError, match="the JPEG data is damaged: Corrupt JPEG data"):
        decode_frame(data[:middle] + data[-2:])

from pathlib import Path

import pytest

from model.containers import Container, find_container, is_complete
from tests.service.pictures import draw, write_video

KINDS: list[tuple[str, str, Container]] = [
    ("v.mp4", "mp4v", "mp4"),
    ("v.mkv", "mp4v", "matroska"),
    ("v.avi", "MJPG", "avi"),
]


@pytest.mark.parametrize(("name", "codec", "container"), KINDS)
def test_real_videos_are_known_and_complete(name: str, codec: str, container: Container, tmp_path: Path) -> None:
    write_video(tmp_path / name, [draw(1, seed) for seed in range(10)], codec)
    assert find_container(tmp_path / name) == container
    assert is_complete(tmp_path / name, container)


@pytest.mark.parametrize(("name", "codec", "container"), KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_video_cut_short_is_not_complete(
    name: str, codec: str, container: Container, share: float, tmp_path: Path
) -> None:
    data = write_video(tmp_path / name, [draw(1, seed) for seed in range(10)], codec)
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert not is_complete(tmp_path / name, container)


@pytest.mark.parametrize("data", [b"", b"\x00", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"RIFF\0\0\0\0WAVEfmt "])
def test_other_files_are_no_video(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    assert find_container(path) is None


@pytest.mark.parametrize(
    ("data", "container"),
    [
        (b"\0\0\0\x08ftyp\0\0\0", "mp4"),  # a header of which one byte is missing
        (b"\0\0\0\x01mdat" + b"\xff" * 8, "mp4"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
    ],
)
def test_damaged_structures_are_not_complete(data: bytes, container: Container, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(data)
    assert not is_complete(path, container)


def test_a_part_without_a_declared_length_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\0mdat" + b"x" * 100)
    assert is_complete(path, "mp4")
    path.write_bytes(b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"x" * 100)
    assert is_complete(path, "matroska")

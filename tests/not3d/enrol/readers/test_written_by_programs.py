"""Tracks as the programs themselves write them; `files/README.md` says which versions."""

from pathlib import Path

import pytest

from not3d.enrol.readers.tracks import TrackOptions, read_tracks
from not3d.enrol.tracklets import FootageError

FILES = Path(__file__).parent / "files"
CARS = "4 rows of other classes than"
UNTRACKED = "4 detections without a track"


@pytest.mark.parametrize(
    ("name", "tracks", "base", "left_out"),
    [
        ("supervision.csv", {"7", "9"}, 0, [CARS, UNTRACKED]),
        ("supervision.json", {"7", "9"}, 0, [CARS, UNTRACKED]),
        ("norfair.txt", {"1", "2"}, 1, []),
        ("trackers.txt", {"7", "9"}, 1, [UNTRACKED]),
        ("boxmot.txt", {"7", "9"}, 1, [CARS]),
    ],
)
def test_people_of_a_file_are_read_and_the_rest_is_counted(
    name: str, tracks: set[str], base: int, left_out: list[str]
) -> None:
    read = read_tracks(FILES / name)
    assert set(read.boxes) == tracks
    assert f"frames counted from {base}" in read.description
    assert len(read.remarks) == len(left_out)
    for remark, expected in zip(read.remarks, left_out, strict=True):
        assert expected in remark
    first, second = sorted(read.boxes)
    assert [box[0] for box in read.boxes[first]] == [0, 1, 2, 3]
    assert read.boxes[first][0] == (0, 4, 10, 32, 64)
    assert read.boxes[second] == [(frame, 40, 10, 40, 70) for frame in range(4)]


@pytest.mark.parametrize("folder", ["ultralytics", "ultralytics-conf", "ultralytics/labels"])
def test_label_files_of_ultralytics_are_read(folder: str) -> None:
    read = read_tracks(FILES / folder, stem="yard")
    assert set(read.boxes) == {"7", "9"}
    assert read.relative
    assert len(read.remarks) == 2
    assert "3 rows of other classes than 0" in read.remarks[0]
    assert "1 detection without a track" in read.remarks[1]
    boxes = read.in_pixels(128, 96)["7"]
    assert [box[0] for box in boxes] == [0, 1, 2]
    assert boxes[1] == pytest.approx((1, 8, 10, 32, 64), abs=1e-3)


def test_detections_without_any_track_are_refused() -> None:
    with pytest.raises(FootageError, match=r"4 detections and no tracks.*Run a tracker"):
        read_tracks(FILES / "supervision-untracked.csv")


def test_other_classes_can_be_chosen_by_name_or_number() -> None:
    assert set(read_tracks(FILES / "supervision.csv", TrackOptions(classes=frozenset({"Car"}))).boxes) == {"11"}
    assert set(read_tracks(FILES / "boxmot.txt", TrackOptions(classes=frozenset({"0", "2"}))).boxes) == {"7", "9", "11"}

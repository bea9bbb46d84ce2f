"""Frames of enrolled tracklets, found again."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from not3d.enrol.discovery import read_footage
from not3d.enrol.footage import cut_tracks, list_tracks, read_pictures
from not3d.enrol.local_frames import find_local_frames
from not3d.enrol.tracklets import LocalTracklet
from tests.not3d.videos import write_video

TRACKS = "3,7,8,10,32,64,0.9\n2,7,4,10,32,64,0.9\n5,9,40,10,40,70,0.8\n6,9,40,10,40,70,0.8\n"


def draw(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((32, 16, 3), grey, dtype=np.uint8))
    return path


def greys(metadata: dict[str, object], *folders: Path) -> list[int]:
    return [round(float(picture.mean())) for picture in find_local_frames(metadata, folders)]


@pytest.mark.parametrize("layout", ["a/1.jpg", "1.jpg", "0001/c1/t1/1.jpg", "0022/0022C1T0001F001.jpg"])
@pytest.mark.parametrize("asked", [".", ".."])
def test_frames_are_found_below_the_enrolled_folder_and_its_parent(
    tmp_path: Path, layout: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tracklets"
    draw(folder / layout)
    (item,) = read_footage(folder)
    (picture,) = find_local_frames(item.metadata, [folder if asked == "." else tmp_path])
    np.testing.assert_array_equal(picture, read_pictures(item)[0])
    monkeypatch.chdir(folder)
    assert len(find_local_frames(item.metadata, [Path(asked)])) == 1
    assert read_footage(Path())[0].metadata == item.metadata


def test_the_frames_found_for_folders_are_the_enrolled_ones(people: Path) -> None:
    for item in read_footage(people):
        np.testing.assert_array_equal(find_local_frames(item.metadata, [people]), read_pictures(item))


def test_the_frames_found_for_videos_are_the_enrolled_ones(tmp_path: Path) -> None:
    video = write_video(tmp_path / "videos" / "a.avi", frames=8)
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.csv").write_text(TRACKS)
    for item in cut_tracks(list_tracks(video, tables / "a.csv")[0]):
        np.testing.assert_array_equal(find_local_frames(item.metadata, [video.parent, tables]), read_pictures(item))
        assert find_local_frames(item.metadata, [video.parent]) == []
    (whole,) = read_footage(video)
    assert [picture.shape for picture in find_local_frames(whole.metadata, [video.parent])] == [(96, 128, 3)] * 4


def test_one_of_several_tracklets_in_a_folder_is_found(tmp_path: Path) -> None:
    for name, grey in (("0022C1T0001F001", 50), ("0022C2T0004F001", 200)):
        draw(tmp_path / f"{name}.jpg", grey)
    assert [greys(item.metadata, tmp_path) for item in read_footage(tmp_path, "mars")] == [[50], [200]]
    (tmp_path / "0022C1T0001F001.jpg").unlink()
    assert greys({"source": tmp_path.name, "tracklet": "0022C1T0001"}, tmp_path) == []


def test_only_frames_of_the_folder_itself_belong_to_it(tmp_path: Path) -> None:
    draw(tmp_path / "1.jpg", 50)
    draw(tmp_path / "sub" / "1.jpg", 200)
    assert [greys(item.metadata, tmp_path) for item in read_footage(tmp_path)] == [[50], [200]]


def test_a_folder_with_another_name_than_the_tracklet_gives_no_frames(tmp_path: Path) -> None:
    draw(tmp_path / "mine" / "1.jpg")
    assert greys({"source": "mine", "tracklet": "mine"}, tmp_path) == [90]
    assert greys({"source": "mine", "tracklet": "yours"}, tmp_path) == []


def test_nothing_outside_the_folders_is_opened(tmp_path: Path) -> None:
    here, secret = tmp_path / "here", tmp_path / "secret"
    here.mkdir()
    draw(secret / "1.jpg")
    video = write_video(secret / "a.avi", frames=8)
    (secret / "a.csv").write_text(TRACKS)
    (here / "folder").symlink_to(secret)
    (here / "video.avi").symlink_to(video)
    draw(here / "linked" / "2.jpg").unlink()
    (here / "linked" / "2.jpg").symlink_to(secret / "1.jpg")
    # Each would be found, were it allowed: so what refuses it is that it lies outside.
    assert greys({"source": "secret", "tracklet": "secret"}, tmp_path) == [90]
    assert len(greys({"source": "a.avi"}, secret)) == 4
    assert len(greys({"source": "a.avi", "tracks": "a.csv", "track": "7"}, secret)) == 2
    for source in ("../secret", str(secret), f"{here}/../secret", "folder", "here/../../secret", "linked"):
        for tracklet in (Path(source).name, "secret"):
            assert greys({"source": source, "tracklet": tracklet}, here) == [], source
    for source in (str(video), "../secret/a.avi", "video.avi", "folder/a.avi", f"file:{video}"):
        assert greys({"source": source}, here) == [], source
    shutil.copy(video, here)
    for table in (str(secret / "a.csv"), "../secret/a.csv", "folder/a.csv"):
        assert greys({"source": "a.avi", "tracks": table, "track": "7"}, here) == [], table
    # An absolute place is not even looked at: enrolling never writes one.
    assert greys({"source": str(secret), "tracklet": "secret"}, secret) == []
    # Links are followed where both of their ends are allowed.
    assert greys({"source": "linked", "tracklet": "linked"}, here, secret) == [90]


def test_a_linked_folder_can_be_named(tmp_path: Path) -> None:
    draw(tmp_path / "disk" / "set7" / "a" / "1.jpg")
    (tmp_path / "tracklets").symlink_to(tmp_path / "disk" / "set7")
    (item,) = read_footage(tmp_path / "tracklets")
    assert item.metadata["source"] == "tracklets/a"
    assert greys(dict(item.metadata), tmp_path / "tracklets") == [90]


def test_two_matching_paths_give_no_frames(tmp_path: Path) -> None:
    for site, grey in (("north", 50), ("south", 200)):
        draw(tmp_path / site / "tracklets" / "a" / "1.jpg", grey)
    metadata: dict[str, object] = {"source": "tracklets/a", "tracklet": "a"}
    assert greys(metadata, tmp_path / "north") == [50]
    assert greys(metadata, tmp_path / "north", tmp_path / "south") == []
    assert greys(metadata, tmp_path / "north", tmp_path / "north" / "tracklets") == [50]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"source": 5},
        {"source": ""},
        {"source": "."},
        {"source": "nothing", "tracklet": "nothing"},
        {"source": "a\0b", "tracklet": "b"},
        {"source": "\ud800", "tracklet": "b"},
        {"source": "x" * 5000, "tracklet": "b"},
        {"source": "circle", "tracklet": "circle"},
        {"source": "pipe.jpg"},
        {"source": "pipes", "tracklet": "pipes"},
        {"source": "text", "tracklet": "text"},
        {"source": "text/1.jpg", "tracklet": "1.jpg"},
        {"source": "text", "tracklet": ["text"]},
        {"source": "a.avi", "tracks": "pipe.jpg", "track": "1"},
        {"source": "a.avi", "tracks": "a.avi", "track": "1"},
        {"source": "a.avi", "tracks": "nothing.csv", "track": "1"},
    ],
)
def test_metadata_of_other_programs_gives_no_frames(tmp_path: Path, metadata: dict[str, object]) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "1.jpg")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "1.jpg").write_text("text")
    write_video(tmp_path / "a.avi", frames=2)
    assert find_local_frames(metadata, [tmp_path]) == []


def test_a_video_is_not_read_as_a_folder_nor_a_folder_as_a_video(people: Path) -> None:
    assert find_local_frames({"source": people.name}, [people]) == []
    assert (
        find_local_frames(LocalTracklet("x", origin={"source": people.name, "tracklet": ""}).metadata, [people]) == []
    )

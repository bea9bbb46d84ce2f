"""Reading tracklets from folders."""

from pathlib import Path

import pytest

from training.datasets.folder import read_tracklets
from training.datasets.tracklet import DatasetError, Tracklet


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def frame_names(tracklet: Tracklet) -> list[str]:
    return [path.name for path in tracklet.frames]


def test_frames_of_one_folder_are_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path / "walk", "frame10.jpg", "frame9.jpg", "frame1.png", "frame2.JPEG", "frame3.webp")
    (tracklet,) = read_tracklets(tmp_path / "walk")
    assert frame_names(tracklet) == ["frame1.png", "frame2.JPEG", "frame3.webp", "frame9.jpg", "frame10.jpg"]
    assert (tracklet.name, tracklet.person, tracklet.camera) == ("walk", "", "")


def test_hidden_files_and_other_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/.2.jpg", "a/notes.txt", "a/Thumbs.db", ".cache/1.jpg", "b/1.jpg", "empty/readme.md")
    assert [(t.name, frame_names(t)) for t in read_tracklets(tmp_path)] == [("a", ["1.jpg"]), ("b", ["1.jpg"])]


def test_one_folder_per_tracklet_gives_no_people(tmp_path: Path) -> None:
    touch(tmp_path, "track10/1.jpg", "track9/1.jpg")
    assert [(t.name, t.person, t.camera) for t in read_tracklets(tmp_path)] == [("track9", "", ""), ("track10", "", "")]


def test_people_cameras_and_tracklets_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "ann/gate/t1/1.jpg", "ann/gate/t1/2.jpg", "ann/yard/t1/1.jpg", "bob/gate/t2/1.jpg")
    assert [(t.person, t.camera, t.name, len(t.frames)) for t in read_tracklets(tmp_path)] == [
        ("ann", "gate", "ann-gate-t1", 2),
        ("ann", "yard", "ann-yard-t1", 1),
        ("bob", "gate", "bob-gate-t2", 1),
    ]


def test_files_with_names_of_mars_are_grouped_in_any_folder(tmp_path: Path) -> None:
    touch(tmp_path, "0022/0022C1T0001F001.jpg", "0022/0022C1T0001F002.jpg", "0022/0022C2T0004F001.jpg")
    touch(tmp_path, "00-1/00-1C5T0009F001.jpg")
    assert {(t.person, t.camera, t.name, len(t.frames)) for t in read_tracklets(tmp_path)} == {
        ("0022", "C1", "0022C1T0001", 2),
        ("0022", "C2", "0022C2T0004", 1),
        ("00-1", "C5", "00-1C5T0009", 1),
    }


def test_root_of_mars_gives_the_test_part(shared_data: Path) -> None:
    tracklets = read_tracklets(shared_data / "mini-mars")
    assert len(tracklets) == 24
    assert {t.person for t in tracklets} == {"0022", "0028", "0032", "0046", "0048", "0052"}


def test_incomplete_mars_is_refused_with_the_missing_files(tmp_path: Path) -> None:
    touch(tmp_path, "bbox_test/0022/0022C1T0001F001.jpg", "info/test_name.txt")
    with pytest.raises(DatasetError, match=r"bbox_train.*train_name\.txt"):
        read_tracklets(tmp_path)


@pytest.mark.parametrize("names", [(), ("a/readme.txt",), ("person/track/1.jpg",), ("a/b/c/d/1.jpg",)])
def test_other_layouts_are_refused_with_a_list_of_supported_ones(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=r"(?s)Supported layouts are.*<person>/<camera>/<tracklet>"):
        read_tracklets(tmp_path)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        read_tracklets(tmp_path / "nowhere")

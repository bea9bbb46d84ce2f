"""Listing what there is to enrol."""

import os
from pathlib import Path

import pytest

from not3d.enrol.discovery import list_tracklets, parse_layout, read_footage
from not3d.enrol.tracklets import FootageError, ListedTracklet
from tests.not3d.videos import write_video


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(root: Path, **options: str) -> list[tuple[str, str, str, int]]:
    """Id, person, camera and number of frames of each tracklet."""
    items = list_tracklets(root, **options).items  # type: ignore[arg-type]
    return [(item.id, item.person, item.camera, len(item.open().frames)) for item in items]


LAYOUTS = {
    "one folder": (["1.jpg", "2.PNG", ".hidden.jpg", "Thumbs.db"], [("root", "", "", 2)]),
    "tracklet": (
        ["t10/1.jpg", "t9/10.jpg", "t9/9.jpg", "empty/notes.txt", ".git/1.jpg", "Gate 3/1.webp"],
        [("Gate-3", "", "", 1), ("t9", "", "", 2), ("t10", "", "", 1)],
    ),
    "camera/tracklet": (["c1/t1/1.jpg", "c2/t1/1.jpg"], [("c1-t1", "", "c1", 1), ("c2-t1", "", "c2", 1)]),
    "person/camera/tracklet": (
        ["0001/c1/t1/1.jpg", "0001/c2/t1/1.jpg", "0002/c1/t1/1.jpg"],
        [("0001-c1-t1", "0001", "c1", 1), ("0001-c2-t1", "0001", "c2", 1), ("0002-c1-t1", "0002", "c1", 1)],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_recognised_by_their_depth_and_named(tmp_path: Path, layout: str) -> None:
    names, expected = LAYOUTS[layout]
    root = touch(tmp_path / "root", *names)
    assert listed(root) == expected
    listing = list_tracklets(root)
    assert listing.layout == layout
    assert all(isinstance(item, ListedTracklet) for item in listing.items)
    assert [item.open() for item in listing.items] == read_footage(root)


def test_two_levels_are_said_to_be_camera_and_tracklet(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "0001/t1/1.jpg")
    (remark,) = list_tracklets(root).remarks
    assert "read as camera/tracklet" in remark
    assert listed(root, layout="person/tracklet") == [("0001-t1", "0001", "", 1)]
    assert list_tracklets(root, layout="person/tracklet").remarks == []


def test_a_declared_layout_names_any_level(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "north/cam1/2026-05-01/t1/1.jpg", "north/cam1/2026-05-02/t1/1.jpg")
    items = list_tracklets(root, layout="site/camera/date/tracklet").items
    assert [item.id for item in items] == ["north-cam1-2026-05-01-t1", "north-cam1-2026-05-02-t1"]
    tracklet = items[0].open()
    assert tracklet.camera == "cam1"
    assert tracklet.metadata == {
        "site": "north",
        "date": "2026-05-01",
        "source": "root/north/cam1/2026-05-01/t1",
        "tracklet": "north-cam1-2026-05-01-t1",
    }
    with pytest.raises(FootageError, match=r"4 folders below .*, but --layout camera/tracklet means 2"):
        list_tracklets(root, layout="camera/tracklet")


@pytest.mark.parametrize("layout", ["", "camera", "tracklet/camera", "a/a/tracklet", "a b/tracklet", "source/tracklet"])
def test_a_layout_that_is_none_is_refused(layout: str) -> None:
    with pytest.raises(ValueError, match="is no layout"):
        parse_layout(layout)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a/notes.txt"],
        ["a/b/c/d/1.jpg"],
        ["a/b/1.jpg", "c/1.jpg"],
        ["a/b/1.jpg", "c/d/e/1.jpg"],
        ["1.jpg", "c/d/e/1.jpg"],
    ],
)
def test_folders_of_no_layout_are_refused_with_the_layouts(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(FootageError, match=r"(?s)Layouts that are recognised.*camera/tracklet.*--layout"):
        list_tracklets(tmp_path)
    with pytest.raises(FootageError):
        read_footage(tmp_path)


def test_a_folder_of_videos_says_how_to_enrol_them(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", frames=2)
    with pytest.raises(FootageError, match="1 videos: name one, or list them in a --manifest"):
        list_tracklets(tmp_path)


MARS_NAMES = ["0022C1T0001F001.jpg", "0022C1T0001F002.jpg", "0022C2T0004F001.jpg"]


@pytest.mark.parametrize("prefix", ["", "walk/", "ann/gate/t1/", "gate/t1/"])
def test_names_of_mars_do_not_overrule_the_folders(tmp_path: Path, prefix: str) -> None:
    root = touch(tmp_path / "root", *(prefix + name for name in MARS_NAMES))
    ((_, person, _, frames),) = listed(root)
    assert (person, frames) == ("ann" if prefix.startswith("ann") else "", 3)
    assert any("--layout mars" in remark for remark in list_tracklets(root).remarks)
    assert listed(root, layout="mars") == [("0022C1T0001", "0022", "C1", 2), ("0022C2T0004", "0022", "C2", 1)]
    touch(root, f"{prefix}other.jpg")
    assert not any("--layout mars" in remark for remark in list_tracklets(root).remarks)
    with pytest.raises(FootageError, match=r"other\.jpg is not named as in MARS"):
        list_tracklets(root, layout="mars")


def test_mars_itself_is_recognised(shared_data: Path) -> None:
    listing = list_tracklets(shared_data / "mini-mars")
    assert (listing.layout, len(listing.items)) == ("mars", 24)


SYSTEM = ["@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX"]


def test_folders_of_file_servers_and_desktops_are_left_out_and_named(tmp_path: Path) -> None:
    names = ["t1/1.jpg", "t1/._1.jpg", "t1/.DS_Store", "t1/Thumbs.db", "t1/desktop.ini", ".Trash-1000/t2/1.jpg"]
    names += [".thumbnails/1.jpg", ".snapshot/daily/t1/1.jpg", "t1/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"]
    root = touch(tmp_path / "root", *names, *(f"{name}/1.jpg" for name in SYSTEM))
    assert listed(root) == [("t1", "", "", 1)]
    (remark,) = list_tracklets(root).remarks
    assert all(name in remark for name in SYSTEM)
    assert listed(root / "@eaDir") == [("-eaDir", "", "", 1)]


def test_folders_whose_names_are_no_text_are_listed_and_opened(tmp_path: Path) -> None:
    touch(tmp_path / "root", os.fsdecode(b"gate-\xff\xfe/1.jpg"))
    (item,) = list_tracklets(tmp_path / "root").items
    tracklet = item.open()
    assert item.id.startswith("gate-")
    assert tracklet.metadata == {"source": r"root/gate-\xff\xfe", "tracklet": r"gate-\xff\xfe"}
    assert len(tracklet.frames) == 1


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(FootageError, match="is a link to a folder above it"):
        list_tracklets(tmp_path)


def test_linked_folders_have_the_names_of_their_links(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/b/1.jpg", "root/c/1.jpg")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "link"):
        assert [item.id for item in list_tracklets(root).items] == ["a", "c"]


def test_a_video_is_one_tracklet(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    (item,) = list_tracklets(video, camera="gate").items
    assert (item.id, item.camera, item.source) == ("a", "gate", str(video))


def test_opening_a_tracklet_without_its_images_fails(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (item,) = list_tracklets(tmp_path).items
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(FootageError, match="no images are left"):
        item.open()


def test_the_number_found_is_reported_while_listing(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/1.jpg" for number in range(1000)))
    counts: list[int] = []
    assert len(list_tracklets(tmp_path, counts.append).items) == 1000
    assert counts == [1000]

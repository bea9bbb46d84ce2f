"""Listing what there is to enrol."""

from pathlib import Path

import pytest

from not3d.enrol.discovery import FootageError, ListedTracklet, list_tracklets, open_item, read_footage, source_of
from tests.not3d.videos import write_video


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


LAYOUTS = {
    "one": ["1.jpg", "2.PNG", ".hidden.jpg", "Thumbs.db"],
    "each": ["t10/1.jpg", "t9/10.jpg", "t9/9.jpg", "empty/notes.txt", ".git/1.jpg", "Gate 3/1.webp"],
    "people": ["0001/c1/t1/1.jpg", "0001/c2/t1/1.jpg", "0002/c1/t1/1.jpg"],
    "mixed": ["1.jpg", "a/1.jpg"],
    "mars": ["0022/0022C1T0001F001.jpg", "0022/0022C1T0001F002.jpg", "0023/x/0023C2T0001F001.jpg"],
    "mars and another": ["0022/0022C1T0001F001.jpg", "0023/1.jpg"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_listing_gives_the_same_tracklets_as_reading(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "root"
    touch(*(root / name for name in LAYOUTS[layout]))
    listed = list_tracklets(root)
    assert [open_item(item) for item in listed] == read_footage(root)
    assert [item.id for item in listed] == [item.id for item in read_footage(root)]
    if layout != "mars":
        assert all(isinstance(item, ListedTracklet) for item in listed)


def test_linked_folders_are_named_alike(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "b" / "1.jpg", tmp_path / "root" / "c" / "1.jpg")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "link"):
        assert [open_item(item) for item in list_tracklets(root)] == read_footage(root)


def test_a_video_is_one_tracklet(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    assert list(list_tracklets(video)) == read_footage(video)
    assert source_of(list_tracklets(video)[0]) == str(video)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a/b/1.jpg"],
        ["a b/1.jpg", "a#b/1.jpg"],
        ["a/b/0022C1T0001F001.jpg", "c/1.jpg"],
        ["a b/0022C1T0001F001.jpg", "a#b/1.jpg"],
        ["c/1.jpg", "d/e/0022C1T0001F001.jpg"],
    ],
)
def test_listing_fails_where_reading_fails(tmp_path: Path, names: list[str]) -> None:
    touch(*(tmp_path / name for name in names))
    with pytest.raises(FootageError):
        read_footage(tmp_path)
    with pytest.raises(FootageError):
        list_tracklets(tmp_path)


def test_opening_a_tracklet_without_its_images_fails(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.jpg")
    (item,) = list_tracklets(tmp_path)
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(FootageError, match="no images are left"):
        open_item(item)


def test_the_number_found_is_reported_while_listing(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{number}" / "1.jpg" for number in range(1000)))
    counts: list[int] = []
    assert len(list_tracklets(tmp_path, counts.append)) == 1000
    assert counts == [1000]

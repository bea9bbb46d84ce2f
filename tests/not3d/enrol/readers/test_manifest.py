"""Manifests: many tracklets with what is known of each."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from not3d.enrol.readers.manifest import read_manifest
from not3d.enrol.tracklets import FootageError


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    for name in ("cam1/t1/1.jpg", "cam1/t1/2.jpg", "cam2/t1/1.jpg", "photo é.jpg", "walk.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(site: Path, text: str, encoding: str = "utf-8") -> Path:
    path = site / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_rows_become_tracklets(site: Path, separator: str, encoding: str) -> None:
    text = (
        "Path,id,camera_id,start,end,box,person,floor\n"
        "cam1/t1,,cam1,2026-05-01T12:00:00Z,2026-05-01T14:00:10+02:00,,0007,2\n"
        'photo é.jpg,p-1,,,,"1,2,3.5,4",,\n\n'
        "walk.mp4,,,,,,,\n"
    )
    if separator != ",":
        text = text.replace('"1,2,3.5,4"', "1 2 3.5 4").replace(",", separator)
    folder, photo, video = (item.open() for item in read_manifest(write(site, text, encoding), "other"))
    assert (folder.id, folder.camera, folder.person, len(folder.frames)) == ("cam1-t1", "cam1", "0007", 2)
    assert folder.start_time == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert folder.end_time == datetime(2026, 5, 1, 12, 0, 10, tzinfo=UTC)
    assert folder.metadata == {"floor": "2", "source": "site/cam1/t1", "tracklet": "cam1-t1", "person": "0007"}
    assert (photo.id, photo.camera, photo.boxes) == ("p-1", "other", ((0, 1, 2, 3.5, 4),))
    assert (video.id, video.video) == ("walk", site / "walk.mp4")


def test_all_errors_are_named_with_their_lines(site: Path) -> None:
    text = (
        "path,id,start,end,box\n"
        "nowhere,,,,\n"
        "cam1/t1,a b,12:00,,\n"
        "cam1,,2026-05-01T12:00:00Z,2026-05-01T11:00:00Z,\n"
        'walk.mp4,,,,"1,2,3,4"\n'
        'photo é.jpg,x,,,"1,2,3"\n'
        "cam2/t1,x,2026-05-01T12:00:00,,\n"
        ",,,,\n,y,,,\n"
        "cam2/t1,z,,,,,more\n"
        "list.csv,,,,\n"
        "cam2/t1,x,,,\n"
    )
    with pytest.raises(FootageError) as refused:
        read_manifest(write(site, text))
    message = str(refused.value)
    for line, part in (
        (2, "nowhere does not exist"),
        (3, "id: 'a b'"),
        (3, "start: '12:00'"),
        (4, "cam1 is a folder without images"),
        (4, "end is before start"),
        (5, "is not a picture"),
        (6, "box: '1,2,3'"),
        (7, "no time zone"),
        (9, "path is empty"),
        (10, "7 columns"),
        (11, "neither a folder"),
        (12, "the id x is in line 6 too"),
    ):
        assert f"list.csv, line {line}: " in message
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a column `path`"),
        ("file,id\na,b\n", r"needs a column `path` \(found file, id\)"),
        ("path,id,ID\na,b,c\n", "two columns are called ID"),
        ("path,source\na,b\n", "column source is reserved"),
        ("path,id\n", "no rows below"),
        ("path\ncam1\\t1\n", "does not exist; write / between folders"),
    ],
)
def test_a_wrong_table_is_refused(site: Path, text: str, message: str) -> None:
    with pytest.raises(FootageError, match=message):
        read_manifest(write(site, text))


def test_rows_without_ids_never_share_one(site: Path) -> None:
    for name in ("a b", "a#b"):
        (site / name).mkdir()
        (site / name / "1.jpg").touch()
    items = read_manifest(write(site, "path,box\na b,\na#b,\nphoto é.jpg,1 2 3 4\nphoto é.jpg,5 2 3 4\n"))
    assert len({item.id for item in items}) == 4
    with pytest.raises(FootageError, match="line 3: the same footage is in line 2 too"):
        read_manifest(write(site, "path\na b\na b\n"))


def test_a_path_outside_is_not_written_into_the_record(site: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").touch()
    for path in ("../elsewhere", str(tmp_path / "elsewhere")):
        (item,) = read_manifest(write(site, f"path\n{path}\n"))
        assert (item.id, item.open().metadata) == ("elsewhere", {"source": "elsewhere", "tracklet": "elsewhere"})

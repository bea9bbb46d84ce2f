"""`not3d enroll`: which footage becomes which record, and what is said about the rest."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from not3d.client import Client
from tests.not3d.conftest import Run
from tests.not3d.videos import write_video

ROWS = [f"{frame},{track},{4 * frame},10,32,64" for track in (1, 2) for frame in range(1, 7)]


def write_tracks(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines or [f"{row},1" for row in ROWS]))
    return path


def ids(client: Client) -> set[str]:
    return {record.id for record in client.records()}


def copy_of(people: Path, person: str, target: Path) -> Path:
    return Path(shutil.copytree(people / person / "c1" / "t1", target))


def test_footage_of_equal_names_is_told_apart_by_its_source(
    run: Run, client: Client, people: Path, tmp_path: Path
) -> None:
    for site, person in (("north", "0001"), ("south", "0002")):
        copy_of(people, person, tmp_path / site / "t1")
    for _ in range(2):
        for site in ("north", "south"):
            assert run("enroll", tmp_path / site, "--url", client.url)[0] == 0
    north, south = sorted(client.records(), key=lambda record: len(record.id))
    assert (north.id, south.id[:3]) == ("t1", "t1-")
    assert [record.metadata["source"] for record in (north, south)] == ["north/t1", "south/t1"]


def test_videos_of_equal_names_are_told_apart_by_their_camera(run: Run, client: Client, tmp_path: Path) -> None:
    video, tracks = write_video(tmp_path / "yard.avi", frames=8), write_tracks(tmp_path / "t.csv")
    for camera in ("lobby", "gate", "lobby", "gate"):
        status, _, err = run("enroll", video, "--tracks", tracks, "--camera", camera, "--url", client.url)
        assert status == 0
        assert "Tracks: MOT results, 7 columns, commas, frames counted from 1 (assumed" in err
    cameras = {record.id: record.camera_id for record in client.records()}
    assert len(cameras) == 4
    assert (cameras["yard-1"], cameras["yard-2"]) == ("lobby", "lobby")
    assert sorted(map(str, cameras.values())) == ["gate", "gate", "lobby", "lobby"]


def test_changed_footage_is_an_error_and_not_skipped(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    folder, report = copy_of(people, "0001", tmp_path / "t1"), tmp_path / "report.jsonl"
    run("enroll", folder, "--url", client.url)
    shutil.rmtree(folder)
    copy_of(people, "0002", folder)
    before = client.get("t1", include_embedding=True).embedding
    for option in ("--dry-run", "--verbose"):
        status, _, err = run("enroll", folder, "--report", report, option, "--url", client.url)
        assert status == 1
        assert "its id is enrolled from footage of the same name with other frames" in " ".join(err.split())
        assert "--id-prefix gives other ids" in " ".join(err.split())
    assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == ["t1"]
    assert client.get("t1", include_embedding=True).embedding == before
    assert run("enroll", folder, "--id-prefix", "monday-", "--url", client.url)[0] == 0
    assert ids(client) == {"t1", "monday-t1"}
    assert run("enroll", folder, "--replace", "--url", client.url)[0] == 0
    assert client.get("t1", include_embedding=True).embedding != before


def test_other_boxes_of_a_track_are_an_error(run: Run, client: Client, tmp_path: Path) -> None:
    video, tracks = write_video(tmp_path / "yard.avi", frames=8), write_tracks(tmp_path / "t.csv")
    run("enroll", video, "--tracks", tracks, "--url", client.url)
    write_tracks(tracks, *(f"{row},1" for row in ROWS[:-1]))
    status, out, err = run("enroll", video, "--tracks", tracks, "--url", client.url)
    assert status == 1
    assert "0 of 2 tracklets enrolled, 1 skipped" in out
    assert "yard-2" in err


def test_copied_footage_is_the_same_footage(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    folder = copy_of(people, "0001", tmp_path / "t1")
    run("enroll", folder, "--max-clips", 1, "--url", client.url)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    status, out, _ = run("enroll", folder, "--url", client.url)
    assert (status, out.split()[0]) == (0, "0")


def test_a_folder_is_known_again_from_another_level(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    folder = copy_of(people, "0001", tmp_path / "site" / "t1")
    for path in (folder.parent, folder, folder.parent):
        assert run("enroll", path, "--url", client.url)[0] == 0
    assert ids(client) == {"t1"}


def test_an_id_of_unknown_footage_is_an_error(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    folder = copy_of(people, "0001", tmp_path / "t1")
    client.embed(sorted(folder.iterdir()), id="t1")
    status, _, err = run("enroll", folder, "--url", client.url)
    assert status == 1
    assert "does not say from which footage" in " ".join(err.split())


def test_records_of_older_versions_are_skipped_and_named(
    run: Run, client: Client, people: Path, tmp_path: Path
) -> None:
    folder = copy_of(people, "0001", tmp_path / "t1")
    client.embed(sorted(folder.iterdir()), id="t1", metadata={"source": "t1", "tracklet": "t1"})
    status, out, err = run("enroll", folder, "--url", client.url)
    assert (status, "1 skipped" in out) == (0, True)
    assert "not compared because their records have no digest: t1" in err


def test_folders_whose_names_are_no_text_are_enrolled_and_skipped(
    run: Run, client: Client, people: Path, tmp_path: Path
) -> None:
    root = tmp_path / os.fsdecode(b"r\xff")
    for name in (os.fsdecode(b"gate-\xff"), os.fsdecode(b"gate-\xfe"), "門口", "出口", "caf\u00e9", "cafe\u0301"):
        copy_of(people, "0001", root / name)
    bad = root / os.fsdecode(b"bad-\xfd")
    bad.mkdir()
    (bad / "1.jpg").write_text("no image")
    report = tmp_path / "report.jsonl"
    status, out, _ = run("enroll", root, "--report", report, "--verbose", "--url", client.url)
    assert (status, out.strip()) == (1, "6 of 7 tracklets enrolled")
    assert json.loads(report.read_text())["source"].endswith(r"r\xff/bad-\xfd")
    assert {record.metadata["source"] for record in client.records()} >= {r"r\xff/gate-\xff", r"r\xff/門口"}
    status, out, _ = run("enroll", root, "--dry-run", "--url", client.url)
    assert out.startswith("1 of 7 tracklets would be sent, 6 are enrolled already")


def test_one_time_for_many_tracklets_is_refused(run: Run, client: Client, people: Path) -> None:
    time = "2026-05-01T12:00:00Z"
    status, _, err = run("enroll", people, "--start", time, "--url", client.url)
    assert status == 2
    assert "6 tracklets" in err
    assert "--manifest" in err
    assert ids(client) == set()
    assert run("enroll", people / "0001" / "c1" / "t1", "--start", time, "--url", client.url)[0] == 0
    assert client.get("t1").start_time == datetime.fromisoformat(time)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "9999-01-01T00:30:00+00:00", "9999-01-01T00:30:00-01:00"])
def test_a_video_that_begins_at_the_end_of_time_is_refused_before_anything_is_sent(
    run: Run, client: Client, tmp_path: Path, time: str
) -> None:
    video, tracks = write_video(tmp_path / "yard.avi", frames=8), write_tracks(tmp_path / "t.csv")
    status, _, err = run("enroll", video, "--tracks", tracks, "--start", time, "--url", client.url)
    assert status == 2
    assert "--start" in err
    assert "cannot begin in the year 9999" in err
    assert ids(client) == set()


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01"])
def test_a_time_that_utc_does_not_have_is_refused(run: Run, client: Client, people: Path, time: str) -> None:
    tracklet = people / "0001" / "c1" / "t1"
    status, _, err = run("enroll", tracklet, "--start", time, "--url", client.url)
    assert status == 2
    assert "out of range" in err
    (people / "list.csv").write_text(f"path,start\n0001/c1/t1,{time}\n")
    status, _, err = run("enroll", "--manifest", people / "list.csv", "--url", client.url)
    (people / "list.csv").unlink()
    assert status == 1
    assert "out of range" in err
    assert ids(client) == set()


def test_a_manifest_gives_each_tracklet_its_own_data(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(people, tmp_path / "site"))
    (root / "list.csv").write_text(
        "path,id,camera,start,end,floor\n"
        "0001/c1/t1,first,gate,2026-05-01T12:00:00Z,2026-05-01T12:00:04Z,2\n"
        "0002/c1/t1,,,,,\n",
        encoding="utf-8-sig",
    )
    for expected in ("2 of 2 tracklets enrolled", "0 of 2 tracklets enrolled, 2 skipped"):
        status, out, _ = run("enroll", "--manifest", root / "list.csv", "--camera", "yard", "--url", client.url)
        assert (status, out.startswith(expected)) == (0, True)
    first, second = client.get("first"), client.get("0002-c1-t1")
    assert (first.camera_id, second.camera_id, first.metadata["floor"]) == ("gate", "yard", "2")
    assert first.end_time == datetime.fromisoformat("2026-05-01T12:00:04Z")
    status, _, err = run("enroll", "--manifest", root / "list.csv", "--start", "2026-05-01T12:00:00Z")
    assert (status, "--manifest" in err) == (2, True)


@pytest.fixture
def photo(people: Path, tmp_path: Path) -> Path:
    """A scene with one person at 20, 10."""
    person = cv2.imread(str(sorted((people / "0001" / "c1" / "t1").iterdir())[0]))
    assert person is not None
    scene = np.full((200, 300, 3), 90, dtype=np.uint8)
    scene[10 : 10 + person.shape[0], 20 : 20 + person.shape[1]] = person
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), scene)
    return path


def test_a_person_in_a_photo_is_enrolled_and_searched_by_a_box(
    run: Run, client: Client, photo: Path, tmp_path: Path
) -> None:
    box = "20,10,64,128"
    status, _, _ = run("enroll", photo, "--box", box, "--camera", "gate", "--url", client.url)
    assert status == 0
    record = client.get("photo-20x10x64x128")
    assert (record.frames, record.camera_id, record.metadata["box"]) == (1, "gate", box)
    picture = tmp_path / "ranked.png"
    options = ("--picture", picture, "--pictures", tmp_path)
    status, out, _ = run("search", photo, "--box", box, "--json", *options, "--url", client.url)
    assert json.loads(out)["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert picture.is_file()
    status, out, _ = run("search", photo, "--json", "--url", client.url)
    assert json.loads(out)["results"][0]["score"] < 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photo.png", "--box", "1,2,3"), "x,y,w,h"),
        (("photo.png", "--box", "1,2,0,4"), "above 0"),
        (("photo.png", "--tracks", "t.csv"), "needs a video"),
        (("photo.png", "--frame-base", "0"), "needs --tracks"),
        (("photo.png", "--layout", "camera"), "is no layout"),
        (("photo.png", "--id-prefix", "a b"), "letters"),
        (("yard.avi", "--tracks", "t.csv", "--box", "1,2,3,4"), "is for a picture"),
        (("photo.png", "--manifest", "list.csv"), "give a folder"),
        (("--manifest", "list.csv", "--layout", "mars"), "does not go with --manifest"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(photo.parent)
    status, _, err = run("enroll", *arguments, "--url", "http://127.0.0.1:9")
    assert status == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_a_long_track_is_enrolled_with_some_of_its_clips(run: Run, client: Client, tmp_path: Path) -> None:
    length = int(client.info().limits["max_frames"]) + 100
    video = write_video(tmp_path / "long.avi", frames=length, height=64, width=64)
    tracks = write_tracks(tmp_path / "t.csv", *(f"{frame},1,8,0,32,64" for frame in range(1, length + 1)))
    status, _, err = run("enroll", video, "--tracks", tracks, "--url", client.url)
    assert status == 1
    assert f"{length} boxes" in err
    assert "--max-clips" in err
    status, out, _ = run("enroll", video, "--tracks", tracks, "--max-clips", 3, "--url", client.url)
    assert (status, out.strip()) == (0, "1 of 1 tracklets enrolled")
    record = client.get("long-1")
    assert (record.clips, record.frames) == (3, 3 * client.info().model["clip_length"])


def test_boxes_outside_the_video_are_counted(run: Run, client: Client, tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard.avi", frames=8)
    tracks = write_tracks(tmp_path / "t.csv", *(f"{row},1" for row in ROWS), "7,1,900,10,32,64,1")
    status, out, _ = run("enroll", video, "--tracks", tracks, "--url", client.url)
    assert (status, out.strip()) == (0, "2 of 2 tracklets enrolled, 1 frames left out")

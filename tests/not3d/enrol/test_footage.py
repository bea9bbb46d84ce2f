"""What the command line reads from disk."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from model.frames import decode_frame
from not3d.client import Client
from not3d.enrol.discovery import FootageError, LocalTracklet, as_id, is_video, read_footage
from not3d.enrol.footage import cut_tracks, read_pictures, read_tracks
from tests.not3d.videos import write_video

TRACKS = "3,7,8,10,32,64,0.9\n2,7,4,10,32,64,0.9\n5,9,40,10,40,70,0.8\n6,9,40,10,40,70,0.8\n"


def test_tracklets_of_people_folders_get_ids(people: Path) -> None:
    found = read_footage(people)
    assert [(item.id, item.person, item.camera) for item in found[:2]] == [
        ("0001-c1-t1", "0001", "c1"),
        ("0001-c2-t1", "0001", "c2"),
    ]
    assert found[0].metadata == {
        "source": f"{people.name}/0001/c1/t1",
        "tracklet": "0001-c1-t1",
        "person": "0001",
    }


def test_names_become_ids_that_the_service_takes() -> None:
    assert as_id("Gate 3/track é#7") == "Gate-3-track---7"
    assert as_id("a" * 200) == "a" * 128


def test_names_that_would_get_the_same_id_are_refused(tmp_path: Path) -> None:
    for name in ("a b", "a#b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    with pytest.raises(FootageError, match=r"a b and a#b|a#b and a b"):
        read_footage(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "nothing.mp4"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootageError, match=f"{name} does not exist"):
        read_footage(tmp_path / name)


def test_a_folder_without_images_is_refused_with_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="no images found"):
        read_footage(tmp_path)


def test_tracks_count_from_one_in_the_file_and_from_zero_here(tmp_path: Path) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    tracks = read_tracks(file)
    assert list(tracks) == ["7", "9"]
    assert tracks["7"] == [(1, 4.0, 10.0, 32.0, 64.0), (2, 8.0, 10.0, 32.0, 64.0)]


@pytest.mark.parametrize("text", ["frame,track,x,y,w,h,confidence\n", ""])
def test_a_heading_is_not_a_track(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(text)
    with pytest.raises(FootageError, match="holds no tracks"):
        read_tracks(file)


@pytest.mark.parametrize("row", ["1,2,3", "a,b,c,d,e,f", "0,1,1,1,9,9,1", "1.5,1,1,1,9,9,1", "1,1,nan,1,9,9,1"])
def test_a_malformed_row_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(f"1,1,0,0,20,20,0.5\n{row}\n")
    with pytest.raises(FootageError, match=r"tracks\.csv, line 2"):
        read_tracks(file)


def test_tracks_are_cut_out_of_their_own_frames(tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard 1.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    start = datetime(2026, 5, 1, 12, tzinfo=UTC)
    first, second = cut_tracks(video, file, start)
    assert (first.id, second.id) == ("yard-1-7", "yard-1-9")
    assert (first.start_time, first.end_time) == (start + timedelta(seconds=0.1), start + timedelta(seconds=0.2))
    crops = [decode_frame(frame) for frame in first.frames if isinstance(frame, bytes)]
    assert [crop.shape for crop in crops] == [(64, 32, 3), (64, 32, 3)]
    # The grey of the background tells which frame of the video it was: the file's frame 2 is index 1.
    assert [round(float(crop[-4:, -2:].mean()) / 10) for crop in crops] == [3, 4]
    assert first.metadata == {"source": "yard 1.avi", "tracks": "tracks.csv", "track": "7"}


def test_the_service_cuts_the_same_pixels(client: Client, tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    for footage in cut_tracks(video, file):
        own = client.embed(footage.frames, enroll=False, include_embedding=True)
        boxes = read_tracks(file)[footage.origin["track"]]
        theirs = client.embed(video=video, boxes=boxes, enroll=False, include_embedding=True)
        np.testing.assert_allclose(own.embedding or (), theirs.embedding or (), atol=1e-6)


def test_a_box_outside_the_frame_is_left_out(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    file = tmp_path / "tracks.csv"
    file.write_text("1,1,0,0,30,60,1\n2,1,500,0,30,60,1\n3,2,-500,0,30,60,1\n")
    assert [(item.id, len(item.frames)) for item in cut_tracks(video, file)] == [("a-1", 1), ("a-2", 0)]


def test_tracks_of_a_longer_video_are_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    file = tmp_path / "tracks.csv"
    file.write_text("9,1,0,0,30,60,1\n")
    with pytest.raises(FootageError, match="ends after 3 frames, frame 9 is asked for"):
        list(cut_tracks(video, file))


def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_text("no video")
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    assert is_video(video)
    with pytest.raises(FootageError, match="cannot be read as a video"):
        list(cut_tracks(video, file))


def test_metadata_of_a_record_has_no_absolute_path(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    for item in (*read_footage(people), *read_footage(video), *cut_tracks(video, file)):
        assert "/" not in {text[:1] for text in item.metadata.values()}
        assert str(tmp_path.name) not in str(item.metadata)
    monkeypatch.chdir(people)
    named = [item.metadata for item in read_footage(people)]
    assert [item.metadata for item in read_footage(Path())] == named
    assert [item.metadata for item in read_footage(Path("0001/.."))] == named


@pytest.mark.parametrize("name", ["list.m3u8", "list.avi", "list.mp4"])
def test_a_playlist_with_the_name_of_a_video_is_refused(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "secret.avi", frames=4)
    playlist = tmp_path / name
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.avi\n#EXT-X-ENDLIST\n")
    with pytest.raises(FootageError, match="neither MP4, Matroska nor AVI"):
        read_pictures(LocalTracklet("x", video=playlist))
    concat = tmp_path / f"concat-{name}"
    concat.write_text("ffconcat version 1.0\nfile secret.avi\n")
    with pytest.raises(FootageError, match="neither MP4, Matroska nor AVI"):
        read_pictures(LocalTracklet("x", video=concat))


def test_a_file_that_is_not_a_table_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(f'1,1,0,0,20,20,"{"5" * 200_000}"\n')
    with pytest.raises(FootageError, match=r"tracks\.csv is not a table of tracks"):
        read_tracks(file)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_text("text")
    (footage,) = read_footage(tmp_path)
    with pytest.raises(FootageError, match="frame 0 of"):
        read_pictures(footage)

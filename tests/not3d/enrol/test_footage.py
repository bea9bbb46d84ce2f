"""What the command line reads from disk."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.frames import decode_frame
from not3d.client import Client
from not3d.enrol.discovery import is_video, list_tracklets, read_footage
from not3d.enrol.footage import cut_tracks, list_tracks, read_pictures
from not3d.enrol.local_frames import find_local_frames
from not3d.enrol.tracklets import FootageError, LocalTracklet, PersonBox
from tests.not3d.videos import write_video
from tests.videos import figure, write

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


def cut(video: Path, tracks: Path, start: datetime | None = None) -> list[LocalTracklet]:
    return list(cut_tracks(list_tracks(video, tracks)[0], start))


def test_a_frame_after_the_end_of_time_is_named(tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    with pytest.raises(FootageError, match=r"yard.avi: frame 1 is 0\.1 seconds after 9999-12-31T23:59:59\.95"):
        cut(video, file, datetime(9999, 12, 31, 23, 59, 59, 950_000, tzinfo=UTC))


@pytest.mark.parametrize("name", ["nothing", "nothing.mp4"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootageError, match=f"{name} does not exist"):
        read_footage(tmp_path / name)


def test_a_folder_without_images_is_refused_with_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="no images found"):
        read_footage(tmp_path)


def test_tracks_are_cut_out_of_their_own_frames(tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard 1.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    start = datetime(2026, 5, 1, 12, tzinfo=UTC)
    first, second = cut(video, file, start)
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
    items, _ = list_tracks(video, file)
    for listed, footage in zip(items, cut_tracks(items), strict=True):
        own = client.embed(footage.frames, enroll=False, include_embedding=True)
        boxes = listed.boxes
        theirs = client.embed(video=video, boxes=boxes, enroll=False, include_embedding=True)
        np.testing.assert_allclose(own.embedding or (), theirs.embedding or (), atol=1e-6)


def test_a_box_outside_the_frame_is_left_out(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    file = tmp_path / "tracks.csv"
    file.write_text("1,1,0,0,30,60,1\n2,1,500,0,30,60,1\n3,2,-500,0,30,60,1\n")
    first, second = cut(video, file)
    assert (first.id, len(first.frames), first.left_out, first.problem) == ("a-1", 1, 1, "")
    assert (second.id, second.frames, second.problem) == ("a-2", (), "none of its boxes lies inside the video's frames")


def test_only_the_frames_of_some_clips_are_cut_out_of_a_long_track(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=20)
    file = tmp_path / "tracks.csv"
    file.write_text("".join(f"{frame},1,4,10,32,64,1\n" for frame in range(1, 21)))
    items, _ = list_tracks(video, file)
    start = datetime(2026, 5, 1, 12, tzinfo=UTC)
    (item,) = cut_tracks(items, start, clip_length=4, max_clips=2, max_frames=8)
    crops = [decode_frame(frame) for frame in item.frames if isinstance(frame, bytes)]
    # Of the five clips, the second and the fourth.
    assert [round(float(crop[-4:, -2:].mean()) / 10) - 2 for crop in crops] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert (item.start_time, item.end_time) == (start, start + timedelta(seconds=1.9))
    (item,) = cut_tracks(items, clip_length=4, max_frames=19)
    assert item.frames == ()
    assert "20 boxes, but the service takes at most 19 frames of a tracklet; --max-clips" in item.problem


def test_boxes_relative_to_the_frame_are_cut(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=4)
    labels = tmp_path / "labels"
    labels.mkdir()
    for number in (1, 2):
        (labels / f"a_{number}.txt").write_text("0 0.5 0.5 0.25 0.5 3\n")
    (item,) = cut(video, labels)
    assert item.id == "a-3"
    assert [decode_frame(crop).shape for crop in item.frames if isinstance(crop, bytes)] == [(48, 32, 3)] * 2
    assert item.metadata == {"source": "a.avi", "tracks": "labels", "track": "3"}


def test_tracks_of_a_longer_video_are_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.avi", frames=3)
    file = tmp_path / "tracks.csv"
    file.write_text("9,1,0,0,30,60,1\n")
    with pytest.raises(FootageError, match="ends after 3 frames, frame 9 is asked for"):
        cut(video, file)


def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_text("no video")
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    assert is_video(video)
    with pytest.raises(FootageError, match="cannot be read as a video"):
        cut(video, file)


def test_metadata_of_a_record_has_no_absolute_path(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.avi", frames=8)
    file = tmp_path / "tracks.csv"
    file.write_text(TRACKS)
    for item in (*read_footage(people), *read_footage(video), *cut(video, file)):
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
    with pytest.raises(FootageError, match="neither MP4, QuickTime, Matroska"):
        read_pictures(LocalTracklet("x", video=playlist))
    concat = tmp_path / f"concat-{name}"
    concat.write_text("ffconcat version 1.0\nfile secret.avi\n")
    with pytest.raises(FootageError, match="neither MP4, QuickTime, Matroska"):
        read_pictures(LocalTracklet("x", video=concat))


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_text("text")
    (tmp_path / "2.jpg").write_text("text")
    (footage,) = read_footage(tmp_path)
    with pytest.raises(FootageError, match="frame 0 of"):
        read_pictures(footage)


@pytest.mark.parametrize("suffix", ["mp4", "MP4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "mpg"])
def test_videos_are_known_by_their_suffix(tmp_path: Path, suffix: str) -> None:
    assert is_video(tmp_path / f"a.{suffix}")
    assert not is_video(tmp_path / f"a.{suffix}.jpg")
    (tmp_path / f"folder.{suffix}").mkdir()
    assert not is_video(tmp_path / f"folder.{suffix}")


def test_a_picture_is_one_tracklet_with_or_without_a_box(tmp_path: Path) -> None:
    path = tmp_path / "Photo 1.PNG"
    cv2.imwrite(str(path), np.arange(60 * 40 * 3, dtype=np.uint8).reshape(60, 40, 3))
    (whole,) = read_footage(path)
    assert (whole.id, whole.frames, whole.boxes) == ("Photo-1", (path,), ())
    (boxed,) = list_tracklets(path, box=PersonBox(4, 8, 16, 32)).items
    assert boxed.id == "Photo-1-4x8x16x32"
    assert boxed.metadata == {"source": "Photo 1.PNG", "box": "4,8,16,32"}
    np.testing.assert_array_equal(read_pictures(boxed.open())[0], read_pictures(whole)[0][8:40, 4:20])
    for item in (whole, boxed.open()):
        np.testing.assert_array_equal(find_local_frames(item.metadata, [tmp_path]), read_pictures(item))
    with pytest.raises(FootageError, match="a box needs a picture"):
        list_tracklets(tmp_path, box=PersonBox(4, 8, 16, 32))


def test_pictures_of_a_video_whose_duration_implies_more_frames_than_it_has(tmp_path: Path) -> None:
    frames = [figure(shift=index) for index in range(4)]
    video = write(tmp_path / "paused.mkv", frames, "mjpeg", "yuvj420p", times=[0, 100, 200, 600_000])
    pictures = read_pictures(LocalTracklet("x", video=video))
    differences = [np.abs(shown.astype(float) - frame).mean() for shown, frame in zip(pictures, frames, strict=True)]
    assert max(differences) < 8

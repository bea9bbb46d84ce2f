from pathlib import Path

import numpy as np
import pytest

from model.frames import FrameError, crop_box, decode_frame, read_frame, resize_frame
from service.embedding.footage import Box, Footage, FootageError, check_footage, read_samples
from service.settings import Settings
from tests.service.pictures import draw, encode, tracklet, write_video

SETTINGS = Settings()
HEIGHT, WIDTH = 64, 32


def samples(footage: Footage, settings: Settings = SETTINGS) -> list[tuple[int, object]]:
    return list(read_samples(footage, settings, HEIGHT, WIDTH))


def reason(sample: object) -> str:
    assert isinstance(sample, FrameError)
    return sample.status


def colour(sample: object) -> list[float]:
    assert isinstance(sample, np.ndarray)
    means: list[float] = sample.mean(axis=(0, 1)).tolist()
    return means


def test_frames_are_decoded_and_resized_as_in_training() -> None:
    frames = tracklet(1, 3)
    found = samples(Footage(frames))
    assert [index for index, _ in found] == [0, 1, 2]
    for data, (_, frame) in zip(frames, found, strict=True):
        np.testing.assert_array_equal(frame, read_frame(data, HEIGHT, WIDTH))


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_jpeg_png_and_webp_are_decoded(extension: str) -> None:
    [(_, frame)] = samples(Footage([encode(draw(1), extension)]))
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (HEIGHT, WIDTH, 3)


def test_unusable_frames_keep_their_index() -> None:
    good = tracklet(1, 1)[0]
    found = samples(Footage([good, b"text", good[:200], encode(draw(1, height=8, width=8)[:1, :1], ".png"), good]))
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    assert [reason(sample) for _, sample in found[1:4]] == ["not_an_image", "undecodable", "too_small"]


def test_boxes_are_cut_from_full_frames_in_the_order_of_their_frames() -> None:
    full = [encode(draw(person, height=200, width=300), ".png") for person in (1, 2)]
    boxes: list[Box] = [(1, 10, 20, 30, 60), (0, 5.4, 0, 40, 80), (1, 0, 0, 300, 200), (0, 290, 190, 50, 50)]
    found = samples(Footage(full, None, boxes))
    assert [index for index, _ in found] == [1, 3, 0, 2]
    for index, frame in found:
        box = boxes[index]
        crop = crop_box(decode_frame(full[box[0]]), *box[1:])
        np.testing.assert_array_equal(frame, resize_frame(crop, HEIGHT, WIDTH))


def test_boxes_outside_the_frame_are_rejected_one_by_one() -> None:
    full = [encode(draw(1, height=100, width=100))]
    found = samples(Footage(full, None, [(0, 0, 0, 50, 50), (0, 100, 0, 50, 50), (0, -60, 10, 50, 50)]))
    assert isinstance(found[0][1], np.ndarray)
    assert [reason(sample) for _, sample in found[1:]] == ["too_small", "too_small"]


def test_unusable_full_frame_rejects_each_of_its_boxes() -> None:
    found = samples(Footage([b"no"], None, [(0, 0, 0, 50, 50), (0, 10, 0, 50, 50)]))
    assert [(index, reason(sample)) for index, sample in found] == [(0, "not_an_image"), (1, "not_an_image")]


def test_several_boxes_are_cut_from_one_frame_of_a_video(tmp_path: Path) -> None:
    frames = [np.full((100, 200, 3), 20 * level, np.uint8) for level in range(10)]
    for level, frame in enumerate(frames):
        frame[:, 100:, 2] = 255 - 20 * level  # blue on the right-hand side
    write_video(tmp_path / "v.avi", frames, "MJPG")
    boxes: list[Box] = [(7, 0, 0, 90, 90), (2, 0, 0, 90, 90), (7, 110, 0, 90, 90), (2, 300, 0, 90, 90)]
    found = dict(samples(Footage(video=tmp_path / "v.avi", boxes=boxes)))
    assert list(found) == [1, 3, 0, 2]
    assert reason(found[3]) == "too_small"
    np.testing.assert_allclose(colour(found[1]), (40, 40, 40), atol=4)
    np.testing.assert_allclose(colour(found[0]), (140, 140, 140), atol=4)
    np.testing.assert_allclose(colour(found[2]), (140, 140, 115), atol=8)


def test_box_after_the_end_of_a_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(5)])
    footage = Footage(video=tmp_path / "v.mp4", boxes=[(4, 0, 0, 60, 60), (5, 0, 0, 60, 60)])
    with pytest.raises(FootageError) as error:
        samples(footage)
    assert (error.value.kind, error.value.faults[0].field) == ("malformed", "boxes[1][0]")


def test_limits_are_checked_without_decoding() -> None:
    frames = tracklet(1, 6)
    with pytest.raises(FootageError, match="at most 5"):
        check_footage(Footage(frames), Settings(max_frames=5), 4)
    with pytest.raises(FootageError, match="2 clips of 4, at most 1 are allowed"):
        check_footage(Footage(frames), Settings(max_clips=1), 4)
    with pytest.raises(FootageError) as error:
        check_footage(Footage([frames[0], b"x" * 20_000]), Settings(max_frame_bytes=10_000), 4)
    assert (error.value.kind, error.value.faults[0].frame) == ("too_large", 1)
    with pytest.raises(FootageError, match="pixels in all frames together"):
        check_footage(Footage(frames), Settings(max_request_pixels=6 * 128 * 64 - 1), 4)
    check_footage(Footage(frames, None, [(1, 0, 0, 9, 9)] * 6), Settings(max_request_pixels=128 * 64), 4)
    check_footage(Footage(frames), SETTINGS, 4)


def test_box_of_a_missing_frame_is_refused() -> None:
    with pytest.raises(FootageError) as error:
        check_footage(Footage(tracklet(1, 2), None, [(0, 0, 0, 9, 9), (2, 0, 0, 9, 9)]), SETTINGS, 4)
    assert (error.value.kind, error.value.faults[0].field) == ("malformed", "boxes[1][0]")


def test_box_far_into_a_video_is_refused_without_decoding(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [draw(1)])
    with pytest.raises(FootageError) as error:
        check_footage(Footage(video=tmp_path / "v.mp4", boxes=[(20_000, 0, 0, 9, 9)]), SETTINGS, 4)
    assert (error.value.kind, error.value.faults[0].field) == ("too_large", "boxes[0][0]")


def test_video_over_a_limit_names_the_field(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(5)])
    with pytest.raises(FootageError, match="5 frames, at most 4") as error:
        samples(Footage(video=tmp_path / "v.mp4"), Settings(max_frames=4))
    assert (error.value.kind, error.value.faults[0].field) == ("too_large", "video")


def test_other_files_than_videos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"text")
    with pytest.raises(FootageError, match="neither MP4") as error:
        check_footage(Footage(video=tmp_path / "v.mp4"), SETTINGS, 4)
    assert (error.value.kind, error.value.faults[0].field) == ("unsupported", "video")

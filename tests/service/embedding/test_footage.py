from pathlib import Path

import numpy as np
import pytest

from model.frames import FrameError, crop_box, decode_frame, read_frame, resize_frame
from model.pillow_bicubic import resize_like_pillow
from service.embedding.footage import Box, Footage, FootageError, check_footage, read_samples
from service.embedding.footage_warnings import FootageWarnings
from service.settings import Settings
from tests.service.pictures import draw, encode, tracklet, write_video

SETTINGS = Settings()
HEIGHT, WIDTH = 64, 32


def samples(footage: Footage, settings: Settings = SETTINGS) -> list[tuple[int, object]]:
    return list(read_samples(footage, settings, HEIGHT, WIDTH))


def reason(sample: object) -> str:
    assert isinstance(sample, FrameError)
    # A stack would hold the encoded picture as long as the error is kept.
    assert (sample.__traceback__, sample.__context__) == (None, None)
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


def test_box_after_the_end_of_a_video_is_a_rejected_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(5)])
    warnings = FootageWarnings()
    footage = Footage(video=tmp_path / "v.mp4", boxes=[(4, 0, 0, 60, 60), (5, 0, 0, 60, 60), (-1, 0, 0, 60, 60)])
    found = dict(read_samples(footage, SETTINGS, HEIGHT, WIDTH, warnings=warnings))
    assert isinstance(found[0], np.ndarray)
    assert [reason(found[index]) for index in (1, 2)] == ["missing_frame", "missing_frame"]
    assert "frame 5, but there are 5" in str(found[1])
    assert "boxes of frames that do not exist: 2" in warnings.texts()[0]


@pytest.mark.parametrize(
    ("box", "status"),
    [
        ((0, 0, 0, 60, -4), "too_small"),
        ((0, 10, 10, 0, 90), "too_small"),
        ((0, -300, 0, 60, 40), "too_small"),
        ((0, 1e300, 0, 60, 40), "too_small"),
        ((0, 1e308, 0, 1e308, 40), "bad_box"),
        ((0, float("nan"), 0, 60, 40), "bad_box"),
        ((0, 0, 0, 60, float("inf")), "bad_box"),
        ((2, 0, 0, 60, 60), "missing_frame"),
        ((-1, 0, 0, 60, 60), "missing_frame"),
        ((2**53, 0, 0, 60, 60), "missing_frame"),
    ],
)
def test_one_bad_box_is_a_rejected_frame(box: Box, status: str, tmp_path: Path) -> None:
    boxes: list[Box] = [(0, 0, 0, 60, 100), (1, 0, 0, 60, 100), box, (1, 2, 0, 60, 100)]
    frames = [draw(1, seed) for seed in range(2)]
    write_video(tmp_path / "v.avi", frames, "MJPG")
    limits = Settings(max_video_frames=3)
    for footage in (Footage([encode(frame) for frame in frames], None, boxes), Footage([], tmp_path / "v.avi", boxes)):
        chosen = check_footage(footage, limits, 4)
        found = dict(read_samples(footage, limits, HEIGHT, WIDTH, chosen))
        assert {index for index, sample in found.items() if isinstance(sample, np.ndarray)} == {0, 1, 3}
        assert reason(found[2]) in {status, "too_large"}


def test_boxes_of_one_frame_do_not_keep_it_in_memory() -> None:
    """A frame is decoded again after some crops, and the pixels that are decoded count so."""
    full = encode(draw(1, height=400, width=400), ".png")
    boxes: list[Box] = [(0, index % 50, 0, 64, 128) for index in range(100)]
    footage = Footage([full], None, boxes)
    check_footage(footage, Settings(max_request_pixels=4 * 400 * 400), 4)
    with pytest.raises(FootageError, match="pixels in all frames together"):
        check_footage(footage, Settings(max_request_pixels=4 * 400 * 400 - 1), 4)
    found = samples(footage)
    assert [index for index, _ in found] == list(range(100))
    crop = crop_box(decode_frame(full), *boxes[70][1:])
    np.testing.assert_array_equal(found[70][1], resize_frame(crop, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("size", "full"),
    [((128, 64), False), ((64, 64), False), ((64, 128), True), ((1280, 720), True), ((900, 450), False)],
)
def test_frames_with_the_shape_of_a_full_frame_give_a_warning(size: tuple[int, int], full: bool) -> None:
    frames = [encode(draw(1, height=size[0], width=size[1])) for _ in range(3)]
    for extra, boxes in (([], None), ([encode(draw(1))], [(index, 0, 0, size[1], size[0]) for index in range(3)])):
        warnings = FootageWarnings()
        list(read_samples(Footage(frames + extra, None, boxes), SETTINGS, HEIGHT, WIDTH, warnings=warnings))
        assert bool(warnings.texts()) == full
        if full:
            assert f"{size[1]}x{size[0]} pixels" in warnings.texts()[0]


def test_few_full_frames_among_crops_give_no_warning() -> None:
    warnings = FootageWarnings()
    frames = [*tracklet(1, 3), encode(draw(1, height=200, width=300))]
    list(read_samples(Footage(frames), SETTINGS, HEIGHT, WIDTH, warnings=warnings))
    assert warnings.texts() == ()


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


def test_a_model_of_pillows_pixels_gets_them() -> None:
    scene = draw(1, height=300, width=200)
    whole = Footage([encode(scene, ".png")])
    boxed = Footage([encode(scene, ".png")], None, [(0, 10, 20, 90, 200)])
    for footage, pixels in ((whole, scene), (boxed, scene[20:220, 10:100])):
        [(_, frame)] = read_samples(footage, SETTINGS, HEIGHT, WIDTH, resampling="pil-bicubic")
        np.testing.assert_array_equal(frame, resize_like_pillow(decode_frame(encode(pixels, ".png")), HEIGHT, WIDTH))

"""`max_clips`: only the frames of the chosen clips are decoded, and the embedding is the mean of these clips."""

import asyncio
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import Engine, open_engine
from model.frames import read_frame
from model.tracklet import choose_frames, split_into_clips, video_feature, weigh_clips
from service.embedding.embedder import Embedder, TrackletEmbedding
from service.embedding.footage import Box, Footage, FootageError, check_footage, read_samples
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles import make_bundle
from tests.service.pictures import draw, encode, write_video

HEIGHT, WIDTH, LENGTH = 64, 32, 4
FRAMES = [encode(draw(person, height=HEIGHT, width=WIDTH), ".png") for person in range(60)]
"""Each of another person, so that a wrong clip gives another embedding."""


Parts = tuple[Embedder, Engine, asyncio.Runner]
"""The runner has one event loop for all calls: what waits in an embedder belongs to its loop."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    loaded = Bundle.load(make_bundle(tmp_path_factory.mktemp("bundle")))
    engine = open_engine(loaded, "cpu", engine="onnxruntime", threads=1)
    embedder = Embedder(engine, loaded.spec, Settings(max_batch=2), Metrics())
    with asyncio.Runner() as runner:
        yield embedder, engine, runner
    embedder.close()


def embed(parts: Parts, footage: Footage, most: int | None = None) -> TrackletEmbedding:
    return parts[2].run(parts[0].embed(footage, most))


def mean_of_clips(parts: Parts, frames: NDArray[np.uint8], most: int) -> NDArray[np.float32]:
    """The expected embedding, with functions of the model only."""
    return video_feature(parts[1].embed(frames[split_into_clips(len(frames), LENGTH, most)]))


def resized(frames: list[bytes]) -> NDArray[np.uint8]:
    return np.stack([read_frame(data, HEIGHT, WIDTH) for data in frames])


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, len(FRAMES)), most=st.integers(1, 20))
def test_embedding_is_the_mean_of_the_chosen_clips_and_no_other_frame_is_decoded(
    parts: Parts, count: int, most: int
) -> None:
    frames = FRAMES[:count]
    chosen = choose_frames(count, LENGTH, most).tolist()
    sent = [data if index in chosen else b"text" for index, data in enumerate(frames)]
    embedded = embed(parts, Footage(sent), most)
    assert (embedded.frames, embedded.clips) == (len(chosen), len(split_into_clips(count, LENGTH, most)))
    assert embedded.rejected == ()
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, resized(frames), most), atol=1e-6)


@pytest.mark.parametrize(("count", "most"), [(3, None), (5, None), (8, None), (11, 2), (23, 3)])
def test_clips_are_weighted_by_their_frames_if_the_bundle_says_so(parts: Parts, count: int, most: int | None) -> None:
    embedder, engine, runner = parts
    spec = embedder._spec.model_copy(update={"clip_weights": "frames"})
    weighing = Embedder(engine, spec, Settings(max_batch=2), Metrics())
    try:
        found = embed((weighing, engine, runner), Footage(FRAMES[:count]), most).embedding
    finally:
        weighing.close()
    indices = split_into_clips(count, LENGTH, most)
    rows = engine.embed(resized(FRAMES[:count])[indices])
    np.testing.assert_allclose(found, video_feature(rows, weigh_clips(indices, "frames")), atol=1e-6)
    if count == 5:
        assert np.abs(found - video_feature(rows)).max() > 1e-3


def test_max_clips_of_at_least_all_clips_changes_nothing(parts: Parts) -> None:
    footage = Footage([*FRAMES[:7], b"text", *FRAMES[8:21]])
    few, whole = embed(parts, footage, 6), embed(parts, footage)
    np.testing.assert_array_equal(few.embedding, whole.embedding)
    assert (few.frames, few.clips, [index for index, _ in few.rejected]) == (20, 5, [7])


def test_rejected_frame_keeps_its_index_and_the_others_form_the_clips(parts: Parts) -> None:
    """Two clips of 24 frames are frames 4 to 7 and 16 to 19."""
    sent = list(FRAMES[:24])
    sent[5] = sent[6] = sent[0] = sent[12] = b"text"
    embedded = embed(parts, Footage(sent), 2)
    assert [index for index, _ in embedded.rejected] == [5, 6]
    assert (embedded.frames, embedded.clips) == (6, 2)
    left = resized([FRAMES[index] for index in (4, 7, 16, 17, 18, 19)])
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, left, 2), atol=1e-6)


def test_usable_share_counts_the_chosen_frames(parts: Parts) -> None:
    sent = list(FRAMES[:24])
    sent[4] = sent[5] = sent[6] = sent[17] = sent[18] = b"text"  # 5 of 24, but 5 of the chosen 8
    assert embed(parts, Footage(sent)).frames == 19
    with pytest.raises(FootageError, match="3 of 8 frames can be used, but at least 4 are needed") as error:
        embed(parts, Footage(sent), 2)
    assert [fault.frame for fault in error.value.faults] == [4, 5, 6, 17, 18]


def test_boxes_are_chosen_in_the_order_of_their_frames(parts: Parts) -> None:
    """They are sent in reverse order; only the full frames of the chosen boxes are decoded."""
    chosen = choose_frames(22, LENGTH, 2).tolist()
    sent = [data if index in chosen else b"text" for index, data in enumerate(FRAMES[:22])]
    boxes: list[Box] = [(frame, 0, 0, WIDTH, HEIGHT) for frame in reversed(range(22))]
    embedded = embed(parts, Footage(sent, None, boxes), 2)
    assert (embedded.frames, embedded.clips, embedded.rejected) == (len(chosen), 2, ())
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, resized(FRAMES[:22]), 2), atol=1e-6)
    sent[chosen[0]] = b"text"
    assert [index for index, _ in embed(parts, Footage(sent, None, boxes), 2).rejected] == [21 - chosen[0]]


@pytest.fixture
def video(tmp_path: Path) -> tuple[Path, NDArray[np.uint8]]:
    """A video of 23 frames, and these frames as the service reads them."""
    path = tmp_path / "v.avi"
    write_video(path, [draw(person) for person in range(23)], "MJPG")
    frames = [frame for _, frame in read_samples(Footage(video=path), Settings(), HEIGHT, WIDTH)]
    assert all(isinstance(frame, np.ndarray) for frame in frames)
    return path, np.stack(frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 2, 5, 6, 40])
def test_clips_of_a_video(parts: Parts, video: tuple[Path, NDArray[np.uint8]], most: int) -> None:
    path, frames = video
    embedded = embed(parts, Footage(video=path), most)
    assert embedded.frames == len(choose_frames(23, LENGTH, most))
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, frames, most), atol=1e-6)


def test_boxes_of_a_video(parts: Parts, video: tuple[Path, NDArray[np.uint8]]) -> None:
    path, frames = video
    boxes: list[Box] = [(frame, 0, 0, 64, 128) for frame in range(23)]
    embedded = embed(parts, Footage(video=path, boxes=boxes), 3)
    assert (embedded.frames, embedded.clips) == (len(choose_frames(23, LENGTH, 3)), 3)
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, frames, 3), atol=1e-6)


@pytest.mark.parametrize("declared", [3, 200])
def test_declared_number_of_frames_is_not_trusted(
    parts: Parts, video: tuple[Path, NDArray[np.uint8]], declared: int
) -> None:
    path, frames = video
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, declared)  # dwLength of the stream's header
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, declared)  # dwTotalFrames
    path.write_bytes(data)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == declared
    embedded = embed(parts, Footage(video=path), 2)
    np.testing.assert_allclose(embedded.embedding, mean_of_clips(parts, frames, 2), atol=1e-6)


def test_setting_limits_the_clips_that_are_embedded(video: tuple[Path, NDArray[np.uint8]]) -> None:
    limits = Settings(max_clips=2)
    path, _ = video
    for footage, name in ((Footage(FRAMES[:23]), "frames"), (Footage(video=path), "video")):
        chosen = check_footage(footage, limits, LENGTH, 2)
        assert chosen == choose_frames(23, LENGTH, 2).tolist()
        with pytest.raises(FootageError, match="max_clips") as error:
            check_footage(footage, limits, LENGTH, 3)
        assert (error.value.kind, error.value.faults[0].field) == ("too_large", name)
    assert check_footage(Footage(FRAMES[:8]), limits, LENGTH, 1000) == list(range(8))


def test_a_track_of_any_length_is_accepted_with_max_clips(video: tuple[Path, NDArray[np.uint8]]) -> None:
    limits = Settings(max_frames=8, max_video_frames=23)
    path, _ = video
    boxes: list[Box] = [(frame, 0, 0, 64, 128) for frame in range(23)]
    for footage in (Footage(FRAMES[:23]), Footage(video=path), Footage(video=path, boxes=boxes)):
        assert check_footage(footage, limits, LENGTH, 2) == choose_frames(23, LENGTH, 2).tolist()
        with pytest.raises(FootageError, match="12 frames, at most 8"):
            check_footage(footage, limits, LENGTH, 3)
    with pytest.raises(FootageError, match="22"):
        check_footage(Footage(video=path), Settings(max_frames=8, max_video_frames=22), LENGTH, 2)


def test_limits_do_not_apply_to_frames_that_are_not_chosen() -> None:
    large = encode(draw(1, height=300, width=300))
    sent = [large, *FRAMES[1:24]]
    limits = Settings(max_pixels=64 * 64, max_request_pixels=8 * HEIGHT * WIDTH)
    with pytest.raises(FootageError):
        check_footage(Footage(sent), limits, LENGTH)
    assert check_footage(Footage(sent), limits, LENGTH, 2) == [4, 5, 6, 7, 16, 17, 18, 19]


def test_memory_does_not_grow_with_a_tracklets_length(parts: Parts) -> None:
    """Two pieces are queued, one is collected and copied: about 4 x 2 clips of 4 frames for any length."""
    frame_bytes = HEIGHT * WIDTH * 3

    def peak(count: int) -> int:
        footage = Footage([FRAMES[index % len(FRAMES)] for index in range(count)])
        tracemalloc.start()
        try:
            assert embed(parts, footage).frames == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(8)  # imports and caches
    short, long = peak(100), peak(2000)
    assert short > 8 * frame_bytes  # the memory of arrays is counted
    assert long < 2000 * frame_bytes / 10
    assert long - short < 100 * frame_bytes  # embeddings and indices grow


def test_crop_does_not_keep_its_full_frame_in_memory() -> None:
    """A box of the model's size and of the full width could stay a view of the frame."""
    full = encode(draw(1, height=10 * HEIGHT, width=WIDTH), ".png")
    footage = Footage([full], None, [(0, 0, HEIGHT, WIDTH, HEIGHT)])
    [(_, frame)] = read_samples(footage, Settings(), HEIGHT, WIDTH)
    assert isinstance(frame, np.ndarray)
    assert frame.base is None

import asyncio
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import service.embedding.footage
from model.bundle import Bundle
from model.engines import Engine, EngineError, open_engine
from model.frames import ImageHeader, SizedFrame, read_header, read_sized_frame
from service.embedding.embedder import Embedder
from service.embedding.footage import Footage, FootageError
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.live import TIMEOUT
from tests.service.pictures import encode, tracklet

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Parts:
    """An embedder with a real engine and metrics."""

    def __init__(self, bundle: Path, **settings: int) -> None:
        self.metrics = Metrics()
        loaded = Bundle.load(bundle)
        self.engine: Engine = open_engine(loaded, "cpu", engine="onnxruntime", threads=1)
        self.embedder = Embedder(self.engine, loaded.spec, Settings(**settings), self.metrics)  # type: ignore[arg-type]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def parts(bundle: Path) -> Iterator[Parts]:
    parts = Parts(bundle, max_batch=2)
    yield parts
    parts.embedder.close()


async def test_embedding_has_unit_length(parts: Parts) -> None:
    embedded = await parts.embedder.embed(Footage(tracklet(1, 9)))
    assert (embedded.frames, embedded.clips, embedded.rejected) == (9, 3, ())
    assert np.linalg.norm(embedded.embedding) == pytest.approx(1, abs=1e-6)


async def test_rejected_frames_are_not_in_the_embedding(parts: Parts) -> None:
    good = tracklet(1, 9)
    mixed = [*good[:3], b"text", *good[3:8], b"", good[8]]
    embedded = await parts.embedder.embed(Footage(mixed))
    whole = await parts.embedder.embed(Footage(good))
    assert [index for index, _ in embedded.rejected] == [3, 9]
    np.testing.assert_allclose(embedded.embedding, whole.embedding, atol=1e-6)


async def test_rejected_frames_are_nothing_for_the_garbage_collector(parts: Parts) -> None:
    """It stopped all threads for 0.1 s when sixteen requests had thousands of errors with their stacks."""
    embedded = await parts.embedder.embed(Footage([*tracklet(1, 9), *[b"text", b"\xff\xd8\xff", b""] * 3]))
    gc.collect()
    assert len(embedded.rejected) == 9
    assert not any(map(gc.is_tracked, embedded.rejected))


async def test_tracklet_with_too_few_usable_frames_costs_no_engine_time(parts: Parts) -> None:
    """After eleven bad frames of twenty it is refused; the rest is only decoded to report its faults."""
    frames = [b"text"] * 11 + tracklet(1, 9)
    with pytest.raises(FootageError) as error:
        await parts.embedder.embed(Footage(frames))
    assert error.value.kind == "unusable"
    assert [fault.frame for fault in error.value.faults] == list(range(11))
    assert parts.count("not3d_batch_clips_count") == 0


async def test_half_of_the_frames_is_enough(parts: Parts) -> None:
    embedded = await parts.embedder.embed(Footage([*tracklet(1, 3), b"", b"", b""]))
    assert embedded.frames == 3


async def test_one_frame_is_enough(parts: Parts) -> None:
    embedded = await parts.embedder.embed(Footage(tracklet(1, 1)))
    assert (embedded.frames, embedded.clips) == (1, 1)


async def test_concurrent_tracklets_get_the_same_embeddings_as_alone(parts: Parts) -> None:
    people = [Footage(tracklet(person, 1 + person)) for person in range(12)]
    together = await asyncio.gather(*(parts.embedder.embed(footage) for footage in people))
    for footage, embedded in zip(people, together, strict=True):
        alone = await parts.embedder.embed(footage)
        np.testing.assert_allclose(embedded.embedding, alone.embedding, atol=1e-6)


async def test_embedding_that_is_not_finite_is_an_error(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(clips), 32), np.nan, np.float32)

    monkeypatch.setattr(type(parts.engine), "embed", broken)
    with pytest.raises(EngineError, match="not a finite number"):
        await parts.embedder.embed(Footage(tracklet(1, 2)))


async def test_cancelled_tracklet_leaves_the_queue_empty(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    embed = type(parts.engine).embed

    def held(engine: object, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert may_go_on.wait(120)
        return embed(engine, clips)  # type: ignore[arg-type]

    monkeypatch.setattr(type(parts.engine), "embed", held)
    task = asyncio.create_task(parts.embedder.embed(Footage(tracklet(1, 40))))
    while not parts.count("not3d_queued_clips"):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_go_on.set()  # the engine ends the batch that it had begun, and takes no other clip of this tracklet
    while parts.count("not3d_queued_clips"):
        await asyncio.sleep(0.01)
    assert parts.count("not3d_batch_clips_count") == 1
    assert (await parts.embedder.embed(Footage(tracklet(1, 1)))).frames == 1


async def test_cancelled_request_decodes_no_further_frame(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, may_go_on = 0, threading.Event()

    def counted(*arguments: Any, **named: Any) -> SizedFrame:
        nonlocal decoded
        decoded += 1
        assert may_go_on.wait(120)
        return read_sized_frame(*arguments, **named)

    monkeypatch.setattr(service.embedding.footage, "read_sized_frame", counted)
    task = asyncio.create_task(parts.embedder.embed(Footage(tracklet(1, 8))))
    while not decoded:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0)  # let the cancellation arrive
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoded == 1


async def test_cancelled_request_decodes_no_picture_after_it_waited_for_memory(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(bundle, max_batch=2, max_decode_bytes=1, decode_threads=2)
    decoded, may_go_on = 0, threading.Event()

    def counted(*arguments: Any, **named: Any) -> SizedFrame:
        nonlocal decoded
        decoded += 1
        assert may_go_on.wait(20)
        return read_sized_frame(*arguments, **named)

    monkeypatch.setattr(service.embedding.footage, "read_sized_frame", counted)
    large = Footage([encode(np.zeros((2000, 2000, 3), np.uint8), ".png")])
    first = asyncio.create_task(parts.embedder.embed(large))
    while not decoded:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(parts.embedder.embed(large))
    while not parts.embedder._memory._next.locked():
        await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0)  # let the cancellation arrive
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert (await first).frames == 1
    assert decoded == 1
    parts.embedder.close()


async def test_headers_of_many_segments_are_read_outside_the_event_loop_until_a_cancellation(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these files has a thousand segments, and takes half a millisecond of Python."""
    read, threads, may_go_on = read_header, list[threading.Thread](), threading.Event()

    def noted(data: bytes) -> ImageHeader:
        threads.append(threading.current_thread())
        assert may_go_on.wait(20)
        return read(data)

    monkeypatch.setattr(service.embedding.footage, "read_header", noted)
    plain = tracklet(1, 1)[0]
    frames = [plain[:2] + b"\xff\xef\0\2" * 1000 + plain[2:]] * 40
    task = asyncio.create_task(parts.embedder.embed(Footage(frames)))
    while not threads:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0)  # let the cancellation arrive
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    assert (await parts.embedder.embed(Footage(frames))).frames == 40


async def test_decoding_waits_for_the_engine(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of decoded frames is limited, for any number and length of tracklets."""
    decoded, may_go_on = 0, threading.Event()
    embed = type(parts.engine).embed

    def counted(*arguments: Any, **named: Any) -> SizedFrame:
        nonlocal decoded
        decoded += 1
        return read_sized_frame(*arguments, **named)

    def held(engine: object, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert may_go_on.wait(120)
        return embed(engine, clips)  # type: ignore[arg-type]

    monkeypatch.setattr(service.embedding.footage, "read_sized_frame", counted)
    monkeypatch.setattr(type(parts.engine), "embed", held)
    tracklets = [Footage(tracklet(person, 6) * 20) for person in range(6)]
    tasks = [asyncio.create_task(parts.embedder.embed(footage)) for footage in tracklets]
    while not parts.count("not3d_queued_clips"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # without a limit, decoding would go on
    before = decoded
    may_go_on.set()
    answers = await asyncio.gather(*tasks)
    settings = Settings(max_batch=2)
    most = 2 * (3 * parts.engine.streams + settings.decoders)  # clips
    assert 0 < before <= 4 * most < decoded == 720
    assert {answer.clips for answer in answers} == {30}
    assert parts.embedder._budget._free == most


async def test_large_pictures_keep_no_crop_waiting(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()

    def held(data: bytes, *arguments: Any, **named: Any) -> SizedFrame:
        if len(data) == len(large):
            assert may_go_on.wait(120)
        return read_sized_frame(data, *arguments, **named)

    large = encode(np.zeros((2000, 2000, 3), np.uint8), ".png")
    monkeypatch.setattr(service.embedding.footage, "read_sized_frame", held)
    waiting = [asyncio.create_task(parts.embedder.embed(Footage([large] * 4))) for _ in range(12)]
    await asyncio.sleep(0.1)
    assert (await parts.embedder.embed(Footage(tracklet(1, 4)))).frames == 4
    assert not any(task.done() for task in waiting)
    may_go_on.set()
    assert {answer.frames for answer in await asyncio.gather(*waiting)} == {4}


async def test_a_cancellation_at_any_moment_returns_everything(parts: Parts) -> None:
    """After each number of turns of the event loop, alone and beside others that are cancelled or go on."""
    chance = random.Random(14)
    footage = Footage(tracklet(1, 24))
    free = parts.embedder._budget.free
    for turns in [*range(0, 40, 2), *(chance.randrange(400) for _ in range(20))]:
        tasks = [asyncio.create_task(parts.embedder.embed(footage, thumbnails=1)) for _ in range(8)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in chance.sample(tasks, chance.randint(1, 8)):
            task.cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()  # twice, as when the service stops while a client leaves
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), TIMEOUT)
        assert not [each for each in done if isinstance(each, Exception)]
    assert (await asyncio.wait_for(parts.embedder.embed(footage), TIMEOUT)).frames == 24
    while parts.embedder._budget.free < free or parts.count("not3d_queued_clips"):
        await asyncio.sleep(0.01)  # the engine still computes what a cancelled request had begun
    assert parts.embedder._budget.free == free


async def test_a_second_cancellation_does_not_abandon_a_decoder_that_still_reads(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller closes and removes its files as soon as `embed` has ended."""
    begun, may_go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def held(*arguments: Any, **named: Any) -> SizedFrame:
        begun.set()
        assert may_go_on.wait(120)
        ended.set()
        return read_sized_frame(*arguments, **named)

    monkeypatch.setattr(service.embedding.footage, "read_sized_frame", held)
    task = asyncio.create_task(parts.embedder.embed(Footage(tracklet(1, 8))))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from model.engines import EngineError, EngineInfo
from model.engines.protocol import EngineName, batch_sizes
from service.embedding.batcher import Batcher
from service.telemetry.metrics import Metrics
from tests.service.live import TIMEOUT


class Sums:
    """Embeds a clip as the sum of its pixels. A test can hold it, and it fails on a clip of 255s."""

    name: EngineName = "onnxruntime"
    device = "cpu"
    precision = "f32"
    threads = 1
    streams = 1
    info = EngineInfo("onnxruntime", "cpu", "f32", 1, "0", "CPUExecutionProvider")

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.running = threading.Event()

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(clips))
        self.running.set()
        assert self.may_run.wait(TIMEOUT)
        if (clips == 255).all(axis=(1, 2, 3, 4)).any():
            raise EngineError("broken")
        return np.asarray(clips.reshape(len(clips), -1).sum(axis=1)[:, None], np.float32)


@pytest.fixture
def engine() -> Sums:
    return Sums()


@pytest.fixture
def batcher(engine: Sums) -> Iterator[Batcher]:
    batcher = Batcher(engine, 8, Metrics())  # type: ignore[arg-type]  # its class attributes are not literals
    yield batcher
    engine.may_run.set()
    batcher.close()


def clips(*values: int) -> NDArray[np.uint8]:
    return np.stack([np.full((1, 1, 1, 3), value, np.uint8) for value in values])


def test_batch_sizes_are_the_largest_and_the_powers_of_two_below() -> None:
    assert batch_sizes(8) == (8, 4, 2, 1)
    assert batch_sizes(1) == (1,)
    assert batch_sizes(20) == (20, 16, 8, 4, 2, 1)


def test_one_clip_does_not_wait_for_others(batcher: Batcher, engine: Sums) -> None:
    assert batcher.submit(clips(7)).result(TIMEOUT).tolist() == [[21]]
    assert engine.sizes == [1]


def test_clips_of_concurrent_requests_share_calls(batcher: Batcher, engine: Sums) -> None:
    engine.may_run.clear()
    first = batcher.submit(clips(1))
    assert engine.running.wait(TIMEOUT)
    others = [batcher.submit(clips(2, 3, 4)), batcher.submit(clips(5)), batcher.submit(clips(*range(10, 20)))]
    engine.may_run.set()
    assert first.result(TIMEOUT).tolist() == [[3]]
    assert others[0].result(TIMEOUT).ravel().tolist() == [6, 9, 12]
    assert others[1].result(TIMEOUT).ravel().tolist() == [15]
    assert others[2].result(TIMEOUT).ravel().tolist() == [3 * value for value in range(10, 20)]
    assert engine.sizes == [1, 8, 4, 2]  # 14 clips of three requests, without padding


def test_error_reaches_only_the_requests_in_the_batch(batcher: Batcher, engine: Sums) -> None:
    engine.may_run.clear()
    first = batcher.submit(clips(1))
    assert engine.running.wait(TIMEOUT)
    bad = batcher.submit(clips(255, *range(12)))
    engine.may_run.set()
    with pytest.raises(EngineError, match="broken"):
        bad.result(TIMEOUT)
    assert first.result(TIMEOUT).tolist() == [[3]]
    assert batcher.submit(clips(2)).result(TIMEOUT).tolist() == [[6]]
    assert engine.sizes == [1, 8, 1]  # the rest of the failed job was taken out of the queue


def test_cancelled_request_leaves_the_queue(batcher: Batcher, engine: Sums) -> None:
    engine.may_run.clear()
    first = batcher.submit(clips(1))
    assert engine.running.wait(TIMEOUT)
    cancelled, kept = batcher.submit(clips(2, 3)), batcher.submit(clips(4))
    assert cancelled.cancel()
    engine.may_run.set()
    assert kept.result(TIMEOUT).tolist() == [[12]]
    assert first.result(TIMEOUT).tolist() == [[3]]
    assert engine.sizes == [1, 1]


def test_many_threads_get_their_own_results(batcher: Batcher) -> None:
    answers: dict[int, list[float]] = {}

    def ask(value: int) -> None:
        answers[value] = batcher.submit(clips(*[value] * (value % 11 + 1))).result(TIMEOUT).ravel().tolist()

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {value: [3.0 * value] * (value % 11 + 1) for value in range(60)}


def test_closing_finishes_what_is_queued(engine: Sums) -> None:
    batcher = Batcher(engine, 4, Metrics())  # type: ignore[arg-type]
    engine.may_run.clear()
    futures = [batcher.submit(clips(value)) for value in range(10)]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    time.sleep(0.05)
    engine.may_run.set()
    closer.join(TIMEOUT)
    assert not closer.is_alive()
    assert not wait(futures, 0).not_done
    with pytest.raises(RuntimeError):
        batcher.submit(clips(1))


class SideBySide(Sums):
    """Two streams; each call waits until a second one runs."""

    streams = 2

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2)

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.both.wait(TIMEOUT)
        if clips[0, 0, 0, 0, 0] < 2:  # the later clips are ready first
            time.sleep(0.05)
        return super().embed(clips)


def test_streams_share_the_clips_of_one_request() -> None:
    engine = SideBySide()
    batcher = Batcher(engine, 8, Metrics())  # type: ignore[arg-type]
    answer = batcher.submit(clips(*range(8))).result(TIMEOUT)
    assert answer.ravel().tolist() == [3 * value for value in range(8)]
    assert sorted(engine.sizes) == [1, 1, 2, 4]  # each stream takes half of the waiting clips
    batcher.close()


def test_request_whose_calls_both_fail_gets_one_error() -> None:
    engine = SideBySide()
    batcher = Batcher(engine, 8, Metrics())  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="broken"):
        batcher.submit(clips(255, 255)).result(TIMEOUT)
    assert batcher.submit(clips(2, 3)).result(TIMEOUT).ravel().tolist() == [6, 9]
    batcher.close()


class TwoStreams(Sums):
    """Two streams; the engine fails on clips of 255s, and takes a moment for each call."""

    streams = 2

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(0.0002)
        return super().embed(clips)


def test_no_order_of_cancellations_and_errors_leaves_clips_or_stops_the_threads() -> None:
    """Cancelled before, while and after the clips are taken, from the thread that submits, as the event loop does."""
    chance = random.Random(14)
    engine, metrics = TwoStreams(), Metrics()
    batcher = Batcher(engine, 4, metrics)  # type: ignore[arg-type]
    futures, values = [], []
    for _ in range(1000):
        wanted = [chance.randrange(200) if chance.random() < 0.98 else 255 for _ in range(chance.randint(1, 6))]
        futures.append(batcher.submit(clips(*wanted)))
        values.append(wanted)
        if chance.random() < 0.5:
            futures[chance.randrange(max(0, len(futures) - 10), len(futures))].cancel()
        if chance.random() < 0.05:
            time.sleep(0.001)
    for future, wanted in zip(futures, values, strict=True):
        with suppress(CancelledError, EngineError):
            future.result(TIMEOUT)
        if not future.cancelled() and not future.exception():
            assert future.result().ravel().tolist() == [3 * value for value in wanted]
    assert batcher.submit(clips(1, 2)).result(TIMEOUT).ravel().tolist() == [3, 6]
    assert metrics.registry.get_sample_value("not3d_queued_clips") == 0
    batcher.close()


def test_a_batch_for_which_memory_is_short_fails_and_later_ones_do_not(
    batcher: Batcher, engine: Sums, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.may_run.clear()
    first = batcher.submit(clips(1))
    assert engine.running.wait(TIMEOUT)
    second, third = batcher.submit(clips(2)), batcher.submit(clips(3))  # one batch, which is copied together
    concatenate = np.concatenate
    failures = iter([MemoryError()])

    def short_once(arrays: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        if len(arrays) == 2 and (error := next(failures, None)):
            raise error
        return concatenate(arrays)

    monkeypatch.setattr("service.embedding.batcher.np.concatenate", short_once)
    engine.may_run.set()
    assert first.result(TIMEOUT).tolist() == [[3]]
    for future in (second, third):
        with pytest.raises(MemoryError):
            future.result(TIMEOUT)
    assert batcher.submit(clips(2)).result(TIMEOUT).tolist() == [[6]]

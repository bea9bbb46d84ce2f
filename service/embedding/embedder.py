"""Footage in, one vector out: decode, resize, clips, engine, mean. Long tracklets flow through in pieces."""

import asyncio
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine, EngineError
from model.frames import FrameError
from model.spec import BundleSpec
from model.tracklet import split_into_clips, video_feature
from service.embedding.batcher import Batcher
from service.embedding.footage import Footage, Sample, check_count, check_footage, read_samples
from service.embedding.frame_budget import FrameBudget
from service.embedding.thumbnail import MiddleFrame, encode_thumbnail
from service.http.problems import Fault, Problem
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.request_cost import current_cost

T = TypeVar("T")

MAX_HEADERS = 64
"""Frames whose headers are read in the event loop's thread; more, and videos, by the decoders."""
QUEUED_CALLS = 2
"""Full calls of each of the engine's streams whose frames may wait, decoded, beside those in work."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """The video feature float32 `[D]` of unit length, what it was made of, and the frames that were left out.

    `thumbnail` is a JPEG of the middle one of the used frames, where it was asked for.
    """

    embedding: NDArray[np.float32]
    frames: int
    clips: int
    rejected: tuple[tuple[int, FrameError], ...]
    thumbnail: bytes | None = None


class Embedder:
    """Runs tracklets through the engine. Decoding happens in a pool of threads of its own."""

    def __init__(self, engine: Engine, spec: BundleSpec, settings: Settings, metrics: Metrics) -> None:
        self._spec, self._settings, self._metrics = spec, settings, metrics
        self._piece_clips = settings.largest_batch(engine.device)
        self._batcher = Batcher(engine, self._piece_clips, metrics)
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._room = FrameBudget(self._piece_clips * ((1 + QUEUED_CALLS) * engine.streams + settings.decoders))

    async def embed(self, footage: Footage, max_clips: int | None = None, *, thumbnail: bool = False) -> Embedded:
        """Embed one tracklet, or with `max_clips` at most that many evenly spaced clips of it.

        Frames outside of these clips are not decoded. The rule on usable frames counts the chosen ones; where some of
        them cannot be used, the others close ranks, as in a whole tracklet.

        Raises:
            Problem: as `service.embedding.footage.check_footage` and `read_samples`; 415 where no frame is an image, 422 where
                too few frames can be used, naming each bad one.
            EngineError: the engine failed or answered with something that is no number.
        """
        spec, settings = self._spec, self._settings
        check = partial(check_footage, footage, settings, spec.clip_length, max_clips)
        # A few headers are read sooner than a thread begins.
        in_place = not footage.video and len(footage.frames) <= MAX_HEADERS
        chosen = check() if in_place else await self._in_pool(check)
        samples = read_samples(footage, settings, spec.frame_height, spec.frame_width, chosen)
        left = settings.max_frames + 1 if chosen is None else len(chosen)
        middle = MiddleFrame() if thumbnail else None
        flow = _Flow(self._batcher, self._room, spec, settings, None if chosen is None else len(chosen), middle)
        given_up = threading.Event()
        try:
            while left:
                clips = min(self._piece_clips, -(-left // spec.clip_length))
                wanted = clips * spec.clip_length
                await flow.make_room(clips)
                piece = await self._in_pool(lambda: self._decode(samples, wanted, given_up), given_up)  # noqa: B023
                left = 0 if len(piece) < wanted else left - wanted
                flow.take(piece, last=not left)
            embedded = await flow.finish()
            if middle:
                picture = await self._in_pool(partial(encode_thumbnail, middle.choose()))
                embedded = replace(embedded, thumbnail=picture)
            if cost := current_cost.get():
                cost.clips += embedded.clips
        finally:
            flow.cancel()
            samples.close()
            self._metrics.frames.labels("rejected").inc(len(flow.rejected))
            self._metrics.frames.labels("used").inc(flow.usable)
            if cost := current_cost.get():
                cost.frames += flow.usable
        return embedded

    def close(self) -> None:
        """Finish what was begun and stop the threads."""
        self._decoders.shutdown(wait=True)
        self._batcher.close()

    def _decode(self, samples: Iterator[Sample], count: int, given_up: threading.Event) -> list[Sample]:
        with self._metrics.stage("decode"):
            return list(takewhile(lambda _: not given_up.is_set(), islice(samples, count)))

    async def _in_pool(self, function: Callable[[], T], given_up: threading.Event | None = None) -> T:
        # In the request's context, so that the time is counted as the request's.
        job = self._decoders.submit(contextvars.copy_context().run, function)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if given_up:
                given_up.set()
            if not job.cancel():  # its thread still reads the footage, which must not be closed under it
                await asyncio.wait([future])
            raise


class _Flow:
    """The frames of one tracklet on their way through the batcher."""

    def __init__(
        self,
        batcher: Batcher,
        room: FrameBudget,
        spec: BundleSpec,
        settings: Settings,
        expected: int | None,
        middle: MiddleFrame | None,
    ) -> None:
        self._batcher, self._room, self._spec, self._settings = batcher, room, spec, settings
        self._expected, self._middle = expected, middle
        self._held = 0  # clips of room that no piece in the queue accounts for
        self._frames: list[NDArray[np.uint8]] = []
        self._pieces: deque[asyncio.Future[NDArray[np.float32]]] = deque()
        self._rows: list[NDArray[np.float32]] = []
        self.rejected: list[tuple[int, FrameError]] = []
        self.usable = 0

    async def make_room(self, clips: int) -> None:
        """Wait until `clips` more may be decoded."""
        await self._room.take(clips)
        self._held += clips

    def take(self, piece: list[Sample], *, last: bool) -> None:
        """Pass on the whole clips of what has come so far; the `last` piece is left to `finish`.

        Raises:
            EngineError: the engine failed on a piece before.
        """
        self._collect()
        for index, frame in piece:
            if isinstance(frame, FrameError):
                self.rejected.append((index, frame))
            else:
                self._frames.append(frame)
                self.usable += 1
                if self._middle:
                    self._middle.see(frame)
        if self._expected is None:  # only a video can have more than could be known before
            check_count(self.usable, "video", self._settings, self._spec.clip_length)
        if self._is_lost():  # decoding goes on, to name every bad frame; the engine has better things to do
            self._frames.clear()
        elif not last:
            self._submit(len(self._frames) - len(self._frames) % self._spec.clip_length)
        if not last:  # fewer frames than a clip are nothing that others should wait for
            self._let_go()

    async def finish(self) -> Embedded:
        """Pass on the rest, with its short last clip, and wait for all."""
        self._refuse_if_lost()
        self._submit(len(self._frames))
        while self._pieces:
            self._rows.append(await self._pieces.popleft())
        rows = np.concatenate(self._rows)
        if not np.isfinite(rows).all():
            raise EngineError("the engine's answer has a component that is no number")
        rejected = tuple(sorted(self.rejected, key=lambda pair: pair[0]))
        return Embedded(video_feature(rows), self.usable, len(rows), rejected)

    def cancel(self) -> None:
        """Take out of the queue what is still in it, and let go of the room."""
        for piece in self._pieces:
            if not piece.cancel() and not piece.cancelled():
                piece.exception()  # looked at, or asyncio would log it as forgotten
        self._let_go()

    def _collect(self) -> None:
        while self._pieces and self._pieces[0].done():
            self._rows.append(self._pieces.popleft().result())

    def _let_go(self) -> None:
        self._room.give_back(self._held)
        self._held = 0

    def _submit(self, count: int) -> None:
        """Queue the first `count` frames; their room is free again when the engine has answered."""
        if not count:
            return
        indices = split_into_clips(count, self._spec.clip_length)
        clips = np.stack([self._frames[index] for index in indices.flat]).reshape(-1, *self._spec.clip_shape)
        del self._frames[:count]
        piece = asyncio.wrap_future(self._batcher.submit(clips))
        room, self._held = self._held, 0
        piece.add_done_callback(lambda _: self._room.give_back(room))
        self._pieces.append(piece)

    def _is_lost(self) -> bool:
        """Whether too few frames can be used, whatever the rest is like."""
        total = self._expected
        return total is not None and total - len(self.rejected) < self._needed(total)

    def _needed(self, total: int) -> int:
        return max(1, math.ceil(total * self._settings.min_usable_share - 1e-9))  # 0.1 * 30 is 3.0000000000000004

    def _refuse_if_lost(self) -> None:
        total = self.usable + len(self.rejected)
        if self.usable >= self._needed(total):
            return
        no_images = not self.usable and all(error.status == "not_an_image" for _, error in self.rejected)
        faults = [Fault(frame=index, reason=error.reason) for index, error in sorted(self.rejected, key=lambda p: p[0])]
        raise Problem(
            "unsupported-content" if no_images else "unusable-frames",
            f"{self.usable} of {total} frames can be used, at least {self._needed(total)} are needed; "
            f"frame {faults[0].frame}: {faults[0].reason}",
            errors=faults,
        )

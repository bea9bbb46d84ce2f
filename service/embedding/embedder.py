"""Compute the video feature of a tracklet: decode and resize the frames, form clips, run the engine, take the mean.

Long tracklets are processed in pieces.
"""

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
from service.embedding.footage import (
    Footage,
    FootageError,
    FootageFault,
    Sample,
    check_count,
    check_footage,
    read_samples,
)
from service.embedding.frame_budget import FrameBudget
from service.embedding.thumbnail import MiddleFrame, encode_thumbnail
from service.settings import Settings
from service.telemetry.metrics import Metrics, current_cost

T = TypeVar("T")

MAX_HEADERS = 64
"""Up to this many image headers are checked in the event loop's thread. Decoder threads check more, and videos."""
QUEUED_CALLS = 2
"""This many decoded batches may wait for each stream of the engine, in addition to the batch that it computes."""


@dataclass(frozen=True, eq=False)
class TrackletEmbedding:
    """The video feature float32 `[D]` of unit length, the number of frames and clips in it, and the rejected frames.

    `thumbnail` is a JPEG of the middle usable frame, if it was requested.
    """

    embedding: NDArray[np.float32]
    frames: int
    clips: int
    rejected: tuple[tuple[int, FrameError], ...]
    thumbnail: bytes | None = None


class Embedder:
    """Embeds tracklets. It has its own pool of decoder threads."""

    def __init__(self, engine: Engine, spec: BundleSpec, settings: Settings, metrics: Metrics) -> None:
        self._spec, self._settings, self._metrics = spec, settings, metrics
        self._piece_clips = settings.largest_batch(engine.device)
        self._batcher = Batcher(engine, self._piece_clips, metrics)
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._budget = FrameBudget(self._piece_clips * ((1 + QUEUED_CALLS) * engine.streams + settings.decoders))

    async def embed(
        self, footage: Footage, max_clips: int | None = None, *, thumbnail: bool = False
    ) -> TrackletEmbedding:
        """Embed one tracklet.

        Frames that cannot be used are left out and the others form the clips, as long as enough of the chosen frames
        are usable.

        Args:
            footage: the tracklet.
            max_clips: embed at most this many evenly spaced clips; the frames of other clips are not decoded.
            thumbnail: whether to make a thumbnail.

        Raises:
            FootageError: as `check_footage` and `read_samples`; `unsupported` if no frame is an image, `unusable` if
                too few frames can be used. It lists every bad frame.
            EngineError: the engine failed, or an embedding has a component that is not finite.
        """
        spec, settings = self._spec, self._settings
        check = partial(check_footage, footage, settings, spec.clip_length, max_clips)
        # Checking a few headers takes less time than starting a thread.
        inline = not footage.video and len(footage.frames) <= MAX_HEADERS
        chosen = check() if inline else await self._in_pool(check)
        samples = read_samples(footage, settings, spec.frame_height, spec.frame_width, chosen)
        left = settings.max_frames + 1 if chosen is None else len(chosen)
        middle = MiddleFrame() if thumbnail else None
        pieces = _PieceQueue(
            self._batcher, self._budget, spec, settings, None if chosen is None else len(chosen), middle
        )
        cancelled = threading.Event()
        try:
            while left:
                clips = min(self._piece_clips, -(-left // spec.clip_length))
                wanted = clips * spec.clip_length
                await pieces.acquire(clips)
                piece = await self._in_pool(lambda: self._decode(samples, wanted, cancelled), cancelled)  # noqa: B023
                left = 0 if len(piece) < wanted else left - wanted
                pieces.add(piece, last=not left)
            embedded = await pieces.finish()
            if middle:
                picture = await self._in_pool(partial(encode_thumbnail, middle.choose()))
                embedded = replace(embedded, thumbnail=picture)
            if cost := current_cost.get():
                cost.clips += embedded.clips
        finally:
            pieces.cancel()
            samples.close()
            self._metrics.frames.labels("rejected").inc(len(pieces.rejected))
            self._metrics.frames.labels("used").inc(pieces.usable)
            if cost := current_cost.get():
                cost.frames += pieces.usable
        return embedded

    def close(self) -> None:
        """Finish the work that has started and stop the threads."""
        self._decoders.shutdown(wait=True)
        self._batcher.close()

    def _decode(self, samples: Iterator[Sample], count: int, cancelled: threading.Event) -> list[Sample]:
        with self._metrics.stage("decode"):
            return list(takewhile(lambda _: not cancelled.is_set(), islice(samples, count)))

    async def _in_pool(self, function: Callable[[], T], cancelled: threading.Event | None = None) -> T:
        # Run in the context of the request, which counts its cost.
        job = self._decoders.submit(contextvars.copy_context().run, function)
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if cancelled:
                cancelled.set()
            if not job.cancel():  # its thread still reads the footage, which must stay open until it ends
                await asyncio.wait([future])
            raise


class _PieceQueue:
    """Passes the decoded frames of one tracklet to the batcher, piece by piece, and collects the embeddings."""

    def __init__(
        self,
        batcher: Batcher,
        budget: FrameBudget,
        spec: BundleSpec,
        settings: Settings,
        expected: int | None,
        middle: MiddleFrame | None,
    ) -> None:
        self._batcher, self._budget, self._spec, self._settings = batcher, budget, spec, settings
        self._expected, self._middle = expected, middle
        self._acquired = 0  # clips acquired from the budget that are not in a queued piece yet
        self._frames: list[NDArray[np.uint8]] = []
        self._pieces: deque[asyncio.Future[NDArray[np.float32]]] = deque()
        self._rows: list[NDArray[np.float32]] = []
        self.rejected: list[tuple[int, FrameError]] = []
        self.usable = 0

    async def acquire(self, clips: int) -> None:
        """Wait until the budget allows `clips` more clips to be decoded."""
        await self._budget.acquire(clips)
        self._acquired += clips

    def add(self, piece: list[Sample], *, last: bool) -> None:
        """Add decoded frames and queue all complete clips. After the `last` piece, `finish` queues the rest.

        Raises:
            EngineError: the engine failed on an earlier piece.
            FootageError: a video has too many frames.
        """
        self._collect()
        for index, frame in piece:
            if isinstance(frame, FrameError):
                self.rejected.append((index, frame))
            else:
                self._frames.append(frame)
                self.usable += 1
                if self._middle:
                    self._middle.add(frame)
        if self._expected is None:  # a video whose number of frames was unknown
            check_count(self.usable, "video", self._settings, self._spec.clip_length)
        if self._has_failed():  # the other frames are decoded only to report every bad one
            self._frames.clear()
        elif not last:
            self._submit(len(self._frames) - len(self._frames) % self._spec.clip_length)
        if not last:  # the remaining frames are less than a clip and need no budget
            self._release()

    async def finish(self) -> TrackletEmbedding:
        """Queue the rest, with its short last clip, and wait for all embeddings."""
        self._check_usable()
        self._submit(len(self._frames))
        while self._pieces:
            self._rows.append(await self._pieces.popleft())
        rows = np.concatenate(self._rows)
        if not np.isfinite(rows).all():
            raise EngineError("the embedding has a component that is not a finite number")
        rejected = tuple(sorted(self.rejected, key=lambda pair: pair[0]))
        return TrackletEmbedding(video_feature(rows), self.usable, len(rows), rejected)

    def cancel(self) -> None:
        """Take the waiting pieces out of the queue and release the budget."""
        for piece in self._pieces:
            if not piece.cancel() and not piece.cancelled():
                piece.exception()  # asyncio logs an exception that is never retrieved
        self._release()

    def _collect(self) -> None:
        while self._pieces and self._pieces[0].done():
            self._rows.append(self._pieces.popleft().result())

    def _release(self) -> None:
        self._budget.release(self._acquired)
        self._acquired = 0

    def _submit(self, count: int) -> None:
        """Queue the first `count` frames as clips. Their budget is released when the engine has finished."""
        if not count:
            return
        indices = split_into_clips(count, self._spec.clip_length)
        clips = np.stack([self._frames[index] for index in indices.flat]).reshape(-1, *self._spec.clip_shape)
        del self._frames[:count]
        piece = asyncio.wrap_future(self._batcher.submit(clips))
        acquired, self._acquired = self._acquired, 0
        piece.add_done_callback(lambda _: self._budget.release(acquired))
        self._pieces.append(piece)

    def _has_failed(self) -> bool:
        """Return whether too few frames are usable even if all remaining ones are good."""
        total = self._expected
        return total is not None and total - len(self.rejected) < self._min_usable(total)

    def _min_usable(self, total: int) -> int:
        return max(1, math.ceil(total * self._settings.min_usable_share - 1e-9))  # 0.1 * 30 is 3.0000000000000004

    def _check_usable(self) -> None:
        total = self.usable + len(self.rejected)
        if self.usable >= self._min_usable(total):
            return
        no_images = not self.usable and all(error.status == "not_an_image" for _, error in self.rejected)
        rejected = sorted(self.rejected, key=lambda pair: pair[0])
        faults = [FootageFault(error.reason, frame=index) for index, error in rejected]
        raise FootageError(
            "unsupported" if no_images else "unusable",
            f"{self.usable} of {total} frames can be used, but at least {self._min_usable(total)} are needed; "
            f"frame {faults[0].frame}: {faults[0].reason}",
            faults,
        )

"""Compute the video feature of a tracklet: decode and resize the frames, form clips, run the engine, take the mean.

Long tracklets are processed in pieces.
"""

import asyncio
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engines import Engine, EngineError
from model.frames import FrameError
from model.spec import BundleSpec
from model.tracklet import split_into_clips, video_feature, weigh_clips
from service.embedding.batcher import Batcher
from service.embedding.decode_memory import DecodeMemory
from service.embedding.footage import (
    Frame,
    Sample,
    check_count,
    check_footage,
    has_large_pictures,
    read_samples,
)
from service.embedding.footage_warnings import FootageWarnings
from service.embedding.frame_budget import FrameBudget
from service.embedding.thumbnail import EvenFrames, encode_thumbnail
from service.embedding.tracklet import Footage, FootageError, TrackletEmbedding
from service.progress import Progress
from service.settings import Settings
from service.tasks import finish
from service.telemetry.metrics import Metrics, current_cost
from service.threads import start_threads

T = TypeVar("T")

MAX_HEADERS = 64
"""Up to this many image headers are checked in the event loop's thread. Decoder threads check more, and videos."""
MAX_HEADER_MARKS = 4096
MAX_HEADER_BYTES = 1024 * 1024
"""The same for pictures with so many bytes FF, and bytes, together: a JPEG may have as many segments as bytes FF, and
each of them takes half a microsecond."""
_UNSUPPORTED = frozenset({"not_an_image", "unsupported"})
"""Why a frame is refused as content of a wrong type."""
QUEUED_CALLS = 2
"""This many decoded batches may wait for each stream of the engine, in addition to the batch that it computes."""


class Embedder:
    """Embeds tracklets. It has its own threads: some decode frames, others wait for the processes that decode videos.

    So a video, which may take minutes, never keeps frames waiting.
    """

    def __init__(self, engine: Engine, spec: BundleSpec, settings: Settings, metrics: Metrics) -> None:
        self._spec, self._settings, self._metrics = spec, settings, metrics
        self._piece_clips = settings.largest_batch(engine.device)
        self._batcher = Batcher(engine, self._piece_clips, metrics)
        self._memory = DecodeMemory(settings.max_decode_bytes)
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        # A large picture can take seconds and a video minutes; with threads and a budget of their own, they keep no
        # crop waiting.
        self._large_decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode-large")
        self._videos = ThreadPoolExecutor(settings.video_processes, thread_name_prefix="video")
        start_threads(self._decoders, settings.decoders)
        start_threads(self._large_decoders, settings.decoders)
        start_threads(self._videos, settings.video_processes)
        self._progress = {pool: Progress(settings.decoders) for pool in (self._decoders, self._large_decoders)}
        self._progress[self._videos] = Progress(settings.video_processes)
        queued = (1 + QUEUED_CALLS) * engine.streams
        clips = self._piece_clips * (queued + settings.decoders)
        self._budget, self._large_budget = FrameBudget(clips), FrameBudget(clips)
        self._video_budget = FrameBudget(self._piece_clips * (queued + settings.video_processes))

    async def embed(self, footage: Footage, max_clips: int | None = None, *, thumbnails: int = 0) -> TrackletEmbedding:
        """Embed one tracklet.

        Frames that cannot be used are left out and the others form the clips, as long as enough of the chosen frames
        are usable.

        Args:
            footage: the tracklet.
            max_clips: embed at most this many evenly spaced clips; the frames of other clips are not decoded.
            thumbnails: number of thumbnails to make.

        Raises:
            FootageError: as `check_footage` and `read_samples`; `unsupported` if no frame is an image, `unusable` if
                too few frames can be used. It lists every bad frame.
            EngineError: the engine failed, or an embedding has a component that is not finite.
        """
        spec, settings = self._spec, self._settings
        cancelled = threading.Event()

        def check() -> tuple[list[int] | None, bool]:
            chosen = check_footage(footage, settings, spec.clip_length, max_clips, cancelled)
            return chosen, has_large_pictures(footage, chosen, cancelled)

        # Checking a few headers takes less time than starting a thread.
        inline = not footage.video and _has_short_headers(footage.frames)
        checking = self._videos if footage.video else self._decoders
        chosen, large = check() if inline else await self._in_pool(checking, check, cancelled)
        if footage.video:
            pool, budget = self._videos, self._video_budget
        else:
            pool, budget = (self._large_decoders, self._large_budget) if large else (self._decoders, self._budget)
        warnings = FootageWarnings()
        samples = read_samples(
            footage,
            settings,
            spec.frame_height,
            spec.frame_width,
            chosen,
            resampling=spec.preprocessing.resampling,
            memory=self._memory,
            warnings=warnings,
            cancelled=cancelled,
        )
        left = settings.max_frames + 1 if chosen is None else len(chosen)
        chosen_frames = EvenFrames(thumbnails) if thumbnails else None
        pieces = _PieceQueue(
            self._batcher, budget, spec, settings, None if chosen is None else len(chosen), chosen_frames
        )
        try:
            while left:
                clips = min(self._piece_clips, -(-left // spec.clip_length))
                wanted = clips * spec.clip_length
                await pieces.acquire(clips)
                decode = partial(self._decode, samples, wanted, cancelled, self._progress[pool])
                piece = await self._in_pool(pool, decode, cancelled)
                left = 0 if len(piece) < wanted else left - wanted
                pieces.add(piece, last=not left)
            embedded = replace(await pieces.finish(), warnings=warnings.texts())
            if chosen_frames:
                encode = partial(_encode_thumbnails, chosen_frames.choose())
                embedded = replace(embedded, thumbnails=await self._in_pool(self._decoders, encode))
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

    def find_stall(self, seconds: float) -> str | None:
        """Say what has done nothing for at least `seconds` although work waits for it; `None` if all work goes on."""
        parts = {
            "the engine has computed no batch": self._batcher.progress,
            "no decoder has read a frame": self._progress[self._decoders],
            "no decoder has read a large picture": self._progress[self._large_decoders],
            "no decoded clip has left the queue": self._budget.progress,
            "no decoded clip of large pictures has left the queue": self._large_budget.progress,
        }
        for fault, progress in parts.items():
            if (stalled := progress.stalled_seconds) >= seconds:
                return f"{fault} for {stalled:.0f} seconds, and requests wait"
        return None

    def close(self) -> None:
        """Finish the work that has started and stop the threads."""
        self._decoders.shutdown(wait=True)
        self._large_decoders.shutdown(wait=True)
        self._videos.shutdown(wait=True)
        self._batcher.close()

    def _decode(
        self, samples: Iterator[Sample], count: int, cancelled: threading.Event, progress: Progress
    ) -> list[Sample]:
        with self._metrics.stage("decode"):
            frames = []
            for sample in takewhile(lambda _: not cancelled.is_set(), islice(samples, count)):
                frames.append(sample)
                progress.step()
            return frames

    async def _in_pool(
        self, pool: ThreadPoolExecutor, function: Callable[[], T], cancelled: threading.Event | None = None
    ) -> T:
        # Run in the context of the request, which counts its cost.
        progress = self._progress[pool]
        progress.begin()
        job = pool.submit(contextvars.copy_context().run, function)
        job.add_done_callback(partial(_end_decoding, progress))
        future = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_retrieve)
            if cancelled:
                cancelled.set()
            if not job.cancel():  # its thread still reads the footage, which must stay open until it ends
                await finish([future])
            raise


def _has_short_headers(frames: list[bytes]) -> bool:
    if len(frames) > MAX_HEADERS or sum(map(len, frames)) > MAX_HEADER_BYTES:
        return False
    return sum(frame.count(b"\xff") for frame in frames) <= MAX_HEADER_MARKS


def _encode_thumbnails(frames: list[Frame]) -> tuple[bytes, ...]:
    return tuple(map(encode_thumbnail, frames))


def _retrieve(future: asyncio.Future[T]) -> None:
    """Take the exception of work that was cancelled; asyncio logs one that is never retrieved."""
    if not future.cancelled():
        future.exception()


def _end_decoding(progress: Progress, job: "Future[Any]") -> None:
    progress.end()
    if not job.cancelled():
        progress.step()


@dataclass(frozen=True, eq=False)
class _Piece:
    """Clips in the batcher's queue or in the engine: the batcher's future, and the same one for the event loop."""

    job: "Future[NDArray[np.float32]]"
    embeddings: asyncio.Future[NDArray[np.float32]]


class _PieceQueue:
    """Passes the decoded frames of one tracklet to the batcher, piece by piece, and collects the embeddings."""

    def __init__(
        self,
        batcher: Batcher,
        budget: FrameBudget,
        spec: BundleSpec,
        settings: Settings,
        expected: int | None,
        thumbnails: EvenFrames | None,
    ) -> None:
        self._batcher, self._budget, self._spec, self._settings = batcher, budget, spec, settings
        self._expected, self._thumbnails = expected, thumbnails
        self._acquired = 0  # clips acquired from the budget that are not in a queued piece yet
        self._frames: list[NDArray[np.uint8]] = []
        self._pieces: deque[_Piece] = deque()
        self._rows: list[NDArray[np.float32]] = []
        # Texts: with thousands of exceptions, the garbage collector would stop all threads for tens of milliseconds.
        self.rejected: list[tuple[int, str]] = []
        self._unsupported = 0  # of the rejected ones
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
                self.rejected.append((index, frame.reason))
                self._unsupported += frame.status in _UNSUPPORTED
            else:
                self._frames.append(frame)
                self.usable += 1
                if self._thumbnails:
                    self._thumbnails.add(frame)
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
            self._rows.append(await asyncio.shield(self._pieces[0].embeddings))
            self._pieces.popleft()
        rows = np.concatenate(self._rows)
        if not np.isfinite(rows).all():
            raise EngineError("the embedding has a component that is not a finite number")
        rejected = tuple(sorted(self.rejected))
        weights = weigh_clips(split_into_clips(self.usable, self._spec.clip_length), self._spec.clip_weights)
        return TrackletEmbedding(video_feature(rows, weights), self.usable, len(rows), rejected)

    def cancel(self) -> None:
        """Take the waiting pieces out of the queue and release the budget.

        A piece that the engine computes keeps its clips until the engine has finished.
        """
        for piece in self._pieces:
            piece.job.cancel()
        self._release()

    def _collect(self) -> None:
        while self._pieces and self._pieces[0].embeddings.done():
            self._rows.append(self._pieces.popleft().embeddings.result())

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
        job = self._batcher.submit(clips)
        piece = _Piece(job, asyncio.wrap_future(job))
        acquired, self._acquired = self._acquired, 0
        piece.embeddings.add_done_callback(lambda future: self._end_piece(future, acquired))
        self._pieces.append(piece)

    def _end_piece(self, embeddings: asyncio.Future[NDArray[np.float32]], acquired: int) -> None:
        self._budget.release(acquired)
        if not embeddings.cancelled():
            embeddings.exception()  # asyncio logs an exception that is never retrieved

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
        no_images = not self.usable and self._unsupported == len(self.rejected)
        frames = sorted(self.rejected)
        raise FootageError(
            "unsupported" if no_images else "unusable",
            f"{self.usable} of {total} frames can be used, but at least {self._min_usable(total)} are needed; "
            f"frame {frames[0][0]}: {frames[0][1]}",
            frames=frames,
        )

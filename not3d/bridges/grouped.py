"""From observations in single messages to tracklets: grouping, footage, and what becomes of the messages.

A track that ended is on disk before its messages are released: as a tracklet that waits for the service, or, if its
crops have to be cut out of recordings that are not there yet, as a track in progress with its boxes. If messages do not
come again (MQTT), what is kept of open tracks is in the state before a message is acknowledged.
"""

import asyncio
import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from not3d.bridges.observations import MalformedMessage, Observation, ObservedTrack, TrackGrouper
from not3d.bridges.recordings import Recordings, WantedCrop
from not3d.bridges.sink import Sink
from not3d.bridges.state import Sights, State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import RelativeBox, Tracklet, make_id

TICK_SECONDS = 0.5
FOOTAGE_PAUSE_SECONDS = 2.0
_CUTTERS = 2
"""Recordings that are decoded at the same time."""
_MARK = "finished"
_REMEMBERED = timedelta(minutes=10)
_MAX_REMEMBERED = 5000
_CONTINUED = timedelta(minutes=1)


@dataclass(frozen=True)
class GroupedOptions:
    """How tracks become tracklets.

    Attributes:
        crops: largest number of crops of a tracklet.
        embedding_space: what the vectors in messages are enrolled as; `None` ignores them.
        recordings: where boxes without a picture are cut out; `None` drops tracks that have only boxes.
        footage_wait: seconds after the end of a track until its recordings must be there.
    """

    crops: int = 8
    embedding_space: str | None = None
    recordings: Recordings | None = None
    footage_wait: float = 60.0


class GroupedSource:
    """Groups what one source says about frames, and hands over the tracklets.

    Args:
        grouper: decides when a track ends.
        state: where tracks are kept.
        sink: takes the tracklets.
        telemetry: metrics and log; its source begins each id.
        options: how tracks become tracklets.
        release: is told which messages are no longer needed, because everything in them is on disk; `None` if messages
            have no tokens and do not come again, so open tracks are kept in the state.
    """

    def __init__(
        self,
        grouper: TrackGrouper,
        state: State,
        sink: Sink,
        telemetry: Telemetry,
        options: GroupedOptions,
        release: Callable[[Sequence[Hashable]], None] | None = None,
    ) -> None:
        self._grouper = grouper
        self._state = state
        self._sink = sink
        self._telemetry = telemetry
        self._options = options
        self._release = release or (lambda _tokens: None)
        self._keeps_open_tracks = release is None
        self._needed: Counter[Hashable] = Counter()
        self._finished = {
            (camera, name): (datetime.fromisoformat(start), datetime.fromisoformat(end))
            for camera, name, start, end in json.loads(state.mark(_MARK) or "[]")
        }
        self._footage: asyncio.Queue[str] = asyncio.Queue()
        self._deadlines: dict[str, float] = {}
        self._stopped = threading.Event()
        for key, _ in state.open_tracks():
            self._footage.put_nowait(key)
        if self._keeps_open_tracks:
            for kept in state.observed():
                grouper.reopen(_decode(*kept), time.monotonic())

    def is_needed(self, token: Hashable) -> bool:
        """Return whether a message belongs to a track that has not ended."""
        return token in self._needed

    def is_open(self, camera: str, name: str) -> bool:
        """Return whether an object of a camera has a track that has not ended."""
        return self._grouper.find(camera, name) is not None

    def add(
        self,
        camera: str,
        at: datetime,
        people: Iterable[Observation],
        problems: Iterable[MalformedMessage] = (),
        token: Hashable = None,
    ) -> None:
        """Add what a message says about one frame.

        Args:
            camera: the camera.
            at: the time of the frame.
            people: what is in it.
            problems: what of it could not be read.
            token: names the message for `release`; `None` if it needs none.
        """
        # A message that is delivered again after a crash also has people whose tracks are done.
        fresh = [each for each in people if not self._is_finished(each)]
        closed, more = self._grouper.add(camera, at, fresh, time.monotonic(), token)
        unusable = [*problems, *more]
        for problem in unusable:
            self._telemetry.message("object_unusable", camera=camera, reason=problem.reason, detail=str(problem)[:200])
        self._telemetry.message("used" if fresh else "no_people")
        if token is not None:
            used = len(fresh) - len(more)
            if used > 0:
                self._needed[token] += used
            else:
                self._release([token])
        self._finish(closed)
        if self._keeps_open_tracks:
            for name in dict.fromkeys(each.object for each in fresh):
                if track := self._grouper.find(camera, name):
                    self._state.observe(camera, name, *_encode(track))

    def discard(self, token: Hashable) -> None:
        """Release a message that has nothing to add."""
        self._release([token])

    def _is_finished(self, observation: Observation) -> bool:
        start, end = self._finished.get((observation.camera, observation.object), (None, None))
        return start is not None and end is not None and start <= observation.time <= end

    async def run(self) -> None:
        """Close silent tracks and cut crops out of footage until the task is cancelled; then hand over what is open."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_CUTTERS if self._options.recordings else 1):
                    tasks.create_task(self._cut_from_footage())
                while True:
                    await asyncio.sleep(TICK_SECONDS)
                    self._finish(self._grouper.close_silent(time.monotonic()))
        finally:
            self._stopped.set()
            self.close()

    def close(self) -> None:
        """Hand over what is open."""
        self._finish(self._grouper.close_all())

    def _finish(self, closed: Sequence[ObservedTrack]) -> None:
        if not closed:
            return
        for track in closed:
            self._hand_over(track)
            if self._keeps_open_tracks:
                self._state.unobserve(track.camera, track.object)
            start, end = self._finished.get((track.camera, track.object), (track.start, track.end))
            if track.start > end + _CONTINUED:  # the number was given to another person
                start = track.start
            self._finished[track.camera, track.object] = (min(start, track.start), max(end, track.end))
        tokens = Counter(token for track in closed for token in track.tokens)
        if tokens:
            self._remember()
            self._needed -= tokens  # also removes those that nothing needs any more
            self._release([token for token in tokens if token not in self._needed])
        else:
            self._finished.clear()

    def _remember(self) -> None:
        latest = max(end for _, end in self._finished.values())
        recent = {key: times for key, times in self._finished.items() if times[1] > latest - _REMEMBERED}
        self._finished = dict(list(recent.items())[-_MAX_REMEMBERED:])
        rows = [(*key, start.isoformat(), end.isoformat()) for key, (start, end) in self._finished.items()]
        self._state.set_mark(_MARK, json.dumps(rows))

    def _hand_over(self, track: ObservedTrack) -> None:
        key = make_id(self._telemetry.source, track.camera, track.object, f"{track.start.timestamp():.3f}")
        metadata: dict[str, Any] = {"source": self._telemetry.source, "track": track.object, "observations": track.seen}
        kept = track.ordered
        crops = _choose([each.crop for each in kept if each.crop is not None], self._options.crops)
        common = (track.start, track.end, metadata)
        if crops:
            self._sink.submit(Tracklet(key, track.camera, tuple(crops), *common))
        elif self._options.embedding_space and (mean := track.mean_vector()) is not None:
            metadata["vectors"] = track.vector_count
            vector = tuple(mean.tolist())
            space = self._options.embedding_space
            self._sink.submit(Tracklet(key, track.camera, (), *common, embedding=vector, embedding_space=space))
        elif self._options.recordings and any(each.box for each in kept):
            boxes = _choose([(each.time, each.box) for each in kept if each.box], self._options.crops)
            data = {
                "camera": track.camera,
                "start": track.start.isoformat(),
                "end": track.end.isoformat(),
                "metadata": metadata,
                "until": time.time() + self._options.footage_wait,
                "boxes": [[at.isoformat(), box.left, box.top, box.right, box.bottom] for at, box in boxes],
            }
            if self._state.save(key, data):
                self._footage.put_nowait(key)
        elif track.vectors is not None:
            self._sink.drop(key, "no_embedding_space", "the track has vectors; --space names what they are")
        else:
            self._sink.drop(key, "no_footage", "the track has boxes and no pictures; --footage names the recordings")

    async def _cut_from_footage(self) -> None:
        recordings = self._options.recordings
        while True:
            key = await self._footage.get()
            data = self._state.load(key)
            if data is None:
                continue
            if recordings is None:
                self._sink.drop(key, "no_footage", "the bridge was started again without --footage")
                continue
            wanted = [WantedCrop(datetime.fromisoformat(at), RelativeBox(*edges)) for at, *edges in data["boxes"]]
            # Of the clock only what is left at the beginning: it may be set back meanwhile.
            left = min(data["until"] - time.time(), self._options.footage_wait)
            deadline = self._deadlines.setdefault(key, time.monotonic() + left)
            crops = await asyncio.to_thread(recordings.cut, data["camera"], wanted, self._stopped)
            missing = crops.count(None)
            if missing and time.monotonic() < deadline:
                asyncio.get_running_loop().call_later(FOOTAGE_PAUSE_SECONDS, self._footage.put_nowait, key)
                continue
            del self._deadlines[key]
            found = tuple(crop for crop in crops if crop is not None)
            for outcome, count in (("cut", len(found)), ("missing", missing)):
                for _ in range(count):
                    self._telemetry.frame(outcome)
            if not found:
                first = wanted[0].time.astimezone(UTC)
                detail = f"no recording of {data['camera']} has a frame at {first.isoformat()}"
                if len(wanted) > 1:
                    detail += f" or its {len(wanted) - 1} other times"
                reason = await asyncio.to_thread(recordings.explain, data["camera"], first)
                self._sink.drop(key, "no_footage", f"{detail}: {reason}")
                continue
            await self._sink.has_room()
            start, end = (datetime.fromisoformat(data[name]) for name in ("start", "end"))
            self._sink.submit(Tracklet(key, data["camera"], found, start, end, data["metadata"]))


def _encode(track: ObservedTrack) -> tuple[dict[str, Any], Sights]:
    facts = {"start": track.start.isoformat(), "end": track.end.isoformat(), "seen": track.seen, "stride": track.stride}
    sights: Sights = {}
    for each in track.observations:
        at, box = each.time.isoformat(), None
        if each.box is not None:
            box = [each.box.left, each.box.top, each.box.right, each.box.bottom]
        sights[f"{at} {box} {zlib.crc32(each.crop or b'')}"] = at, box, each.crop
    return facts, sights


def _decode(camera: str, name: str, facts: dict[str, Any], sights: Sights) -> ObservedTrack:
    start, end = (datetime.fromisoformat(facts[edge]) for edge in ("start", "end"))
    kept = [
        Observation(camera, name, datetime.fromisoformat(at), RelativeBox(*box) if box else None, crop)
        for at, box, crop in sights.values()
    ]
    return ObservedTrack(camera, name, start, end, kept, facts["seen"], stride=facts["stride"])


def _choose(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[int((2 * part + 1) * len(items) / (2 * most))] for part in range(most)]

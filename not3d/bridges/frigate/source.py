"""From Frigate's events to tracklets.

Of each person the bridge collects times and boxes, waits until the recordings of these times can be read, fetches the
frames and cuts the boxes out. A box is only ever cut out of the frame of its own time: a later frame shows another
place. If there is no recording, it uses the pictures that Frigate showed live, if their time was that of the box.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import aiomqtt

from model.frames import FrameError
from not3d.bridges.frigate.api import CameraConfig, Frigate, FrigateError, NotFound
from not3d.bridges.frigate.events import MalformedEvent, Progress, Update, is_name, parse_event
from not3d.bridges.mqtt import Mqtt
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import MARGIN, RelativeBox, Tracklet, cut_crop, make_id

HEARD = "frigate.heard"
CAMERAS = "frigate.cameras"
MAX_FINISHING = 8
"""Events whose pictures are fetched at the same time; the pictures themselves are fetched two at a time."""
MAX_OPEN = 20_000
"""Events that are in progress or wait for Frigate's recordings. Each takes up to 15 kB of memory."""
MAX_LIVE = 32
"""Live pictures that wait to be fetched."""
OVERLAP_SECONDS = 600.0
"""Frigate tells of an object some time after its first sight, so a backfill begins this much earlier."""
NOTE_SECONDS = 5.0
CONFIG_SECONDS = 10.0
MIN_BOXES = 3
"""With fewer boxes, Frigate is asked for those of its timeline."""
SAME_TIME = 1e-4
"""Difference of two times of one frame, which are written as decimal numbers."""
RETRY_SECONDS = 2.0
MAX_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class FrigateOptions:
    """How the bridge works.

    Attributes:
        topic_prefix: `mqtt.topic_prefix` of Frigate.
        labels: labels of objects that are people.
        cameras: only these; all if empty.
        frames: maximum number of pictures of a tracklet.
        settle_seconds: from the end of an event until its recording is read.
        open_seconds: an event that lasts longer is enrolled before its end.
        give_up_seconds: for how long a recording that is missing is asked for again.
        backfill_hours: how far back the bridge looks after it was away.
        live_pictures: fetch what Frigate shows live, for events without a recording.
        margin: share of a box that is added on each side.
    """

    topic_prefix: str = "frigate"
    labels: tuple[str, ...] = ("person",)
    cameras: tuple[str, ...] = ()
    frames: int = 8
    settle_seconds: float = 60.0
    open_seconds: float = 60.0
    give_up_seconds: float = 120.0
    backfill_hours: float = 24.0
    live_pictures: bool = True
    margin: float = MARGIN


class FrigateSource:
    """Listens to one Frigate and hands its people over.

    Args:
        mqtt: connection to the broker that Frigate publishes to.
        frigate: its HTTP API.
        state: what is in progress.
        sink: takes the tracklets.
        telemetry: metrics and log.
        options: how to work.
        on_cameras: gets the names of all cameras, when they are known.
        now: clock of the bridge in Unix seconds.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        frigate: Frigate,
        state: State,
        sink: Sink,
        telemetry: Telemetry,
        options: FrigateOptions,
        on_cameras: Callable[[list[str]], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._mqtt, self._frigate, self._state, self._sink = mqtt, frigate, state, sink
        self._telemetry, self._options, self._now = telemetry, options, now
        self._on_cameras = on_cameras
        self._open = {track: Progress.from_json(data) for track, data in state.open_tracks()}
        kept = json.loads(state.mark(CAMERAS) or "{}")
        self._cameras = {name: CameraConfig(*values) for name, values in kept.items()}
        self._config_at = -math.inf
        self._asking = asyncio.Lock()
        self._stale = True
        self._finishing: set[str] = set()
        self._retries: Counter[str] = Counter()
        self._live: asyncio.Queue[tuple[str, str, float, RelativeBox]] = asyncio.Queue(MAX_LIVE)
        self._behind = asyncio.Event()
        self._set_caught_up(False)
        self._longest_wait = options.open_seconds + options.settle_seconds + MAX_RETRY_SECONDS
        prefix = options.topic_prefix.rstrip("/")
        mqtt.subscribe(f"{prefix}/events", self._on_event)
        mqtt.subscribe(f"{prefix}/available", self._on_available)
        mqtt.on_connect(self._on_connect)
        mqtt.on_loss(self._fall_behind)

    async def run(self) -> None:
        """Listen until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._mqtt.run())
            tasks.create_task(self._finish_due())
            tasks.create_task(self._backfill_when_behind())
            tasks.create_task(self._fetch_live())

    # Messages ---------------------------------------------------------------------------------------------------------

    async def _on_connect(self) -> None:
        self._fall_behind()

    def _fall_behind(self) -> None:
        """Ask for what was not heard; until then it is not noted that everything was."""
        self._set_caught_up(False)
        self._behind.set()

    async def _on_available(self, message: aiomqtt.Message) -> None:
        state = bytes(message.payload).decode(errors="replace")
        self._telemetry.log("frigate is " + state[:20])
        self._set_caught_up(False)
        if state == "online":
            self._stale = True  # it may have been restarted with another configuration
            self._behind.set()

    async def _on_event(self, message: aiomqtt.Message) -> None:
        try:
            update = parse_event(message.payload)
        except MalformedEvent as error:
            self._telemetry.message("malformed", reason=str(error))
            return
        if update.label not in self._options.labels:
            self._telemetry.message("other_label")
        elif self._options.cameras and update.camera not in self._options.cameras:
            self._telemetry.message("other_camera")
        else:
            await self._take(update)

    async def _take(self, update: Update) -> None:
        track = make_id("frigate", update.camera, update.event_id)
        status = self._state.status(track)
        if status not in {None, "open"}:
            self._take_late(track, update)
            return
        progress = self._progress(track, update.event_id, update.camera)
        camera = await self._camera(update.camera)
        progress.add(update, (camera.width, camera.height) if camera else None)
        if update.kind == "end" or update.end is not None:
            progress.due_at = min(progress.due_at, self._now() + self._options.settle_seconds)
        elif camera and self._options.live_pictures:
            self._want_live(track, progress, update, camera)
        if self._state.save(track, progress.to_json(), sync=False):  # Frigate is asked for what is missing
            self._telemetry.message("used")
        else:  # it was handed over while Frigate was asked for the camera
            self._take_late(track, update)
        self._telemetry.open.set(len(self._open))

    def _take_late(self, track: str, update: Update) -> None:
        """Take the end of an event that was enrolled before its end; nothing else that comes late changes anything."""
        self._telemetry.message("late")
        if update.end is not None:
            end = Progress(update.event_id, update.camera, start=update.start, end=update.end).end_time
            self._sink.amend(track, end, update.facts)

    def _progress(self, track: str, event_id: str, camera: str) -> Progress:
        """Return what is kept of an event in progress; a new one is due after it has been open for a while."""
        if track not in self._open:
            self._make_room()
            due = self._now() + self._options.open_seconds + self._options.settle_seconds
            self._open[track] = Progress(event_id, camera, due_at=due)
        return self._open[track]

    def _make_room(self) -> None:
        """Drop the oldest events if too many wait for Frigate; it removes their recordings first, too."""
        while len(self._open) >= MAX_OPEN:
            oldest = next(track for track in self._open if track not in self._finishing)
            del self._open[oldest]
            self._retries.pop(oldest, None)
            self._sink.drop(oldest, "backlog_full", f"{MAX_OPEN} events wait for Frigate")

    async def _camera(self, name: str) -> CameraConfig | None:
        """Return what is known of a camera; `None` if Frigate does not say at the moment."""
        if name in self._cameras and not self._stale:
            return self._cameras[name]
        async with self._asking:  # who comes meanwhile waits for the same answer
            now = time.monotonic()
            if (name not in self._cameras or self._stale) and now - self._config_at > CONFIG_SECONDS:
                try:
                    self._set_cameras(await self._frigate.cameras())
                except FrigateError as error:
                    self._telemetry.retry("config", reason=str(error))
                self._config_at = time.monotonic()
        return self._cameras.get(name)

    def _set_cameras(self, cameras: dict[str, CameraConfig]) -> None:
        self._cameras, self._stale = cameras, False
        self._state.set_mark(CAMERAS, json.dumps({name: astuple(each) for name, each in cameras.items()}))
        if self._on_cameras:
            self._on_cameras([each for each in cameras if each in (self._options.cameras or (each,))])

    # Live pictures ----------------------------------------------------------------------------------------------------

    def _want_live(self, track: str, progress: Progress, update: Update, camera: CameraConfig) -> None:
        """Ask for the picture that Frigate shows now, if it is another one than before."""
        at, edges = update.snapshot_time, update.snapshot_box
        if at is None or edges is None or at == progress.snapshot_time:
            return
        with contextlib.suppress(ValueError):
            box = RelativeBox.from_pixels(edges, camera.width, camera.height)
            progress.snapshot_time = at
            try:
                self._live.put_nowait((track, update.event_id, at, box))
            except asyncio.QueueFull:
                self._telemetry.frame("live_skipped")

    async def _fetch_live(self) -> None:
        while True:
            track, event_id, at, box = await self._live.get()
            try:
                picture, shown_at = await self._frigate.live_picture(event_id)
                if shown_at is None or abs(shown_at - at) > SAME_TIME:
                    self._telemetry.frame("live_other_time")
                    continue
                crop = await asyncio.to_thread(cut_crop, picture, box, self._options.margin)
            except (FrigateError, FrameError) as error:
                self._telemetry.frame("live_failed")
                self._telemetry.log("no live picture", id=track, reason=str(error))
            else:
                if self._state.status(track) == "open":
                    self._state.add_crop(track, at, crop, self._options.frames)
                    self._telemetry.frame("live")

    # Events that can be finished --------------------------------------------------------------------------------------

    async def _finish_due(self) -> None:
        noted = 0.0
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = self._now()
                for track, progress in list(self._open.items()):
                    is_free = track not in self._finishing and len(self._finishing) < MAX_FINISHING
                    if is_free and self._is_due(progress, now):
                        self._finishing.add(track)
                        tasks.create_task(self._finish(track, progress))
                if self._caught_up and now - noted >= NOTE_SECONDS:
                    self._state.set_mark(HEARD, repr(now))
                    noted = now
                await asyncio.sleep(min(1.0, self._options.settle_seconds / 4 + 0.01))

    def _is_due(self, progress: Progress, now: float) -> bool:
        """Return whether an event can be finished, also if the clock was set back and its time is far away now."""
        return not progress.due_at - self._longest_wait <= now < progress.due_at

    async def _finish(self, track: str, progress: Progress) -> None:
        """Enrol or drop an event, or put it off."""
        try:
            await self._sink.has_room()
            done = self._refuse(track, progress) or await self._enrol(track, progress)
        except FrigateError as error:
            self._telemetry.retry("fetch", id=track, reason=str(error))
            done = False
        except Exception as error:  # noqa: BLE001 - one event must not end the bridge
            self._sink.drop(track, "unexpected_error", repr(error))
            done = True
        finally:
            self._finishing.discard(track)
        if done:
            self._open.pop(track, None)
            self._retries.pop(track, None)
            self._telemetry.open.set(len(self._open))
        else:
            pause = min(RETRY_SECONDS * 2 ** self._retries[track], MAX_RETRY_SECONDS)
            self._retries[track] += 1
            progress.due_at = self._now() + min(pause, self._options.give_up_seconds / 4)

    def _refuse(self, track: str, progress: Progress) -> bool:
        if progress.false_positive:
            self._sink.drop(track, "false_positive", "Frigate was not sure that it is a person")
        elif progress.position_changes == 0 and progress.end is not None:
            self._sink.drop(track, "never_moved", "Frigate records no object that never moves")
        else:
            return False
        return True

    async def _enrol(self, track: str, progress: Progress) -> bool:
        """Fetch the pictures of an event and hand it over; false if its recording may come later.

        Raises:
            FrigateError: Frigate does not answer.
        """
        if not progress.complete or len(progress.boxes) < MIN_BOXES:
            await self._ask_for_boxes(progress)
        if progress.waits_since is None or progress.waits_since > self._now():  # the clock was set back
            progress.waits_since = self._now()
        last_try = self._now() - progress.waits_since >= self._options.give_up_seconds
        pairs = progress.select(self._options.frames)
        if not pairs:
            self._sink.drop(track, "no_boxes", "neither MQTT nor Frigate's timeline has a box of it")
            return True
        camera = await self._camera(progress.camera)
        offset = camera.annotation_offset if camera else 0.0
        faults: Counter[str] = Counter()
        crops: dict[float, bytes] = {}
        for at, box in reversed(pairs):  # the newest is the last that can be read
            try:
                picture = await self._frigate.recorded_picture(progress.camera, at + offset)
            except NotFound:
                if not last_try:
                    return False
                faults["recording_missing"] += 1
                continue
            try:
                crops[at] = await asyncio.to_thread(cut_crop, picture, box, self._options.margin)
            except FrameError as error:
                faults[{"too_small": "bad_box", "bad_box": "bad_box"}.get(error.status, "unreadable_picture")] += 1
        for fault, count in faults.items():
            for _ in range(count):
                self._telemetry.frame(fault)
        if crops:
            origin, frames = "recording", tuple(crops[at] for at in sorted(crops))
        else:
            origin, frames = "live", tuple(crop for _, crop in sorted(self._state.crops(track)))
        if not frames:
            reason = faults.most_common(1)[0][0]
            self._sink.drop(track, reason, ", ".join(f"{fault}: {count}" for fault, count in faults.items()))
            return True
        for _ in frames:
            self._telemetry.frame(origin)
        metadata = progress.facts | {"pictures": origin}
        item = Tracklet(track, progress.camera, frames, progress.start_time, progress.end_time, metadata)
        self._sink.submit(item, unfinished=progress.end is None)
        return True

    async def _ask_for_boxes(self, progress: Progress) -> None:
        """Add what Frigate stored of an event: the few boxes that can be known afterwards.

        Raises:
            FrigateError: Frigate does not answer.
        """
        with contextlib.suppress(NotFound):
            progress.add_stored(await self._frigate.event(progress.event_id))
        with contextlib.suppress(NotFound):
            progress.add_timeline(await self._frigate.timeline(progress.event_id))

    # What happened while the bridge was away --------------------------------------------------------------------------

    async def _backfill_when_behind(self) -> None:
        failures = 0
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._backfill()
            except FrigateError as error:
                self._telemetry.retry("backfill", reason=str(error))
                await asyncio.sleep(min(RETRY_SECONDS * 2**failures, MAX_RETRY_SECONDS))
                failures += 1
                self._behind.set()
            else:
                failures = 0
                self._set_caught_up(not self._behind.is_set())

    def _set_caught_up(self, value: bool) -> None:
        self._caught_up = value
        self._telemetry.caught_up.set(value)

    async def _backfill(self) -> None:
        """Ask for all events since the bridge last heard of any. On the first start there is nothing to catch up.

        Raises:
            FrigateError: Frigate does not answer.
        """
        now = self._now()
        await self._camera("")  # reads the configuration, if it may have changed
        heard = float(self._state.mark(HEARD) or now)
        # The clock may have been set back since.
        after = max(min(heard, now) - OVERLAP_SECONDS, now - self._options.backfill_hours * 3600)
        found = 0
        async for event in self._frigate.events(list(self._options.labels), after):
            found += self._take_stored(event)
        for progress in list(self._open.values()):  # these may have ended meanwhile
            with contextlib.suppress(NotFound):
                self._take_stored(await self._frigate.event(progress.event_id))
        self._telemetry.log("backfill", since=heard, found=found)

    def _take_stored(self, event: dict[str, Any]) -> bool:
        """Take over an event of Frigate's database, and return whether the bridge had not heard of it."""
        event_id, camera, data = event.get("id"), event.get("camera"), event.get("data") or {}
        if not is_name(event_id) or not is_name(camera) or not isinstance(data, dict):
            return False
        if event.get("label") not in self._options.labels or data.get("type", "object") != "object":
            return False
        if self._options.cameras and camera not in self._options.cameras:
            return False
        track = make_id("frigate", camera, event_id)
        status = self._state.status(track)
        if status not in {None, "open"}:
            if event.get("end_time") is not None:
                ended = Progress(event_id, camera)
                ended.add_stored(event)
                self._sink.amend(track, ended.end_time, ended.facts)
            return False
        progress = self._progress(track, event_id, camera)
        progress.add_stored(event)
        if progress.end is not None:
            # Its recording is there already if it ended long ago; Frigate's clock is that of its recordings.
            progress.due_at = min(progress.due_at, max(self._now(), progress.end + self._options.settle_seconds))
        self._state.save(track, progress.to_json())
        return status is None

"""Axis cameras as a source: one tracklet of each person, of one picture for each track that the camera followed.

A camera sends the picture of a track when the track ends. If it recognises the person of an earlier track again, it
says so with a `Rename`; tracks that are linked this way become one tracklet with the pictures of all of them. So a
track waits a few seconds, and while a track that it is linked to has not ended.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from not3d.bridges.axis import AxisEvents, AxisTrack, read_message
from not3d.bridges.observations import MalformedMessage
from not3d.bridges.sink import Sink
from not3d.bridges.state import State
from not3d.bridges.telemetry import Telemetry
from not3d.bridges.tracklet import Tracklet, make_id

SETTLE_SECONDS = 10.0
HOLD_SECONDS = 300.0
TICK_SECONDS = 0.5
MAX_CROPS = 16
MAX_TRACKS = 64
"""Tracks of one person after which the tracklet waits for no others."""
_MAX_LINKS = 10_000
_KEPT_LINKS = 1000
"""Links that are kept in the state, because a track's own message may come after a restart."""
_MARK = "axis.links"


class _Links:
    """Which tracks of a device show the same person, as far as it said so; the oldest links are forgotten."""

    def __init__(self, kept: Iterable[tuple[str, str, str]] = ()) -> None:
        self._parent = OrderedDict(((device, track), parent) for device, track, parent in kept)
        self.changed = False

    def newest(self) -> list[tuple[str, str, str]]:
        """Return the newest links, for a new object."""
        self.changed = False
        newest = list(self._parent.items())[-_KEPT_LINKS:]
        return [(device, track, parent) for (device, track), parent in newest]

    def root(self, device: str, track: str) -> tuple[str, str]:
        """Return what stands for all tracks of a person."""
        while (parent := self._parent.get((device, track), track)) != track:
            track = parent
        return device, track

    def join(self, device: str, tracks: Iterable[str]) -> None:
        """Link tracks; what stands for the first one stands for all."""
        (_, first), *others = (self.root(device, track) for track in tracks)
        for _, other in others:
            if other != first:
                self._parent[device, other] = first
                self.changed = True
        while len(self._parent) > _MAX_LINKS:
            self._parent.popitem(last=False)


class AxisSource:
    """Takes the messages of Axis cameras.

    Args:
        state: where tracks wait.
        sink: takes the tracklets.
        telemetry: metrics and log.
        settle: seconds after the last message about a person until the tracklet is handed over.
        hold: seconds for which a track waits at most for another one that it is linked to.
    """

    def __init__(
        self,
        state: State,
        sink: Sink,
        telemetry: Telemetry,
        *,
        settle: float = SETTLE_SECONDS,
        hold: float = HOLD_SECONDS,
    ) -> None:
        self._state, self._sink, self._telemetry = state, sink, telemetry
        self._settle, self._hold = settle, hold
        self._links = _Links(json.loads(state.mark(_MARK) or "[]"))
        self._groups: dict[str, dict[str, Any]] = dict(state.open_tracks())
        """What is kept of each person, by the id of the tracklet; also in the state."""
        self._group_of: OrderedDict[tuple[str, str], str] = OrderedDict()
        """The group of a track, also of one that was handed over."""
        for key, group in self._groups.items():
            members = [track["id"] for track in group["tracks"]]
            self._links.join(group["device"], [*members, *group["awaited"]])
            self._group_of[self._links.root(group["device"], members[0])] = key

    def handle(self, payload: bytes, device: str) -> None:
        """Take a message of a device, whose name its first channel has as a camera."""
        try:
            read = read_message(payload)
        except MalformedMessage as error:
            self._telemetry.message("malformed", device=device, reason=error.reason, detail=str(error)[:200])
            return
        if read is None:
            self._telemetry.message("no_person")
        elif isinstance(read, AxisTrack):
            self._telemetry.message("track")
            self._add(read, device)
        else:
            self._telemetry.message("frame")
            self._follow(read, device)
        if self._links.changed:
            self._state.set_mark(_MARK, json.dumps(self._links.newest()))

    def _add(self, track: AxisTrack, device: str) -> None:
        camera = device if track.channel in {"", "1"} else f"{device}-{track.channel}"
        own = make_id("axis", camera, track.id)
        linked = [*track.parts, track.id]
        key = self._join(device, linked) or own
        group = self._groups.get(key)
        if self._state.status(own) in {"enrolled", "waiting", "dropped"} or (
            group and any(known["id"] == track.id for known in group["tracks"])
        ):
            self._telemetry.message("duplicate")
            return
        if key != own and (group is None or group["camera"] != camera):
            self._telemetry.message("late_rename", device=device, track=track.id, reason=f"{key} was handed over")
            key, group = own, None
        now = time.time()
        if group is None:
            group = {"device": device, "camera": camera, "tracks": [], "awaited": [], "since": now}
            self._groups[key] = group
        facts: dict[str, Any] = {
            "id": track.id,
            "start": track.start.isoformat(),
            "end": track.end.isoformat(),
            "path": track.path,
        }
        if track.score is not None:
            facts["score"] = track.score
        group["tracks"].append(facts)
        group["awaited"] = [other for other in group["awaited"] if other not in linked]
        self._note(self._links.root(device, track.id), key)
        if track.crop is not None:
            self._state.add_crop(key, track.start.timestamp(), track.crop, MAX_CROPS)
        self._keep(key)

    def _follow(self, events: AxisEvents, device: str) -> None:
        for problem in events.problems:
            self._telemetry.message("malformed", device=device, reason=problem.reason, detail=str(problem)[:200])
        for pair in events.renamed:
            key = self._join(device, pair)
            group = self._groups.get(key or "")
            if key is None or group is None:
                continue
            here = {track["id"] for track in group["tracks"]}
            group["awaited"] = list(dict.fromkeys([*group["awaited"], *(each for each in pair if each not in here)]))
            self._keep(key)
        for ended in events.ended:
            key = self._group_of.get(self._links.root(device, ended))
            group = self._groups.get(key or "")
            if key is not None and group is not None and ended in group["awaited"]:
                # Its own message, if it shows a person, comes within the time of settling.
                group["awaited"].remove(ended)
                self._keep(key)

    def _join(self, device: str, tracks: Sequence[str]) -> str | None:
        """Link tracks, put the groups that they were in together, and return the group; `None` if there was none."""
        before = [self._group_of.get(self._links.root(device, track)) for track in tracks]
        self._links.join(device, tracks)
        known = list(dict.fromkeys(key for key in before if key))
        waiting = [key for key in known if key in self._groups]
        if not known:
            return None
        first, *others = waiting or known[:1]
        if len(known) > 1 + len(others):
            self._telemetry.message("late_rename", device=device, tracks=list(tracks)[:4], reason="handed over before")
        for other in others:
            if self._groups[first]["camera"] == self._groups[other]["camera"]:
                self._merge(first, other)
        self._note(self._links.root(device, tracks[0]), first)
        return first

    def _merge(self, key: str, other: str) -> None:
        """Put one group into another; both wait."""
        group, moved = self._groups[key], self._groups.pop(other)
        group["tracks"] += moved["tracks"]
        here = {track["id"] for track in group["tracks"]}
        awaited = dict.fromkeys([*group["awaited"], *moved["awaited"]])
        group["awaited"] = [each for each in awaited if each not in here]
        group["since"] = min(group["since"], moved["since"])
        for at, crop in self._state.crops(other):
            self._state.add_crop(key, at, crop, MAX_CROPS)
        self._keep(key)
        self._sink.drop(other, "merged", f"the camera says that it shows the person of {key}")

    def _note(self, root: tuple[str, str], key: str) -> None:
        self._group_of[root] = key
        self._group_of.move_to_end(root)
        while len(self._group_of) > _MAX_LINKS:
            self._group_of.popitem(last=False)

    def _keep(self, key: str) -> None:
        self._groups[key]["changed"] = time.time()
        self._state.save(key, self._groups[key])

    async def run(self) -> None:
        """Hand over what has waited long enough, until the task is cancelled."""
        while True:
            self.hand_over(time.time())
            await asyncio.sleep(TICK_SECONDS)

    def hand_over(self, now: float) -> None:
        """Hand over the tracklets that are complete at a time (Unix seconds)."""
        for key, group in list(self._groups.items()):
            # Times in the future: the clock was set back, and would be there again only much later.
            settled = not group["awaited"] and not group["changed"] <= now < group["changed"] + self._settle
            over = not group["since"] <= now < group["since"] + self._hold
            if settled or over or len(group["tracks"]) >= MAX_TRACKS:
                del self._groups[key]
                self._submit(key, group)

    def _submit(self, key: str, group: dict[str, Any]) -> None:
        tracks = sorted(group["tracks"], key=lambda track: track["start"])
        crops = [crop for _, crop in sorted(self._state.crops(key), key=lambda each: each[0])]
        if not crops:
            self._sink.drop(key, "no_pictures", "the camera sent no picture: switch on best snapshots")
            return
        metadata: dict[str, Any] = {
            "source": "axis",
            "tracks": [track["id"] for track in tracks],
            "path": [point for track in tracks for point in track["path"]][:MAX_CROPS],
        }
        scores = [track["score"] for track in tracks if "score" in track]
        if scores:
            metadata["score"] = max(scores)
        start, end = min(track["start"] for track in tracks), max(track["end"] for track in tracks)
        times = (datetime.fromisoformat(start), datetime.fromisoformat(end))
        self._sink.submit(Tracklet(key, group["camera"], tuple(crops), *times, metadata))

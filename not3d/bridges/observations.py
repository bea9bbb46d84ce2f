"""Detections of tracked people, message by message, and the tracklets that they make.

Systems that send one message a frame (ONVIF, DeepStream) do not say when a track ends: it ends after some seconds of
silence, by the time in the messages and by the clock.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from not3d.bridges.tracklet import RelativeBox

Vector = NDArray[np.float64]
_TRACK_BYTES, _ITEM_BYTES = 2000, 400
"""About how much memory a track takes, and each observation or token of it, without crops and vectors."""


class MalformedMessage(ValueError):
    """A message, or one object in it, that cannot be used.

    Args:
        reason: a short name for metrics, such as `no time`.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Observation:
    """One tracked person in one frame: a box, and a crop or a vector if the message has one."""

    camera: str
    object: str
    time: datetime
    box: RelativeBox | None = None
    crop: bytes | None = None
    vector: Vector | None = None

    def repeats(self, other: "Observation") -> bool:
        """Return whether this is another one of the same object, because its message was delivered again."""
        return self.vector is None and (self.time, self.box, self.crop) == (other.time, other.box, other.crop)


@dataclass
class ObservedTrack:
    """The observations of one track that are kept, in the order of their arrival.

    `start` and `end` are the times of the first and the last observation, `seen` counts all of them. `vectors` is the
    sum of `vector_count` vectors of unit length. `tokens` name the messages that it was read from.
    """

    camera: str
    object: str
    start: datetime
    end: datetime
    observations: list[Observation] = field(default_factory=list)
    seen: int = 0
    vectors: Vector | None = None
    vector_count: int = 0
    tokens: list[Hashable] = field(default_factory=list)
    arrived: float = 0.0
    """the clock at the last observation"""
    stride: int = 1
    """every n-th observation is kept"""
    size: int = 0
    """about how many bytes of memory it takes"""

    @property
    def ordered(self) -> list[Observation]:
        """Return the kept observations by time."""
        return sorted(self.observations, key=lambda observation: observation.time)

    def mean_vector(self) -> Vector | None:
        """Return the mean of the vectors of unit length, with unit length; `None` without vectors."""
        if self.vectors is None:
            return None
        length = float(np.linalg.norm(self.vectors))
        return self.vectors / length if length > 0 else None

    def _add(self, observation: Observation, keep: int) -> None:
        if observation.vector is not None:
            self._add_vector(observation.vector)
        if any(observation.repeats(kept) for kept in self.observations):
            return
        self.start, self.end = min(self.start, observation.time), max(self.end, observation.time)
        if self.seen % self.stride == 0:
            self.observations.append(replace(observation, vector=None))  # it is in the sum
            if len(self.observations) > 2 * keep:  # keep every other one, so that they stay evenly spread
                self.observations = self.observations[::2]
                self.stride *= 2
        self.seen += 1

    def _measure(self) -> None:
        vectors = 0 if self.vectors is None else self.vectors.nbytes
        crops = sum(len(each.crop or b"") for each in self.observations)
        self.size = _TRACK_BYTES + crops + vectors + _ITEM_BYTES * (len(self.observations) + len(self.tokens))

    def _add_vector(self, vector: Vector) -> None:
        unit = unit_vector(vector)
        if self.vectors is None:
            self.vectors, self.vector_count = unit, 1
        elif len(unit) != len(self.vectors):
            raise MalformedMessage(
                "vector of another length", f"{len(unit)} values, the track's first vector has {len(self.vectors)}"
            )
        else:
            self.vectors = self.vectors + unit
            self.vector_count += 1


def unit_vector(vector: Vector) -> Vector:
    """Return the vector with unit length.

    Raises:
        MalformedMessage: it is empty, zero, or not finite.
    """
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise MalformedMessage("vector without a direction", f"{len(vector)} values of length {length}")
    return vector / length


class TrackGrouper:
    """Groups observations by camera and object, and closes tracks. Memory is bounded.

    A number that a camera gives to another person after a silence makes a new track.

    Args:
        silence: seconds without an observation after which a track is closed.
        longest: seconds after which a track is closed and its next observation begins another one.
        keep: observations of a track that are kept, evenly spread; twice as many at most.
        max_tracks: open tracks of one camera; the one that was silent the longest is closed for another one.
        max_bytes: bytes that all open tracks may take, roughly; above it those that were silent the longest are closed.
    """

    def __init__(
        self,
        *,
        silence: float = 5.0,
        longest: float = 60.0,
        keep: int = 8,
        max_tracks: int = 200,
        max_bytes: int = 256_000_000,
    ) -> None:
        self._silence = timedelta(seconds=silence)
        self._silent_seconds = silence
        self._longest = timedelta(seconds=longest)
        self._keep = keep
        self._max_tracks = max_tracks
        self._max_bytes = max_bytes
        self._size = 0
        self._cameras: dict[str, _Camera] = {}

    @property
    def open_tracks(self) -> int:
        """Tracks that are not closed."""
        return sum(len(camera.tracks) for camera in self._cameras.values())

    def add(
        self, camera: str, time: datetime, observations: Iterable[Observation], now: float, token: Hashable = None
    ) -> tuple[list[ObservedTrack], list[MalformedMessage]]:
        """Add what one message says about one camera at one time, perhaps nothing.

        Args:
            camera: as in the observations.
            time: of the frame.
            observations: of this camera.
            now: the clock in seconds.
            token: names the message, for `ObservedTrack.tokens`.

        Returns:
            The tracks that are closed now, and what could not be used.
        """
        state = self._cameras.setdefault(camera, _Camera(time))
        if time < state.latest - max(self._longest, self._silence):
            state.latest = time  # the camera's clock was set back
        state.latest = max(state.latest, time)
        closed = self._close(state, lambda track: track.end < state.latest - self._silence)
        problems = []
        for observation in observations:
            track = state.tracks.get(observation.object)
            if track and not self._continues(track, observation):
                closed.append(self._remove(state, track))
                track = None
            if track is None:
                if len(state.tracks) >= self._max_tracks:
                    stalest = min(state.tracks.values(), key=lambda each: each.arrived)
                    closed.append(self._remove(state, stalest))
                track = ObservedTrack(camera, observation.object, observation.time, observation.time)
                state.tracks[observation.object] = track
            track.arrived = now
            try:
                track._add(observation, self._keep)
            except MalformedMessage as error:
                problems.append(error)
                if not track.seen:
                    self._remove(state, track)
                    continue
            if token is not None:
                track.tokens.append(token)
            self._size -= track.size
            track._measure()
            self._size += track.size
        closed += self._close_stalest()
        if not state.tracks and not closed:
            del self._cameras[camera]
        return closed, problems

    def _continues(self, track: ObservedTrack, observation: Observation) -> bool:
        gap = max(observation.time - track.end, track.start - observation.time)
        return gap <= self._silence and observation.time - track.start <= self._longest

    def find(self, camera: str, object: str) -> ObservedTrack | None:
        """Return an open track, or `None`."""
        state = self._cameras.get(camera)
        return None if state is None else state.tracks.get(object)

    def reopen(self, track: ObservedTrack, now: float) -> None:
        """Continue a track that was open before a restart; its silence counts from now on, too."""
        state = self._cameras.setdefault(track.camera, _Camera(track.end))
        state.latest = max(state.latest, track.end)
        track.arrived = now
        track._measure()
        self._size += track.size
        state.tracks[track.object] = track

    def close_silent(self, now: float) -> list[ObservedTrack]:
        """Return the tracks without an observation for the time of silence, by the clock; they are closed."""
        closed = []
        for name in list(self._cameras):
            state = self._cameras[name]
            closed += self._close(state, lambda track: track.arrived < now - self._silent_seconds)
            if not state.tracks:
                del self._cameras[name]
        return closed

    def close_all(self) -> list[ObservedTrack]:
        """Return all open tracks; they are closed."""
        closed = [track for state in self._cameras.values() for track in state.tracks.values()]
        self._cameras.clear()
        self._size = 0
        return closed

    def _remove(self, state: "_Camera", track: ObservedTrack) -> ObservedTrack:
        del state.tracks[track.object]
        self._size -= track.size
        return track

    def _close(self, state: "_Camera", ended: Callable[[ObservedTrack], bool]) -> list[ObservedTrack]:
        return [self._remove(state, track) for track in list(state.tracks.values()) if ended(track)]

    def _close_stalest(self) -> list[ObservedTrack]:
        """Close tracks of any camera if all take too much memory, until there is some room again."""
        closed: list[ObservedTrack] = []
        if self._size <= self._max_bytes:
            return closed
        tracks = [track for state in self._cameras.values() for track in state.tracks.values()]
        for track in sorted(tracks, key=lambda each: each.arrived):
            if self._size <= 0.9 * self._max_bytes:
                break
            closed.append(self._remove(self._cameras[track.camera], track))
        return closed


class _Camera:
    """The open tracks of a camera, and the latest time in its messages."""

    def __init__(self, latest: datetime) -> None:
        self.latest = latest
        self.tracks: dict[str, ObservedTrack] = {}

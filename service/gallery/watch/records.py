"""What a watchlist, an alert and a delivery to a webhook are."""

import enum
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration
from service.gallery.clock import format_timestamp, to_datetime
from service.gallery.records import JSON, Filter, GalleryError
from service.verdicts import VerdictKind, decide

Role: TypeAlias = Literal["example", "reject"]
Source: TypeAlias = Literal["request", "case", "verdict"]
"""Where a vector of a watchlist comes from."""


MAX_WATCHLISTS: Final = 1000
MAX_ENTRIES: Final = 10_000
"""Maximum examples of all watchlists together: each new tracklet is compared with all of them."""
MAX_VECTORS: Final = 100
"""Maximum examples, and maximum rejects, of one watchlist."""
FIRST_CURSOR: Final = f"{0:016x}-{0:016x}"
"""The cursor before the first alert."""
ALERT_ID_PATTERN: Final = r"^[0-9a-f]{16}-[0-9a-f]{16}$"


class AnyVersion(enum.Enum):
    """The type of `ANY_VERSION`."""

    ANY_VERSION = enum.auto()


ANY_VERSION: Final = AnyVersion.ANY_VERSION
"""What is stored, or nothing."""


class TooManyWatched(GalleryError):
    """The watchlists would have more examples than can be compared with each new tracklet."""


class WatchlistChanged(GalleryError):
    """Another request made, changed or removed the watchlist meanwhile."""


# Compared by identity: an array has no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class WatchVector:
    """A vector that a watchlist keeps.

    Attributes:
        vector: float32 `[D]` of unit length.
        role: of the wanted person, or of someone else.
        record: id of the tracklet that it was copied from, or `None`.
        camera_id: of that tracklet, or `None`.
        source: who added it.
    """

    vector: NDArray[np.float32]
    role: Role = "example"
    record: str | None = None
    camera_id: str | None = None
    source: Source = "request"


@dataclass(frozen=True, slots=True, eq=False)
class Watchlist:
    """A person to be told about: examples, a threshold, and where it applies.

    Attributes:
        name: chosen by the client.
        uid: 16 hex digits that change when the examples are replaced: alerts of other examples are other alerts.
        min_score: least cosine with an example; exactly one of it and `min_probability` is given.
        min_probability: least probability, under `prior`.
        prior: probability that a new tracklet shows the person before its score is known; `None` without a calibration.
        filter: which tracklets are compared.
        cooldown: seconds between two alerts on one camera.
        expires_at: when the watchlist ends, with its vectors.
        created_at: when it was made.
        updated_at: when it was last changed, verdicts and erasures excepted; each change has a later time.
        created_by: who changed it last.
        vectors: examples and rejects, oldest first.
    """

    name: str
    uid: str
    min_score: float | None
    min_probability: float | None
    prior: float | None
    filter: Filter
    cooldown: float
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    created_by: str
    vectors: tuple[WatchVector, ...] = ()

    def of_role(self, role: Role) -> tuple[WatchVector, ...]:
        """Return the examples or the rejects."""
        return tuple(each for each in self.vectors if each.role == role)


@dataclass(frozen=True, slots=True)
class AlertVerdict:
    """What one operator said about one alert."""

    author: str
    key: str
    verdict: VerdictKind
    time: datetime


@dataclass(frozen=True, slots=True)
class Alert:
    """A new tracklet that a watchlist asked for.

    Attributes:
        id: time and digest, see `alert_id`; ids sort in the order in which alerts became visible.
        watchlist: its name.
        watchlist_uid: its `uid` then.
        record: id of the tracklet.
        camera_id: of the tracklet, as are the times.
        start_time: of the tracklet.
        end_time: of the tracklet.
        score: cosine with the example; with rejects, at most that.
        probability: that the tracklet shows the person; `None` without a calibration.
        calibration: facts of the calibration that gave it.
        example: id of the example with the best score; `None` if it was sent as a vector or was erased.
        example_camera: the camera of that example.
        verdicts: oldest first.
    """

    id: str
    watchlist: str
    watchlist_uid: str
    record: str
    camera_id: str | None
    start_time: datetime | None
    end_time: datetime | None
    score: float
    probability: float | None
    calibration: Mapping[str, JSON] | None
    example: str | None
    example_camera: str | None
    verdicts: tuple[AlertVerdict, ...] = ()

    @property
    def time(self) -> datetime:
        """When it was raised."""
        return to_datetime(time_of_id(self.id))

    def seen_by(self, sees: Callable[[str | None], bool]) -> "Alert":
        """Return the alert without its example if `sees` is false of the example's camera."""
        return self if sees(self.example_camera) else replace(self, example=None, example_camera=None)


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """Which alerts are read: after `after`, oldest first; otherwise newest first, older than `before`.

    `watchlists` and `cameras` leave out those of others, and `judged_after` those without a verdict of a later time.
    """

    limit: int
    after: str | None = None
    before: str | None = None
    watchlists: tuple[str, ...] | None = None
    cameras: tuple[str, ...] | None = None
    judged_after: datetime | None = None

    def passes(self, alert: Alert) -> bool:
        """Return whether an alert is one of those that are read."""
        return (
            (self.after is None or alert.id > self.after)
            and (self.before is None or alert.id < self.before)
            and (self.watchlists is None or alert.watchlist in self.watchlists)
            and (self.cameras is None or alert.camera_id in self.cameras)
            and (self.judged_after is None or any(each.time > self.judged_after for each in alert.verdicts))
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert that waits to be sent to a webhook. `tries` counts the failed attempts, `claim` is of this attempt."""

    webhook: str
    alert: Alert
    tries: int
    claim: int


@dataclass(frozen=True, slots=True)
class OutboxCount:
    """How many deliveries of one webhook wait, and how many were given up."""

    waiting: int = 0
    dead: int = 0


@dataclass(frozen=True)
class AlertRules:
    """What the gallery needs to raise alerts.

    Attributes:
        calibration: of cosines in the gallery's space, or `None`.
        calibration_facts: what alerts say about it.
        webhooks: the names of webhooks, and the watchlists that each wants; `None` for all.
        on_alerts: called with new alerts once they are on the disk, from any thread.
        on_suppressed: called with the name of a watchlist when its cool-down kept an alert back, from any thread.
        confirmations: as `service.verdicts.decide`, which says what verdict counts.
        trust_operator: the same.
    """

    calibration: Calibration | None = None
    calibration_facts: Mapping[str, JSON] = field(default_factory=dict)
    webhooks: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    on_alerts: Callable[[Sequence[Alert]], None] = lambda _alerts: None
    on_suppressed: Callable[[str], None] = lambda _watchlist: None
    confirmations: int = 1
    trust_operator: bool = False

    def decide(self, alert: Alert) -> VerdictKind | None:
        """Return the verdict on an alert that counts, or `None`."""
        return decide(alert.verdicts, self.confirmations, self.trust_operator)

    def webhooks_for(self, watchlist: str) -> list[str]:
        """Return the names of the webhooks that want alerts of a watchlist."""
        return [name for name, wanted in self.webhooks.items() if wanted is None or watchlist in wanted]


def check_version(name: str, stored: datetime | None, replaces: datetime | AnyVersion | None) -> None:
    """Check that a watchlist is the one that may be replaced: its `updated_at`, or `None` if there is none.

    Raises:
        WatchlistChanged: it is another one.
    """
    if replaces is not ANY_VERSION and stored != replaces:
        raise WatchlistChanged(f"the watchlist {name} was changed by another request")


def alert_digest(watchlist_uid: str, record: str) -> str:
    """Return 16 hex digits that are the same for the same tracklet and watchlist."""
    return hashlib.sha256(f"{watchlist_uid}\0{record}".encode()).hexdigest()[:16]


def alert_id(time: int, watchlist_uid: str, record: str) -> str:
    """Return the id of an alert: 16 hex digits of its time in microseconds since 1970, and `alert_digest`."""
    return f"{time:016x}-{alert_digest(watchlist_uid, record)}"


def time_of_id(id: str) -> int:
    """Return the time of an alert in microseconds since 1970."""
    return int(id[:16], 16)


def describe(alert: Alert, verdict: VerdictKind | None) -> dict[str, JSON]:
    """Return an alert as JSON: in answers, in streams and for webhooks. No picture and no vector is in it.

    Args:
        alert: the alert.
        verdict: the one that counts.
    """

    def text(time: datetime | None) -> str | None:
        return None if time is None else format_timestamp(time)

    return {
        "id": alert.id,
        "time": text(alert.time),
        "watchlist": alert.watchlist,
        "record_id": alert.record,
        "camera_id": alert.camera_id,
        "start_time": text(alert.start_time),
        "end_time": text(alert.end_time),
        "score": alert.score,
        "probability": alert.probability,
        "calibration": None if alert.calibration is None else dict(alert.calibration),
        "example_id": alert.example,
        "verdict": verdict,
        "verdicts": [
            {"verdict": each.verdict, "author": each.author, "time": text(each.time)} for each in alert.verdicts
        ],
    }

"""What a bridge knows, in one SQLite file: it continues after `kill -9` where it was.

A track is `open` (in progress; its facts belong to the source), `waiting` (a tracklet with its crops, for the service),
`enrolled` or `dropped`. It goes through these states once and in this order, so a message that comes twice, late or
again after a restart changes nothing. Tracks that were enrolled or dropped are forgotten after some days; their crops
are deleted with the enrolment.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from model.errors import Not3dError
from not3d.bridges.tracklet import Tracklet
from service.sqlite import transaction

VERSION = 2
KEEP_DAYS = 14
Status = Literal["open", "waiting", "enrolled", "dropped"]

_TABLES = """
CREATE TABLE tracks (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    data TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '',
    changed REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tracks_by_status ON tracks (status, changed);
CREATE TABLE crops (
    track TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, picture BLOB NOT NULL,
    PRIMARY KEY (track, number)
) STRICT;
CREATE TABLE changes (id TEXT PRIMARY KEY, data TEXT NOT NULL) STRICT;
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_TABLES_OF_2 = """
CREATE TABLE searches (number INTEGER PRIMARY KEY AUTOINCREMENT, track TEXT NOT NULL UNIQUE, data TEXT NOT NULL) STRICT;
CREATE TABLE written_back (alert TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE observed (
    camera TEXT NOT NULL, object TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (camera, object)
) STRICT, WITHOUT ROWID;
CREATE TABLE sights (
    camera TEXT NOT NULL, object TEXT NOT NULL, name TEXT NOT NULL, time TEXT NOT NULL, box TEXT NOT NULL, crop BLOB,
    PRIMARY KEY (camera, object, name)
) STRICT;
"""
"""What version 2 added."""


@dataclass(frozen=True, slots=True)
class DueSearch:
    """A search that is due with a record that was enrolled.

    Attributes:
        track: id of the record.
        camera_id: its camera.
        event_id: what the other system calls it.
    """

    track: str
    camera_id: str
    event_id: str


Sights = dict[str, tuple[str, list[float] | None, bytes | None]]
"""Of one object, by a name that is its own: a time, the edges of the box, and the crop."""


class StateError(Not3dError):
    """The file of the state cannot be used."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A track that was not enrolled."""

    id: str
    reason: str
    detail: str
    time: datetime


class State:
    """The state of one bridge. Only one process uses the file, and only one thread this object.

    Args:
        path: the file; it is made if it is missing.

    Raises:
        StateError: another process has the file, or it is not a bridge's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        cure = "choose another --state file"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # a device would lose the rights of others
                raise StateError(f"{path} is not a file: {cure}")
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0)
            try:
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version not in {0, 1, VERSION}:
                    raise StateError(f"{path} was written by another version ({version}); {cure}")
                if not version and self._db.execute("SELECT 1 FROM sqlite_schema").fetchone():
                    raise StateError(f"{path} is the database of another program: {cure}")
                path.chmod(0o600)  # it can hold pictures of people
                self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("PRAGMA secure_delete=FAST")
                if version != VERSION:
                    missing = _TABLES_OF_2 if version else _TABLES + _TABLES_OF_2
                    self._db.executescript(f"BEGIN; {missing} PRAGMA user_version={VERSION}; COMMIT;")
                with transaction(self._db):  # takes the lock, which stays
                    self._db.execute("DELETE FROM marks WHERE name = ''")
            except BaseException:
                self._db.close()
                raise
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                cure = "stop the other bridge, or give each its own --state file"
            raise StateError(f"{path} cannot be opened ({error}): {cure}") from error
        except sqlite3.DatabaseError as error:
            raise StateError(f"{path} is not the state of a bridge ({error}): {cure}") from error
        except OSError as error:
            raise StateError(f"{path} cannot be opened ({error.strerror}): {cure}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Tracks in progress -----------------------------------------------------------------------------------------------

    def status(self, id: str) -> Status | None:
        """Return what became of a track; `None` if it is unknown."""
        row = self._db.execute("SELECT status FROM tracks WHERE id = ?", (id,)).fetchone()
        status: Status | None = row[0] if row else None
        return status

    def load(self, id: str) -> dict[str, Any] | None:
        """Return the source's facts of a track in progress; `None` if it is not in progress."""
        row = self._db.execute("SELECT data FROM tracks WHERE id = ? AND status = 'open'", (id,)).fetchone()
        facts: dict[str, Any] | None = json.loads(row[0]) if row else None
        return facts

    def save(self, id: str, data: Mapping[str, Any], *, sync: bool = True) -> bool:
        """Keep the source's facts of a track in progress; false if the track was handed over or dropped before.

        Args:
            id: of the track.
            data: JSON values.
            sync: whether to wait for the disk. Without it they survive `kill -9`, but perhaps no power failure.
        """
        with nullcontext() if sync else self._without_sync():
            changed = self._db.execute(
                "INSERT INTO tracks (id, status, data, changed) VALUES (?, 'open', ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET data = excluded.data, changed = excluded.changed WHERE status = 'open'",
                (id, json.dumps(data), time.time()),
            )
        return changed.rowcount > 0

    @contextmanager
    def _without_sync(self) -> Iterator[None]:
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def add_crop(self, id: str, at: float, picture: bytes, keep: int) -> None:
        """Keep a crop of a track in progress, and of all its crops the newest `keep`."""
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO crops VALUES (?, (SELECT coalesce(max(number), -1) + 1 FROM crops WHERE track = ?), ?, ?)",
                (id, id, at, picture),
            )
            self._db.execute(
                "DELETE FROM crops WHERE track = ? AND number <= (SELECT max(number) FROM crops WHERE track = ?) - ?",
                (id, id, keep),
            )

    def crops(self, id: str) -> list[tuple[float, bytes]]:
        """Return the kept crops of a track with their times (Unix seconds), in the order in which they were added."""
        return self._db.execute("SELECT time, picture FROM crops WHERE track = ? ORDER BY number", (id,)).fetchall()

    def open_tracks(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all tracks in progress with the source's facts, the oldest change first."""
        rows = self._db.execute("SELECT id, data FROM tracks WHERE status = 'open' ORDER BY changed").fetchall()
        return [(track, json.loads(data)) for track, data in rows]

    def observe(self, camera: str, object: str, data: Mapping[str, Any], sights: Sights) -> None:
        """Keep what a camera has said about an object that it still sees; instead of what was kept of it before.

        It survives `kill -9` and does not wait for the disk: after a power failure the last moments may be missing.
        """
        key = (camera, object)
        with self._without_sync(), transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO observed VALUES (?, ?, ?)", (*key, json.dumps(data)))
            rows = self._db.execute("SELECT name FROM sights WHERE camera = ? AND object = ?", key)
            before = {row[0] for row in rows.fetchall()}
            self._db.executemany(
                "DELETE FROM sights WHERE camera = ? AND object = ? AND name = ?",
                [(*key, name) for name in before - sights.keys()],
            )
            new = [(name, *sight) for name, sight in sights.items() if name not in before]
            self._db.executemany(
                "INSERT INTO sights VALUES (?, ?, ?, ?, ?, ?)",
                [(*key, name, at, json.dumps(box), crop) for name, at, box, crop in new],
            )

    def observed(self) -> list[tuple[str, str, dict[str, Any], Sights]]:
        """Return camera, object, data and sights of all objects of `observe`."""
        found = []
        for camera, object_, data in self._db.execute("SELECT camera, object, data FROM observed").fetchall():
            rows = self._db.execute(
                "SELECT name, time, box, crop FROM sights WHERE camera = ? AND object = ? ORDER BY time",
                (camera, object_),
            )
            sights = {name: (at, json.loads(box), crop) for name, at, box, crop in rows}
            found.append((camera, object_, json.loads(data), sights))
        return found

    def unobserve(self, camera: str, object: str) -> None:
        """Forget an object of `observe`, because its track has ended."""
        with transaction(self._db):
            for table in ("observed", "sights"):
                self._db.execute(f"DELETE FROM {table} WHERE camera = ? AND object = ?", (camera, object))  # noqa: S608

    # Tracklets that wait for the service ------------------------------------------------------------------------------

    def hand_over(self, tracklet: Tracklet, *, unfinished: bool = False) -> bool:
        """Keep a tracklet with its crops for the service; false if it was handed over or dropped before.

        Args:
            tracklet: what to enrol.
            unfinished: whether its track goes on, so that `amend` is expected.
        """
        fields = {
            "camera_id": tracklet.camera_id,
            "start_time": tracklet.start_time and tracklet.start_time.isoformat(),
            "end_time": tracklet.end_time and tracklet.end_time.isoformat(),
            "metadata": dict(tracklet.metadata),
            "unfinished": unfinished,
            "embedding": tracklet.embedding,
            "embedding_space": tracklet.embedding_space,
        }
        with transaction(self._db):
            if self.status(tracklet.id) not in {None, "open"}:
                return False
            self._db.execute("DELETE FROM crops WHERE track = ?", (tracklet.id,))
            self._db.executemany(
                "INSERT INTO crops VALUES (?, ?, 0, ?)",
                ((tracklet.id, number, frame) for number, frame in enumerate(tracklet.frames)),
            )
            self._set(tracklet.id, "waiting", json.dumps(fields))
        return True

    def next_waiting(self, taken: frozenset[str] | set[str] = frozenset()) -> Tracklet | None:
        """Return the tracklet that has waited longest and is not in `taken`; `None` if none waits."""
        rows = self._db.execute("SELECT id, data FROM tracks WHERE status = 'waiting' ORDER BY changed")
        with closing(rows):
            for track, data in rows:
                if track not in taken:
                    fields = json.loads(data)
                    times = {
                        name: fields[name] and datetime.fromisoformat(fields[name])
                        for name in ("start_time", "end_time")
                    }
                    frames = tuple(picture for _, picture in self.crops(track))
                    return Tracklet(
                        track,
                        fields["camera_id"],
                        frames,
                        **times,
                        metadata=fields["metadata"],
                        embedding=tuple(fields.get("embedding", ())),
                        embedding_space=fields.get("embedding_space"),
                    )
        return None

    def waiting(self) -> int:
        """Return how many tracklets wait for the service."""
        count: int = self._db.execute("SELECT count(*) FROM tracks WHERE status = 'waiting'").fetchone()[0]
        return count

    def opened(self) -> int:
        """Return how many tracks are in progress."""
        count: int = self._db.execute("SELECT count(*) FROM tracks WHERE status = 'open'").fetchone()[0]
        return count

    def enrolled(self, id: str, *, search: bool = False) -> None:
        """Note that the service has a tracklet, and delete its crops.

        Args:
            id: of the tracklet.
            search: whether a search with it is due.
        """
        with transaction(self._db):
            row = self._db.execute("SELECT data FROM tracks WHERE id = ?", (id,)).fetchone()
            fields = json.loads(row[0]) if row else {}
            if search and fields:
                due = {"camera": fields["camera_id"], "event": fields["metadata"].get("frigate_event", id)}
                self._db.execute("INSERT OR IGNORE INTO searches (track, data) VALUES (?, ?)", (id, json.dumps(due)))
            kept = {name: fields[name] for name in ("metadata", "unfinished")} if fields.get("unfinished") else {}
            self._db.execute("DELETE FROM crops WHERE track = ?", (id,))
            self._set(id, "enrolled", json.dumps(kept))

    def dropped(self, id: str, reason: str, detail: str = "") -> bool:
        """Note that a track will not be enrolled, and why; false if it was enrolled or dropped before."""
        with transaction(self._db):
            if self.status(id) in {"enrolled", "dropped"}:
                return False
            self._db.execute("DELETE FROM crops WHERE track = ?", (id,))
            self._db.execute("DELETE FROM changes WHERE id = ?", (id,))
            self._set(id, "dropped", reason=reason, detail=detail[:500])
        return True

    def dead_letters(self, limit: int = 1000) -> list[Dropped]:
        """Return the tracks that were not enrolled, the latest first."""
        rows = self._db.execute(
            "SELECT id, reason, detail, changed FROM tracks WHERE status = 'dropped' ORDER BY changed DESC LIMIT ?",
            (limit,),
        ).fetchall()
        return [Dropped(track, reason, text, datetime.fromtimestamp(at, UTC)) for track, reason, text, at in rows]

    # Later changes of records -----------------------------------------------------------------------------------------

    def amend(self, id: str, end_time: datetime | None, metadata: Mapping[str, Any]) -> bool:
        """Keep the end of an unfinished tracklet, and what is to be added to its metadata.

        The change is sent after the enrolment. False if the tracklet is not unfinished, or its end was set before.
        """
        with transaction(self._db):
            row = self._db.execute(
                "SELECT data FROM tracks WHERE id = ? AND status IN ('waiting', 'enrolled')", (id,)
            ).fetchone()
            fields = json.loads(row[0]) if row else {}
            if not fields.get("unfinished"):
                return False
            self._db.execute(
                "UPDATE tracks SET data = ? WHERE id = ?", (json.dumps(fields | {"unfinished": False}), id)
            )
            end = end_time and end_time.isoformat()
            change = {"end_time": end, "metadata": fields["metadata"] | dict(metadata)}
            self._db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?)", (id, json.dumps(change)))
        return True

    def next_change(self, taken: frozenset[str] | set[str] = frozenset()) -> tuple[str, dict[str, Any]] | None:
        """Return the id of an enrolled record and the fields to change; `None` if there is none."""
        rows = self._db.execute(
            "SELECT changes.id, changes.data FROM changes JOIN tracks USING (id) WHERE status = 'enrolled'"
        )
        with closing(rows):
            for track, data in rows:
                if track not in taken:
                    return track, json.loads(data)
        return None

    def changed(self, id: str, sent: Mapping[str, Any]) -> None:
        """Note that a record was changed to what was `sent`."""
        self._db.execute("DELETE FROM changes WHERE id = ? AND data = ?", (id, json.dumps(sent)))

    # Searches that are due, and what was written back -----------------------------------------------------------------

    def next_search(self) -> DueSearch | None:
        """Return the search that has been due for the longest time; `None` if none is."""
        row = self._db.execute("SELECT track, data FROM searches ORDER BY number LIMIT 1").fetchone()
        if row is None:
            return None
        due = json.loads(row[1])
        return DueSearch(row[0], due["camera"], due["event"])

    def searched(self, track: str) -> None:
        """Note that a search is no longer due."""
        self._db.execute("DELETE FROM searches WHERE track = ?", (track,))

    def limit_searches(self, most: int) -> int:
        """Leave out the searches that have been due for the longest time, until there are at most so many.

        Returns:
            How many were left out.
        """
        oldest = "SELECT number FROM searches ORDER BY number DESC LIMIT -1 OFFSET ?"
        return self._db.execute(f"DELETE FROM searches WHERE number IN ({oldest})", (most,)).rowcount  # noqa: S608

    def is_written_back(self, alert: str) -> bool:
        """Return whether `set_written_back` was called with the id of this alert."""
        return self._db.execute("SELECT 1 FROM written_back WHERE alert = ?", (alert,)).fetchone() is not None

    def set_written_back(self, alert: str) -> None:
        """Note that the other system was told that an alert is confirmed. It is kept for good: 40 bytes a decision."""
        self._db.execute("INSERT OR IGNORE INTO written_back VALUES (?)", (alert,))

    # The rest ---------------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> str | None:
        """Return a value that the source kept, such as the time up to which everything was handled."""
        row = self._db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set_mark(self, name: str, value: str) -> None:
        """Keep a value of the source."""
        self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))

    def forget(self, days: float = KEEP_DAYS) -> None:
        """Forget tracks that were enrolled or dropped more than `days` ago."""
        with transaction(self._db):
            self._db.execute(
                "DELETE FROM tracks WHERE status IN ('enrolled', 'dropped') AND changed < ?",
                (time.time() - days * 86_400,),
            )
            self._db.execute("DELETE FROM changes WHERE id NOT IN (SELECT id FROM tracks)")

    def _set(self, id: str, status: Status, data: str = "{}", reason: str = "", detail: str = "") -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO tracks VALUES (?, ?, ?, ?, ?, ?)", (id, status, data, reason, detail, time.time())
        )

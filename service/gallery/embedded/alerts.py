"""Watchlists, alerts and deliveries as rows of the database.

All functions but the `read_` and `count_` ones run inside a transaction of the writer.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from service.gallery import checks, clock
from service.gallery.checks import Row
from service.gallery.watch.matching import Match, Matcher
from service.gallery.watch.records import (
    MAX_ENTRIES,
    MAX_VECTORS,
    MAX_WATCHLISTS,
    Alert,
    AlertQuery,
    AlertRules,
    AlertVerdict,
    AnyVersion,
    Delivery,
    OutboxCount,
    TooManyWatched,
    Watchlist,
    WatchVector,
    alert_id,
    check_version,
)
from service.verdicts import VerdictKind

_VECTOR = np.dtype("<f4")
_WATCHLIST = (
    "name, uid, min_score, min_probability, prior, filter, cooldown, expires_at, created_at, updated_at, created_by"
)
_ALERT = (
    "id, watchlist, watchlist_uid, record, camera_id, start_time, end_time, score, probability, calibration, example, "
    "example_camera"
)


@dataclass(slots=True)
class Watching:
    """The comparison of new rows in one transaction, and what it led to.

    Attributes:
        rules: what the gallery was told by `start_alerts`.
        matcher: the watchlists as they are in this transaction.
        dimension: the length of vectors.
        raised: the new alerts.
        suppressed: the names of watchlists whose cool-down kept an alert back.
        changed: whether the transaction changed a watchlist.
    """

    rules: AlertRules
    matcher: Matcher
    dimension: int
    raised: list[Alert] = field(default_factory=list)
    suppressed: list[str] = field(default_factory=list)
    changed: bool = False

    def reload(self, connection: sqlite3.Connection) -> None:
        """Compile the watchlists again after a change."""
        self.matcher = load_matcher(connection, self.rules, self.dimension)
        self.changed = True


def load_matcher(connection: sqlite3.Connection, rules: AlertRules, dimension: int) -> Matcher:
    """Return what compares rows with all watchlists."""
    return Matcher(read_watchlists(connection), rules.calibration, dimension)


def read_watchlists(connection: sqlite3.Connection) -> list[Watchlist]:
    """Return all watchlists with their vectors, by name."""
    vectors: dict[str, list[WatchVector]] = {}
    for watchlist, role, record, camera, source, vector in connection.execute(
        "SELECT watchlist, role, record, camera_id, source, vector FROM watchlist_vectors ORDER BY number"
    ):
        values = np.frombuffer(vector, _VECTOR).astype(np.float32)
        vectors.setdefault(watchlist, []).append(WatchVector(values, role, record, camera, source))
    found = connection.execute(f"SELECT {_WATCHLIST} FROM watchlists ORDER BY name")  # noqa: S608
    return [_decode_watchlist(row, tuple(vectors.get(row[0], ()))) for row in found]


def put_watchlist(
    connection: sqlite3.Connection, watching: Watching, new: Watchlist, replaces: datetime | AnyVersion | None
) -> bool:
    """Write a watchlist, as `AlertStore.put_watchlist`."""
    found = connection.execute("SELECT uid, updated_at FROM watchlists WHERE name = ?", (new.name,)).fetchone()
    check_version(new.name, clock.to_datetime(found[1]) if found else None, replaces)
    _check_room(connection, new)
    values = (
        new.name,
        new.uid,
        new.min_score,
        new.min_probability,
        new.prior,
        json.dumps(checks.audit_condition(new.filter)),
        new.cooldown,
        _microseconds(new.expires_at),
        _microseconds(new.created_at),
        _microseconds(new.updated_at),
        new.created_by,
    )
    columns = _WATCHLIST.split(", ")
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
    connection.execute(
        f"INSERT INTO watchlists ({_WATCHLIST}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
        f"ON CONFLICT (name) DO UPDATE SET {changes}",
        values,
    )
    if found is None or found[0] != new.uid:
        connection.execute("DELETE FROM watchlist_vectors WHERE watchlist = ?", (new.name,))
        for each in new.vectors:
            _add_vector(connection, new.name, each)
    watching.reload(connection)
    return found is None


def delete_watchlist(connection: sqlite3.Connection, watching: Watching, name: str) -> bool:
    """Remove a watchlist, as `AlertStore.delete_watchlist`."""
    existed = bool(connection.execute("DELETE FROM watchlists WHERE name = ?", (name,)).rowcount)
    if existed:
        watching.reload(connection)
    return existed


def raise_alerts(connection: sqlite3.Connection, watching: Watching, rows: Iterable[Row]) -> None:
    """Compare rows that were just written with all watchlists, and write the alerts and their deliveries."""
    for row in rows:
        now = clock.now()
        for match in watching.matcher.match(row, now):
            if _is_known(connection, match, row):
                continue
            if _is_cooling(connection, match, row, now):
                watching.suppressed.append(match.watchlist.name)
                continue
            alert = _write(connection, watching.rules, match, row)
            watching.raised.append(alert)


def follow(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Copy camera and times of records that were replaced or changed into their alerts."""
    connection.executemany(
        "UPDATE alerts SET camera_id = ?, start_time = ?, end_time = ? WHERE record = ?",
        [(row.camera_id, row.start_time, row.end_time, row.id) for row in rows],
    )
    connection.executemany(
        "UPDATE alerts SET example_camera = ? WHERE example = ?", [(r.camera_id, r.id) for r in rows]
    )


def forget(connection: sqlite3.Connection, ids: Sequence[str], watching: Watching | None) -> bool:
    """Remove what alerts and watchlists have of erased records: alerts, examples and rejects. Return whether any."""
    removed = forget_expired(connection, ids)
    for start in range(0, len(ids), 5000):
        some = json.dumps(ids[start : start + 5000])
        listed = "IN (SELECT value FROM json_each(?))"
        removed |= (
            connection.execute(
                f"UPDATE alerts SET example = NULL, example_camera = NULL WHERE example {listed}",  # noqa: S608
                (some,),
            ).rowcount
            > 0
        )
        if connection.execute(f"DELETE FROM watchlist_vectors WHERE record {listed}", (some,)).rowcount:  # noqa: S608
            removed = True
            if watching is not None:
                watching.changed = True
    if watching is not None and watching.changed:
        watching.reload(connection)
    return removed


def forget_expired(connection: sqlite3.Connection, ids: Sequence[str]) -> bool:
    """Remove the alerts of records that have expired; watchlists keep their vectors. Return whether any."""
    removed = 0
    for start in range(0, len(ids), 5000):
        statement = "DELETE FROM alerts WHERE record IN (SELECT value FROM json_each(?))"
        removed += connection.execute(statement, (json.dumps(ids[start : start + 5000]),)).rowcount
    return removed > 0


def judge(
    connection: sqlite3.Connection, watching: Watching, id: str, author: str, key: str, verdict: VerdictKind | None
) -> Alert | None:
    """Set or remove a verdict, as `AlertStore.judge_alert`."""
    if find_alert(connection, id) is None:
        return None
    if verdict is None:
        connection.execute("DELETE FROM alert_verdicts WHERE alert = ? AND author = ? AND key = ?", (id, author, key))
    else:
        values = (id, author, key, verdict, clock.now())
        connection.execute("INSERT OR REPLACE INTO alert_verdicts VALUES (?, ?, ?, ?, ?)", values)
    if (alert := find_alert(connection, id)) is not None:
        _feed_back(connection, watching, alert, watching.rules.decide(alert))
    return alert


def read_alerts(connection: sqlite3.Connection, query: AlertQuery) -> list[Alert]:
    """Return alerts with their verdicts, as `AlertQuery` says."""
    conditions, values = ["1"], list[object]()
    for condition, given in (("id > ?", query.after), ("id < ?", query.before)):
        if given is not None:
            conditions.append(condition)
            values.append(given)
    for column, names in (("watchlist", query.watchlists), ("camera_id", query.cameras)):
        if names is not None:
            conditions.append(f"{column} IN (SELECT value FROM json_each(?))")  # noqa: S608
            values.append(json.dumps(list(names)))
    if query.judged_after is not None:
        conditions.append("id IN (SELECT alert FROM alert_verdicts WHERE time > ?)")
        values.append(clock.to_microseconds(query.judged_after, "judged_after"))
    order = "id" if query.after is not None else "id DESC"
    found = connection.execute(
        f"SELECT {_ALERT} FROM alerts WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT ?",  # noqa: S608
        (*values, query.limit),
    ).fetchall()
    verdicts: dict[str, list[AlertVerdict]] = {}
    for alert, author, key, verdict, time in connection.execute(
        "SELECT alert, author, key, verdict, time FROM alert_verdicts WHERE alert IN (SELECT value FROM json_each(?)) "
        "ORDER BY time, author",
        (json.dumps([row[0] for row in found]),),
    ):
        verdicts.setdefault(alert, []).append(AlertVerdict(author, key, verdict, clock.to_datetime(time)))
    return [_decode_alert(row, tuple(verdicts.get(row[0], ()))) for row in found]


def find_alert(connection: sqlite3.Connection, id: str) -> Alert | None:
    """Return an alert with its verdicts, or `None`."""
    found = connection.execute(f"SELECT {_ALERT} FROM alerts WHERE id = ?", (id,)).fetchone()  # noqa: S608
    if found is None:
        return None
    given = connection.execute(
        "SELECT author, key, verdict, time FROM alert_verdicts WHERE alert = ? ORDER BY time, author", (id,)
    )
    verdicts = [AlertVerdict(author, key, verdict, clock.to_datetime(time)) for author, key, verdict, time in given]
    return _decode_alert(found, tuple(verdicts))


def is_due(connection: sqlite3.Connection, webhook: str) -> bool:
    """Return whether a delivery to a webhook is due."""
    statement = "SELECT 1 FROM deliveries WHERE webhook = ? AND NOT dead AND due <= ? LIMIT 1"
    return connection.execute(statement, (webhook, clock.now())).fetchone() is not None


def claim(connection: sqlite3.Connection, webhook: str, limit: int, lease: float) -> list[Delivery]:
    """Claim deliveries, as `AlertStore.claim_deliveries`."""
    now = clock.now()
    found = connection.execute(
        "SELECT alert, tries, claim FROM deliveries WHERE webhook = ? AND NOT dead AND due <= ? "
        "ORDER BY due, alert LIMIT ?",
        (webhook, now, limit),
    ).fetchall()
    connection.executemany(
        "UPDATE deliveries SET due = ?, claim = claim + 1 WHERE webhook = ? AND alert = ?",
        [(now + round(lease * 1e6), webhook, alert) for alert, _, _ in found],
    )
    alerts = {alert: find_alert(connection, alert) for alert, _, _ in found}
    return [
        Delivery(webhook, alert, tries, claimed + 1)
        for id_, tries, claimed in found
        if (alert := alerts[id_]) is not None
    ]


def settle(connection: sqlite3.Connection, delivery: Delivery, *, delivered: bool, again_at: datetime | None) -> None:
    """Settle a delivery, as `AlertStore.settle_delivery`, unless its lease ended and it was claimed again."""
    mine = (delivery.webhook, delivery.alert.id, delivery.claim)
    where = "WHERE webhook = ? AND alert = ? AND claim = ?"
    if delivered:
        connection.execute(f"DELETE FROM deliveries {where}", mine)  # noqa: S608
        return
    again = _microseconds(again_at)
    connection.execute(
        f"UPDATE deliveries SET tries = tries + 1, dead = ?, due = coalesce(?, due) {where}",  # noqa: S608
        (again is None, again, *mine),
    )


def keep_deliveries(connection: sqlite3.Connection, webhooks: Iterable[str]) -> int:
    """Remove the deliveries to webhooks that are not configured any more; return how many."""
    statement = "DELETE FROM deliveries WHERE webhook NOT IN (SELECT value FROM json_each(?))"
    return connection.execute(statement, (json.dumps(list(webhooks)),)).rowcount


def count_deliveries(connection: sqlite3.Connection) -> dict[str, OutboxCount]:
    """Return the deliveries of each webhook."""
    found = connection.execute("SELECT webhook, sum(NOT dead), sum(dead) FROM deliveries GROUP BY webhook")
    return {webhook: OutboxCount(waiting, dead) for webhook, waiting, dead in found}


def prune(connection: sqlite3.Connection, watching: Watching, before: datetime) -> int:
    """Remove old alerts and watchlists whose time is over; return how many alerts were removed."""
    oldest = f"{_microseconds(before):016x}"
    removed = connection.execute("DELETE FROM alerts WHERE id < ?", (oldest,)).rowcount
    if connection.execute("DELETE FROM watchlists WHERE expires_at <= ?", (clock.now(),)).rowcount:
        watching.reload(connection)
    return removed


def has_old(connection: sqlite3.Connection, before: datetime) -> bool:
    """Return whether `prune` would remove anything."""
    statement = (
        "SELECT EXISTS (SELECT 1 FROM alerts WHERE id < ?) OR EXISTS (SELECT 1 FROM watchlists WHERE expires_at <= ?)"
    )
    return bool(connection.execute(statement, (f"{_microseconds(before):016x}", clock.now())).fetchone()[0])


def _check_room(connection: sqlite3.Connection, new: Watchlist) -> None:
    others, entries = connection.execute(
        "SELECT (SELECT count(*) FROM watchlists WHERE name <> ?1), "
        "(SELECT count(*) FROM watchlist_vectors WHERE watchlist <> ?1 AND role = 'example')",
        (new.name,),
    ).fetchone()
    if others >= MAX_WATCHLISTS:
        raise TooManyWatched(f"there are {others} watchlists, which is the limit: delete one first")
    if entries + len(new.of_role("example")) > MAX_ENTRIES:
        raise TooManyWatched(
            f"the other watchlists have {entries} examples, and all together may have {MAX_ENTRIES}: send fewer, or "
            "delete a watchlist first"
        )


def _is_known(connection: sqlite3.Connection, match: Match, row: Row) -> bool:
    statement = "SELECT 1 FROM alerts WHERE watchlist_uid = ? AND record = ?"
    return connection.execute(statement, (match.watchlist.uid, row.id)).fetchone() is not None


def _is_cooling(connection: sqlite3.Connection, match: Match, row: Row, now: int) -> bool:
    if not match.watchlist.cooldown:
        return False
    moment, cooldown = _moment(row, now), round(match.watchlist.cooldown * 1e6)
    statement = "SELECT 1 FROM alerts WHERE watchlist_uid = ? AND camera_id IS ? AND moment > ? AND moment < ? LIMIT 1"
    values = (match.watchlist.uid, row.camera_id, moment - cooldown, moment + cooldown)
    return connection.execute(statement, values).fetchone() is not None


def _write(connection: sqlite3.Connection, rules: AlertRules, match: Match, row: Row) -> Alert:
    now = clock.now()
    (time,) = connection.execute("UPDATE alert_clock SET last = max(last + 1, ?) RETURNING last", (now,)).fetchone()
    facts = None
    if match.probability is not None:
        facts = json.dumps({**rules.calibration_facts, "prior": match.watchlist.prior})
    values = (
        alert_id(time, match.watchlist.uid, row.id),
        match.watchlist.name,
        match.watchlist.uid,
        row.id,
        row.camera_id,
        row.start_time,
        row.end_time,
        match.score,
        match.probability,
        facts,
        match.example.record,
        match.example.camera_id,
    )
    connection.execute(
        f"INSERT INTO alerts ({_ALERT}, moment) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (*values, _moment(row, now)),
    )
    connection.executemany(
        "INSERT INTO deliveries (webhook, alert, due) VALUES (?, ?, ?)",
        [(webhook, values[0], now) for webhook in rules.webhooks_for(match.watchlist.name)],
    )
    return _decode_alert(values, ())


def _feed_back(connection: sqlite3.Connection, watching: Watching, alert: Alert, verdict: VerdictKind | None) -> None:
    """Make the tracklet of an alert an example or a reject of its watchlist, if the verdict that counts says so."""
    found = connection.execute("SELECT uid FROM watchlists WHERE name = ?", (alert.watchlist,)).fetchone()
    if found is None or found[0] != alert.watchlist_uid:
        return  # deleted, or it is about someone else now
    name = alert.watchlist
    connection.execute(
        "DELETE FROM watchlist_vectors WHERE watchlist = ? AND record = ? AND source = 'verdict'", (name, alert.record)
    )
    if verdict in {"same", "different"}:
        vector = connection.execute(
            "SELECT e.vector FROM embeddings e JOIN tracklets t USING (number) WHERE t.id = ?", (alert.record,)
        ).fetchone()
        role = "example" if verdict == "same" else "reject"
        if vector is not None and _make_room(connection, name, role):
            values = np.frombuffer(vector[0], _VECTOR).astype(np.float32)
            new = WatchVector(
                values, "example" if verdict == "same" else "reject", alert.record, alert.camera_id, "verdict"
            )
            _add_vector(connection, name, new)
    watching.reload(connection)


def _make_room(connection: sqlite3.Connection, watchlist: str, role: str) -> bool:
    """Remove the oldest vector that a verdict added if there are too many; return whether one may be added."""
    of_role = "FROM watchlist_vectors WHERE watchlist = ? AND role = ?"
    (count,) = connection.execute(f"SELECT count(*) {of_role}", (watchlist, role)).fetchone()
    if count < MAX_VECTORS:
        return True
    oldest = connection.execute(
        f"SELECT min(number) {of_role} AND source = 'verdict'",
        (watchlist, role),
    ).fetchone()[0]
    if oldest is not None:
        connection.execute("DELETE FROM watchlist_vectors WHERE number = ?", (oldest,))
    return oldest is not None


def _add_vector(connection: sqlite3.Connection, watchlist: str, new: WatchVector) -> None:
    connection.execute(
        "INSERT INTO watchlist_vectors (watchlist, role, record, camera_id, source, vector) VALUES (?, ?, ?, ?, ?, ?)",
        (watchlist, new.role, new.record, new.camera_id, new.source, new.vector.astype(_VECTOR).tobytes()),
    )


def _moment(row: Row, now: int) -> int:
    """Return when a tracklet appeared, for the cool-down: now if it has no time."""
    if row.start_time is not None:
        return row.start_time
    return now if row.end_time is None else row.end_time


def _microseconds(time: datetime | None) -> int | None:
    return None if time is None else clock.to_microseconds(time, "time")


def _decode_watchlist(row: Sequence[Any], vectors: tuple[WatchVector, ...]) -> Watchlist:
    name, uid, min_score, min_probability, prior, filter_, cooldown, expires, created, updated, by = row
    return Watchlist(
        name=name,
        uid=uid,
        min_score=min_score,
        min_probability=min_probability,
        prior=prior,
        filter=checks.parse_condition(json.loads(filter_)),
        cooldown=cooldown,
        expires_at=None if expires is None else clock.to_datetime(expires),
        created_at=clock.to_datetime(created),
        updated_at=clock.to_datetime(updated),
        created_by=by,
        vectors=vectors,
    )


def _decode_alert(row: Sequence[Any], verdicts: tuple[AlertVerdict, ...]) -> Alert:
    id_, watchlist, uid, record, camera, start, end, score, probability, calibration, example, example_camera = row
    return Alert(
        id=id_,
        watchlist=watchlist,
        watchlist_uid=uid,
        record=record,
        camera_id=camera,
        start_time=None if start is None else clock.to_datetime(start),
        end_time=None if end is None else clock.to_datetime(end),
        score=score,
        probability=probability,
        calibration=None if calibration is None else json.loads(calibration),
        example=example,
        example_camera=example_camera,
        verdicts=verdicts,
    )

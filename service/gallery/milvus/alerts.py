"""Watchlists, alerts and deliveries in Milvus, shared by all replicas.

Milvus has no transactions, so the order of writes carries the promise: an alert is written before its record. If the
process ends in between, the record was not acknowledged, and the alert is an orphan that no call returns. The client
sends the record again, and the orphan is replaced. Two replicas never raise the same alert, because both hold the lock
of the record's id.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from service.gallery import clock
from service.gallery.checks import Row
from service.gallery.milvus.alert_rows import (
    ALERT,
    DELIVERY,
    NEW_DELIVERY,
    decode_alert,
    decode_watchlist,
    encode_alert,
    encode_camera,
    encode_watchlist,
    moment_of,
    time_of,
)
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.distributed_locks import DistributedLocks
from service.gallery.milvus.index import index_params
from service.gallery.milvus.schema import (
    alerts_schema,
    deliveries_schema,
    judged_schema,
    quoted,
    quoted_list,
    watchlists_schema,
)
from service.gallery.records import GalleryError
from service.gallery.watch.matching import Match, Matcher
from service.gallery.watch.records import (
    FIRST_CURSOR,
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
    alert_digest,
    alert_id,
    check_version,
    time_of_id,
)
from service.verdicts import VerdictKind

SETTLE_SECONDS: Final = 2.0
"""Alerts are returned this long after they were raised, so that none appears before one that was returned already.
The clocks of replicas, and the time of a write, may differ by so much."""
_ORPHAN_SECONDS: Final = 60.0
"""An alert without its record that is older than this will not get one any more, unless the client enrols again."""
_IDS_PER_QUERY: Final = 1000
_FIRST_SPAN: Final = 3600 * 10**6
"""Microseconds before a time in which the newest alerts are looked for first."""


class MilvusAlerts:
    """The watchlists, alerts and deliveries of one gallery. `enrolled` returns which of some ids have a record."""

    def __init__(
        self,
        connection: Connection,
        records: str,
        locks: DistributedLocks,
        dimension: int,
        enrolled: Callable[[Sequence[str]], set[str]],
    ) -> None:
        self._connection, self._locks, self._dimension, self._enrolled = connection, locks, dimension, enrolled
        self._watchlists, self._alerts = f"{records}_watchlists", f"{records}_alerts"
        self._deliveries, self._judged = f"{records}_deliveries", f"{records}_judged"
        self._rules: AlertRules | None = None
        self._mutex = threading.Lock()
        self._stamps: Mapping[str, str] = {}
        self._matcher = Matcher([], None, dimension)
        self._exists: bool | None = None

    @property
    def rules(self) -> AlertRules:
        """What `start` was given."""
        if self._rules is None:
            raise GalleryError("alerts have not been started")
        return self._rules

    @property
    def started(self) -> bool:
        """Whether new records are compared."""
        return self._rules is not None

    def start(self, rules: AlertRules) -> None:
        """Create the collections and read the watchlists."""
        flat = index_params("FLAT")
        self._connection.create(self._watchlists, watchlists_schema(), flat, num_shards=1)
        self._connection.create(self._alerts, alerts_schema(), flat, num_shards=1)
        self._connection.create(self._deliveries, deliveries_schema(), flat, num_shards=1)
        self._connection.create(self._judged, judged_schema(), flat, num_shards=1)
        self._rules, self._exists = rules, True
        self.refresh()

    def refresh(self) -> Matcher:
        """Read the watchlists that any replica has changed, and return all of them."""
        found = self._connection.query(self._watchlists, f"expires_at > {clock.now()}", ["name", "stamp"])
        stamps = {row["name"]: row["stamp"] for row in found}
        with self._mutex:
            if stamps == self._stamps:
                return self._matcher
        rows = self._connection.query(self._watchlists, f"expires_at > {clock.now()}", ["name", "stamp", "content"])
        watchlists = [decode_watchlist(row) for row in sorted(rows, key=lambda row: str(row["name"]))]
        matcher = Matcher(watchlists, self.rules.calibration, self._dimension)
        with self._mutex:
            self._stamps, self._matcher = {row["name"]: row["stamp"] for row in rows}, matcher
        return matcher

    def put_watchlist(self, new: Watchlist, replaces: datetime | AnyVersion | None) -> bool:
        """As `AlertStore.put_watchlist`."""
        with self._locked("watchlists") as check_age:
            stored = {each.name: each for each in self.refresh().watchlists}
            old = stored.pop(new.name, None)
            check_version(new.name, None if old is None else old.updated_at, replaces)
            if old is not None and old.uid == new.uid:
                new = replace(new, vectors=old.vectors)
            entries = sum(len(each.of_role("example")) for each in stored.values())
            if len(stored) >= MAX_WATCHLISTS or entries + len(new.of_role("example")) > MAX_ENTRIES:
                raise TooManyWatched(
                    f"all watchlists together may be {MAX_WATCHLISTS} with {MAX_ENTRIES} examples, and there are "
                    f"{len(stored)} with {entries}: send fewer, or delete a watchlist first"
                )
            check_age()
            self._write_watchlist(new)
        self.refresh()
        return old is None

    def delete_watchlist(self, name: str) -> bool:
        """As `AlertStore.delete_watchlist`."""
        with self._locked("watchlists"):
            existed = any(each.name == name for each in self.refresh().watchlists)
            self._connection.delete(self._watchlists, f"name in {quoted_list([name])}")
        self.refresh()
        return existed

    def raise_alerts(self, rows: Sequence[Row], known: Iterable[str]) -> tuple[list[Alert], list[str]]:
        """Write the alerts of records that are about to be written. The ids of the records are locked.

        Args:
            rows: the new records.
            known: ids that had a record before.

        Returns:
            The new alerts, and the names of watchlists whose cool-down kept one back.
        """
        matcher, replaced = self.refresh(), set(known)
        raised, suppressed = [], []
        for row in rows:
            for match in matcher.match(row, clock.now()):
                if row.id in replaced and self._find_same(match, row):
                    continue
                with self._locked(f"alert {match.watchlist.uid} {row.camera_id}") as check_age:
                    if self._is_cooling(match, row):
                        suppressed.append(match.watchlist.name)
                        continue
                    for orphan in self._find_same(match, row):
                        self._remove([orphan])
                    check_age()
                    raised.append(self._write_alert(match, row))
        self._forget_lost_examples(raised)
        return raised, suppressed

    def follow(self, rows: Sequence[Row]) -> None:
        """Copy camera and times of records that were replaced or changed into their alerts."""
        by_id = {row.id: row for row in rows}

        def change(alert: Alert) -> Alert:
            if alert.record in by_id:
                row = by_id[alert.record]
                start = None if row.start_time is None else clock.to_datetime(row.start_time)
                end = None if row.end_time is None else clock.to_datetime(row.end_time)
                alert = replace(alert, camera_id=row.camera_id, start_time=start, end_time=end)
            if alert.example in by_id:
                alert = replace(alert, example_camera=by_id[alert.example or ""].camera_id)
            return alert

        listed = quoted_list(by_id)
        self._rewrite(f"record in {listed} or example in {listed}", change)

    def forget(self, ids: Sequence[str]) -> None:
        """Remove what alerts and watchlists have of erased records: alerts, examples and rejects."""
        if not self._has_collections():
            return
        self.forget_expired(ids)
        gone = set(ids)
        # The watchlists first: an enrolment that compared with the old ones looks at them again after its alert.
        with self._locked("watchlists"):
            for row in self._connection.query(self._watchlists, 'name > ""', ["name", "content"]):
                watchlist = decode_watchlist(row)
                kept = tuple(each for each in watchlist.vectors if each.record not in gone)
                if len(kept) < len(watchlist.vectors):
                    self._write_watchlist(replace(watchlist, vectors=kept))
        for start in range(0, len(ids), _IDS_PER_QUERY):
            listed = quoted_list(ids[start : start + _IDS_PER_QUERY])
            self._rewrite(f"example in {listed}", lambda alert: replace(alert, example=None, example_camera=None))

    def forget_again(self, ids: Sequence[str]) -> None:
        """As `forget`, after the records are gone, if a watchlist was put with them meanwhile."""
        if self.started:
            watched = {each.record for watchlist in self.refresh().watchlists for each in watchlist.vectors}
            if not watched.isdisjoint(ids):
                self.forget(ids)

    def forget_expired(self, ids: Sequence[str]) -> None:
        """Remove the alerts of records that have expired; watchlists keep their vectors."""
        if not self._has_collections():
            return
        for start in range(0, len(ids), _IDS_PER_QUERY):
            where = f"record in {quoted_list(ids[start : start + _IDS_PER_QUERY])}"
            if self._connection.query(self._alerts, where, ["alert"], 1):
                with self._locked("alerts"):
                    self._remove([row["alert"] for row in self._connection.query(self._alerts, where, ["alert"])])

    def read(self, query: AlertQuery) -> list[Alert]:
        """As `AlertStore.alerts`."""
        found: list[Alert] = []
        if query.judged_after is not None:
            return self._read_judged(query, clock.to_microseconds(query.judged_after, "judged_after"))
        pages = self._oldest_first(query) if query.after is not None else self._newest_first(query)
        for page in pages:
            found += self._with_records(page)
            if len(found) >= query.limit:
                break
        return found[: query.limit]

    def _read_judged(self, query: AlertQuery, after: int) -> list[Alert]:
        """Read the alerts with a later verdict, of which there are few: people give them."""
        rows = self._connection.query(self._judged, f"time > {after}", ["alert"])
        ids = sorted({str(row["alert"]) for row in rows}, reverse=query.after is None)
        found: list[Alert] = []
        for start in range(0, len(ids), _IDS_PER_QUERY):
            page = self._with_records(self._by_ids(ids[start : start + _IDS_PER_QUERY]))
            page.sort(key=lambda alert: alert.id, reverse=query.after is None)
            found += [alert for alert in page if query.passes(alert)]
            if len(found) >= query.limit:
                break
        return found[: query.limit]

    def find(self, id: str) -> Alert | None:
        """As `AlertStore.find_alert`."""
        found = self._with_records(self._by_ids([id]))
        return found[0] if found else None

    def judge(
        self, id: str, author: str, key: str, verdict: VerdictKind | None, vector: Callable[[str], WatchVector | None]
    ) -> Alert | None:
        """As `AlertStore.judge_alert`. `vector` returns the vector of a record, if it is enrolled."""
        given = () if verdict is None else (AlertVerdict(author, key, verdict, clock.to_datetime(clock.now())),)

        def change(alert: Alert) -> Alert:
            others = tuple(each for each in alert.verdicts if (each.author, each.key) != (author, key))
            return replace(alert, verdicts=(*others, *given))

        if self.find(id) is None:
            return None
        if verdict is not None:  # first, so that no verdict is without it
            self._connection.upsert(self._judged, [{"alert": id, "vector": [0.0, 0.0], "time": clock.now()}])
        self._rewrite(f"alert in {quoted_list([id])}", change)
        alert = self.find(id)
        if alert is not None:
            self._feed_back(alert, self.rules.decide(alert), vector(alert.record))
        return alert

    def claim(self, webhook: str, limit: int, lease: float) -> list[Delivery]:
        """As `AlertStore.claim_deliveries`."""
        now = clock.now()
        settled = f"{now - round(SETTLE_SECONDS * 1e6):016x}"
        due = f"webhook == {quoted(webhook)} and dead == 0 and due <= {now} and alert < {quoted(settled)}"
        if not self._connection.query(self._deliveries, due, ["delivery"], 1):
            return []
        with self._locked(f"webhook {webhook}") as check_age:
            rows = self._connection.query(self._deliveries, due, list(DELIVERY), limit)
            check_age()
            claimed = [{**row, "due": now + round(lease * 1e6), "claim": row["claim"] + 1} for row in rows]
            self._write_deliveries(claimed)
        alerts = {alert.id: alert for alert in self._with_records(self._by_ids([row["alert"] for row in claimed]))}
        orphaned = now - round(_ORPHAN_SECONDS * 1e6)
        lost = [row["delivery"] for row in claimed if row["alert"] not in alerts and time_of(row) < orphaned]
        if lost:
            self._connection.delete(self._deliveries, f"delivery in {quoted_list(lost)}")
        return [
            Delivery(webhook, alerts[row["alert"]], row["tries"], row["claim"])
            for row in claimed
            if row["alert"] in alerts
        ]

    def settle(self, delivery: Delivery, *, delivered: bool, again_at: datetime | None) -> None:
        """As `AlertStore.settle_delivery`."""
        key = f"{delivery.webhook}/{delivery.alert.id}"
        with self._locked(f"webhook {delivery.webhook}"):
            found = self._connection.query(self._deliveries, f"delivery in {quoted_list([key])}", list(DELIVERY))
            if not found or found[0]["claim"] != delivery.claim:
                return
            if delivered:
                self._connection.delete(self._deliveries, f"delivery in {quoted_list([key])}")
                return
            due = found[0]["due"] if again_at is None else clock.to_microseconds(again_at, "again_at")
            tried = {"tries": delivery.tries + 1, "dead": int(again_at is None), "due": due}
            self._write_deliveries([{**found[0], **tried}])

    def count_deliveries(self) -> dict[str, OutboxCount]:
        """As `AlertStore.count_deliveries`."""

        def count(webhook: str, dead: int) -> int:
            return self._connection.count(self._deliveries, f"webhook == {quoted(webhook)} and dead == {dead}")

        return {name: OutboxCount(count(name, 0), count(name, 1)) for name in self.rules.webhooks}

    def prune(self, before: datetime) -> int:
        """As `AlertStore.prune_alerts`."""
        now, oldest = clock.now(), quoted(f"{clock.to_microseconds(before, 'before'):016x}")
        count = self._connection.count(self._alerts, f"alert < {oldest}")
        if count:
            with self._locked("alerts"):
                self._connection.delete(self._alerts, f"alert < {oldest}")
                self._connection.delete(self._deliveries, f"alert < {oldest}")
                self._connection.delete(self._judged, f"alert < {oldest}")
        if self._connection.query(self._watchlists, f"expires_at <= {now}", ["name"], 1):
            with self._locked("watchlists"):
                self._connection.delete(self._watchlists, f"expires_at <= {now}")
        self.refresh()
        return count

    def _has_collections(self) -> bool:
        if self._exists is None:
            self._exists = bool(self._connection.call("has_collection", self._judged))
        return self._exists

    @contextmanager
    def _locked(self, task: str) -> Iterator[Callable[[], None]]:
        with self._locks.request([f"task {task}"]) as lock:
            lock.acquire()
            yield lock.check_age

    def _forget_lost_examples(self, raised: Sequence[Alert]) -> None:
        """Remove from new alerts the examples that were erased since the watchlists were read."""
        if not any(alert.example for alert in raised):
            return
        stored = {each.uid: each for each in self.refresh().watchlists}
        lost = []
        for alert in raised:
            watchlist = stored.get(alert.watchlist_uid)
            kept = () if watchlist is None else watchlist.vectors
            if alert.example is not None and all(each.record != alert.example for each in kept):
                lost.append(alert.id)
        if lost:
            where = f"alert in {quoted_list(lost)}"
            self._rewrite(where, lambda alert: replace(alert, example=None, example_camera=None))

    def _find_same(self, match: Match, row: Row) -> list[str]:
        where = f"digest == {quoted(alert_digest(match.watchlist.uid, row.id))}"
        return [each["alert"] for each in self._connection.query(self._alerts, where, ["alert"])]

    def _is_cooling(self, match: Match, row: Row) -> bool:
        cooldown = round(match.watchlist.cooldown * 1e6)
        if not cooldown:
            return False
        moment = moment_of(row)
        where = (
            f"uid == {quoted(match.watchlist.uid)} and camera_id == {quoted(encode_camera(row.camera_id))} and "
            f"moment > {moment - cooldown} and moment < {moment + cooldown}"
        )
        found = [each for each in self._connection.query(self._alerts, where, ["alert", "record"])
                 if each["record"] != row.id]  # fmt: skip
        # Another replica may be about to write the record of a young alert.
        young = clock.now() - round(_ORPHAN_SECONDS * 1e6)
        if any(time_of_id(each["alert"]) > young for each in found):
            return True
        return bool(found) and bool(self._enrolled([each["record"] for each in found]))

    def _write_alert(self, match: Match, row: Row) -> Alert:
        now, rules, watchlist = clock.now(), self.rules, match.watchlist
        facts = None if match.probability is None else {**rules.calibration_facts, "prior": watchlist.prior}
        alert = Alert(
            id=alert_id(now, watchlist.uid, row.id),
            watchlist=watchlist.name,
            watchlist_uid=watchlist.uid,
            record=row.id,
            camera_id=row.camera_id,
            start_time=None if row.start_time is None else clock.to_datetime(row.start_time),
            end_time=None if row.end_time is None else clock.to_datetime(row.end_time),
            score=match.score,
            probability=match.probability,
            calibration=facts,
            example=match.example.record,
            example_camera=match.example.camera_id,
        )
        self._connection.upsert(self._alerts, [encode_alert(alert, moment_of(row))])
        self._write_deliveries(
            {"delivery": f"{name}/{alert.id}", "webhook": name, "alert": alert.id} | NEW_DELIVERY | {"due": now}
            for name in rules.webhooks_for(watchlist.name)
        )
        return alert

    def _write_deliveries(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if written := [{**{name: row[name] for name in DELIVERY}, "vector": [0.0, 0.0]} for row in rows]:
            self._connection.upsert(self._deliveries, written)

    def _write_watchlist(self, watchlist: Watchlist) -> None:
        self._connection.upsert(self._watchlists, [encode_watchlist(watchlist)])

    def _remove(self, ids: Sequence[str]) -> None:
        if ids:
            self._connection.delete(self._alerts, f"alert in {quoted_list(ids)}")
            self._connection.delete(self._deliveries, f"alert in {quoted_list(ids)}")
            self._connection.delete(self._judged, f"alert in {quoted_list(ids)}")

    def _rewrite(self, where: str, change: Callable[[Alert], Alert]) -> None:
        """Change the alerts that pass `where`."""
        if not self._has_collections() or not self._connection.query(self._alerts, where, ["alert"], 1):
            return
        with self._locked("alerts") as check_age:
            rows = self._connection.query(self._alerts, where, list(ALERT))
            changed = [encode_alert(change(decode_alert(row)), row["moment"]) for row in rows]
            check_age()
            if changed:
                self._connection.upsert(self._alerts, changed)

    def _feed_back(self, alert: Alert, verdict: VerdictKind | None, vector: WatchVector | None) -> None:
        """Make the record of an alert an example or a reject of its watchlist, if the verdict that counts says so."""
        with self._locked("watchlists") as check_age:
            found = next((each for each in self.refresh().watchlists if each.name == alert.watchlist), None)
            if found is None or found.uid != alert.watchlist_uid:
                return  # deleted, or it is about someone else now
            kept = [each for each in found.vectors if (each.record, each.source) != (alert.record, "verdict")]
            if vector is not None and verdict in {"same", "different"}:
                new = replace(vector, role="example" if verdict == "same" else "reject", source="verdict")
                of_role = [each for each in kept if each.role == new.role]
                if len(of_role) >= MAX_VECTORS:
                    oldest = next((each for each in of_role if each.source == "verdict"), None)
                    kept = [each for each in kept if each is not oldest]
                    vector = None if oldest is None else vector
                if vector is not None:
                    kept.append(new)
            check_age()
            self._write_watchlist(replace(found, vectors=tuple(kept)))
        self.refresh()

    def _by_ids(self, ids: Sequence[str]) -> list[Alert]:
        found = self._connection.query(self._alerts, f"alert in {quoted_list(ids)}", list(ALERT)) if ids else []
        return [decode_alert(row) for row in found]

    def _with_records(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Leave out the alerts whose record is not enrolled."""
        enrolled: set[str] = set()
        ids = list(dict.fromkeys(alert.record for alert in alerts))
        for start in range(0, len(ids), _IDS_PER_QUERY):
            enrolled |= self._enrolled(ids[start : start + _IDS_PER_QUERY])
        return [alert for alert in alerts if alert.record in enrolled]

    def _oldest_first(self, query: AlertQuery) -> Iterator[list[Alert]]:
        where, last, size = self._wanted(query), query.after or "", min(query.limit, MAX_ROWS)
        while True:
            rows = self._connection.query(self._alerts, f"{where} and alert > {quoted(last)}", list(ALERT), size)
            yield [decode_alert(row) for row in rows]
            if len(rows) < size:
                return
            last = rows[-1]["alert"]

    def _newest_first(self, query: AlertQuery) -> Iterator[list[Alert]]:
        """Yield pages by looking back in spans of time: Milvus returns the rows with the smallest keys only."""
        where = self._wanted(query)
        end = clock.now() if query.before is None else time_of_id(query.before)
        if query.before is not None:
            where += f" and alert < {quoted(query.before)}"
        last, span = f"{end + 1:016x}", _FIRST_SPAN
        while last > FIRST_CURSOR:
            first = f"{max(0, int(last[:16], 16) - span):016x}"
            page = f"{where} and alert >= {quoted(first)} and alert < {quoted(last)}"
            count = self._connection.count(self._alerts, page)
            if count > MAX_ROWS and span > 1:
                span //= 2
                continue
            rows = self._connection.query(self._alerts, page, list(ALERT), MAX_ROWS) if count else []
            yield [decode_alert(row) for row in reversed(rows)]
            last, span = first, span * 8

    def _wanted(self, query: AlertQuery) -> str:
        settled = f"{clock.now() - round(SETTLE_SECONDS * 1e6):016x}"
        parts = [f"alert < {quoted(settled)}"]
        if query.watchlists is not None:
            parts.append(f"watchlist in {quoted_list(query.watchlists)}")
        if query.cameras is not None:
            parts.append(f"camera_id in {quoted_list(map(encode_camera, query.cameras))}")
        return " and ".join(parts)

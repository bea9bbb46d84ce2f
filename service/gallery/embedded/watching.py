"""The part of the embedded gallery that knows watchlists and alerts; `alerts.py` has the statements."""

import logging
import sqlite3
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from typing_extensions import override

from service.gallery.embedded import alerts
from service.gallery.embedded.alerts import Watching
from service.gallery.embedded.database import Readers
from service.gallery.embedded.writer import Change, Work
from service.gallery.records import GalleryError
from service.gallery.watch.matching import Matcher
from service.gallery.watch.records import (
    ANY_VERSION,
    Alert,
    AlertQuery,
    AlertRules,
    AnyVersion,
    Delivery,
    OutboxCount,
    Watchlist,
)
from service.gallery.watch.store import AlertStore
from service.verdicts import VerdictKind

log = logging.getLogger("not3d.service")

T = TypeVar("T")


class EmbeddedAlerts(AlertStore):
    """The `AlertStore` in the gallery's own database: an alert is written in the transaction that enrols."""

    dimension: int
    _readers: Readers
    _watch: tuple[AlertRules, Matcher] | None = None
    """The rules, and the watchlists after the last commit. Replaced by the writer's leader only."""

    @abstractmethod
    def _change(self, work: Work[T]) -> T:
        """Do work in a transaction. The gallery, which has the writer, inherits this class."""

    @override
    def start_alerts(self, rules: AlertRules) -> None:
        def work(connection: sqlite3.Connection, change: Change) -> int:
            dropped = alerts.keep_deliveries(connection, rules.webhooks)
            change.other = True
            change.watching = Watching(rules, alerts.load_matcher(connection, rules, self.dimension), self.dimension)
            change.watching.changed = True
            return dropped

        if dropped := self._change(work):
            log.warning("deliveries dropped: their webhook is not configured", extra={"facts": {"deliveries": dropped}})

    @override
    def put_watchlist(self, watchlist: Watchlist, *, replaces: datetime | AnyVersion | None = ANY_VERSION) -> bool:
        def work(connection: sqlite3.Connection, change: Change) -> bool:
            is_new = alerts.put_watchlist(connection, _started(change), watchlist, replaces)
            change.other = True
            return is_new

        return self._change(work)

    @override
    def matcher(self) -> Matcher:
        if self._watch is None:
            raise GalleryError("alerts have not been started")
        return self._watch[1]

    @override
    def delete_watchlist(self, name: str) -> bool:
        def work(connection: sqlite3.Connection, change: Change) -> bool:
            existed = alerts.delete_watchlist(connection, _started(change), name)
            change.other |= existed
            return existed

        return self._change(work)

    @override
    def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        with self._readers.snapshot() as connection:
            return alerts.read_alerts(connection, query)

    @override
    def find_alert(self, id: str) -> Alert | None:
        with self._readers.snapshot() as connection:
            return alerts.find_alert(connection, id)

    @override
    def judge_alert(self, id: str, author: str, key: str, verdict: VerdictKind | None) -> Alert | None:
        def work(connection: sqlite3.Connection, change: Change) -> Alert | None:
            alert = alerts.judge(connection, _started(change), id, author, key, verdict)
            change.other |= alert is not None
            return alert

        return self._change(work)

    @override
    def claim_deliveries(self, webhook: str, limit: int, lease: float) -> Sequence[Delivery]:
        with self._readers.snapshot() as connection:
            if not alerts.is_due(connection, webhook):
                return []

        def work(connection: sqlite3.Connection, change: Change) -> Sequence[Delivery]:
            claimed = alerts.claim(connection, webhook, limit, lease)
            change.other |= bool(claimed)
            return claimed

        return self._change(work)

    @override
    def settle_delivery(self, delivery: Delivery, *, delivered: bool, again_at: datetime | None = None) -> None:
        def work(connection: sqlite3.Connection, change: Change) -> None:
            alerts.settle(connection, delivery, delivered=delivered, again_at=again_at)
            change.other = True

        self._change(work)

    @override
    def count_deliveries(self) -> Mapping[str, OutboxCount]:
        with self._readers.snapshot() as connection:
            return alerts.count_deliveries(connection)

    @override
    def prune_alerts(self, before: datetime) -> int:
        with self._readers.snapshot() as connection:
            if not alerts.has_old(connection, before):
                return 0

        def work(connection: sqlite3.Connection, change: Change) -> int:
            change.other = True
            return alerts.prune(connection, _started(change), before)

        return self._change(work)

    def _new_watching(self) -> Watching | None:
        """Return what the next transaction compares with."""
        return None if self._watch is None else Watching(*self._watch, self.dimension)

    def _finish_watching(self, watching: Watching | None) -> None:
        """Take over what a committed transaction changed, and tell of its alerts."""
        if watching is None:
            return
        if watching.changed:
            self._watch = watching.rules, watching.matcher
        if watching.raised:
            watching.rules.on_alerts(watching.raised)
        for name in watching.suppressed:
            watching.rules.on_suppressed(name)


def _started(change: Change) -> Watching:
    if change.watching is None:
        raise GalleryError("alerts have not been started")
    return change.watching

"""The `AlertStore` protocol: what every gallery engine knows of watchlists, alerts and their deliveries."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

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
from service.verdicts import VerdictKind


class AlertStore(Protocol):
    """Watchlists and alerts of a gallery. The methods are synchronous, durable, and raise the errors of `Gallery`.

    After `start_alerts`, each enrolled or replaced tracklet is compared with all watchlists, and an alert is durable
    when its `enrol` returns. A tracklet raises at most one alert of a watchlist, also if it is replaced; alerts of
    removed tracklets are removed. Without `start_alerts`, as in an import, nothing is compared.
    """

    def start_alerts(self, rules: AlertRules) -> None:
        """Compare tracklets from now on."""
        ...

    def put_watchlist(self, watchlist: Watchlist, *, replaces: datetime | AnyVersion | None = ANY_VERSION) -> bool:
        """Add a watchlist, or replace the one with its name; return whether it is new.

        If the one with its name has the same `uid`, the stored vectors stay.

        Args:
            watchlist: what to store.
            replaces: the `updated_at` that the one with its name must have, or `None` if there must be none.

        Raises:
            WatchlistChanged: what is stored is not what `replaces` says. Nothing is changed.
            TooManyWatched: there would be more watchlists or examples than can be compared.
        """
        ...

    def matcher(self) -> Matcher:
        """Return the watchlists as they are compared."""
        ...

    def delete_watchlist(self, name: str) -> bool:
        """Remove a watchlist with its vectors; its alerts stay. Return whether it existed."""
        ...

    def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        """Return alerts, as `AlertQuery` says."""
        ...

    def find_alert(self, id: str) -> Alert | None:
        """Return an alert, or `None`."""
        ...

    def judge_alert(self, id: str, author: str, key: str, verdict: VerdictKind | None) -> Alert | None:
        """Set or (`None`) remove the verdict that an author gave with a key; return the alert, or `None`.

        If `same` counts now, the tracklet becomes an example of the watchlist; if `different` counts, a reject; in
        every other case it is neither.
        """
        ...

    def claim_deliveries(self, webhook: str, limit: int, lease: float) -> Sequence[Delivery]:
        """Return at most `limit` deliveries that are due, and keep others from claiming them for `lease` seconds."""
        ...

    def settle_delivery(self, delivery: Delivery, *, delivered: bool, again_at: datetime | None = None) -> None:
        """Remove a delivery, or try it again at a time, or (`None`) give it up."""
        ...

    def count_deliveries(self) -> Mapping[str, OutboxCount]:
        """Return the deliveries of each webhook."""
        ...

    def prune_alerts(self, before: datetime) -> int:
        """Remove alerts that are older, and watchlists whose time is over; return how many alerts were removed."""
        ...

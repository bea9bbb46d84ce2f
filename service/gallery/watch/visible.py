"""What one caller sees of watchlists and alerts: all, or only what concerns some cameras."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.callers import Caller
from service.gallery.async_gallery import AsyncGallery
from service.gallery.records import Filter
from service.gallery.watch.matching import Matcher
from service.gallery.watch.records import Alert, AlertQuery, Watchlist
from service.verdicts import VerdictKind


@dataclass(frozen=True)
class WatchlistView:
    """A watchlist as a caller sees it.

    Attributes:
        watchlist: with those of its vectors and of its filter's cameras that the caller may know of.
        threshold: the least score that raises an alert; `None` if none does.
        fault: why it raises no alert, or `None`.
    """

    watchlist: Watchlist
    threshold: float | None
    fault: str | None


class VisibleAlerts:
    """Watchlists and alerts as one caller sees them.

    For a caller who is limited to cameras, alerts of other cameras do not exist, and neither do watchlists that can
    raise none on their cameras, nor examples of other cameras. Ids of alerts count nothing, so they give nothing away.
    """

    def __init__(self, gallery: AsyncGallery, caller: Caller) -> None:
        self._gallery, self._caller = gallery, caller

    async def watchlists(self) -> list[WatchlistView]:
        """Return the watchlists, by name."""
        matcher = await self._gallery.matcher()
        views = [self._view(matcher, each) for each in matcher.watchlists]
        return [view for view in views if view is not None]

    async def find_watchlist(self, name: str) -> WatchlistView | None:
        """Return a watchlist, or `None`."""
        matcher = await self._gallery.matcher()
        found = next((each for each in matcher.watchlists if each.name == name), None)
        return None if found is None else self._view(matcher, found)

    async def alerts(self, query: AlertQuery) -> list[Alert]:
        """Return alerts, as `AlertStore.alerts`."""
        if self._caller.cameras is not None:
            query = replace(query, cameras=tuple(sorted(self._caller.cameras)))
        return [each.seen_by(self._caller.sees) for each in await self._gallery.alerts(query)]

    async def follow(self, after: str, watchlists: tuple[str, ...] | None, limit: int) -> tuple[list[Alert], str, bool]:
        """Return the next alerts that the caller wants and sees, where to go on, and whether there may be more.

        Unlike `alerts`, this does not pass over the same alerts of others again and again.
        """
        found = await self._gallery.next_alerts(AlertQuery(limit, after=after))
        mine = [visible for each in found if (visible := self._visible(each))]
        wanted = [each for each in mine if watchlists is None or each.watchlist in watchlists]
        return wanted, found[-1].id if found else after, len(found) == limit

    async def find_alert(self, id: str) -> Alert | None:
        """Return an alert, or `None`."""
        return self._visible(await self._gallery.find_alert(id))

    async def judge(self, id: str, author: str, verdict: VerdictKind | None) -> Alert | None:
        """Set or remove the verdict of an author, as `AlertStore.judge_alert`."""
        if await self.find_alert(id) is None:
            return None
        return self._visible(await self._gallery.judge_alert(id, author, self._caller.name, verdict))

    def _visible(self, alert: Alert | None) -> Alert | None:
        if alert is None or not self._caller.sees(alert.camera_id):
            return None
        return alert.seen_by(self._caller.sees)

    def _view(self, matcher: Matcher, watchlist: Watchlist) -> WatchlistView | None:
        threshold, fault = matcher.threshold_of(watchlist), matcher.faults.get(watchlist.name)
        if self._caller.cameras is None:
            return WatchlistView(watchlist, threshold, fault)
        cameras = _cameras_of(watchlist.filter, self._caller.cameras)
        if not cameras:
            return None
        seen = tuple(each for each in watchlist.vectors if each.camera_id and self._caller.sees(each.camera_id))
        shown = replace(watchlist.filter, camera_ids=tuple(sorted(cameras)), exclude_camera_ids=())
        limited = replace(watchlist, vectors=seen, filter=shown)
        # Threshold and fault depend on the number of examples of all cameras.
        return WatchlistView(limited, watchlist.min_score, None if fault is None else "it raises no alert now")


def _cameras_of(filter: Filter, cameras: frozenset[str]) -> frozenset[str]:
    allowed = cameras if filter.camera_ids is None else cameras.intersection(filter.camera_ids)
    return allowed - frozenset(filter.exclude_camera_ids)


def newest_id(alerts: Sequence[Alert]) -> str | None:
    """Return the id of the newest of some alerts."""
    return max((alert.id for alert in alerts), default=None)

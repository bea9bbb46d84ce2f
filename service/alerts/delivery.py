"""Deliver alerts to webhooks from the outbox in the gallery, until each is delivered or given up."""

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from service.alerts.feed import AlertFeed
from service.alerts.sender import ATTEMPT_SECONDS, Outcome, Sender
from service.gallery.async_gallery import AsyncGallery
from service.gallery.records import GalleryError
from service.gallery.watch.records import Delivery
from service.telemetry.metrics import Metrics

FIRST_DELAY: Final = 5.0
MAX_DELAY: Final = 3 * 3600.0
"""Seconds after which an attempt is repeated. They double with each one, up to `MAX_DELAY`."""
POLL_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 1.0
AT_ONCE: Final = 4
"""Attempts of one webhook at the same time."""
BATCH: Final = 16
LEASE_SECONDS: Final = BATCH / AT_ONCE * ATTEMPT_SECONDS + 30.0
"""For so long a claimed delivery belongs to this process. After a crash it is tried again then."""

log = logging.getLogger("not3d.service")


class Dispatcher:
    """Delivers to each webhook in a task of its own, so that a slow target delays no other one."""

    def __init__(
        self, senders: Sequence[Sender], gallery: AsyncGallery, feed: AlertFeed, metrics: Metrics, tries: int
    ) -> None:
        """`tries`: attempts after which a delivery is given up."""
        self._senders, self._gallery, self._feed = senders, gallery, feed
        self._metrics, self._tries = metrics, tries
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start to deliver."""
        for sender in self._senders:
            for outcome in ("delivered", "failed", "dead"):
                self._metrics.deliveries.labels(sender.webhook.name, outcome)
            self._tasks.append(asyncio.create_task(self._run(sender)))

    async def close(self) -> None:
        """Stop, with a moment for attempts that were begun; the others are made again after the next start."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS if self._feed.closed else 0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self._senders:
            await sender.close()

    async def _run(self, sender: Sender) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def deliver(delivery: Delivery) -> None:
            async with gate:
                await self._deliver(sender, delivery)

        while True:
            version = self._feed.version
            try:
                claimed = await self._gallery.claim_deliveries(sender.webhook.name, BATCH, LEASE_SECONDS)
                await asyncio.gather(*map(deliver, claimed))
            except GalleryError as error:
                log.warning("webhook deliveries not read", extra={"facts": {"reason": str(error)}})
                claimed = []
            except Exception:  # any: a bug must not end all later deliveries of this webhook
                log.exception("unexpected error while alerts were delivered")
                claimed = []
            if not claimed:
                await self._feed.wait(version, POLL_SECONDS)
            if self._feed.closed:
                return

    async def _deliver(self, sender: Sender, delivery: Delivery) -> None:
        try:
            outcome = await sender.send(delivery)
        except asyncio.CancelledError:  # it is unknown whether it arrived, so it is sent again after the next start
            await self._gallery.settle_delivery(delivery, delivered=False, again_at=datetime.now(UTC))
            raise
        except Exception as error:  # any: a delivery that is never counted would be tried for ever
            log.exception("unexpected error while an alert was delivered")
            outcome = Outcome(f"unexpected error: {type(error).__name__}: {error}")
        name, tries = sender.webhook.name, delivery.tries + 1
        facts = {"webhook": name, "alert": delivery.alert.id, "tries": tries, "reason": outcome.reason}
        if not outcome.reason:
            await self._gallery.settle_delivery(delivery, delivered=True)
            self._metrics.deliveries.labels(name, "delivered").inc()
            return
        if outcome.gone or tries >= self._tries:
            log.error("webhook delivery given up", extra={"facts": facts})
            await self._gallery.settle_delivery(delivery, delivered=False)
            self._metrics.deliveries.labels(name, "dead").inc()
        else:
            delay = max(next_delay(delivery.tries), outcome.retry_after or 0.0)
            log.warning("webhook delivery failed", extra={"facts": facts | {"again_in": round(delay, 1)}})
            again_at = datetime.now(UTC) + timedelta(seconds=delay)
            await self._gallery.settle_delivery(delivery, delivered=False, again_at=again_at)
        self._metrics.deliveries.labels(name, "failed").inc()


def next_delay(tries: int) -> float:
    """Return the seconds to wait after a failed attempt before which `tries` others failed, with jitter."""
    longest: float = min(MAX_DELAY, FIRST_DELAY * 2 ** min(tries, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - it spreads load

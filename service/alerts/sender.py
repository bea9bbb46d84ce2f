"""One attempt to deliver an alert: which addresses are connected to, how long it may take, and what an answer means."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final

import httpx
import orjson

from service.alerts.webhooks import Address, AllowedHosts, Webhook
from service.gallery.watch.records import AlertRules, Delivery, describe

CONNECT_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 15.0
"""Maximum time of an attempt, from looking up the name to the status of the answer."""
MAX_RETRY_AFTER: Final = 24 * 3600.0
_GONE: Final = 410


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt. `reason` is "" if the alert was delivered.

    Attributes:
        reason: why it failed.
        retry_after: seconds that the target asks to wait.
        gone: whether the target asks never to be called again.
    """

    reason: str = ""
    retry_after: float | None = None
    gone: bool = False


class Sender:
    """Delivers to one webhook, with a client and a thread for names of its own: nothing is shared with others."""

    def __init__(self, webhook: Webhook, hosts: AllowedHosts, rules: AlertRules) -> None:
        self.webhook = webhook
        self._hosts, self._rules = hosts, rules
        self._url = httpx.URL(webhook.url)
        self._resolver = ThreadPoolExecutor(1, thread_name_prefix="webhook")
        self._client = httpx.AsyncClient(
            trust_env=False,  # a proxy would choose the address
            follow_redirects=False,
            timeout=httpx.Timeout(ATTEMPT_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def send(self, delivery: Delivery) -> Outcome:
        """Try once to deliver an alert."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._send(delivery)
        except TimeoutError:
            return Outcome(f"no answer within {ATTEMPT_SECONDS:g} s")

    async def close(self) -> None:
        """Close the client."""
        self._resolver.shutdown(wait=False)
        await self._client.aclose()

    async def _send(self, delivery: Delivery) -> Outcome:
        alert = delivery.alert
        data = describe(alert, self._rules.decide(alert))
        body = orjson.dumps({"type": "alert", "timestamp": data["time"], "data": data})
        timestamp = int(time.time())
        headers = {
            "Host": self._url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": "not3d",
            "webhook-id": alert.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self.webhook.sign(alert.id, timestamp, body),
        }
        try:
            addresses = await self._resolve()
        except (OSError, UnicodeError) as error:  # a name with a label of more than 63 bytes cannot be encoded
            reason = getattr(error, "strerror", None) or error
            return Outcome(f"the name {self._url.host} cannot be resolved: {reason}")
        allowed = [address for address in addresses if self._hosts.may_connect(address)]
        if not allowed:
            found = ", ".join(map(str, addresses[:3]))
            cure = "name its network in NOT3D_WEBHOOK_HOSTS"
            return Outcome(f"{self._url.host} has the address {found}, which is not public: {cure}")
        if self._url.scheme == "http":
            allowed = [address for address in allowed if self._hosts.is_named(address)]
            if not allowed:
                return Outcome("http is allowed in networks of NOT3D_WEBHOOK_HOSTS only: use https")
        reason = ""
        for address in allowed:  # the checked addresses, so a second look-up cannot lead elsewhere
            url = self._url.copy_with(host=str(address))
            extensions = {"sni_hostname": self._url.host}
            try:
                async with self._client.stream(
                    "POST", url, content=body, headers=headers, extensions=extensions
                ) as answer:
                    return _read(answer)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = f"{address} cannot be connected to: {error or type(error).__name__}"
            except httpx.HTTPError as error:
                return Outcome(f"{type(error).__name__}: {error}")
        return Outcome(reason)

    async def _resolve(self) -> list[Address]:
        def look_up() -> list[Address]:
            found = socket.getaddrinfo(self._url.host, self._url.port or 443, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(ip_address(str(each[4][0]).partition("%")[0]) for each in found))

        return await asyncio.get_running_loop().run_in_executor(self._resolver, look_up)


def _read(answer: httpx.Response) -> Outcome:
    if answer.is_success:
        return Outcome()
    if answer.is_redirect:
        return Outcome(f"the target redirects ({answer.status_code}), which is not followed: name the new URL")
    if answer.status_code == _GONE:
        return Outcome("the target does not exist any more (410)", gone=True)
    return Outcome(f"the target answered {answer.status_code}", _retry_after(answer.headers.get("retry-after")))


def _retry_after(text: str | None) -> float | None:
    """Return the seconds that a target asks to wait, at most `MAX_RETRY_AFTER`; `None` if it names no time."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text).astimezone(UTC)
        except (TypeError, ValueError, OverflowError):  # the last: a time or a year that no datetime can have
            return None
        seconds = (at - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None  # noqa: PLR0124 - not NaN

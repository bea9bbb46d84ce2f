"""Webhooks: the file, the allowed hosts, the signatures, and deliveries to real servers."""

import base64
import json
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as StandardWebhook

from service.alerts import delivery, sender
from service.alerts.delivery import MAX_DELAY, next_delay
from service.alerts.sender import Outcome
from service.alerts.webhooks import AllowedHosts, WebhookError, load_webhooks, sign
from service.gallery.watch.records import Delivery
from tests.service.alerts.receiver import Receiver, receiving
from tests.service.live import Live, run_service, wait_for
from tests.service.watching import alerts_of, enrol, near, watch

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LOCAL = "localhost,127.0.0.0/8,::1"


def write(folder: Path, *webhooks: dict[str, Any]) -> Path:
    path = folder / "webhooks.json"
    path.write_text(json.dumps({"webhooks": [{"secret": SECRET, **webhook} for webhook in webhooks]}))
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.05)


def counted(live: Live, webhook: str, outcome: str) -> float:
    return live.lifecycle.metrics.deliveries.labels(webhook, outcome)._value.get()


def test_an_alert_is_delivered_with_a_standard_signature(bundle: Path, tmp_path: Path) -> None:
    with receiving(Receiver()) as target:
        path = write(tmp_path, {"name": "ops", "url": target.url, "watchlists": ["w"]})
        with run_service(bundle, tmp_path / "data", webhooks=path, webhook_hosts=LOCAL) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            watch(live, "other", embeddings=[near(1, 1.0)])
            enrol(live, "b", near(1, 0.9))
            enrol(live, "a", near(0, 0.9))
            wait_for(lambda: counted(live, "ops", "delivered") == 1)
            (alert,) = alerts_of(live, "w")
            text = live.client.get("/metrics").text
            assert 'not3d_alerts_total{watchlist="w"} 1.0' in text
    ((headers, body),) = target.requests
    sent = StandardWebhook(SECRET).verify(body, headers)
    assert sent == {"type": "alert", "timestamp": alert["time"], "data": alert}
    assert headers["webhook-id"] == alert["id"]
    with pytest.raises(Exception, match="signature"):
        StandardWebhook(SECRET).verify(body + b" ", headers)


def test_a_signature_is_that_of_the_standards_own_library() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    expected = StandardWebhook(SECRET).sign("msg", at, "body")
    assert sign(base64.b64decode(SECRET[6:]), "msg", int(at.timestamp()), b"body") == expected


def test_while_a_secret_is_changed_both_are_good(bundle: Path, tmp_path: Path) -> None:
    new = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
    with receiving(Receiver()) as target:
        path = write(tmp_path, {"name": "ops", "url": target.url, "secret": new, "former_secret": SECRET})
        with run_service(bundle, tmp_path / "data", webhooks=path, webhook_hosts=LOCAL) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            enrol(live, "a", near(0, 0.9))
            wait_for(lambda: counted(live, "ops", "delivered") == 1)
    ((headers, body),) = target.requests
    for secret in (new, SECRET):
        assert StandardWebhook(secret).verify(body, headers)["type"] == "alert"
    with pytest.raises(Exception, match="signature"):
        StandardWebhook(f"whsec_{base64.b64encode(bytes(32)).decode()}").verify(body, headers)


def test_a_target_that_was_down_gets_every_alert_once_it_is_back(bundle: Path, tmp_path: Path) -> None:
    target = Receiver(answer=lambda count: (503, {}) if count < 4 else (200, {}))
    with receiving(target):
        pass  # now nothing listens on its port
    path = write(tmp_path, {"name": "ops", "url": target.url})
    with run_service(bundle, tmp_path / "data", webhooks=path, webhook_hosts=LOCAL) as live:
        watch(live, "w", embeddings=[near(0, 1.0)])
        for number in range(5):
            enrol(live, f"a{number}", near(0, 0.9))
        wait_for(lambda: counted(live, "ops", "failed") >= 5)
        assert live.client.get("/readyz").status_code == 200
        with receiving(target):
            wait_for(lambda: counted(live, "ops", "delivered") == 5)
        assert set(target.ids) == {alert["id"] for alert in alerts_of(live, "w")}


def test_deliveries_go_on_after_a_restart(bundle: Path, tmp_path: Path) -> None:
    target = Receiver()
    with receiving(target):
        pass
    path = write(tmp_path, {"name": "ops", "url": target.url})
    settings: dict[str, Any] = {"webhooks": path, "webhook_hosts": LOCAL}
    with run_service(bundle, tmp_path / "data", **settings) as live:
        watch(live, "w", embeddings=[near(0, 1.0)])
        enrol(live, "a", near(0, 0.9))
        wait_for(lambda: counted(live, "ops", "failed") >= 1)
    with receiving(target), run_service(bundle, tmp_path / "data", **settings) as live:
        wait_for(lambda: counted(live, "ops", "delivered") == 1)
        assert target.ids == [alert["id"] for alert in alerts_of(live, "w")]


def test_a_slow_target_delays_no_other_one(bundle: Path, tmp_path: Path) -> None:
    with receiving(Receiver(delay=30.0)) as slow, receiving(Receiver()) as fast:
        path = write(tmp_path, {"name": "slow", "url": slow.url}, {"name": "fast", "url": fast.url})
        with run_service(bundle, tmp_path / "data", webhooks=path, webhook_hosts=LOCAL) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            for number in range(10):
                enrol(live, f"a{number}", near(0, 0.9))
            wait_for(lambda: counted(live, "fast", "delivered") == 10)
            assert counted(live, "slow", "delivered") == 0


def test_a_delivery_is_given_up_after_its_tries(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        receiving(Receiver(answer=lambda _: (500, {}))) as failing,
        receiving(Receiver(answer=lambda _: (410, {}))) as gone,
        receiving(Receiver(answer=lambda _: (302, {"Location": "http://127.0.0.1:1/"}))) as moved,
    ):
        path = write(
            tmp_path,
            {"name": "failing", "url": failing.url},
            {"name": "gone", "url": gone.url},
            {"name": "moved", "url": moved.url},
        )
        settings: dict[str, Any] = {"webhooks": path, "webhook_hosts": LOCAL, "webhook_tries": 3}
        with run_service(bundle, tmp_path / "data", **settings) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            enrol(live, "a", near(0, 0.9))
            for name in ("failing", "gone", "moved"):
                wait_for(lambda name=name: counted(live, name, "dead") == 1)
            text = live.client.get("/metrics").text
            assert 'not3d_webhook_outbox{state="dead",webhook="failing"} 1.0' in text
            assert 'not3d_webhook_outbox{state="waiting",webhook="failing"} 0.0' in text
        assert (len(failing.requests), len(gone.requests), len(moved.requests)) == (3, 1, 3)
    assert "webhook delivery given up" in caplog.text


def test_an_attempt_that_ends_with_an_unexpected_error_counts(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    async def fail(_: sender.Sender, attempt: Delivery) -> Outcome:
        attempts.append(attempt.alert.id)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(sender.Sender, "_send", fail)
    path = write(tmp_path, {"name": "ops", "url": "http://127.0.0.1:9/"})
    settings: dict[str, Any] = {"webhooks": path, "webhook_hosts": LOCAL, "webhook_tries": 2}
    with run_service(bundle, tmp_path / "data", **settings) as live:
        watch(live, "w", embeddings=[near(0, 1.0)])
        for name in "abc":
            enrol(live, name, near(0, 0.9))
        wait_for(lambda: counted(live, "ops", "dead") == 3)
        assert counted(live, "ops", "failed") == 6
    assert len(attempts) == 6
    reasons = {str(entry.facts["reason"]) for entry in caplog.records if hasattr(entry, "facts")}
    assert reasons == {"unexpected error: ZeroDivisionError: a bug"}


def test_retry_after_counts(bundle: Path, tmp_path: Path) -> None:
    target = Receiver(answer=lambda count: (429, {"Retry-After": "1"}) if count == 1 else (200, {}))
    with receiving(target):
        path = write(tmp_path, {"name": "ops", "url": target.url})
        with run_service(bundle, tmp_path / "data", webhooks=path, webhook_hosts=LOCAL) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            enrol(live, "a", near(0, 0.9))
            wait_for(lambda: counted(live, "ops", "delivered") == 1)
    first, second = target.times
    assert second - first > 0.8


def test_an_address_that_is_not_named_is_not_connected_to(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(Receiver()) as target:
        path = write(tmp_path, {"name": "ops", "url": target.url})
        # The name is allowed, and what it resolves to is not.
        settings: dict[str, Any] = {"webhooks": path, "webhook_hosts": "localhost", "webhook_tries": 1}
        with run_service(bundle, tmp_path / "data", **settings) as live:
            watch(live, "w", embeddings=[near(0, 1.0)])
            enrol(live, "a", near(0, 0.9))
            wait_for(lambda: counted(live, "ops", "dead") == 1)
        assert target.requests == []
    reasons = [str(getattr(entry, "facts", {}).get("reason")) for entry in caplog.records]
    assert any("not public" in reason for reason in reasons)


def test_the_service_does_not_start_with_a_host_that_is_not_allowed(bundle: Path, tmp_path: Path) -> None:
    path = write(tmp_path, {"name": "ops", "url": "https://hooks.example.org/x"})
    with run_service(bundle, tmp_path / "data", wait_until_ready=False, webhooks=path) as live:
        wait_for(lambda: live.lifecycle.reason)
        assert "NOT3D_WEBHOOK_HOSTS" in str(live.lifecycle.reason)


@pytest.mark.parametrize(
    ("webhook", "reason"),
    [
        ({"name": "a", "url": "ftp://hooks.example.org/"}, "must be https://"),
        ({"name": "a", "url": "https://user:hunter2@hooks.example.org/"}, "without user"),
        ({"name": "a", "url": "https://hooks.example.org/", "secret": "short"}, "openssl rand"),
        ({"name": "a", "url": "https://hooks.example.org/", "former_secret": "short"}, r"former_secret.*openssl rand"),
        ({"name": "a b", "url": "https://hooks.example.org/"}, "name"),
        ({"name": "a", "url": "https://hooks.example.org/", "extra": 1}, "extra"),
        ({"name": "a", "url": "https://other.example.org/"}, "not allowed"),
    ],
)
def test_a_file_of_webhooks_that_is_wrong_says_where(tmp_path: Path, webhook: dict[str, Any], reason: str) -> None:
    hosts = AllowedHosts.parse("hooks.example.org")
    with pytest.raises(WebhookError, match=reason) as caught:
        load_webhooks(write(tmp_path, webhook), hosts)
    assert "hunter2" not in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.5", True),  # named
        ("::ffff:10.0.0.5", True),
        ("10.1.0.5", False),
        ("::ffff:10.1.0.5", False),
        ("64:ff9b::a01:5", False),  # 10.1.0.5 behind NAT64
        ("2002:a01:5::1", False),  # 10.1.0.5 by 6to4
        ("127.0.0.1", False),
        ("::1", False),
        ("169.254.169.254", False),  # the metadata of a cloud
        ("fe80::1", False),
        ("fd00::1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
    ],
)
def test_only_public_and_named_addresses_are_connected_to(address: str, allowed: bool) -> None:
    hosts = AllowedHosts.parse("hooks.example.org, 10.0.0.0/24")
    assert hosts.may_connect(ip_address(address)) == allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.example.org", True),
        ("HOOKS.example.org.", True),
        ("a.example.net", True),
        ("example.net", False),
        ("evil-hooks.example.org", False),
        ("hooks.example.org.evil.net", False),
        ("10.0.0.9", True),
        ("10.1.0.9", False),
    ],
)
def test_hosts_are_allowed_by_name(host: str, allowed: bool) -> None:
    assert AllowedHosts.parse("hooks.example.org,*.example.net,10.0.0.0/24").has_name(host) == allowed


def test_delays_double_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_DELAY", 5.0)
    for tries in range(60):
        longest = min(MAX_DELAY, 5.0 * 2**tries)
        assert all(longest / 2 <= next_delay(tries) <= longest for _ in range(20))
    assert len({next_delay(3) for _ in range(10)}) > 1

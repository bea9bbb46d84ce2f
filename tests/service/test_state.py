"""What the service does by itself, and what it answers while its gallery is away."""

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.gallery import GalleryError, GalleryUnavailable
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.live import Live, run_service, wait_for
from tests.service.problem import check_problem

EMBEDDING = [1.0] * 32


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def put(live: Live, name: str, expires_at: str | None = None) -> None:
    body = {"embedding": EMBEDDING} | ({"expires_at": expires_at} if expires_at else {})
    assert live.client.put(f"/gallery/{name}", json=body).status_code == 201


def removed(live: Live) -> list[tuple[str, str, int]]:
    entries = live.client.get("/audit").json()["entries"]
    return [(entry["action"], entry["by"], entry["erased"]) for entry in entries]


def test_what_has_expired_is_erased_by_itself(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "not3d.service")
    with run_service(bundle, tmp_path, sweep_seconds=0.05) as live:
        put(live, "ever")
        put(live, "soon", in_seconds(0.4))
        assert live.client.get("/gallery/soon").status_code == 200
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])
        assert live.client.get("/gallery/soon").status_code == 404
        assert live.client.get("/info").json()["gallery"]["records"] == 1
        wait_for(lambda: "not3d_expired_records_total 1.0" in live.client.get("/metrics").text)
    assert "erased expired records" in caplog.text


def test_what_expired_while_the_service_was_down_is_erased_at_its_start(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        put(live, "soon", in_seconds(0.3))
    time.sleep(0.4)
    with run_service(bundle, tmp_path) as live:
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])


def test_the_sweep_survives_what_goes_wrong(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expire, calls = EmbeddedGallery.expire, 0

    def failing(gallery: EmbeddedGallery) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise GalleryUnavailable("the gallery is away")
        if calls == 2:
            raise ZeroDivisionError("of all things")
        return expire(gallery)

    monkeypatch.setattr(EmbeddedGallery, "expire", failing)
    with run_service(bundle, tmp_path, sweep_seconds=0.05) as live:
        put(live, "soon", in_seconds(0.2))
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])
    assert "the gallery is away" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_gallery_that_is_away(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 that says when to come back, and everything as before once it is there again."""
    put(live, "a")

    def away(*_arguments: object, **_more: object) -> None:
        raise GalleryUnavailable("the cluster does not answer")

    with monkeypatch.context() as patch:
        for name in ("get", "add", "put", "search", "list", "delete", "erase", "thumbnail", "audit", "count"):
            patch.setattr(EmbeddedGallery, name, away)
        for method, path, body in (
            ("GET", "/gallery/a", None),
            ("GET", "/gallery", None),
            ("GET", "/gallery/a/thumbnail", None),
            ("GET", "/audit", None),
            ("GET", "/info", None),
            ("DELETE", "/gallery/a", None),
            ("PUT", "/gallery/a", {"embedding": EMBEDDING}),
            ("POST", "/search", {"embedding": EMBEDDING}),
            ("POST", "/gallery/erase", {"filter": {"camera_ids": ["c"]}}),
        ):
            answer = live.client.request(method, path, json=body)
            document = check_problem(answer, 503, "gallery-unavailable")
            assert document["detail"] == "the cluster does not answer"
            assert answer.headers["retry-after"] == "2"
        assert "not3d_gallery_records" in live.client.get("/metrics").text
        assert live.client.get("/livez").status_code == 200
    assert live.client.get("/gallery/a").status_code == 200


def test_a_gallery_that_fails_for_longer(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with its reason, and in the log; without a time to come back, since nobody knows one."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise GalleryError("the disk is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedGallery, "put", refuse)
        answer = live.client.put("/gallery/a", json={"embedding": EMBEDDING})
        assert check_problem(answer, 503, "gallery-unavailable")["detail"] == "the disk is read-only"
        assert "retry-after" not in answer.headers
    assert "the gallery failed: the disk is read-only" in caplog.text
    assert live.client.get("/livez").status_code == live.client.get("/readyz").status_code == 200
    put(live, "a")


def test_a_gallery_that_is_broken(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said to be alive or ready that can only be started anew."""
    ended = []
    state = live.app.state.service
    state.on_failure = lambda: ended.append(state.broken)

    def no_memory(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("service.gallery.embedded.gallery.Entry", no_memory)
        put(live, "a")  # it is on the disk
    for path in ("/livez", "/readyz", "/info", "/gallery/a"):
        answer = live.client.get(path)
        assert "restart the service" in check_problem(answer, 503, "gallery-unavailable")["detail"]
        assert "retry-after" not in answer.headers
    assert "not3d_gallery_records" in live.client.get("/metrics").text
    assert ended == [state.broken]

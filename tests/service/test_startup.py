import json
import shutil
import threading
from pathlib import Path

import pytest

from model.bundle import Bundle
from model.engines import Engine, EngineError
from model.engines.self_test import SelfTest, run_self_test
from service import startup
from tests.bundles import make_bundle
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem


def failed(live: Live) -> str:
    """Wait until the service has given up; why."""
    wait_for(lambda: live.app.state.service.startup.error)
    document = check_problem(live.client.get("/readyz"), 503, "not-ready")
    check_problem(live.client.post("/embed", files=form(tracklet(1, 1))), 503, "not-ready")
    assert live.client.get("/livez").status_code == 200
    detail: str = document["detail"]
    return detail


def test_not_ready_until_the_self_test_has_passed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_pass = threading.Event()

    def held(engine: Engine, bundle: Bundle) -> SelfTest:
        assert may_pass.wait(20)
        return run_self_test(engine, bundle)

    monkeypatch.setattr(startup, "run_self_test", held)
    with run_service(bundle, tmp_path, wait_until_ready=False) as live:
        wait_for(lambda: live.app.state.service.startup.pending == ["self_test"])
        answer = live.client.get("/readyz")
        document = check_problem(answer, 503, "not-ready")
        assert document["pending"] == ["self_test"]
        assert answer.headers["retry-after"] == "2"
        for method, path in (("POST", "/embed"), ("POST", "/search"), ("GET", "/gallery"), ("GET", "/info")):
            check_problem(live.client.request(method, path), 503, "not-ready")
        assert live.client.get("/livez").status_code == 200
        assert "not3d_ready 0.0" in live.client.get("/metrics").text
        may_pass.set()
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.post("/embed", files=form(tracklet(1, 1))).status_code == 201


def test_a_failed_self_test(bundle: Path, tmp_path: Path) -> None:
    """Golden vectors of another network: what this machine computes is not what the model was measured with."""
    other = make_bundle(tmp_path / "other", seed=1)
    wrong = Path(shutil.copytree(bundle, tmp_path / "wrong"))
    shutil.copy(other / "golden.npz", wrong / "golden.npz")
    with run_service(wrong, tmp_path / "data", wait_until_ready=False) as live:
        assert "self-test" in failed(live)


def test_a_damaged_bundle(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "model.json").write_text(json.dumps({"format": 1}))
    with run_service(damaged, tmp_path / "data", wait_until_ready=False) as live:
        assert "model.json" in failed(live)
    assert not (tmp_path / "data").exists()


def test_a_gallery_of_another_embedding_space(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        live.client.post("/embed", files=form(tracklet(1, 1)), data={"id": "kept"})
    other = make_bundle(tmp_path / "other", seed=1)
    with run_service(other, tmp_path / "data", wait_until_ready=False) as live:
        assert "embedding" in failed(live)
    with run_service(bundle, tmp_path / "data") as live:
        assert live.client.get("/gallery/kept").status_code == 200


def test_a_gallery_that_is_open_already(bundle: Path, tmp_path: Path) -> None:
    with (
        run_service(bundle, tmp_path / "data") as first,
        run_service(bundle, tmp_path / "data", wait_until_ready=False) as second,
    ):
        assert failed(second)
        assert first.client.post("/embed", files=form(tracklet(1, 1))).status_code == 201


def test_an_engine_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    """CUDA is asked for where there is none: an error, never a silent CPU; and the gallery is let go."""
    with run_service(bundle, tmp_path / "data", wait_until_ready=False, device="cuda") as live:
        wait_for(lambda: live.app.state.service.startup.error or live.app.state.service.startup.loaded)
        if live.app.state.service.startup.loaded:
            pytest.skip("this machine has a working CUDA provider")
        assert "cuda" in failed(live).lower()
        with run_service(bundle, tmp_path / "data") as second:
            assert second.client.get("/readyz").status_code == 200


def test_an_error_nobody_expected_is_told_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(startup, "open_engine", broken)
    with run_service(bundle, tmp_path / "data", wait_until_ready=False) as live:
        assert "of all things" in failed(live)


def test_expected_errors_are_those_of_the_contract(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise EngineError("install the engine")

    monkeypatch.setattr(startup, "open_engine", broken)
    with run_service(bundle, tmp_path / "data", wait_until_ready=False) as live:
        assert failed(live) == "the service cannot start: install the engine"

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.engines import Engine, EngineError
from model.engines.self_test import SelfTest, run_self_test
from model.frames import read_frame
from service import startup
from tests.bundles import make_bundle
from tests.service.gallery.engines import HAS_LITE
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem
from tests.service.test_server import free_port


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


def test_an_int8_bundle_that_ranks_alike_goes_on_with_the_float_bundle_s_gallery(bundle: Path, tmp_path: Path) -> None:
    """The quantised network is a real one; that it ranks alike is told, since four drawn people cannot show it."""
    quantisation = pytest.importorskip("training.export.quantise", reason="needs the extras train and quantize")
    floats = Bundle.load(bundle)
    clips = np.stack([[read_frame(data, 64, 32) for data in tracklet(person, 4)] for person in range(16)])
    calibration = quantisation.Calibration(clips, "drawn people")
    int8 = quantisation.quantise(floats, tmp_path / "int8", calibration, None).bundle.path
    with run_service(bundle, tmp_path / "data") as live:
        live.client.post("/embed", files=form(tracklet(1, 5)), data={"id": "one"})
    with run_service(int8, tmp_path / "data", engine="auto", wait_until_ready=False) as live:
        wait_for(lambda: live.app.state.service.startup.error is not None)
        assert "this bundle is of space" in live.app.state.service.startup.error
    spec = json.loads((int8 / "model.json").read_text())
    alike = {"float_map": 50, "map": 50, "map_in_float_gallery": 50, "map_of_float_queries": 50, "mean_cosine": 0.999}
    spec["quantisation"] |= alike
    (int8 / "model.json").write_text(json.dumps(spec))
    with run_service(int8, tmp_path / "data", engine="auto") as live:
        assert live.client.get("/info").json()["engine"]["precision"] == "int8"
        [hit] = live.client.post("/search", files=form(tracklet(1, 5))).json()["results"]
        assert hit["id"] == "one"
        assert hit["score"] > 0.98


@pytest.mark.skipif(not HAS_LITE, reason="pymilvus is not installed")
def test_a_gallery_that_does_not_answer_is_waited_for(bundle: Path, tmp_path: Path) -> None:
    address = f"milvus://me:secret@127.0.0.1:{free_port()}"
    with run_service(bundle, tmp_path, wait_until_ready=False, gallery=address) as live:
        wait_for(lambda: live.app.state.service.startup.waiting)
        answer = live.client.get("/readyz")
        document = check_problem(answer, 503, "not-ready")
        assert document["detail"].startswith("the service is waiting for its gallery: Milvus at 127.0.0.1:")
        assert "secret" not in answer.text
        assert document["pending"] == ["gallery", "engine", "self_test"]
        assert live.client.get("/livez").status_code == 200
    assert live.app.state.service.startup.error is None

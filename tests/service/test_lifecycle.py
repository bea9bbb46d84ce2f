import asyncio
import json
import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import Engine, EngineError, self_test
from model.engines.self_test import SelfTest, run_self_test
from model.frames import read_frame
from not3d.ports import free_port
from service import lifecycle, loaded_model
from service.gallery import GalleryError, GalleryUnavailable
from service.gallery.embedded.gallery import EmbeddedGallery
from service.lifecycle import Lifecycle, ServiceState
from service.routes import health
from service.settings import Settings
from tests.bundles import make_bundle
from tests.service.gallery.engines import HAS_LITE
from tests.service.live import TIMEOUT, Live, run_service, wait_for
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

EMBEDDING = [1.0] * 32


def failed(live: Live) -> str:
    """Wait until the service has failed; return why."""
    wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
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
        assert may_pass.wait(120)
        return run_self_test(engine, bundle)

    monkeypatch.setattr(self_test, "run_self_test", held)
    with run_service(bundle, tmp_path, wait_until_ready=False) as live:
        wait_for(lambda: live.lifecycle.pending == ["self_test", "gallery"])
        answer = live.client.get("/readyz")
        document = check_problem(answer, 503, "not-ready")
        assert document["pending"] == ["self_test", "gallery"]
        assert answer.headers["retry-after"] == "2"
        for method, path in (("POST", "/embed"), ("POST", "/search"), ("GET", "/gallery"), ("GET", "/info")):
            check_problem(live.client.request(method, path), 503, "not-ready")
        assert live.client.get("/livez").status_code == 200
        assert "not3d_ready 0.0" in live.client.get("/metrics").text
        may_pass.set()
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.post("/embed", files=form(tracklet(1, 1))).status_code == 201


def test_damaged_network_makes_no_gallery(bundle: Path, tmp_path: Path) -> None:
    """The gallery would belong to an embedding space that no network has."""
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    network = damaged / "model.onnx"
    network.write_bytes(network.read_bytes()[:-100])
    with run_service(damaged, tmp_path / "data", wait_until_ready=False) as live:
        assert "model.onnx" in failed(live)
    with run_service(bundle, tmp_path / "data") as live:
        assert live.client.get("/readyz").status_code == 200


def test_a_failed_self_test_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    """Golden vectors of another network: this machine does not compute what the bundle promises."""
    other = make_bundle(tmp_path / "other", seed=1)
    wrong = Path(shutil.copytree(bundle, tmp_path / "wrong"))
    shutil.copy(other / "golden.npz", wrong / "golden.npz")
    with run_service(wrong, tmp_path / "data", wait_until_ready=False) as live:
        assert "self-test" in failed(live)


def test_a_damaged_bundle_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "model.json").write_text(json.dumps({"format": 1}))
    with run_service(damaged, tmp_path / "data", wait_until_ready=False) as live:
        assert "model.json" in failed(live)
    assert not (tmp_path / "data").exists()


def test_a_gallery_of_another_embedding_space_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        live.client.post("/embed", files=form(tracklet(1, 1)), data={"id": "kept"})
    other = make_bundle(tmp_path / "other", seed=1)
    with run_service(other, tmp_path / "data", wait_until_ready=False) as live:
        assert "embedding" in failed(live)
    with run_service(bundle, tmp_path / "data") as live:
        assert live.client.get("/gallery/kept").status_code == 200


def test_a_gallery_that_is_open_already_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    with (
        run_service(bundle, tmp_path / "data") as first,
        run_service(bundle, tmp_path / "data", wait_until_ready=False) as second,
    ):
        assert failed(second)
        assert first.client.post("/embed", files=form(tracklet(1, 1))).status_code == 201


def test_an_engine_that_is_not_available_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    """CUDA without a working GPU is an error, never a silent CPU; and the gallery is closed."""
    with run_service(bundle, tmp_path / "data", wait_until_ready=False, device="cuda") as live:
        wait_for(lambda: live.lifecycle.state in {ServiceState.FAILED, ServiceState.READY})
        if live.lifecycle.state is ServiceState.READY:
            pytest.skip("this machine has a working CUDA provider")
        assert "cuda" in failed(live).lower()
        with run_service(bundle, tmp_path / "data") as second:
            assert second.client.get("/readyz").status_code == 200


def test_an_unexpected_error_is_reported_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(loaded_model, "open_engine", broken)
    with run_service(bundle, tmp_path / "data", wait_until_ready=False) as live:
        assert "of all things" in failed(live)


def test_an_expected_error_is_reported_without_its_type(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise EngineError("install the engine")

    monkeypatch.setattr(loaded_model, "open_engine", broken)
    with run_service(bundle, tmp_path / "data", wait_until_ready=False) as live:
        assert failed(live) == "the service cannot start: install the engine"


def test_an_int8_bundle_that_ranks_alike_goes_on_with_the_float_bundle_s_gallery(bundle: Path, tmp_path: Path) -> None:
    """The network is really quantised; that it ranks alike is only written down: four drawn people cannot show it."""
    quantisation = pytest.importorskip("training.export.quantise", reason="needs the extras train and quantize")
    floats = Bundle.load(bundle)
    clips = np.stack([[read_frame(data, 64, 32) for data in tracklet(person, 4)] for person in range(16)])
    calibration = quantisation.CalibrationClips(clips, "drawn people")
    int8 = quantisation.quantise(floats, tmp_path / "int8", calibration, None).bundle.path
    with run_service(bundle, tmp_path / "data") as live:
        live.client.post("/embed", files=form(tracklet(1, 5)), data={"id": "one"})
    with run_service(int8, tmp_path / "data", engine="auto", wait_until_ready=False) as live:
        wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
        assert "this service is of space" in (live.lifecycle.reason or "")
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
        wait_for(lambda: live.lifecycle.state is ServiceState.WAITING_FOR_GALLERY)
        answer = live.client.get("/readyz")
        document = check_problem(answer, 503, "not-ready")
        assert document["detail"].startswith("the service is waiting for its gallery: Milvus at 127.0.0.1:")
        assert "secret" not in answer.text
        assert document["pending"] == ["gallery"]
        assert live.client.get("/livez").status_code == 200
    assert (live.lifecycle.state, live.lifecycle.reason) == (ServiceState.STOPPED, None)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def put(live: Live, name: str, expires_at: str | None = None) -> None:
    body = {"embedding": EMBEDDING} | ({"expires_at": expires_at} if expires_at else {})
    assert live.client.put(f"/gallery/{name}", json=body).status_code == 201


def removed(live: Live) -> list[tuple[str, str, int]]:
    entries = live.client.get("/audit").json()["entries"]
    return [(entry["action"], entry["by"], entry["erased"]) for entry in entries]


HOUR = 3600.0


def test_expired_records_are_erased(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: Callable[[float], None]
) -> None:
    caplog.set_level(logging.INFO, "not3d.service")
    with run_service(bundle, tmp_path, sweep_seconds=0.05) as live:
        put(live, "ever")
        put(live, "soon", in_seconds(HOUR))
        assert live.client.get("/gallery/soon").status_code == 200
        clock(HOUR)
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])
        assert live.client.get("/gallery/soon").status_code == 404
        assert live.client.get("/info").json()["gallery"]["records"] == 1
        wait_for(lambda: "not3d_expired_records_total 1.0" in live.client.get("/metrics").text)
    assert "expired records erased" in caplog.text


def test_records_that_expired_while_the_service_was_down_are_erased_at_its_start(
    bundle: Path, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    with run_service(bundle, tmp_path) as live:
        put(live, "soon", in_seconds(HOUR))
    clock(HOUR)
    with run_service(bundle, tmp_path) as live:
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])


def test_the_sweep_goes_on_after_an_error(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: Callable[[float], None],
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
        put(live, "soon", in_seconds(HOUR))
        clock(HOUR)
        wait_for(lambda: removed(live) == [("expire", "expiry", 1)])
    assert "the gallery is away" in [record.facts["reason"] for record in caplog.records if hasattr(record, "facts")]
    assert "ZeroDivisionError" in caplog.text


def test_a_broken_gallery_ends_the_service(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes fail when only a restart helps, and the end of the process is requested once."""
    ended = []
    live.lifecycle.on_end = lambda: ended.append(live.lifecycle.reason)

    def no_memory(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("service.gallery.embedded.gallery.FilterValues", no_memory)
        put(live, "a")  # it is on the disk
    for path in ("/livez", "/readyz", "/info", "/gallery/a"):
        answer = live.client.get(path)
        assert "restart the service" in check_problem(answer, 503, "gallery-unavailable")["detail"]
        assert "retry-after" not in answer.headers
    assert "not3d_gallery_records" in live.client.get("/metrics").text
    assert live.lifecycle.state is ServiceState.BROKEN
    assert ended == [live.lifecycle.reason]
    assert "not3d_ready 0.0" in live.client.get("/metrics").text


def test_readiness_ends_while_requests_wait_and_nothing_is_done_and_returns(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine hangs. Clients give up and others come, which must not hide it."""
    caplog.set_level(logging.INFO, "not3d.service")
    with run_service(bundle, tmp_path, stall_seconds=0.4) as live:
        engine, may_run = live.model.engine, threading.Event()
        embed = type(engine).embed

        def held(self: Any, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
            assert may_run.wait(120)
            return embed(self, clips)

        with monkeypatch.context() as patch:
            patch.setattr(type(engine), "embed", held)
            while live.client.get("/readyz").status_code == 200:
                with suppress(httpx.ReadTimeout):
                    live.client.post("/embed", files=form(tracklet(1, 2)), timeout=0.1)
            document = check_problem(live.client.get("/readyz"), 503, "not-ready")
            assert "the engine has computed no batch" in document["detail"]
            assert live.client.get("/livez").status_code == 200
            assert live.client.get("/gallery").status_code == 200
            assert "not3d_ready 0.0" in live.client.get("/metrics").text
            may_run.set()
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.post("/embed", files=form(tracklet(1, 2))).status_code == 201
    assert {"stalled", "no longer stalled"} <= {record.message for record in caplog.records}


def test_readiness_ends_while_gallery_calls_wait_and_none_ends_and_returns(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gallery hangs, for example on a network disk. Clients give up and others come, which must not hide it."""
    may_run = threading.Event()
    search = EmbeddedGallery.search

    def held(self: EmbeddedGallery, *arguments: Any, **options: Any) -> Any:
        assert may_run.wait(120)
        return search(self, *arguments, **options)

    with run_service(bundle, tmp_path, stall_seconds=0.4) as live:
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedGallery, "search", held)
            while live.client.get("/readyz").status_code == 200:
                with suppress(httpx.ReadTimeout):
                    live.client.post("/search", json={"embedding": EMBEDDING}, timeout=0.1)
            document = check_problem(live.client.get("/readyz"), 503, "not-ready")
            assert "the gallery has finished no call" in document["detail"]
            assert live.client.get("/livez").status_code == 200
            assert "not3d_ready 0.0" in live.client.get("/metrics").text
            may_run.set()
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.post("/search", json={"embedding": EMBEDDING}).status_code == 200


def test_metrics_do_not_wait_for_a_gallery_that_hangs(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    may_run = threading.Event()
    monkeypatch.setattr(health, "COUNT_SECONDS", 0.1)
    monkeypatch.setattr(EmbeddedGallery, "count", lambda _: 7 if may_run.wait(2 * TIMEOUT) else 0)
    assert "not3d_gallery_records 0.0" in live.client.get("/metrics").text
    may_run.set()
    wait_for(lambda: "not3d_gallery_records 7.0" in live.client.get("/metrics").text)


def test_slow_work_that_goes_on_is_no_stall(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch takes less than the limit, all together far more."""
    now, waited = 0.0, list[float]()
    with run_service(bundle, tmp_path, max_batch=1) as live:
        engine, progress = live.model.engine, live.model.embedder._batcher.progress
        embed = type(engine).embed
        monkeypatch.setattr("service.progress.time", SimpleNamespace(monotonic=lambda: now))

        def slow(self: Any, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal now
            now += 50
            waited.append(progress.stalled_seconds)
            return embed(self, clips)

        monkeypatch.setattr(type(engine), "embed", slow)
        assert live.client.post("/embed", files=form(tracklet(1, 40))).status_code == 201
    assert waited == [50.0] * 10


def test_clips_that_are_lost_end_readiness(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = live.model.embedder
    asyncio.run(embedder._budget.acquire(embedder._budget.free))
    with pytest.raises(httpx.ReadTimeout):
        live.client.post("/embed", files=form(tracklet(1, 2)), timeout=0.3)
    wait_for(lambda: embedder.find_stall(0.2))
    assert "no decoded clip has left the queue" in str(embedder.find_stall(0.2))
    assert embedder.find_stall(60) is None


def test_transitions_that_are_not_in_the_table_are_refused() -> None:
    for state in ServiceState:
        for target in ServiceState:
            life = Lifecycle(Settings())
            life.state = state
            if target in lifecycle._NEXT[state]:
                life._change(target)
                assert life.state is target
            else:
                with pytest.raises(RuntimeError, match=f"from {state.value} to {target.value}"):
                    life._change(target)
                assert life.state is state


def test_every_state_before_the_end_can_be_stopped_and_the_end_is_final() -> None:
    running = set(ServiceState) - {ServiceState.STOPPING, ServiceState.STOPPED}
    assert all(ServiceState.STOPPING in lifecycle._NEXT[state] for state in running)
    assert lifecycle._NEXT[ServiceState.STOPPING] == {ServiceState.STOPPED}
    assert not lifecycle._NEXT[ServiceState.STOPPED]


@pytest.mark.parametrize(("state", "kept"), [("failed", True), ("broken", True), ("waiting_for_gallery", False)])
def test_the_reason_is_kept_until_the_end_only_if_it_is_why_the_process_ends(state: str, kept: bool) -> None:
    life = Lifecycle(Settings())
    life.state, life.reason = ServiceState(state), "why"
    asyncio.run(life.stop())
    assert life.state is ServiceState.STOPPED
    assert life.reason == ("why" if kept else None)


def test_the_end_is_requested_when_only_a_restart_helps() -> None:
    ends: list[ServiceState] = []
    for target in (ServiceState.FAILED, ServiceState.BROKEN):
        life = Lifecycle(Settings())
        life.on_end = lambda life=life: ends.append(life.state)
        life.state = ServiceState.READY if target is ServiceState.BROKEN else ServiceState.STARTING
        life._change(target, "why")
    assert ends == [ServiceState.FAILED, ServiceState.BROKEN]


def test_stopping_while_a_stage_runs_loads_no_further(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gallery that was opened is closed, and the error of a stage that ends later is not a reason."""
    may_fail = threading.Event()
    opened: list[str] = []

    def held(*_arguments: object, **_more: object) -> None:
        opened.append("gallery")
        assert may_fail.wait(120)
        raise GalleryError("too late")

    monkeypatch.setattr(EmbeddedGallery, "count", held)

    async def live() -> Lifecycle:
        life = Lifecycle(Settings(bundle=bundle, data_dir=tmp_path / "data", device="cpu"))
        life.start()
        while not opened:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(life.stop())
        await asyncio.sleep(0.05)
        assert life.state is ServiceState.STOPPING
        may_fail.set()
        await stopping
        return life

    life = asyncio.run(live())
    assert (life.state, life.reason, life.pending) == (ServiceState.STOPPED, None, [])
    monkeypatch.undo()
    with run_service(bundle, tmp_path / "data") as again:
        assert again.client.get("/readyz").status_code == 200


def test_stopping_does_not_wait_for_a_stage_that_takes_long(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training an index takes minutes for a million records."""
    begun, may_end = threading.Event(), threading.Event()

    def held(*_arguments: object, **_more: object) -> EmbeddedGallery:
        begun.set()
        assert may_end.wait(60)
        raise GalleryError("too late")

    monkeypatch.setattr(lifecycle, "open_gallery", held)
    monkeypatch.setattr(lifecycle, "CLOSE_SECONDS", 0.1)

    async def live() -> ServiceState:
        life = Lifecycle(Settings(bundle=bundle, data_dir=tmp_path / "data", device="cpu"))
        life.start()
        while not begun.is_set():
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(life.stop(), 20)
            return life.state
        finally:
            may_end.set()

    assert asyncio.run(live()) is ServiceState.STOPPING


def test_stopping_in_the_last_stage_is_no_error(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop_meanwhile(life: Lifecycle, *_arguments: object) -> None:
        stopping.append(asyncio.create_task(life.stop()))
        while life.state is not ServiceState.STOPPING:
            await asyncio.sleep(0)

    stopping: list[asyncio.Task[None]] = []
    monkeypatch.setattr(Lifecycle, "_start_alerts", stop_meanwhile)

    async def live() -> Lifecycle:
        life = Lifecycle(Settings(bundle=bundle, data_dir=tmp_path / "data", device="cpu"))
        life.start()
        assert life._task
        await life._task
        await stopping[0]
        return life

    assert asyncio.run(live()).state is ServiceState.STOPPED


def test_a_lasting_stall_ends_the_liveness(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness ends first; an orchestrator restarts the process only if that does not help."""
    stalled = 0.0
    with run_service(bundle, tmp_path, stall_seconds=1) as live:
        embedder = live.model.embedder
        monkeypatch.setattr(embedder, "find_stall", lambda seconds: "no work is done" if stalled >= seconds else None)
        stalled = 1.0
        wait_for(lambda: live.client.get("/readyz").status_code == 503)
        assert live.client.get("/livez").status_code == 200
        stalled = 5.0
        assert "restart it" in check_problem(live.client.get("/livez"), 503, "not-ready")["detail"]
        stalled = 0.0
        wait_for(lambda: live.client.get("/readyz").status_code == 200)
        assert live.client.get("/livez").status_code == 200

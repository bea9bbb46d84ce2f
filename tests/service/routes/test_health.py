from pathlib import Path

from model.bundle import Bundle
from tests.service.live import Live
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem


def test_probes_answer_alive_and_ready(shared: Live) -> None:
    assert shared.client.get("/livez").json() == {"status": "alive"}
    assert shared.client.get("/readyz").json() == {"status": "ready"}


def test_info_says_what_is_running(shared: Live, bundle: Path) -> None:
    info = shared.client.get("/info").json()
    loaded = Bundle.load(bundle)
    assert info["embedding_space"] == loaded.embedding_space
    assert info["model"] == loaded.spec.model_dump(mode="json")
    assert info["engine"]["name"] == "onnxruntime"
    assert info["engine"]["device"] == "cpu"
    assert info["engine"]["threads"] == 1
    assert info["engine"]["provider"] == "CPUExecutionProvider"
    assert info["engine"]["warning"] is None
    assert info["engine"]["self_test_min_cosine"] > 0.9999
    assert info["gallery"]["engine"]
    assert info["limits"]["max_frames"] == 2000


def test_metrics_count_what_happened(live: Live) -> None:
    live.client.post("/embed", files=form([*tracklet(1, 5), b"text"]), data={"id": "private-name"})
    live.client.get("/gallery/private-name")
    live.client.get("/no-such-path-1")
    live.client.request("OPTIONS", "/no-such-path-2")
    answer = live.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'not3d_requests_total{method="POST",route="/embed",status="201"} 1.0' in lines
    assert 'not3d_requests_total{method="GET",route="/gallery/{id}",status="200"} 1.0' in lines
    assert 'not3d_requests_total{method="GET",route="unmatched",status="404"} 1.0' in lines
    assert 'not3d_requests_total{method="other",route="unmatched",status="404"} 1.0' in lines
    assert 'not3d_frames_total{outcome="used"} 5.0' in lines
    assert 'not3d_frames_total{outcome="rejected"} 1.0' in lines
    assert "not3d_gallery_records 1.0" in lines
    assert "not3d_pending_requests 0.0" in lines
    assert "not3d_pending_bytes 0.0" in lines
    assert "not3d_queued_clips 0.0" in lines
    assert "not3d_ready 1.0" in lines
    for stage in ("read", "decode", "queue", "infer", "index"):
        assert f'not3d_stage_seconds_count{{stage="{stage}"}} 0.0' not in lines
    assert 'not3d_stage_seconds_count{stage="rerank"} 0.0' in lines
    assert "private-name" not in answer.text


def test_unknown_query_parameters_are_refused(shared: Live) -> None:
    for path in ("/info", "/readyz", "/livez"):
        check_problem(shared.client.get(f"{path}?verbose=1"), 400, "malformed", field="verbose")

"""The serving benchmark: its arithmetic, its clients against a real service, and the complete command once."""

import heapq
import http.client
import importlib.util
import json
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.process import running_service
from benchmarks.report import Report
from benchmarks.serving import client
from benchmarks.serving.client import LoadWindow, form
from benchmarks.serving.load import Crops, read_crops, send_load, write_plan
from benchmarks.serving.mixed import MixedClient
from benchmarks.serving.service import COMPUTE
from benchmarks.serving.soak import fit_slope, soak, write_material
from model.bundle import Bundle
from not3d.client import ProblemError
from not3d.client.retry import MAX_ATTEMPTS
from tests.bundles import make_bundle

ROOT = Path(__file__).parents[2]


def test_slope_and_its_error_match_a_noisy_line():
    times = np.arange(1200.0)
    assert fit_slope(times, 300 + 0.5 * times) == pytest.approx((0.5, 0), abs=1e-9)
    rng = np.random.default_rng(0)
    fits = [fit_slope(times, 300 + rng.normal(0, 10, len(times))) for _ in range(200)]
    slopes, errors = np.asarray(fits).T
    assert np.median(errors) == pytest.approx(slopes.std(), rel=0.25)
    assert abs(slopes.mean()) < 3 * slopes.std() / np.sqrt(len(slopes))


def test_slope_of_too_few_samples_is_refused():
    with pytest.raises(ValueError, match="2 samples"):
        fit_slope(np.arange(2.0), np.arange(2.0))


def test_rate_of_a_steady_service_does_not_depend_on_grouped_answers(monkeypatch):
    """Four clients, each answered every 0.1 s with 5 frames: 200 frames per second."""
    now = 0.0
    monkeypatch.setattr(client, "time", SimpleNamespace(perf_counter=lambda: now, process_time=lambda: now))
    for starts in ((0.0, 0.025, 0.05, 0.075), (0.0, 0.0, 0.0, 0.0)):
        window, answers = LoadWindow(4, 0.5), list[tuple[float, int]]()
        for now in starts:
            heapq.heappush(answers, (now + 0.1, window.start_request()))
        while answers:
            now, number = heapq.heappop(answers)
            window.finish_request(number, 5)
            if (following := window.start_request()) is not None:
                heapq.heappush(answers, (now + 0.1, following))
        result = window.result()
        assert result["frames"] / result["seconds"] == pytest.approx(200), starts


def test_plan_is_reproducible_and_counts_computed_frames(tmp_path):
    crops = Crops([[b"a"] * 3, [b"b"] * 70], "bytes")
    one, two = (write_plan(crops, tmp_path / name, (5, 60), requests=20, clip_length=4) for name in ("one", "two"))
    assert one.frames == two.frames
    assert min(one.frames) >= 5
    assert max(one.frames) <= 60
    bodies = [(tmp_path / name / "0007.body").read_bytes() for name in ("one", "two")]
    assert bodies[0] == bodies[1]
    assert bodies[0].count(b'name="frames"') == one.frames[7]
    assert one.computed_per_sent == sum(4 * np.ceil(count / 4) for count in one.frames) / sum(one.frames) > 1


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    bundle = Bundle.load(make_bundle(folder / "bundle"))
    with running_service(bundle.path, folder / "gallery", "--engine", "onnxruntime", "--threads", "1") as server:
        yield server, bundle, folder


def test_clients_measure_and_check_a_real_service(service, people):
    server, bundle, folder = service
    plan = write_plan(read_crops(people, folder), folder / "plan", (4, 6), requests=4, clip_length=4)
    seen = send_load(server.port, plan, clients=2, seconds=0.2, path=COMPUTE, dimension=bundle.spec.dimension)
    assert seen.rate > 0
    assert np.linalg.norm(seen.embedding) == pytest.approx(1, abs=1e-5)
    assert 0 < seen.client_share < 1
    with pytest.raises(SystemExit, match="components"):
        send_load(server.port, plan, clients=2, seconds=0.2, path=COMPUTE, dimension=bundle.spec.dimension + 1)
    with pytest.raises(SystemExit, match="404"):
        send_load(server.port, plan, clients=2, seconds=0.2, path="/nowhere", dimension=bundle.spec.dimension)


def test_service_reads_the_clients_forms(service):
    server, *_ = service
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    head = {"Content-Type": "multipart/form-data; boundary=not3d-benchmark-9b2f6c1e"}
    connection.request("POST", "/embed", form([b"no image"] * 4, {"camera_id": "x"}), head)
    answer = connection.getresponse()
    assert answer.status == 415
    assert b"frame 0" in answer.read()
    connection.close()


def test_a_soak_prints_memory_and_its_slope(tmp_path, service, people, capsys):
    _, bundle, _ = service
    soak(Report(), bundle, read_crops(people, tmp_path), tmp_path / "soak", 0.1)
    printed = capsys.readouterr().out
    assert "| resident set, MB |" in printed
    assert "Slope of the resident set" in printed
    assert "Answers of 503: none." in printed


@contextmanager
def scripted_server(*answers):
    """Give these answers (status, headers) in turn, the last one for ever; yield the port and the received bodies."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            status, headers = answers[min(len(bodies), len(answers)) - 1]
            content = json.dumps({"title": "The service is at its limit", "detail": "full"}).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def material(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    write_material(read_crops(people, folder), folder / "material")
    return folder / "material"


FULL = (503, {"Retry-After": "0"})


@pytest.mark.parametrize("seed", range(6))
def test_bad_input_is_sent_again_and_counted_apart_while_the_service_is_full(material, seed):
    with scripted_server(FULL, FULL, (400, {})) as (port, bodies):
        client = MixedClient(port, material, seed)
        with suppress(RuntimeError):  # this body deserves another status than 400
            client.act(client._send_bad_input)
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert client.busy == {"The service is at its limit": 2}


def test_bad_input_that_is_only_answered_503_fails(material):
    with scripted_server(FULL) as (port, bodies):
        client = MixedClient(port, material, 0)
        with pytest.raises(ProblemError, match="503"):
            client.act(client._send_bad_input)
    assert len(bodies) == MAX_ATTEMPTS
    assert not client.done
    with scripted_server((503, {}), (400, {})) as (port, _):
        client = MixedClient(port, material, 0)
        with pytest.raises(RuntimeError, match="503 without Retry-After"):
            client.act(client._send_bad_input)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the eager peer needs PyTorch")
@pytest.mark.skipif(importlib.util.find_spec("litserve") is None, reason="a peer needs LitServe (extra bench)")
def test_command_measures_service_and_peers(people):
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", "--only", "service", "peers"]
    done = subprocess.run([*command, "--data", str(people)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PyTorch eager fp32 behind FastAPI |" in done.stdout
    assert "ONNX Runtime fp32 behind LitServe, 1 worker with all threads |" in done.stdout
    targets = done.stdout.split("Targets:")[1].strip().splitlines()
    assert len(targets) == 5
    assert all(line.endswith(("**met**", "**missed**")) for line in targets)

"""The serving benchmark: its arithmetic, its clients against a real service, and the whole command once."""

import http.client
import importlib.util
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.client import Tally, form
from benchmarks.serving.footage import Crops, read_crops, write_plan
from benchmarks.serving.process import load, running_service
from benchmarks.serving.report import Report
from benchmarks.serving.service import COMPUTE
from benchmarks.serving.soak import fit_slope, soak
from model.bundle import Bundle
from tests.bundles import make_bundle
from training.datasets.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[2]


def test_the_slope_is_that_of_a_line_and_its_error_that_of_the_noise():
    times = np.arange(1200.0)
    assert fit_slope(times, 300 + 0.5 * times) == pytest.approx((0.5, 0), abs=1e-9)
    rng = np.random.default_rng(0)
    fits = [fit_slope(times, 300 + rng.normal(0, 10, len(times))) for _ in range(200)]
    slopes, errors = np.asarray(fits).T
    assert np.median(errors) == pytest.approx(slopes.std(), rel=0.25)
    assert abs(slopes.mean()) < 3 * slopes.std() / np.sqrt(len(slopes))


def test_the_slope_of_too_few_samples_is_refused():
    with pytest.raises(ValueError, match="2 samples"):
        fit_slope([0, 1], [1, 2])


def test_a_steady_service_is_measured_at_its_rate_whether_answers_come_alone_or_in_groups():
    """Four clients, each answered every 0.1 s with 5 frames: 200 frames per second."""
    for group in (1, 4):
        tally = Tally(4, 0.5)
        gate = threading.Barrier(group) if group > 1 else None

        def ask(tally=tally, gate=gate):
            while (number := tally.take()) is not None:
                time.sleep(0.1)
                if gate:
                    with suppress(threading.BrokenBarrierError):
                        gate.wait(0.2)
                tally.add(number, 5)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result = tally.result()
        assert result["frames"] / result["seconds"] == pytest.approx(200, rel=0.15), group


def test_the_plan_is_the_same_for_everybody_and_counts_what_is_computed(tmp_path):
    crops = Crops([[b"a"] * 3, [b"b"] * 70], "bytes")
    one, two = (write_plan(crops, tmp_path / name, (5, 60), requests=20, clip_length=4) for name in ("one", "two"))
    assert one.frames == two.frames
    assert min(one.frames) >= 5
    assert max(one.frames) <= 60
    bodies = [(tmp_path / name / "0007.body").read_bytes() for name in ("one", "two")]
    assert bodies[0] == bodies[1]
    assert bodies[0].count(b'name="frames"') == one.frames[7]
    assert one.computed == sum(4 * np.ceil(count / 4) for count in one.frames) / sum(one.frames) > 1


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=2, cameras=1, frames=10, seed=1)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    bundle = Bundle.load(make_bundle(folder / "bundle"))
    with running_service(bundle.path, folder / "gallery", "--engine", "onnxruntime", "--threads", "1") as server:
        yield server, bundle, folder


def test_clients_measure_and_check_a_real_service(service, people):
    server, bundle, folder = service
    plan = write_plan(read_crops(people, folder), folder / "plan", (4, 6), requests=4, clip_length=4)
    seen = load(server.port, plan, clients=2, seconds=0.2, path=COMPUTE, dimension=bundle.spec.dimension)
    assert seen.rate > 0
    assert np.linalg.norm(seen.sample) == pytest.approx(1, abs=1e-5)
    assert 0 < seen.client_share < 1
    with pytest.raises(SystemExit, match="components"):
        load(server.port, plan, clients=2, seconds=0.2, path=COMPUTE, dimension=bundle.spec.dimension + 1)
    with pytest.raises(SystemExit, match="404"):
        load(server.port, plan, clients=2, seconds=0.2, path="/nowhere", dimension=bundle.spec.dimension)


def test_forms_are_read_by_the_service(service):
    server, *_ = service
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    head = {"Content-Type": "multipart/form-data; boundary=not3d-benchmark-9b2f6c1e"}
    connection.request("POST", "/embed", form([b"no image"] * 4, {"camera_id": "x"}), head)
    answer = connection.getresponse()
    assert answer.status == 415
    assert b"frame 0" in answer.read()
    connection.close()


def test_a_soak_of_seconds_keeps_its_samples(tmp_path, service, people, capsys):
    _, bundle, _ = service
    samples = tmp_path / "soak.csv"
    soak(Report(), bundle, read_crops(people, tmp_path), tmp_path / "soak", 0.1, samples)
    rows = samples.read_text().splitlines()
    assert rows[0].split(",")[1] == "resident_bytes"
    assert len(rows) > 4
    assert "Slope of the resident set" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the authors' way needs PyTorch")
@pytest.mark.skipif(importlib.util.find_spec("litserve") is None, reason="a peer needs LitServe, of the extra bench")
def test_the_command_measures_service_and_peers(people):
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving",
        "--quick",
        "--only",
        "service",
        "peers",
        "--data",
        str(people),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PyTorch eager fp32 behind FastAPI | plain |" in done.stdout
    assert "ONNX Runtime fp32 behind LitServe | 1 worker with all threads |" in done.stdout
    targets = done.stdout.split("Targets:")[1].strip().splitlines()
    assert len(targets) == 6
    assert all(line.endswith(("**met**", "**missed**")) for line in targets)

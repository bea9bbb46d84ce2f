import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.engines import EngineInfo
from service.telemetry.metrics import OUTCOMES, REASONS, STAGES, Metrics, RequestCost, current_cost, read_version

INFO = EngineInfo("onnxruntime", "cuda", "f16", 1, "1.23", "CUDAExecutionProvider")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_every_series_of_a_known_label_exists_from_the_start() -> None:
    metrics = Metrics()
    assert [value(metrics, "not3d_stage_seconds_count", stage=stage) for stage in STAGES] == [0] * 7
    assert [value(metrics, "not3d_refused_total", reason=reason) for reason in REASONS] == [0] * 4
    assert [value(metrics, "not3d_frames_total", outcome=outcome) for outcome in OUTCOMES] == [0] * 2
    assert value(metrics, "not3d_build", version=read_version()) == 1


def test_a_stage_is_timed_also_if_it_fails_and_counted_for_its_request() -> None:
    metrics, cost = Metrics(), RequestCost()
    token = current_cost.set(cost)
    try:
        with metrics.stage("decode"):
            time.sleep(0.01)
        with pytest.raises(OSError), metrics.stage("decode"):  # noqa: PT011 - any will do
            raise OSError
    finally:
        current_cost.reset(token)
    with metrics.stage("decode"):
        pass
    assert value(metrics, "not3d_stage_seconds_count", stage="decode") == 3
    assert 0.01 <= cost.seconds["decode"] <= (value(metrics, "not3d_stage_seconds_sum", stage="decode") or 0)
    assert cost.seconds.keys() == {"decode"}


def test_a_stage_of_another_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Metrics().observe_stage("gallery", 1)


def test_short_and_long_stages_have_different_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.00004, 0.00007, 0.004, 0.006, 29, 59):
        metrics.observe_stage("infer", seconds)
    bounds = ["5e-05", "0.0001", "0.005", "0.01", "30.0", "60.0"]
    counts = [value(metrics, "not3d_stage_seconds_bucket", stage="infer", le=bound) for bound in bounds]
    assert counts == [1, 2, 3, 4, 5, 6]


def test_the_series_of_the_engine_describe_the_engine_in_use() -> None:
    metrics = Metrics()
    metrics.describe_engine(INFO, "abc")
    labels = {"engine": "onnxruntime", "version": "1.23", "device": "cuda", "precision": "f16", "threads": "1"}
    labels |= {"embedding_space": "abc", "provider": "CUDAExecutionProvider"}
    assert value(metrics, "not3d_engine", **labels) == 1
    assert value(metrics, "not3d_engine_degraded") == 0


def test_an_engine_without_something_requested_is_degraded() -> None:
    metrics = Metrics()
    metrics.describe_engine(EngineInfo("onnxruntime", "cuda", "f32", 1, "1.23", "CUDA", warning="no f16"), "abc")
    assert value(metrics, "not3d_engine_degraded") == 1


def test_the_process_is_measured_and_two_applications_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.observe_stage("index", 1)
    assert value(other, "not3d_stage_seconds_count", stage="index") == 0
    assert (value(other, "process_resident_memory_bytes") or 0) > 1e6
    assert (value(other, "process_cpu_seconds_total") or 0) > 0
    assert (value(other, "process_open_fds") or 0) > 0
    assert abs(time.time() - (value(other, "process_start_time_seconds") or 0)) < 86_400


def test_threads_add_to_one_stage() -> None:
    cost = RequestCost()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: [cost.add("infer", 0.5) for _ in range(2000)], range(4)))
    cost.add("decode", 1)
    assert cost.seconds == {"infer": 4000, "decode": 1}


def test_outside_of_a_request_there_is_no_cost() -> None:
    assert current_cost.get() is None

from contextlib import ExitStack

import pytest

from service.http.admission import READERS, Admission
from service.http.problems import Problem
from service.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_slot_and_bytes_are_released_after_success_and_failure(metrics: Metrics) -> None:
    admission = Admission(1, 100, metrics)
    with pytest.raises(Problem), admission.enter() as slot:
        slot.add_bytes(101)
    with admission.enter() as slot:
        slot.add_bytes(100)
        assert metrics.registry.get_sample_value("not3d_pending_bytes") == 100
    assert metrics.registry.get_sample_value("not3d_pending_bytes") == 0
    assert metrics.registry.get_sample_value("not3d_pending_requests") == 0


def test_a_request_over_the_limit_is_refused_with_retry_after(metrics: Metrics) -> None:
    admission = Admission(2, 100, metrics)
    with admission.enter() as first, admission.enter() as second, admission.enter() as third:
        first.take()
        second.take()
        with pytest.raises(Problem) as problem:
            third.take()
    assert problem.value.status == 503
    assert problem.value.headers == {"Retry-After": "1"}
    assert metrics.registry.get_sample_value("not3d_refused_total", {"reason": "requests"}) == 1


def test_bodies_being_read_take_no_slot_but_are_limited(metrics: Metrics) -> None:
    admission = Admission(1, 100, metrics)
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(admission.enter())
        assert metrics.registry.get_sample_value("not3d_pending_requests") == 0
        with pytest.raises(Problem) as problem:
            stack.enter_context(admission.enter())
        assert problem.value.status == 503
    assert metrics.registry.get_sample_value("not3d_open_requests") == 0
    with admission.enter() as slot:
        slot.take()


def test_refused_bytes_are_not_counted(metrics: Metrics) -> None:
    admission = Admission(5, 100, metrics)
    with admission.enter() as first, admission.enter() as second:
        first.add_bytes(60)
        second.add_bytes(40)
        with pytest.raises(Problem):
            second.add_bytes(1)
        assert second.bytes == 40
    with admission.enter() as slot:
        slot.add_bytes(100)

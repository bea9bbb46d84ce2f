from contextlib import ExitStack

import pytest

from service.http.admission import READERS, Admission
from service.http.problems import Problem
from service.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_places_are_given_back_whatever_happens(metrics: Metrics) -> None:
    admission = Admission(1, 100, metrics)
    with pytest.raises(Problem), admission.enter() as place:
        place.grow(101)
    with admission.enter() as place:
        place.grow(100)
        assert metrics.registry.get_sample_value("not3d_pending_bytes") == 100
    assert metrics.registry.get_sample_value("not3d_pending_bytes") == 0
    assert metrics.registry.get_sample_value("not3d_pending_requests") == 0


def test_one_request_too_many(metrics: Metrics) -> None:
    admission = Admission(2, 100, metrics)
    with admission.enter() as first, admission.enter() as second, admission.enter() as third:
        first.begin()
        second.begin()
        with pytest.raises(Problem) as problem:
            third.begin()
    assert problem.value.status == 503
    assert problem.value.headers == {"Retry-After": "1"}
    assert metrics.registry.get_sample_value("not3d_refused_total", {"reason": "requests"}) == 1


def test_bodies_on_their_way_take_no_place_but_are_bounded(metrics: Metrics) -> None:
    admission = Admission(1, 100, metrics)
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(admission.enter())
        assert metrics.registry.get_sample_value("not3d_pending_requests") == 0
        with pytest.raises(Problem) as problem:
            stack.enter_context(admission.enter())
        assert problem.value.status == 503
    assert metrics.registry.get_sample_value("not3d_open_requests") == 0
    with admission.enter() as place:
        place.begin()


def test_one_byte_too_many_counts_for_nobody(metrics: Metrics) -> None:
    admission = Admission(5, 100, metrics)
    with admission.enter() as first, admission.enter() as second:
        first.grow(60)
        second.grow(40)
        with pytest.raises(Problem):
            second.grow(1)
        assert second.bytes == 40
    with admission.enter() as place:
        place.grow(100)

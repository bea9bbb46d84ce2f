import asyncio
from contextlib import ExitStack

import pytest

from service.http.admission import LARGE_RESULT, READERS, Admission
from service.http.problems import Problem
from service.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_slot_and_bytes_are_released_after_success_and_failure(metrics: Metrics) -> None:
    admission = Admission(1, 100, 2, metrics)
    with pytest.raises(Problem), admission.enter() as slot:
        slot.add_bytes(101)
    with admission.enter() as slot:
        slot.add_bytes(100)
        assert metrics.registry.get_sample_value("not3d_pending_bytes") == 100
    assert metrics.registry.get_sample_value("not3d_pending_bytes") == 0
    assert metrics.registry.get_sample_value("not3d_pending_requests") == 0


def test_a_request_over_the_limit_is_refused_with_retry_after(metrics: Metrics) -> None:
    admission = Admission(2, 100, 2, metrics)
    with admission.enter() as first, admission.enter() as second, admission.enter() as third:
        first.take()
        second.take()
        with pytest.raises(Problem) as problem:
            third.take()
    assert problem.value.status == 503
    assert problem.value.headers == {"Retry-After": "1"}
    assert metrics.registry.get_sample_value("not3d_refused_total", {"reason": "requests"}) == 1


def test_bodies_being_read_take_no_slot_but_are_limited(metrics: Metrics) -> None:
    admission = Admission(1, 100, 2, metrics)
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
    admission = Admission(5, 100, 2, metrics)
    with admission.enter() as first, admission.enter() as second:
        first.add_bytes(60)
        second.add_bytes(40)
        with pytest.raises(Problem):
            second.add_bytes(1)
        assert second.bytes == 40
    with admission.enter() as slot:
        slot.add_bytes(100)


def test_requests_to_the_gallery_have_a_limit_of_their_own(metrics: Metrics) -> None:
    admission = Admission(1, 100, 2, metrics)
    with admission.enter() as slot:
        slot.take()
        with admission.gallery_call(), admission.gallery_call():
            assert metrics.registry.get_sample_value("not3d_pending_gallery_calls") == 2
            with pytest.raises(Problem) as problem, admission.gallery_call():
                pass
    assert problem.value.status == 503
    assert problem.value.headers == {"Retry-After": "1"}
    assert metrics.registry.get_sample_value("not3d_refused_total", {"reason": "gallery"}) == 1
    assert metrics.registry.get_sample_value("not3d_pending_gallery_calls") == 0


def test_only_large_answers_count_until_they_are_sent(metrics: Metrics) -> None:
    admission = Admission(1, 4 * 100_000, 2, metrics)
    with admission.answer(70_000):
        assert metrics.registry.get_sample_value("not3d_answer_bytes") == 70_000
        with admission.answer(1000), admission.answer(60_000):
            assert metrics.registry.get_sample_value("not3d_answer_bytes") == 70_000
        with pytest.raises(Problem) as problem, admission.answer(70_000):
            pass
    assert problem.value.status == 503
    assert metrics.registry.get_sample_value("not3d_answer_bytes") == 0


def test_large_results_are_made_one_after_the_other_and_small_ones_beside_them(metrics: Metrics) -> None:
    admission = Admission(1, 100, 2, metrics)
    running: list[int] = []
    together: set[int] = set()

    async def make(records: int) -> None:
        async with admission.result(records):
            running.append(records)
            together.add(sum(count > LARGE_RESULT for count in running))
            await asyncio.sleep(0.01)
            running.remove(records)

    async def make_all() -> None:
        async with admission.result(1000):
            await asyncio.wait_for(make(LARGE_RESULT), 60)
        await asyncio.gather(*(make(1000) for _ in range(5)))

    asyncio.run(make_all())
    assert max(together) == 1

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.frame_budget import FrameBudget
from tests.service.live import TIMEOUT

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_waiters_acquire_in_order() -> None:
    budget = FrameBudget(8)
    await budget.acquire(5)
    big, small = asyncio.create_task(budget.acquire(6)), asyncio.create_task(budget.acquire(3))
    await asyncio.sleep(0.01)
    assert not big.done()
    assert not small.done()  # it would fit, but is not the first
    budget.release(5)
    await asyncio.wait_for(big, TIMEOUT)
    await asyncio.sleep(0)
    assert not small.done()
    budget.release(6)
    await asyncio.wait_for(small, TIMEOUT)


async def test_cancelled_waiter_does_not_block_the_others() -> None:
    budget = FrameBudget(8)
    await budget.acquire(6)
    big, small = asyncio.create_task(budget.acquire(8)), asyncio.create_task(budget.acquire(2))
    await asyncio.sleep(0.01)
    big.cancel()
    await asyncio.wait_for(small, TIMEOUT)


async def test_waiter_cancelled_at_its_turn_returns_its_clips() -> None:
    budget = FrameBudget(8)
    await budget.acquire(8)
    waiting = asyncio.create_task(budget.acquire(8))
    await asyncio.sleep(0.01)
    budget.release(8)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.wait_for(budget.acquire(8), TIMEOUT)


async def test_waiter_cancelled_in_the_turn_in_which_clips_are_released_takes_none() -> None:
    budget = FrameBudget(8)
    await budget.acquire(8)
    first, second = asyncio.create_task(budget.acquire(8)), asyncio.create_task(budget.acquire(8))
    await asyncio.sleep(0)
    first.cancel()
    budget.release(8)
    await asyncio.wait_for(second, TIMEOUT)
    assert first.cancelled()


class Borrower:
    """Acquires, keeps its clips until it is told to go on, and releases."""

    def __init__(self, budget: FrameBudget, clips: int) -> None:
        self.clips, self.holds = clips, False
        self.may_go_on = asyncio.Event()
        self.task = asyncio.create_task(self._run(budget))

    async def _run(self, budget: FrameBudget) -> None:
        await budget.acquire(self.clips)
        self.holds = True
        try:
            await self.may_go_on.wait()
        finally:
            self.holds = False
            budget.release(self.clips)


@given(
    st.lists(
        st.tuples(st.sampled_from(["acquire", "release", "cancel", "turn"]), st.integers(0, 7)),
        max_size=80,
    )
)
def test_no_order_of_releases_and_cancellations_loses_clips(steps: list[tuple[str, int]]) -> None:
    """Steps without a turn between them happen in the same turn of the event loop."""

    async def play() -> None:
        budget, borrowers = FrameBudget(8), list[Borrower]()
        for step, number in steps:
            chosen = borrowers[number % len(borrowers)] if borrowers else None
            if step == "acquire":
                borrowers.append(Borrower(budget, number + 1))
            elif step == "turn":
                await asyncio.sleep(0)
            elif chosen and step == "release":
                chosen.may_go_on.set()
            elif chosen:
                chosen.task.cancel()
            assert budget.free == 8 - sum(borrower.clips for borrower in borrowers if borrower.holds)
        for borrower in borrowers:
            borrower.may_go_on.set()
        every = asyncio.gather(*(each.task for each in borrowers), return_exceptions=True)
        done = await asyncio.wait_for(every, TIMEOUT)
        assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
        assert budget.free == 8
        await asyncio.wait_for(budget.acquire(8), TIMEOUT)

    asyncio.run(play())

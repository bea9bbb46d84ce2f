import asyncio

import pytest

from service.embedding.frame_budget import FrameBudget

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
    await asyncio.wait_for(big, 1)
    await asyncio.sleep(0)
    assert not small.done()
    budget.release(6)
    await asyncio.wait_for(small, 1)


async def test_cancelled_waiter_does_not_block_the_others() -> None:
    budget = FrameBudget(8)
    await budget.acquire(6)
    big, small = asyncio.create_task(budget.acquire(8)), asyncio.create_task(budget.acquire(2))
    await asyncio.sleep(0.01)
    big.cancel()
    await asyncio.wait_for(small, 1)


async def test_waiter_cancelled_at_its_turn_returns_its_clips() -> None:
    budget = FrameBudget(8)
    await budget.acquire(8)
    waiting = asyncio.create_task(budget.acquire(8))
    await asyncio.sleep(0.01)
    budget.release(8)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.wait_for(budget.acquire(8), 1)

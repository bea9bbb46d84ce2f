import asyncio

import pytest

from service.embedding.frame_budget import FrameBudget

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_fits_does_not_wait_and_what_does_not_waits_its_turn() -> None:
    room = FrameBudget(8)
    await room.take(5)
    big, small = asyncio.create_task(room.take(6)), asyncio.create_task(room.take(3))
    await asyncio.sleep(0.01)
    assert not big.done()
    assert not small.done()  # it would fit, but others came before it
    room.give_back(5)
    await asyncio.wait_for(big, 1)
    await asyncio.sleep(0)
    assert not small.done()
    room.give_back(6)
    await asyncio.wait_for(small, 1)


async def test_who_gives_up_waiting_keeps_nobody_waiting() -> None:
    room = FrameBudget(8)
    await room.take(6)
    big, small = asyncio.create_task(room.take(8)), asyncio.create_task(room.take(2))
    await asyncio.sleep(0.01)
    big.cancel()
    await asyncio.wait_for(small, 1)


async def test_who_gives_up_as_his_turn_comes_leaves_no_hole() -> None:
    room = FrameBudget(8)
    await room.take(8)
    waiting = asyncio.create_task(room.take(8))
    await asyncio.sleep(0.01)
    room.give_back(8)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.wait_for(room.take(8), 1)

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request

from service.http.cancellation import until_disconnected
from tests.service.live import Live, wait_for
from tests.service.pictures import form, tracklet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_client_that_disconnects_frees_its_slot_and_enrols_nothing(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine waits, so that the client disconnects while its request is being computed."""
    engine = live.model.engine
    entered, may_run = threading.Event(), threading.Event()
    embed: Callable[[Any, NDArray[np.uint8]], NDArray[np.float32]] = type(engine).embed

    def held(self: Any, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        entered.set()
        assert may_run.wait(120)
        return embed(self, clips)

    monkeypatch.setattr(type(engine), "embed", held)
    request = live.client.build_request("POST", "/embed", files=form(tracklet(1, 2)), data={"id": "left"})
    body = request.read()
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as connection:
        head = "POST /embed HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert entered.wait(120)
        assert "not3d_pending_requests 1.0" in live.client.get("/metrics").text
    wait_for(lambda: "not3d_pending_requests 0.0" in live.client.get("/metrics").text)
    may_run.set()
    assert live.client.get("/gallery/left").status_code == 404
    assert live.client.post("/embed", files=form(tracklet(1, 2)), data={"id": "left"}).status_code == 201
    assert 'route="/embed",status="499"' in live.client.get("/metrics").text


@pytest.mark.anyio
async def test_work_has_ended_even_if_the_request_is_cancelled_twice() -> None:
    """Otherwise it would read a file that is closed and removed."""
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0.05)
            ended = True

    async def receive() -> dict[str, str]:
        await asyncio.sleep(20)
        return {"type": "http.disconnect"}

    waiting = asyncio.create_task(until_disconnected(Request({"type": "http"}, receive), work()))
    for _ in range(3):
        await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended


@pytest.mark.anyio
async def test_the_error_of_work_is_raised_and_that_of_abandoned_work_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.sleep(20)
        finally:
            raise ZeroDivisionError

    async def stay() -> dict[str, str]:
        await asyncio.sleep(20)
        return {"type": "http.disconnect"}

    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with pytest.raises(ZeroDivisionError):
        await until_disconnected(Request({"type": "http"}, stay), fail())
    with pytest.raises(ClientDisconnect):
        await until_disconnected(Request({"type": "http"}, leave), fail_when_cancelled())
    gc.collect()
    assert not caplog.records

import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.service.live import Live, wait_for
from tests.service.pictures import form, tracklet


def test_a_client_that_disconnects_frees_its_slot_and_enrols_nothing(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine waits, so that the client disconnects while its request is being computed."""
    engine = live.service.engine
    entered, may_run = threading.Event(), threading.Event()
    embed: Callable[[Any, NDArray[np.uint8]], NDArray[np.float32]] = type(engine).embed

    def held(self: Any, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        entered.set()
        assert may_run.wait(20)
        return embed(self, clips)

    monkeypatch.setattr(type(engine), "embed", held)
    request = live.client.build_request("POST", "/embed", files=form(tracklet(1, 2)), data={"id": "left"})
    body = request.read()
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as connection:
        head = "POST /embed HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert entered.wait(10)
        assert "not3d_pending_requests 1.0" in live.client.get("/metrics").text
    wait_for(lambda: "not3d_pending_requests 0.0" in live.client.get("/metrics").text)
    may_run.set()
    assert live.client.get("/gallery/left").status_code == 404
    assert live.client.post("/embed", files=form(tracklet(1, 2)), data={"id": "left"}).status_code == 201
    assert 'route="/embed",status="499"' in live.client.get("/metrics").text

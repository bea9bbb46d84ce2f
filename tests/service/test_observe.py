import asyncio
import json
import logging
from uuid import UUID

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.logs import JsonFormatter, request_id
from service.metrics import Metrics
from service.observe import Observe
from tests.service.live import Live, wait_for
from tests.service.pictures import form, tracklet


def test_a_request_gets_an_id(shared: Live) -> None:
    assert UUID(shared.client.get("/livez").headers["x-request-id"]).version == 7


def test_a_clients_own_id_is_kept_where_it_is_well_formed(shared: Live) -> None:
    assert shared.client.get("/livez", headers={"x-request-id": "trace-7"}).headers["x-request-id"] == "trace-7"
    given = shared.client.get("/livez", headers={"x-request-id": 'a" b'}).headers["x-request-id"]
    assert UUID(given).version == 7


def test_the_access_log_has_the_route_and_no_content(shared: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    data = {"id": "secret-name", "camera_id": "secret-camera", "metadata": '{"secret": "person"}'}
    shared.client.post("/embed?include_embedding=true", files=form(tracklet(1, 2)), data=data)
    shared.client.get("/gallery/secret-name")
    # The line is written once the answer is out, so that the client may be here first.
    wait_for(lambda: [record.getMessage() for record in caplog.records].count("answered") >= 2)
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("not3d")]
    answered = [json.loads(line) for line in lines if '"answered"' in line]
    assert [(line["method"], line["route"], line["status"]) for line in answered] == [
        ("POST", "/embed", 201),
        ("GET", "/gallery/{id}", 200),
    ]
    assert all(line["ms"] >= 0 and line["level"] == "info" for line in answered)
    assert "secret" not in "".join(lines)


def test_a_line_is_one_json_object_with_the_request_id() -> None:
    token = request_id.set("r-1")
    try:
        record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "a\n%s", "args": ("b",)})
        line = JsonFormatter().format(record)
    finally:
        request_id.reset(token)
    assert "\n" not in line
    assert json.loads(line)["message"] == "a\nb"
    assert json.loads(line)["request_id"] == "r-1"


def test_an_exception_is_logged_with_its_traceback() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "m", "exc_info": (ValueError, error, error.__traceback__)})
    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["exception"]


def test_a_request_cut_off_by_the_end_of_the_service_is_told_so() -> None:
    async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.sleep(60)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def cut_off() -> None:
        scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": [], "state": {}}
        task = asyncio.create_task(Observe(never, Metrics())(scope, receive, send))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    asyncio.run(cut_off())
    assert sent[0]["status"] == 503
    assert Headers(raw=sent[0]["headers"])["retry-after"] == "5"
    assert b"send it again" in sent[1]["body"]

import asyncio
import base64
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.http.request_log import RequestLog
from service.telemetry.logs import JsonFormatter, request_id
from service.telemetry.metrics import Metrics
from tests.service.live import Live, wait_for
from tests.service.pictures import form, tracklet
from tests.service.test_server import running


def test_a_request_gets_an_id(shared: Live) -> None:
    assert UUID(shared.client.get("/livez").headers["x-request-id"]).version == 7


def test_a_well_formed_request_id_of_the_client_is_used(shared: Live) -> None:
    assert shared.client.get("/livez", headers={"x-request-id": "trace-7"}).headers["x-request-id"] == "trace-7"
    given = shared.client.get("/livez", headers={"x-request-id": 'a" b'}).headers["x-request-id"]
    assert UUID(given).version == 7


@pytest.fixture
def own_entries(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., list[logging.LogRecord]]]:
    """A function that returns the entries about requests with these ids, which are written after their answers.

    Those of earlier tests of the shared service may come late.
    """
    caplog.set_level(logging.DEBUG)

    def keep_id(record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True

    def wait(*ids: str) -> list[logging.LogRecord]:
        def find() -> list[logging.LogRecord]:
            answered = [record for record in caplog.records if record.getMessage() == "answered"]
            found = {record.request_id: record for record in answered}  # type: ignore[attr-defined]
            return [found[each] for each in ids if each in found]

        wait_for(lambda: len(find()) == len(ids))
        return find()

    caplog.handler.addFilter(keep_id)
    yield wait
    caplog.handler.removeFilter(keep_id)


def test_the_access_log_has_the_route_and_no_content(
    shared: Live, caplog: pytest.LogCaptureFixture, own_entries: Callable[..., list[logging.LogRecord]]
) -> None:
    data = {"id": "secret-name", "camera_id": "secret-camera", "metadata": '{"secret": "person"}'}
    frames, headers = form(tracklet(1, 2)), {"x-request-id": "log-embed"}
    shared.client.post("/embed?include_embedding=true", files=frames, data=data, headers=headers)
    shared.client.get("/gallery/secret-name", headers={"x-request-id": "log-read"})
    answered = [json.loads(JsonFormatter().format(each)) for each in own_entries("log-embed", "log-read")]
    assert [(line["method"], line["route"], line["status"]) for line in answered] == [
        ("POST", "/embed", 201),
        ("GET", "/gallery/{id}", 200),
    ]
    assert all(line["ms"] >= 0 and line["level"] == "info" for line in answered)
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("not3d")]
    assert "secret" not in "".join(lines)


def test_the_access_log_has_the_cost_of_the_request(
    shared: Live, own_entries: Callable[..., list[logging.LogRecord]]
) -> None:
    """A tracklet that takes two calls of the engine and has one bad frame; a search; a call without a body."""
    frames = [*tracklet(2, 9), b"text"]
    headers = {"x-request-id": "cost-embed"}
    request = shared.client.build_request("POST", "/embed", files=form(frames), data={"id": "costly"}, headers=headers)
    size = len(request.read())
    assert shared.client.send(request).status_code == 201
    searched = shared.client.post("/search", json={"id": "costly"}, headers={"x-request-id": "cost-search"})
    assert searched.status_code == 200
    assert shared.client.get("/info", headers={"x-request-id": "cost-info"}).status_code == 200
    embed, search, info = (each.facts for each in own_entries("cost-embed", "cost-search", "cost-info"))  # type: ignore[attr-defined]
    clip_length = shared.model.bundle.spec.clip_length
    assert (embed["bytes"], embed["frames"], embed["clips"]) == (size, 9, -(-9 // clip_length))
    assert set(embed["stages"]) == {"read", "parse", "decode", "queue", "infer", "index"}
    assert all(0 < embed["stages"][name] < embed["ms"] for name in ("decode", "infer"))
    assert (search["frames"], search["clips"]) == (0, 0)
    assert search["bytes"] == len('{"id":"costly"}')
    assert set(search["stages"]) == {"read", "parse", "index"}
    assert (info["bytes"], info["stages"]) == (0, {})


def test_the_log_of_a_process_has_nothing_that_clients_sent(bundle: Path, tmp_path: Path) -> None:
    """At the level that logs most, for good, bad and refused requests."""
    secrets = {name: f"recognisable-{name}" for name in ("id", "camera", "metadata", "file", "query", "field")}
    key, wrong_key = "key-of-recognisable-characters", "another-recognisable-key"
    frames = tracklet(3, 4)
    data = {"id": secrets["id"], "camera_id": secrets["camera"], "metadata": json.dumps({"note": secrets["metadata"]})}
    files = [("frames", (f"{secrets['file']}.jpg", frame, "image/jpeg")) for frame in frames]
    headers = {"authorization": f"Bearer {key}"}
    with running(bundle, tmp_path / "data", LOG_LEVEL="debug", API_KEYS=key) as (process, url):
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            answer = client.post("/embed?include_embedding=true", files=files, data=data)
            statuses = [answer.status_code, client.post("/embed", files=files, data=data).status_code]
            texts = [base64.b64encode(frame).decode() for frame in frames]
            statuses += [
                client.post("/embed", json={"id": f"{secrets['id']}-2", "frames": texts}).status_code,
                client.post("/search", json={"embedding": answer.json()["embedding"]}).status_code,
                client.post("/search", json={"id": secrets["id"], secrets["field"]: 1}).status_code,
                client.post("/embed", files=[("frames", (secrets["file"], b"no image", "image/jpeg"))]).status_code,
                client.get(f"/gallery/{secrets['id']}").status_code,
                client.get(f"/gallery/{secrets['id']}-absent").status_code,
                client.get(f"/readyz?{secrets['query']}=1").status_code,
                client.get(f"/{secrets['query']}").status_code,
                client.get("/info", headers={"authorization": f"Bearer {wrong_key}"}).status_code,
            ]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert statuses == [201, 409, 201, 200, 400, 415, 200, 404, 400, 404, 403]
    lines = [json.loads(line) for line in log.splitlines()]
    answered = [line for line in lines if line["message"] == "answered"]
    assert all(UUID(line["request_id"]).version == 7 for line in answered)
    assert [line["status"] for line in answered if line["status"] not in {200, 503}] == [
        status for status in statuses if status != 200
    ]
    found = [word for word in ("recognisable", *texts, str(answer.json()["embedding"][0])) if word in log]
    assert not found


def test_a_log_line_is_one_json_object_with_the_request_id() -> None:
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


def test_a_request_that_is_cancelled_by_the_end_of_the_service_gets_503() -> None:
    async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.sleep(60)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def cut_off() -> None:
        scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": [], "state": {}}
        task = asyncio.create_task(RequestLog(never, Metrics())(scope, receive, send))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    asyncio.run(cut_off())
    assert sent[0]["status"] == 503
    assert Headers(raw=sent[0]["headers"])["retry-after"] == "5"
    assert b"send the request again" in sent[1]["body"]

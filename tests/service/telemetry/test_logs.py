"""The log of the service and of the bridges."""

import io
import json
import logging
from collections.abc import Iterator

import httpx
import pytest

from service.telemetry.logs import configure_logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize("level", ["debug", "info"])
def test_calls_of_other_services_are_not_logged_with_their_addresses(level: str) -> None:
    stream = io.StringIO()
    configure_logs(level, stream)
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("https://hooks.example/secret-token")
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://ann:secret-word@127.0.0.1:1/", trust_env=False)
    logging.getLogger("not3d.bridge").info("enrolled", extra={"facts": {"id": "a"}})
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["message"], line["id"]) == ("enrolled", "a")

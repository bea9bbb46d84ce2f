import asyncio
import json

import httpx

from service.app import create_app
from service.openapi import DOCUMENT, render
from service.settings import Settings
from tests.service.live import Live


def test_the_committed_document_is_that_of_the_running_app(shared: Live) -> None:
    running = shared.client.get("/openapi.json").json()
    committed = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    assert committed == running, "run: python -m service.openapi"


def test_the_document_does_not_depend_on_settings() -> None:
    assert json.loads(render()) == create_app(Settings(max_frames=3, port=1)).openapi()


def test_every_call_of_the_contract_is_described() -> None:
    document = json.loads(render())
    calls = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert calls == {
        "POST /embed",
        "POST /search",
        "GET /gallery",
        "POST /gallery/erase",
        "GET /gallery/{id}",
        "PUT /gallery/{id}",
        "PATCH /gallery/{id}",
        "DELETE /gallery/{id}",
        "GET /gallery/{id}/thumbnail",
        "GET /gallery/{id}/track",
        "GET /cameras",
        "POST /cases",
        "GET /cases",
        "GET /cases/{case}",
        "PATCH /cases/{case}",
        "DELETE /cases/{case}",
        "PUT /cases/{case}/verdicts/{id}",
        "DELETE /cases/{case}/verdicts/{id}",
        "GET /cases/{case}/picture",
        "GET /cases/{case}/export",
        "GET /watchlists",
        "GET /watchlists/{name}",
        "PUT /watchlists/{name}",
        "DELETE /watchlists/{name}",
        "GET /alerts",
        "GET /alerts/stream",
        "GET /alerts/{id}",
        "PUT /alerts/{id}/verdict",
        "DELETE /alerts/{id}/verdict",
        "POST /session",
        "GET /session",
        "DELETE /session",
        "GET /audit",
        "GET /info",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
    }
    for item in document["paths"].values():
        for call in item.values():
            assert call["responses"]["default"]["content"].keys() == {"application/problem+json"}
            assert call["description"]


def test_every_reference_has_a_schema() -> None:
    text = render()
    schemas = json.loads(text)["components"]["schemas"]
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names
    assert names <= schemas.keys()


def test_the_first_requests_for_the_document_may_come_together() -> None:
    app = create_app(Settings())

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            return await asyncio.gather(*(client.get("/openapi.json") for _ in range(16)))

    answers = asyncio.run(ask())
    assert {answer.status_code for answer in answers} == {200}
    committed = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    assert all(answer.json() == committed for answer in answers)

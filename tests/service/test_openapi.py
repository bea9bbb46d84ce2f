import json

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
        "DELETE /gallery/{id}",
        "GET /gallery/{id}/thumbnail",
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

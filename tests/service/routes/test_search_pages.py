"""`POST /search` with `paged` and `cursor`: the next hits of a search, without its footage."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.continuations import IDS_OF_VECTOR
from service.embedding.embedder import Embedder
from service.http.schemas import FilterBody, SearchBody
from service.routes.search import BYTES_OF_VALUE, count_values
from tests.service.gallery.samples import vector
from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

RECORDS = 12


def values(name: str) -> list[float]:
    return [float(value) for value in vector(name, 32)]


def enroll(live: Live, name: str, embedding: list[float] | None = None) -> None:
    body = {"embedding": embedding or values(name), "camera_id": f"cam{len(name) % 2}"}
    assert live.client.put(f"/gallery/{name}", json=body).is_success


def fill(live: Live) -> None:
    for number in range(RECORDS):
        enroll(live, f"r{number}")


@pytest.fixture
def filled(shared_live: Live) -> Live:
    fill(shared_live)
    return shared_live


@pytest.fixture(scope="module")
def shared_live(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run_service(bundle, tmp_path_factory.mktemp("data"), max_top_k=11) as live:
        yield live


def search(live: Live, **body: Any) -> dict[str, Any]:
    answer = live.client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def all_pages(live: Live, first: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    hits, cursor = list(first["results"]), first["next_cursor"]
    while cursor is not None:
        found = search(live, cursor=cursor, **body)
        hits += found["results"]
        cursor = found["next_cursor"]
    return hits


@pytest.mark.parametrize(
    "query",
    [
        {"id": "r1"},
        {"embedding": values("q")},
        {"ids": ["r1", "r2"], "embeddings": [values("x"), values("y")], "reject_ids": ["r3"], "combine": "max"},
        {"embedding": values("q"), "min_score": -0.05},
        {"embedding": values("q"), "filter": {"camera_ids": ["cam0"]}},
    ],
)
def test_the_pages_of_a_search_are_the_whole_search(filled: Live, query: dict[str, Any]) -> None:
    whole = search(filled, top_k=11, **query)
    assert "next_cursor" not in whole
    first = search(filled, top_k=4, paged=True, **query)
    assert all_pages(filled, first) == whole["results"]
    assert all_pages(filled, first, top_k=1) == whole["results"]  # a cursor can be used again


def test_footage_is_embedded_once_and_no_page_says_more_than_the_first_did(
    filled: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"top_k": "5", "paged": "true", "purpose": "case 7"}
    first = filled.client.post("/search", files=form(tracklet(3)), data=data).json()

    async def embed(*_: object, **__: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(Embedder, "embed", embed)
    assert len(first["next_cursor"]) < 64
    second = search(filled, cursor=first["next_cursor"])
    assert [hit["rank"] for hit in second["results"]] == [6, 7, 8, 9, 10]
    newest, before = filled.client.get("/audit", params={"kind": "search", "limit": 2}).json()["entries"]
    assert newest["details"]["query"] == before["details"]["query"] != {}
    assert (newest["details"]["purpose"], newest["details"]["returned_before"]) == ("case 7", 5)
    assert [record["id"] for record in newest["records"]] == [hit["id"] for hit in second["results"]]
    assert [record["rank"] for record in newest["records"]] == [6, 7, 8, 9, 10]


def test_what_is_kept_of_a_search_is_counted_and_has_no_footage(filled: Live) -> None:
    frame = base64.b64encode(tracklet(3, 1)[0]).decode()
    body = {"frames": [frame], "boxes": [[0, 0, 0, 32, 64]] * 50, "max_clips": 1, "top_k": 1, "paged": True}
    chosen = {"exclude_camera_ids": ["gate", "hall"], "without_time": True}
    answer = search(filled, reject_ids=["r1", "r2"], filter=chosen, **body)
    _, _, kept = filled.service.continuations._kept[answer["next_cursor"]]
    assert (kept.body.frames, kept.body.boxes, kept.body.max_clips, kept.body.embedding) == (None,) * 4
    assert kept.weight == IDS_OF_VECTOR + 1 + 2 + 2  # the vector, the hit, the cameras, the rejected ids
    wide = SearchBody(id="a", ids=["b", "c"], filter=FilterBody(camera_ids=["gate"], metadata={"k": "v" * 800}))
    assert count_values(wide) == 2 + 1 + (800 + len('{"k": ""}')) // BYTES_OF_VALUE


def test_no_record_is_repeated_or_lost_if_records_change_between_pages(filled: Live) -> None:
    whole = [hit["id"] for hit in search(filled, top_k=11, embedding=values("q"))["results"]]
    first = search(filled, top_k=4, paged=True, embedding=values("q"))
    assert filled.client.delete(f"/gallery/{whole[1]}").status_code == 204
    assert filled.client.delete(f"/gallery/{whole[5]}").status_code == 204
    enroll(filled, "new", values("q"))
    second = search(filled, cursor=first["next_cursor"])
    assert [hit["id"] for hit in second["results"]] == ["new", whole[4], *whole[6:8]]
    filled.client.delete("/gallery/new")


def test_an_erased_query_cannot_be_continued(filled: Live) -> None:
    enroll(filled, "asked")
    first = search(filled, top_k=2, paged=True, id="asked")
    assert filled.client.delete("/gallery/asked").status_code == 204
    problem = check_problem(filled.client.post("/search", json={"cursor": first["next_cursor"]}), 404, "not-found")
    assert "asked is not in the gallery" in problem["detail"]


def test_there_is_no_cursor_after_the_last_hit_or_the_largest_number_of_hits(filled: Live) -> None:
    query = {"embedding": values("q"), "paged": True}
    assert search(filled, top_k=11, **query)["next_cursor"] is None  # max_top_k
    assert search(filled, top_k=6, filter={"camera_ids": ["nowhere"]}, **query)["next_cursor"] is None
    assert search(filled, top_k=3, rerank=True, **query)["next_cursor"] is None
    first = search(filled, top_k=8, **query)
    assert len(search(filled, cursor=first["next_cursor"])["results"]) == 3


@pytest.mark.parametrize(
    ("body", "field"), [({"id": "r1"}, "id"), ({"min_score": 0.5}, "min_score"), ({"filter": {}}, "filter")]
)
def test_a_cursor_stands_alone(filled: Live, body: dict[str, Any], field: str) -> None:
    cursor = search(filled, top_k=2, paged=True, embedding=values("q"))["next_cursor"]
    check_problem(filled.client.post("/search", json={"cursor": cursor, **body}), 400, "malformed", field=field)


def test_an_unknown_cursor_says_to_search_again(filled: Live) -> None:
    problem = check_problem(filled.client.post("/search", json={"cursor": "x"}), 404, "not-found")
    assert "search again" in problem["detail"]


def test_a_cursor_of_another_key_is_unknown(bundle: Path, tmp_path: Path) -> None:
    for name, cameras in (("one", None), ("two", None), ("own", ["cam1"])):
        scopes = ("search", "enroll")
        add_key(tmp_path / "keys.json", name, f"secret-of-{name}", scopes=scopes, cameras=cameras)
    with run_service(bundle, tmp_path) as live:
        live.client.headers["X-API-Key"] = "secret-of-one"
        fill(live)
        cursor = search(live, top_k=2, paged=True, embedding=values("q"))["next_cursor"]
        for name in ("two", "own"):
            live.client.headers["X-API-Key"] = f"secret-of-{name}"
            check_problem(live.client.post("/search", json={"cursor": cursor}), 404, "not-found")
        first = search(live, top_k=1, paged=True, embedding=values("q"))
        assert {hit["camera_id"] for hit in all_pages(live, first)} == {"cam1"}
        live.client.headers["X-API-Key"] = "secret-of-one"
        assert len(search(live, cursor=cursor)["results"]) == 2

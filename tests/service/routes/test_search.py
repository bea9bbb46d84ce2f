import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.ranking import k_reciprocal_rerank
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

PEOPLE = 8


@pytest.fixture(scope="module")
def filled(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Eight people, each seen by camera a at noon and by camera b an hour later, and one tracklet of no camera."""
    with run_service(bundle, tmp_path_factory.mktemp("data")) as live:
        for person in range(PEOPLE):
            for camera, hour in (("a", 12), ("b", 13)):
                data = {
                    "id": f"{person}-{camera}",
                    "camera_id": camera,
                    "start_time": f"2024-05-01T{hour}:0{person}:00Z",
                    "metadata": f'{{"person": {person}}}',
                }
                answer = live.client.post("/embed", files=form(tracklet(person, 4, seed=hour)), data=data)
                assert answer.status_code == 201
        assert live.client.post("/embed", files=form(tracklet(99, 2)), data={"id": "loose"}).status_code == 201
        yield live


def search(live: Live, **body: Any) -> dict[str, Any]:
    answer = live.client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in found["results"]]


def embedding_of(live: Live, record: str) -> list[float]:
    values: list[float] = live.client.get(f"/gallery/{record}?include_embedding=true").json()["embedding"]
    return values


def test_frames_find_the_person(filled: Live) -> None:
    answer = filled.client.post("/search", files=form(tracklet(3, 5, seed=77)), data={"top_k": "2"})
    assert answer.status_code == 200
    found = answer.json()
    assert sorted(ids(found)) == ["3-a", "3-b"]
    assert [hit["rank"] for hit in found["results"]] == [1, 2]
    assert found["results"][0]["score"] >= found["results"][1]["score"] > 0.99
    assert found["searched"] == 2 * PEOPLE + 1
    assert found["exact"] is True
    assert found["took_ms"] > 0
    assert found["embedding_space"] == filled.client.get("/info").json()["embedding_space"]
    hit = next(hit for hit in found["results"] if hit["id"] == "3-b")
    assert hit["camera_id"] == "b"
    assert hit["start_time"] == "2024-05-01T13:03:00Z"
    assert hit["end_time"] is None
    assert hit["metadata"] == {"person": 3}


def test_json_frames_give_the_same_results(filled: Live) -> None:
    frames = tracklet(3, 5, seed=77)
    by_form = filled.client.post("/search", files=form(frames)).json()
    by_json = search(filled, frames=[base64.b64encode(data).decode() for data in frames])
    assert by_json["results"] == by_form["results"]


def test_max_clips_limits_the_embedded_clips_of_the_query(filled: Live) -> None:
    """The one clip of 12 frames is the second; the other clips show other people."""
    frames = tracklet(2, 4, seed=77) + tracklet(3, 4, seed=77) + tracklet(4, 4, seed=77)
    wanted = filled.client.post("/search", files=form(frames[4:8])).json()["results"]
    assert filled.client.post("/search", files=form(frames), data={"max_clips": "1"}).json()["results"] == wanted
    encoded = [base64.b64encode(data).decode() for data in frames]
    assert search(filled, frames=encoded, max_clips=1)["results"] == wanted
    assert search(filled, frames=encoded)["results"] != wanted


def test_max_clips_without_footage_is_refused(filled: Live) -> None:
    embedding = embedding_of(filled, "1-a")
    for query in ({"id": "1-a"}, {"embedding": embedding}):
        answer = filled.client.post("/search", json=query | {"max_clips": 2})
        document = check_problem(answer, 400, "malformed", field="max_clips")
        assert document["errors"][0]["reason"] == "is allowed only together with frames or a video"


def test_an_id_finds_others_but_not_itself(filled: Live) -> None:
    found = search(filled, id="5-a", top_k=100)
    assert ids(found)[0] == "5-b"
    assert "5-a" not in ids(found)
    assert found["searched"] == 2 * PEOPLE


def test_an_embedding_of_any_length_finds_itself(filled: Live) -> None:
    embedding = embedding_of(filled, "2-a")
    for scale in (1.0, 1e-300, 1e300):
        found = search(filled, embedding=[value * scale for value in embedding], top_k=1)
        assert ids(found) == ["2-a"]
        assert found["results"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_filter_by_camera(filled: Live) -> None:
    query = {"embedding": embedding_of(filled, "1-a"), "top_k": 100}
    only = search(filled, filter={"camera_ids": ["b"]}, **query)
    assert {hit["camera_id"] for hit in only["results"]} == {"b"}
    assert only["searched"] == PEOPLE
    without = search(filled, filter={"exclude_camera_ids": ["b"]}, **query)
    assert {hit["camera_id"] for hit in without["results"]} == {"a", None}


def test_filters_by_time_and_by_metadata(filled: Live) -> None:
    query = {"embedding": embedding_of(filled, "1-a"), "top_k": 100}
    found = search(filled, filter={"after": "2024-05-01T13:04:00Z", "before": "2024-05-01T15:05:00+02:00"}, **query)
    assert sorted(ids(found)) == ["4-b", "5-b"]
    found = search(filled, filter={"metadata": {"person": 4}}, **query)
    assert sorted(ids(found)) == ["4-a", "4-b"]


def test_the_same_camera_can_be_excluded(filled: Live) -> None:
    by_id = search(filled, id="6-a", exclude_same_camera=True, top_k=100)
    assert "a" not in {hit["camera_id"] for hit in by_id["results"]}
    assert ids(by_id)[0] == "6-b"
    data = {"camera_id": "b", "exclude_same_camera": "true", "top_k": "100", "filter": '{"metadata": {"person": 6}}'}
    by_form = filled.client.post("/search", files=form(tracklet(6, 4)), data=data)
    assert ids(by_form.json()) == ["6-a"]


def test_excluding_the_same_camera_needs_a_camera(filled: Live) -> None:
    body = {"embedding": embedding_of(filled, "1-a"), "exclude_same_camera": True}
    check_problem(filled.client.post("/search", json=body), 400, "malformed", field="camera_id")
    body = {"id": "loose", "exclude_same_camera": True}
    check_problem(filled.client.post("/search", json=body), 400, "malformed", field="camera_id")
    assert "b" not in {hit["camera_id"] for hit in search(filled, camera_id="b", **body)["results"]}


def test_min_score_limits_the_results(filled: Live) -> None:
    found = search(filled, id="0-a", min_score=0.98, top_k=100)
    assert found["results"]
    assert all(hit["score"] >= 0.98 for hit in found["results"])
    assert len(found["results"]) < found["searched"]


def test_reranking_orders_the_candidates_by_their_k_reciprocal_distance(filled: Live) -> None:
    plain = search(filled, id="7-a", top_k=100)
    reranked = search(filled, id="7-a", top_k=5, rerank=True)
    candidates = ids(plain)
    rows = np.asarray([embedding_of(filled, name) for name in candidates], np.float32)
    distances = k_reciprocal_rerank(np.asarray([embedding_of(filled, "7-a")], np.float32), rows)[0]
    wanted = sorted(zip(distances.tolist(), candidates, strict=True))[:5]
    assert ids(reranked) == [name for _, name in wanted]
    scores = {hit["id"]: hit["score"] for hit in plain["results"]}
    assert {hit["id"]: hit["score"] for hit in reranked["results"]} == {
        name: pytest.approx(scores[name]) for name in ids(reranked)
    }
    assert [hit["rank"] for hit in reranked["results"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("person", [0, 100])
def test_reranking_works_with_one_candidate_and_with_none(filled: Live, person: int) -> None:
    found = search(filled, id="0-b", rerank=True, filter={"metadata": {"person": person}})
    assert len(found["results"]) == (1 if person == 0 else 0)


def test_an_unknown_id_is_not_found(filled: Live) -> None:
    check_problem(filled.client.post("/search", json={"id": "nobody"}), 404, "not-found", field="id")


def test_another_embedding_space_is_refused(filled: Live) -> None:
    body = {"embedding": [1.0] * 32, "embedding_space": "0123456789abcdef"}
    check_problem(filled.client.post("/search", json=body), 409, "other-embedding-space", field="embedding_space")
    body["embedding_space"] = filled.client.get("/info").json()["embedding_space"]
    assert filled.client.post("/search", json=body).status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        '{"embedding": []}',
        '{"embedding": [NaN' + ", 0.5" * 31 + "]}",
        '{"embedding": [Infinity' + ", 0.5" * 31 + "]}",
        '{"embedding": [1e999' + ", 0.5" * 31 + "]}",
        '{"embedding": [0' + ", 0" * 31 + "]}",
        '{"embedding": ["1"' + ", 0.5" * 31 + "]}",
        '{"embedding": "AAAA"}',
        '{"embedding": null}',
        "{}",
    ],
)
def test_a_bad_embedding_is_named(filled: Live, text: str) -> None:
    answer = filled.client.post("/search", content=text, headers={"content-type": "application/json"})
    document = check_problem(answer, 400, "malformed")
    assert document["errors"][0]["field"].startswith("embedding")


def test_an_embedding_of_another_length_is_of_another_space(filled: Live) -> None:
    answer = filled.client.post("/search", json={"embedding": [1, 2, 3]})
    check_problem(answer, 409, "other-embedding-space", field="embedding")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_k": "5"}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"min_score": 2}, "min_score"),
        ({"rerank": "False"}, "rerank"),
        ({"filter": {"camera": "a"}}, "filter.camera"),
        ({"filter": {"camera_ids": []}}, "filter.camera_ids"),
        ({"filter": {"after": "noon"}}, "filter.after"),
        ({"embedding_space": "x"}, "embedding_space"),
        ({"max_clips": 1}, "max_clips"),
        ({"max_clips": 0}, "max_clips"),
        ({"embedding": [1.0] * 32}, "id"),
        ({"boxes": [[0, 0, 0, 9, 9]]}, "boxes"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_options_are_named(filled: Live, change: dict[str, Any], field: str) -> None:
    check_problem(filled.client.post("/search", json={"id": "1-a"} | change), 400, "malformed", field=field)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"top_k": "many"}, "top_k"),
        ({"filter": "{"}, "filter"),
        ({"filter": '{"before": 3}'}, "filter.before"),
        ({"rerank": "maybe"}, "rerank"),
        ({"max_clips": "few"}, "max_clips"),
        ({"max_clips": "0"}, "max_clips"),
        ({"max_clips": "1.5"}, "max_clips"),
        ({"max_clips": '"1"'}, "max_clips"),
        ({"id": "1-a"}, "frames"),
        ({"embedding": "[1]"}, "embedding"),
    ],
)
def test_bad_form_fields_are_named(filled: Live, data: dict[str, str], field: str) -> None:
    answer = filled.client.post("/search", files=form(tracklet(1, 1)), data=data)
    check_problem(answer, 400, "malformed", field=field)


def test_a_search_in_an_empty_gallery_has_no_results(live: Live) -> None:
    assert search(live, embedding=[1.0] * 32, rerank=True)["results"] == []


def test_centred_scores_are_named_and_use_the_camera_of_the_query(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, camera_centring=True) as live:
        for person in range(3):
            for camera in ("a", "b"):
                data = {"id": f"{person}-{camera}", "camera_id": camera}
                assert live.client.post("/embed", files=form(tracklet(person, 4)), data=data).status_code == 201
        assert live.client.get("/info").json()["gallery"]["score_mode"] == "centred"
        found = search(live, id="1-a", top_k=2)
        assert found["score_mode"] == "centred"
        assert ids(found)[0] == "1-b"

        # The camera of the enrolled id is the query's camera; of a vector, it is sent.
        vector = embedding_of(live, "1-a")
        space = found["embedding_space"]
        rest = {"embedding": vector, "embedding_space": space, "top_k": 6}
        named, other = search(live, **rest, camera_id="a"), search(live, **rest)
        assert named["results"][1]["score"] == pytest.approx(found["results"][0]["score"], abs=1e-6)
        assert other["results"][1]["score"] != pytest.approx(named["results"][1]["score"], abs=1e-6)
        assert ids(search(live, id="1-a", exclude_same_camera=True, top_k=1)) == ["1-b"]

        result = live.service.gallery._gallery.search(np.array(vector, np.float32), 6, camera_id="a")
        assert result.centred_query is not None
        distances = k_reciprocal_rerank(result.centred_query[None], np.stack([hit.centred for hit in result.hits]))[0]
        expected = [result.hits[index].record.id for index in np.argsort(distances, kind="stable")]
        reranked = search(live, **rest, camera_id="a", rerank=True)
        assert ids(reranked) == expected
        assert {hit["id"]: hit["score"] for hit in reranked["results"]} == {
            hit.record.id: pytest.approx(hit.score) for hit in result.hits
        }


def test_scores_are_cosines_by_default(filled: Live) -> None:
    assert search(filled, id="1-a")["score_mode"] == "cosine"
    assert filled.client.get("/info").json()["gallery"]["score_mode"] == "cosine"

"""`POST /search` with several examples and rejected ones, on an embedded gallery and on Milvus."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.feedback import combine_examples
from service import lifecycle
from service.gallery import Gallery
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.calibrations import make_calibration
from tests.service.gallery.engines import ENGINES, milvus_database
from tests.service.gallery.samples import record, vector
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

DIMENSION = 32
CAMERAS = ("a", "b", "c", None)
IDS = [f"r{number:02}" for number in range(40)]


def of(id_: str) -> NDArray[np.float32]:
    return vector(id_, DIMENSION)


def camera_of(id_: str) -> str | None:
    return CAMERAS[int(id_[1:]) % 4]


@pytest.fixture(scope="module", params=ENGINES)
def filled(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Forty records of four cameras, and a calibration of cosines."""
    folder = tmp_path_factory.mktemp("examples")
    space = Bundle.load(bundle).embedding_space

    stack = ExitStack()

    def open_filled(*_: object) -> Gallery:
        facts: dict[str, Any] = {"embedding_space": space, "dimension": DIMENSION, "model_name": "sample"}
        if request.param == "embedded":
            gallery: Gallery = EmbeddedGallery.open(folder / "data", **facts)
        else:
            gallery = stack.enter_context(milvus_database(request.param, space, DIMENSION)).open()
        records = [record(name, embedding=of(name), camera_id=camera_of(name)) for name in IDS]
        gallery.enrol(records, "replace")
        return gallery

    calibration = folder / "calibration.json"
    calibration.write_text(make_calibration(embedding_space=space).to_json())
    with stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "open_gallery", open_filled)
        with run_service(bundle, folder / "service", calibration=calibration) as live:
            yield live


def search(live: Live, **body: Any) -> dict[str, Any]:
    answer = live.client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def expect(examples: list[str], rejects: list[str], combine: str, searched: list[str]) -> dict[str, float]:
    queries = combine_examples(
        np.stack([of(name) for name in examples]),
        [camera_of(name) for name in examples],
        np.array([of(name) for name in rejects], np.float32).reshape(-1, DIMENSION),
        combine,  # type: ignore[arg-type]
    )
    scores = {name: float((queries @ of(name)).max()) for name in searched}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def check(found: dict[str, Any], expected: dict[str, float], top_k: int) -> None:
    assert [hit["id"] for hit in found["results"]] == list(expected)[:top_k]
    scores = [hit["score"] for hit in found["results"]]
    assert scores == pytest.approx(list(expected.values())[:top_k], abs=1e-5)
    assert found["searched"] == len(expected)
    assert found["exact"] is True


@pytest.mark.parametrize("combine", ["mean", "max"])
@pytest.mark.parametrize("rejects", [[], ["r20"], ["r21", "r22", "r25"]])
def test_examples_are_combined_and_left_out(filled: Live, combine: str, rejects: list[str]) -> None:
    examples = ["r00", "r04", "r05", "r03"]
    body = {"id": "r00", "ids": examples[1:], "reject_ids": rejects, "combine": combine}
    rest = [name for name in IDS if name not in {*examples, *rejects}]
    check(search(filled, **body, top_k=12), expect(examples, rejects, combine, rest), 12)
    with_filter = [name for name in rest if camera_of(name) in ("b", "c")]
    found = search(filled, **body, top_k=100, filter={"camera_ids": ["b", "c"]})
    check(found, expect(examples, rejects, combine, with_filter), 100)


def test_one_example_gives_the_answer_of_a_plain_search(filled: Live) -> None:
    plain = search(filled, id="r07", top_k=50)
    embedding = [float(value) for value in of("r07")]
    by_embedding = search(filled, embedding=embedding, top_k=50)["results"]
    for body in ({"ids": ["r07"]}, {"id": "r07", "ids": ["r07", "r07"]}, {"id": "r07", "combine": "max"}):
        again = search(filled, **body, top_k=50)
        assert {**again, "took_ms": 0} == {**plain, "took_ms": 0}
    assert plain["results"][0]["probability"] > 0
    assert search(filled, embeddings=[embedding], top_k=50)["results"] == by_embedding


def test_combined_answers_have_no_probability(filled: Live) -> None:
    for body in ({"ids": ["r01", "r02"]}, {"id": "r01", "reject_ids": ["r02"]}, {"id": "r01", "ids": ["r02"]}):
        found = search(filled, **body)
        assert "calibration" not in found
        assert all("probability" not in hit for hit in found["results"])
        answer = filled.client.post("/search", json={**body, "min_probability": 0.5})
        document = check_problem(answer, 409, "not-calibrated", field="min_probability")
        assert "send one example" in document["detail"]


def test_footage_beside_ids_and_embeddings(filled: Live) -> None:
    frames = tracklet(3, 4)
    embedded = filled.client.post("/embed?enroll=false&include_embedding=true", files=form(frames)).json()["embedding"]
    other = [float(value) for value in of("other")]
    data = {"camera_id": "b", "ids": '["r00"]', "reject_ids": '["r02"]', "embeddings": json.dumps([other])}
    by_form = filled.client.post("/search", files=form(frames), data=data)
    assert by_form.status_code == 200, by_form.text
    by_json = search(filled, embedding=embedded, camera_id="b", ids=["r00"], reject_ids=["r02"], embeddings=[other])
    assert [hit["id"] for hit in by_form.json()["results"]] == [hit["id"] for hit in by_json["results"]]
    assert not {"r00", "r02"} & {hit["id"] for hit in by_json["results"]}


def test_reranking_works_with_several_examples(filled: Live) -> None:
    for combine in ("mean", "max"):
        found = search(filled, ids=["r00", "r01"], reject_ids=["r02"], combine=combine, rerank=True, top_k=37)
        assert {hit["id"] for hit in found["results"]} == {*IDS} - {"r00", "r01", "r02"}


def test_the_camera_of_the_query_itself_is_excluded(filled: Live) -> None:
    found = search(filled, id="r00", ids=["r01"], exclude_same_camera=True, top_k=100)
    assert {hit["camera_id"] for hit in found["results"]} == {"b", "c", None}
    found = search(filled, ids=["r01", "r00"], exclude_same_camera=True, top_k=100)
    assert {hit["camera_id"] for hit in found["results"]} == {"a", "c", None}


def test_problems_name_the_id_at_fault(filled: Live) -> None:
    def refused(status: int, kind: str, field: str, **body: Any) -> str:
        answer = filled.client.post("/search", json=body)
        detail: str = check_problem(answer, status, kind, field=field)["detail"]
        return detail

    assert "gone" in refused(404, "not-found", "ids[1]", ids=["r00", "gone"])
    assert "lost" in refused(404, "not-found", "reject_ids[0]", id="r00", reject_ids=["lost"])
    assert "r00" in refused(422, "unusable-examples", "reject_ids[1]", id="r00", reject_ids=["r01", "r00"])
    opposite = [float(-value) for value in of("r00")]
    assert "r00" in refused(422, "unusable-examples", "embeddings", ids=["r00"], embeddings=[opposite])
    refused(409, "other-embedding-space", "embedding_space", embeddings=[opposite], embedding_space="f" * 16)
    refused(409, "other-embedding-space", "embeddings[1]", embeddings=[opposite, [1.0]])
    refused(400, "malformed", "embedding", reject_ids=["r00"])
    refused(400, "malformed", "ids", ids=["r00"] * 101)
    refused(400, "malformed", "reject_ids", id="r00", reject_ids=["r01"] * 101)
    refused(400, "malformed", "embeddings", ids=["r00"] * 60, embeddings=[opposite] * 41)
    refused(400, "malformed", "ids[0]", ids=["../x"])
    refused(400, "malformed", "combine", id="r00", combine="median")


def test_a_hundred_examples_and_a_hundred_rejects(filled: Live) -> None:
    embeddings = [[float(value) for value in of(f"e{number}")] for number in range(90)]
    found = search(filled, ids=IDS[:10], embeddings=embeddings, reject_ids=IDS[10:30], top_k=40)
    assert {hit["id"] for hit in found["results"]} == {*IDS[30:]}

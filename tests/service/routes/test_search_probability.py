"""Probabilities in the answers of `POST /search`, on an exact index, on an approximate one and on Milvus."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle import Bundle
from model.calibration import CALIBRATION_FILE, Calibration
from service import lifecycle
from service.gallery import Gallery
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.opening import open_gallery
from tests.calibrations import make_calibration
from tests.service.gallery.engines import MILVUS, milvus_database
from tests.service.gallery.samples import record
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

DIMENSION = 32
RECORDS = 600
QUERY = np.eye(DIMENSION, dtype=np.float32)[0]


@dataclass(frozen=True)
class Calibrated:
    """A running service, the calibration in its bundle, and the cosine of each record to `QUERY`."""

    live: Live
    calibration: Calibration
    cosines: NDArray[np.float64]


def calibrate(bundle: Path, folder: Path, **facts: Any) -> Path:
    """Copy a bundle and add a calibration of its space."""
    copied = Path(shutil.copytree(bundle, folder))
    write_calibration(copied / CALIBRATION_FILE, bundle, **facts)
    return copied


def write_calibration(path: Path, bundle: Path, **facts: Any) -> Path:
    facts = {"embedding_space": Bundle.load(bundle).embedding_space} | facts
    path.write_text(make_calibration(**facts).to_json())
    return path


@contextmanager
def open_filled(engine: str, folder: Path, bundle: Bundle, cosines: NDArray[np.float64]) -> Iterator[Gallery]:
    facts: dict[str, Any] = {"embedding_space": bundle.embedding_space, "dimension": DIMENSION, "model_name": "sample"}
    if engine in {"embedded", "approximate"}:
        exact_bytes = 2**30 if engine == "embedded" else 4 * DIMENSION * 100
        gallery = EmbeddedGallery.open(folder / "gallery", exact_bytes=exact_bytes, **facts)
        fill(gallery, cosines)
        assert gallery._rebuilder.wait(120)
        assert ("approximate" in gallery.engine) == (engine == "approximate")
        yield gallery
    else:
        with milvus_database(engine, bundle.embedding_space, DIMENSION) as database:
            opened = database.open()
            fill(opened, cosines)
            yield opened


def fill(gallery: Gallery, cosines: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(1)
    sideways = rng.standard_normal((RECORDS, DIMENSION))
    sideways[:, 0] = 0
    sideways /= np.linalg.norm(sideways, axis=1, keepdims=True)
    vectors = (cosines[:, None] * QUERY + np.sqrt(1 - cosines[:, None] ** 2) * sideways).astype(np.float32)
    enrolled = [record(f"r{n:03}", embedding=vector, camera_id=f"c{n % 5}") for n, vector in enumerate(vectors)]
    gallery.enrol(enrolled, "error")


@pytest.fixture(scope="module", params=["embedded", "approximate", *MILVUS])
def calibrated(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Calibrated]:
    folder = tmp_path_factory.mktemp("calibrated")
    own = Bundle.load(calibrate(bundle, folder / "bundle"))
    assert own.calibration
    cosines = np.linspace(-0.99, 0.99, RECORDS)[np.random.default_rng(2).permutation(RECORDS)]
    with open_filled(request.param, folder, own, cosines) as gallery, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            lifecycle,
            "open_gallery",
            lambda settings, bundle: gallery if settings.data_dir == folder else open_gallery(settings, bundle),
        )
        with run_service(own.path, folder) as live:
            yield Calibrated(live, own.calibration, cosines)


def search(live: Live, **body: Any) -> dict[str, Any]:
    query = {} if "id" in body else {"embedding": QUERY.tolist()}
    answer = live.client.post("/search", json={"top_k": 1000} | query | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def probabilities(found: dict[str, Any]) -> dict[str, float]:
    return {hit["id"]: hit["probability"] for hit in found["results"]}


def test_each_hit_has_the_probability_of_its_score_under_the_prior_of_the_answer(calibrated: Calibrated) -> None:
    for prior in (None, 0.3):
        found = search(calibrated.live, **({"prior": prior} if prior else {}))
        used = found["calibration"]
        assert used["prior"] == (prior or 1 / (RECORDS + 1))
        scores = [hit["score"] for hit in found["results"]]
        assert len(scores) == RECORDS
        assert scores == pytest.approx(sorted(calibrated.cosines.tolist(), reverse=True), abs=1e-6)
        wanted = calibrated.calibration.probability(scores, used["prior"])
        assert list(probabilities(found).values()) == pytest.approx(wanted.tolist(), abs=1e-12)
        assert list(probabilities(found).values()) == sorted(probabilities(found).values(), reverse=True)


def test_the_answer_says_what_its_probabilities_are_based_on(calibrated: Calibrated) -> None:
    assert search(calibrated.live, top_k=1)["calibration"] == {
        "id": calibrated.calibration.id,
        "source": "bundle",
        "prior": 1 / (RECORDS + 1),
        "fitted_people": 50,
        "fitted_cameras": 4,
        "fitted_at": "2026-11-28T12:00:00Z",
    }


def test_the_default_prior_follows_the_filter(calibrated: Calibrated) -> None:
    found = search(calibrated.live, filter={"camera_ids": ["c1"]})
    assert found["searched"] == RECORDS // 5
    assert found["calibration"]["prior"] == 1 / (RECORDS // 5 + 1)
    none = search(calibrated.live, filter={"camera_ids": ["unknown"]})
    assert (none["results"], none["calibration"]["prior"]) == ([], 0.5)


@settings(max_examples=40, deadline=None)
@given(
    probability=st.floats(0, 1) | st.integers(0, 40),
    prior=st.none() | st.floats(1e-6, 1 - 1e-6),
    top_k=st.integers(1, 40) | st.just(1000),
    camera=st.sampled_from([None, "c3"]),
    min_score=st.sampled_from([None, 0.3]),
)
def test_exactly_the_hits_with_the_probability_are_returned(
    calibrated: Calibrated,
    probability: float,
    prior: float | None,
    top_k: int,
    camera: str | None,
    min_score: float | None,
) -> None:
    """An integer stands for the probability of the hit at this place, which must be returned itself."""
    body: dict[str, Any] = {"top_k": top_k}
    body |= {"prior": prior} if prior is not None else {}
    body |= {"filter": {"camera_ids": [camera]}} if camera else {}
    body |= {"min_score": min_score} if min_score is not None else {}
    everything = search(calibrated.live, **body)
    hits = everything["results"]
    if isinstance(probability, int):
        probability = hits[min(probability, len(hits) - 1)]["probability"]
    found = search(calibrated.live, min_probability=probability, **body)
    wanted = [hit for hit in hits if hit["probability"] >= probability]
    assert found["results"] == wanted
    assert (found["searched"], found["calibration"]) == (everything["searched"], everything["calibration"])
    # The same as a minimum score on the same function. Hits that rounding may put on either side of it are left out.
    least = calibrated.calibration.score_at(probability, found["calibration"]["prior"])
    clear = [hit for hit in hits if hit["probability"] != pytest.approx(probability, rel=1e-9, abs=0)]
    for hit in clear:
        assert (hit in wanted) == (hit["score"] >= least)


def test_form_and_json_take_the_same_fields(calibrated: Calibrated) -> None:
    frames = form(tracklet(3, 4))
    fields = {"prior": "0.25", "min_probability": "0.5", "top_k": "1000"}
    answer = calibrated.live.client.post("/search", files=frames, data=fields)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["calibration"]["prior"] == 0.25
    assert all(probability >= 0.5 for probability in probabilities(found).values())
    embedded = calibrated.live.client.post("/embed?enroll=false&include_embedding=true", files=frames).json()
    same = search(calibrated.live, embedding=embedded["embedding"], prior=0.25, min_probability=0.5)
    assert list(probabilities(same)) == list(probabilities(found))


def test_a_reranked_answer_has_no_probability(calibrated: Calibrated) -> None:
    found = search(calibrated.live, rerank=True, top_k=5, prior=0.1)
    assert "calibration" not in found
    assert all("probability" not in hit for hit in found["results"])
    body = {"embedding": QUERY.tolist(), "rerank": True, "min_probability": 0.5}
    answer = calibrated.live.client.post("/search", json=body)
    document = check_problem(answer, 409, "not-calibrated", field="min_probability")
    assert "was fitted on cosine scores, not reranked: leave out rerank" in document["detail"]


def test_a_gallery_of_another_space_has_no_probability(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    service = calibrated.live.service
    assert service.calibration
    other = replace(service.calibration, calibration=make_calibration())
    monkeypatch.setattr(calibrated.live.lifecycle, "_service", replace(service, calibration=other))
    assert "calibration" not in search(calibrated.live, top_k=1)
    body = {"embedding": QUERY.tolist(), "min_probability": 0.5}
    answer = calibrated.live.client.post("/search", json=body)
    document = check_problem(answer, 409, "not-calibrated", field="min_probability")
    assert "embedding space 0123456789abcdef, the gallery is of" in document["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("prior", 0), ("prior", 1), ("prior", -0.1), ("prior", "0.1"), ("min_probability", 1.1), ("min_probability", -1)],
)
def test_bad_values_are_named(calibrated: Calibrated, field: str, value: object) -> None:
    answer = calibrated.live.client.post("/search", json={"embedding": QUERY.tolist(), field: value})
    check_problem(answer, 400, "malformed", field=field)


def test_without_a_calibration_the_fields_are_absent(live: Live) -> None:
    live.client.post("/embed", files=form(tracklet(1, 4)), data={"id": "a"})
    found = search(live, prior=0.1)
    assert "calibration" not in found
    assert [hit.keys() & {"probability"} for hit in found["results"]] == [set()]
    answer = live.client.post("/search", json={"id": "a", "min_probability": 0.0})
    document = check_problem(answer, 409, "not-calibrated", field="min_probability")
    assert "fit one with `not3d calibrate` and name its file in NOT3D_CALIBRATION" in document["detail"]


def test_a_calibration_of_reranked_scores_serves_reranked_answers_only(bundle: Path, tmp_path: Path) -> None:
    site = write_calibration(tmp_path / "site.json", bundle, mode="reranked")
    with run_service(bundle, tmp_path / "data", calibration=site) as live:
        for person in range(4):
            live.client.post("/embed", files=form(tracklet(person, 4)), data={"id": str(person)})
        plain = search(live, id="1")
        assert "calibration" not in plain
        document = check_problem(
            live.client.post("/search", json={"id": "1", "min_probability": 0.5}), 409, "not-calibrated"
        )
        assert "leave out rerank" not in document["detail"]
        every = probabilities(search(live, id="1", rerank=True))
        assert len(every) == 3
        least = sorted(every.values())[1]
        some = search(live, id="1", rerank=True, min_probability=least)
        assert probabilities(some).keys() == {name for name, value in every.items() if value >= least}
        assert some["calibration"]["source"] == "site"


def test_the_sites_calibration_and_prior_override_those_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    own = calibrate(bundle, tmp_path / "bundle")
    site = write_calibration(tmp_path / "site.json", bundle, slope=3.0, people=7)
    with run_service(own, tmp_path / "data", calibration=site, prior=0.02) as live:
        live.client.post("/embed", files=form(tracklet(1, 4)), data={"id": "a"})
        for requested, prior in ((None, 0.02), (0.5, 0.5)):
            found = search(live, **({"prior": requested} if requested else {}))
            used = found["calibration"]
            assert (used["source"], used["fitted_people"], used["prior"]) == ("site", 7, prior)
            (hit,) = found["results"]
            assert hit["probability"] == Calibration.load(site).probability([hit["score"]], prior)[0]
        info = live.client.get("/info").json()
        assert (info["calibration"]["source"], info["calibration"]["prior"]) == ("site", 0.02)


@pytest.mark.parametrize("mode", ["cosine", "centred", "reranked"])
def test_centred_scores_have_a_probability_only_from_a_calibration_of_such_scores(
    bundle: Path, tmp_path: Path, mode: str
) -> None:
    fitted = calibrate(bundle, tmp_path / "bundle", mode=mode)
    with run_service(fitted, tmp_path / "data", camera_centring=True) as live:
        for name in ("a", "b"):
            data = {"id": name, "camera_id": name}
            assert live.client.post("/embed", files=form(tracklet(1, 4)), data=data).status_code == 201
        for rerank in (False, True):
            found = live.client.post("/search", json={"id": "a", "rerank": rerank}).json()
            expected = mode == "centred" and not rerank
            assert ("calibration" in found) is expected
            assert all(("probability" in hit) is expected for hit in found["results"])
            asked = live.client.post("/search", json={"id": "a", "rerank": rerank, "min_probability": 0.1})
            assert asked.status_code == (200 if expected else 409)

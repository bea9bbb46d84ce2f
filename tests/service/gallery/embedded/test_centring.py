"""Centred scores, compared with the formula written as plain numpy."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import Filter, InvalidArgument, Record
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index import centring, ivf
from tests.service.gallery.embedded.test_model import GalleryAgainstModel
from tests.service.gallery.samples import DIMENSION, record, vector
from tests.service.gallery.samples import open_gallery as open_any

D = 16
EXACT = 4 * D * 500
"""The bytes of 500 vectors."""
CAMERAS = (None, "gate", "hall", "yard")
Wide = NDArray[np.float64]


def open_gallery(directory: Path, *, exact_bytes: int = EXACT, camera_centring: bool = True) -> EmbeddedGallery:
    return open_any(directory, dimension=D, exact_bytes=exact_bytes, camera_centring=camera_centring)


def unit(vectors: NDArray[np.floating]) -> Wide:
    wide = np.asarray(vectors, np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def means_of(records: Sequence[Record], cameras: Sequence[str | None]) -> dict[str | None, Wide]:
    """Return the mean of each camera: the formula in the docstring of `centring`."""
    shrinkage = centring.SHRINKAGE
    dimension = len(records[0].embedding) if records else DIMENSION
    vectors = unit(np.array([one.embedding for one in records])) if records else np.zeros((0, dimension))
    mean = vectors.sum(axis=0) / (len(vectors) + shrinkage)
    result: dict[str | None, Wide] = {}
    for camera in cameras:
        own = [one.camera_id == camera and camera is not None for one in records]
        result[camera] = (vectors[own].sum(axis=0) + shrinkage * mean) / (sum(own) + shrinkage)
    return result


def scores_of(
    records: Sequence[Record], query: NDArray[np.float32], camera_id: str | None, means: dict[str | None, Wide]
) -> dict[str, float]:
    direction = unit(unit(query) - means[camera_id])
    return {one.id: float(unit(unit(one.embedding) - means[one.camera_id]) @ direction) for one in records}


def means_in_use(gallery: EmbeddedGallery) -> dict[str | None, Wide]:
    assert gallery._index._centring is not None
    table = gallery._index._centring.means.table
    names = gallery._index._columns.camera_ids
    return {None: table[-1]} | {name: table[code] for code, name in enumerate(names)}


class CentredGalleryAgainstModel(GalleryAgainstModel):
    """The same calls with centred scores. Means are never behind, and few records count in them."""

    def __init__(self) -> None:
        self.constants = patch.multiple(centring, TOLERANCE=0.0, SHRINKAGE=2.0)
        self.constants.start()
        super().__init__()

    @override
    def teardown(self) -> None:
        super().teardown()
        self.constants.stop()

    @override
    def open(self) -> EmbeddedGallery:
        return open_any(self.directory, exact_bytes=self.exact_bytes, camera_centring=True)

    @override
    def scores(self, query: NDArray[np.float32], camera_id: str | None, records: list[Record]) -> dict[str, float]:
        # Expired records count until they are removed.
        means = means_of(list(self.model.values()), (None, "c1", "c2", "c3"))
        return scores_of(records, query, camera_id, means)

    @override
    def check_order(self, found: list[str], ranked: list[str], scores: dict[str, float]) -> None:
        # Two cameras can have means that are equal but for the last bit, so that ties are none.
        assert [scores[name] for name in found] == [scores[name] for name in ranked]


class LargeCentredGalleryAgainstModel(CentredGalleryAgainstModel):
    exact_bytes = 3 * 4 * DIMENSION


TestCentredGalleryAgainstModel = CentredGalleryAgainstModel.TestCase
TestLargeCentredGalleryAgainstModel = LargeCentredGalleryAgainstModel.TestCase
TestCentredGalleryAgainstModel.settings = TestLargeCentredGalleryAgainstModel.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def make_records(count: int, seed: int = 0) -> list[Record]:
    """Make records whose vectors have a common part and one of their camera."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal(D), rng.standard_normal((len(CAMERAS), D))
    vectors = unit(rng.standard_normal((count, D)) + 0.7 * common + 0.7 * own[np.arange(count) % len(CAMERAS)])
    return [
        record(f"r{seed}-{number:05}", embedding=row.astype(np.float32), camera_id=CAMERAS[number % len(CAMERAS)])
        for number, row in enumerate(vectors)
    ]


def fill(gallery: EmbeddedGallery, records: Sequence[Record], at_once: int = 100) -> None:
    for start in range(0, len(records), at_once):
        gallery.enrol(records[start : start + at_once], "replace")
    assert gallery._rebuilder.wait(120)


FILTERS = (Filter(), Filter(camera_ids=("gate", "hall")), Filter(exclude_camera_ids=("gate",)))


def check_exact(gallery: EmbeddedGallery, records: Sequence[Record], seed: int = 1) -> None:
    """Check that answers are the best by the means in use, and that these are near those of the records."""
    means, right = means_in_use(gallery), means_of(records, CAMERAS)
    assert all(np.linalg.norm(means[camera] - right[camera]) <= centring.TOLERANCE + 1e-9 for camera in CAMERAS)
    for number, query in enumerate(make_records(12, seed)):
        wanted, camera = FILTERS[number % len(FILTERS)], CAMERAS[number % len(CAMERAS)]
        scores = scores_of(records, query.embedding, camera, means)
        passing = [
            one.id
            for one in records
            if (wanted.camera_ids is None or one.camera_id in wanted.camera_ids)
            and one.camera_id not in wanted.exclude_camera_ids
        ]
        best = sorted(passing, key=lambda name: -scores[name])[:10]
        found = gallery.search(query.embedding, 10, wanted, camera_id=camera)
        assert [hit.record.id for hit in found.hits] == best
        assert [hit.score for hit in found.hits] == pytest.approx([scores[name] for name in best], abs=1e-6)
        assert found.searched == len(passing)


@pytest.mark.parametrize("count", [400, 2400])
def test_answers_are_right_while_records_come_and_go(tmp_path: Path, count: int) -> None:
    records = make_records(count)
    gallery = open_gallery(tmp_path)
    fill(gallery, records)
    assert ("approximate" in gallery.engine) is (count > 500)
    assert gallery.score_mode == "centred"
    # All lists, so that the answer can be compared with the formula.
    with patch.multiple(ivf, _MIN_CODE_BYTES=2**30, _MIN_CODE_BYTES_FILTERED=2**30):
        check_exact(gallery, records)
        for one in records[::7]:
            gallery.delete(one.id)
        records = [one for number, one in enumerate(records) if number % 7]
        check_exact(gallery, records)
        gallery.erase(Filter(camera_ids=("hall",)), dry_run=False)
        records = [one for one in records if one.camera_id != "hall"]
        check_exact(gallery, records)
        replaced = [record(one.id, embedding=vector(one.id, D), camera_id="gate") for one in records[:200]]
        fill(gallery, replaced)
        records = replaced + records[200:]
        check_exact(gallery, records)
    gallery.close()


def test_the_approximate_index_finds_nearly_all_of_the_best(tmp_path: Path) -> None:
    records = make_records(3000)
    gallery = open_gallery(tmp_path)
    fill(gallery, records, 1000)
    means, right, inexact = means_in_use(gallery), 0, 0
    with patch.multiple(ivf, _MIN_CODE_BYTES=0, _MIN_CODE_BYTES_FILTERED=0):
        for query in make_records(50, 5):
            scores = scores_of(records, query.embedding, query.camera_id, means)
            best = sorted(scores, key=lambda name: -scores[name])[:10]
            found = gallery.search(query.embedding, 10, camera_id=query.camera_id)
            inexact += not found.exact
            right += len({hit.record.id for hit in found.hits} & set(best))
            assert all(hit.score == pytest.approx(scores[hit.record.id], abs=1e-6) for hit in found.hits)
    assert inexact == 50
    assert right >= 0.97 * 500
    gallery.close()


def test_nearly_equal_scores_are_told_apart(tmp_path: Path) -> None:
    """Single precision orders these wrongly, so the exact index must keep enough candidates."""
    rng = np.random.default_rng(3)
    centre = unit(rng.standard_normal(D))
    rows = unit(centre + 1e-4 * rng.standard_normal((400, D))).astype(np.float32)
    records = [record(f"r{number:03}", embedding=row, camera_id="gate") for number, row in enumerate(rows)]
    gallery = open_gallery(tmp_path)
    fill(gallery, records)
    scores = scores_of(records, rows[0], None, means_in_use(gallery))
    best = sorted(scores, key=lambda name: -scores[name])
    for top_k in (1, 20, 399):
        assert [hit.record.id for hit in gallery.search(rows[0], top_k).hits] == best[:top_k]
    gallery.close()


def test_equal_vectors_of_one_camera_have_equal_scores_and_rank_by_id(tmp_path: Path) -> None:
    names = [f"t{number:03}" for number in np.random.default_rng(1).permutation(150)]
    gallery = open_gallery(tmp_path)
    fill(gallery, [record(name, embedding=vector("same", D)) for name in names])
    for top_k in (1, 7, 150):
        hits = gallery.search(vector("query", D), top_k).hits
        assert [hit.record.id for hit in hits] == sorted(names)[:top_k]
        assert len({hit.score for hit in hits}) == 1
    assert gallery.search(vector("same", D), 1, camera_id="c1").hits[0].score == pytest.approx(1, abs=1e-6)
    gallery.close()


@pytest.mark.parametrize("camera_id", [None, "c1"])
def test_a_young_gallery_ranks_as_without_centring(tmp_path: Path, camera_id: str | None) -> None:
    """Of two records, the mean lies between them: with the plain mean, their scores would be opposites."""
    gallery, plain = open_gallery(tmp_path / "centred"), open_gallery(tmp_path / "plain", camera_centring=False)
    assert gallery.search(vector("q", D), 5, camera_id=camera_id).hits == []
    for number in range(5):
        for one in (gallery, plain):
            one.add(record(f"r{number}", embedding=vector(f"n{number}", D), camera_id=camera_id))
        query = unit(vector("n0", D) + 0.5 * vector("noise", D)).astype(np.float32)
        found, expected = (one.search(query, 5, camera_id=camera_id).hits for one in (gallery, plain))
        assert [hit.record.id for hit in found] == [hit.record.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=0.1)
    gallery.close()
    plain.close()


def test_a_camera_without_records_gets_the_mean_of_all(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    fill(gallery, make_records(300))
    unknown, none = (gallery.search(vector("q", D), 20, camera_id=camera) for camera in ("new", None))
    assert [(hit.record.id, hit.score) for hit in unknown.hits] == [(hit.record.id, hit.score) for hit in none.hits]
    gate = gallery.search(vector("q", D), 20, camera_id="gate")
    assert [hit.score for hit in gate.hits] != [hit.score for hit in none.hits]
    gallery.close()


def test_min_score_is_compared_with_the_centred_score(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    fill(gallery, make_records(300))
    hits = gallery.search(vector("q", D), 300).hits
    found = gallery.search(vector("q", D), 300, min_score=hits[9].score)
    assert [hit.record.id for hit in found.hits] == [hit.record.id for hit in hits[:10]]
    assert found.searched == 300
    gallery.close()


@pytest.mark.parametrize("count", [400, 1200])
def test_a_restart_rebuilds_the_means_from_the_records(tmp_path: Path, count: int) -> None:
    gallery = open_gallery(tmp_path)
    records = make_records(count)
    with patch.object(centring, "TOLERANCE", 0.0):
        fill(gallery, records, 400)
        gallery.delete(records[0].id)
        before = means_in_use(gallery)
        found = gallery.search(vector("q", D), 20, camera_id="gate").hits
        gallery.close()
        gallery = open_gallery(tmp_path)
        after = means_in_use(gallery)
        # To the bit: sums do not depend on the order in which records came.
        assert all(np.array_equal(before[camera], after[camera]) for camera in CAMERAS)
        again = gallery.search(vector("q", D), 20, camera_id="gate").hits
        assert [(hit.record.id, hit.score) for hit in again] == [(hit.record.id, hit.score) for hit in found]
    gallery.close()


def test_the_setting_can_be_changed_at_each_start(tmp_path: Path) -> None:
    fill(gallery := open_gallery(tmp_path, camera_centring=False), make_records(1200), 400)
    plain = gallery.search(vector("q", D), 5, camera_id="gate")
    assert (gallery.score_mode, plain.centred_query, plain.hits[0].centred) == ("cosine", None, None)
    gallery.close()
    gallery = open_gallery(tmp_path)
    assert gallery.search(vector("q", D), 5, camera_id="gate").hits[0].score != plain.hits[0].score
    gallery.close()
    gallery = open_gallery(tmp_path, camera_centring=False)
    again = gallery.search(vector("q", D), 5, camera_id="gate")
    assert [(hit.record.id, hit.score) for hit in again.hits] == [(hit.record.id, hit.score) for hit in plain.hits]
    gallery.close()


def test_removed_records_leave_nothing_in_the_means(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    kept, removed = make_records(200), make_records(200, 9)
    fill(gallery, [*kept, *removed])
    assert gallery._index._centring is not None
    for one in removed:
        gallery.delete(one.id)
    only_kept = centring.CameraSums(D)
    only_kept.add_all([one.camera_id for one in kept], np.stack([one.embedding for one in kept]))
    sums = gallery._index._centring.sums
    assert all(np.array_equal(sums.mean_of(camera), only_kept.mean_of(camera)) for camera in CAMERAS)
    gallery.close()


def test_the_vectors_that_were_compared_are_in_the_answer(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    fill(gallery, make_records(300))
    found = gallery.search(vector("q", D), 20, camera_id="gate")
    assert found.centred_query is not None
    for hit in found.hits:
        assert hit.centred is not None
        assert hit.centred @ found.centred_query == pytest.approx(hit.score, abs=1e-12)
        assert np.linalg.norm(hit.centred) == pytest.approx(1)
    gallery.close()


def test_stored_vectors_stay_as_they_were_sent(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    records = make_records(200)
    fill(gallery, records)
    hit = gallery.search(records[3].embedding, 1, camera_id=records[3].camera_id).hits[0]
    np.testing.assert_array_equal(hit.record.embedding, records[3].embedding)
    assert hit.record.id == records[3].id
    gallery.close()


def test_a_camera_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path)
    with pytest.raises(InvalidArgument, match="camera_id"):
        gallery.search(vector("q", D), 1, camera_id="a\0b")
    gallery.close()


def test_the_means_in_use_are_never_further_behind_than_the_tolerance(tmp_path: Path) -> None:
    """A camera's mean also moves with that of all, while only other cameras get records."""
    gallery = open_gallery(tmp_path)
    records = make_records(80)
    fill(gallery, records)
    rng = np.random.default_rng(0)
    for number in range(120):
        towards = unit(rng.standard_normal(D) + 3 * np.eye(D)[number // 40]).astype(np.float32)
        records.append(record(f"x{number:03}", embedding=towards, camera_id="yard" if number % 2 else None))
        gallery.add(records[-1])
        used, right = means_in_use(gallery), means_of(records, CAMERAS)
        assert all(np.linalg.norm(used[camera] - right[camera]) <= centring.TOLERANCE + 1e-9 for camera in CAMERAS)
    gallery.close()

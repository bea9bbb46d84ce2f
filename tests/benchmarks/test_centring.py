"""The benchmark of centred scores measures what the gallery does."""

import numpy as np
import pytest

from benchmarks.centring import SPREADS, Site, centre, choose_queries, draw, score
from model.tracklet import normalise
from service.gallery.embedded.index.centring import SHRINKAGE, CameraSums, Means


def make_site(people: int = 40, cameras: int = 3, each: int = 4, shift: float = 0.0) -> Site:
    rng = np.random.default_rng(0)
    names = np.repeat([f"p{number:02}" for number in range(people)], cameras * each)
    seen = np.tile(np.repeat([f"c{number}" for number in range(cameras)], each), people)
    looks = rng.standard_normal((people, 16))[np.repeat(np.arange(people), cameras * each)]
    shifts = shift * rng.standard_normal((cameras, 16))[np.tile(np.repeat(np.arange(cameras), each), people)]
    rows = normalise(looks + shifts + 0.6 * rng.standard_normal(looks.shape)).astype(np.float64)
    return Site("drawn", rows, names, seen)


def test_centring_is_that_of_the_gallery() -> None:
    site = make_site()
    sums = CameraSums(16)
    sums.add_all(list(site.cameras), site.rows.astype(np.float32))
    cameras, codes = np.unique(site.cameras, return_inverse=True)
    means = Means(np.array([sums.mean_of(camera) for camera in cameras]))
    expected = means.centre(site.rows.astype(np.float32), codes.astype(np.int32))
    found = centre(site.rows, site.cameras, np.ones(len(site.rows)), SHRINKAGE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_centring_helps_where_cameras_shift_their_vectors() -> None:
    site = make_site(shift=1.5)
    queries = choose_queries(site.people, site.cameras, np.random.default_rng(0))
    plain = score(site.rows, site.people, site.cameras, queries)
    centred = score(centre(site.rows, site.cameras, np.ones(len(site.rows)), 0.0), site.people, site.cameras, queries)
    assert centred[0] > plain[0] + 5
    assert centred[1] > plain[1] + 5


@pytest.mark.parametrize("spread", SPREADS)
def test_a_camera_has_at_most_the_wanted_tracklets(spread: str) -> None:
    site = make_site()
    sample = draw(site, 20, spread, np.random.default_rng(1))
    cameras, counts = np.unique(site.cameras[sample.chosen], return_counts=True)
    assert len(cameras) == 3
    assert counts.max() <= 20
    assert len(np.unique(sample.chosen)) == len(sample.chosen)
    people, seen = site.people[sample.chosen], site.cameras[sample.chosen]
    if spread == "other people":
        apart = [len(np.unique(seen[people == person])) for person in np.unique(people)]
        assert 1 <= np.mean(apart) < 2
    if spread == "regulars":
        for camera in cameras:
            weights = np.sort(sample.weights[seen == camera])[::-1]
            assert weights.sum() == pytest.approx(counts[cameras == camera][0])
            assert weights[0] > 1


def test_rank_1_and_average_precision_of_two_cameras() -> None:
    rows = normalise(np.array([[1, 0.1, 0], [0, 0.1, 1], [1, 0, 0.1], [0.9, 0, 0.3]])).astype(np.float64)
    people, cameras = np.array(["a", "b", "b", "a"]), np.array(["x", "x", "y", "y"])
    queries = np.array([0])  # a at x: of y, the tracklet of b is nearer
    assert score(rows, people, cameras, queries) == (0.0, 50.0)

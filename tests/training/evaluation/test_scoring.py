import numpy as np
import pytest

from training.datasets.matfile import read_mat
from training.datasets.tracklet import DatasetError, Tracklet
from training.evaluation.protocols import EvaluationError, EvaluationSet, EvaluationSettings, select_tracklets
from training.evaluation.scoring import pairwise_distances, score, summarise_splits

SETTINGS = EvaluationSettings()


@pytest.fixture(scope="module")
def official(shared_data):
    """The queries of MARS and its gallery without them, as tracklets without frames."""
    reference = shared_data.parent / "reference"
    rows = read_mat(reference / "tracks_test_info.mat")["track_test_info"].astype(int)
    queries = set((read_mat(reference / "query_IDX.mat")["query_IDX"].astype(int).ravel() - 1).tolist())
    tracklets = [
        Tracklet(f"{person:04}", f"C{camera}", (), str(row)) for row, (_, _, person, camera) in enumerate(rows)
    ]
    query = [tracklet for row, tracklet in enumerate(tracklets) if row in queries]
    return query, [t for row, t in enumerate(tracklets) if row not in queries and rows[row, 2] != -1]


@pytest.mark.parametrize(
    ("name", "together", "precision", "queries", "gallery"),
    [
        ("mars", False, "step", 1_840, 9_330),
        ("mars-all-queries", True, "step", 1_980, 11_310),
        ("mars-official", True, "trapezoid", 1_980, 11_310),
    ],
)
def test_each_protocol_of_mars_has_its_counts(official, name, together, precision, queries, gallery):
    query, others = official
    selection = EvaluationSet(name, query, others, together, precision)
    features = np.random.default_rng(3).standard_normal((len(query) + len(others), 4)).astype(np.float32)
    rows = features if together else features[len(query) :]
    result = score(features[: len(query)], rows, selection, SETTINGS, head={}, clip_length=4)
    assert (result.figures["queries"], result.figures["gallery"]) == (queries, gallery)
    assert result.figures["queries without a match"] == 1_980 - queries
    assert f"{precision} AP" in result.figures["distance"]
    assert result.figures["protocol"].startswith(f"{name}: ")
    # Random features give chance level.
    assert result.figures["mAP"] < 2
    assert result.verification.different_pairs > 1e7
    assert abs(100 * result.verification.tar_at[1e-2] - 1) < 0.5


def people(count, cameras=2):
    return [Tracklet(f"{n:03}", f"C{c}", (), f"{n}-{c}") for n in range(count) for c in range(cameras)]


def clustered(tracklets, spread, seed=0):
    rng = np.random.default_rng(seed)
    centers = {t.person: rng.standard_normal(16) for t in tracklets}
    return np.stack([centers[t.person] + spread * rng.standard_normal(16) for t in tracklets]).astype(np.float32)


def test_perfect_features_give_perfect_figures():
    tracklets = people(200)
    features = clustered(tracklets, 0.01)
    result = score(
        features,
        features,
        EvaluationSet("cross-camera", tracklets, [], True),
        SETTINGS,
        head={"model": "m"},
        clip_length=4,
    )
    for name in (
        "rank-1",
        "mAP",
        "mINP",
        "TAR at FAR 0.01",
        "TAR at FAR 0.0001",
        "DIR at FPIR 0.1",
        "DIR at FPIR 0.01",
    ):
        assert result.figures[name] == 100, name
    assert result.intervals["mAP"] == (100, 100)
    assert result.figures["model"] == "m"
    # Each of 400 tracklets against those from the other camera.
    assert result.figures["pairs"] == f"400 of one person, {400 * 199:,} of two, across cameras"
    assert result.figures["probes"] == "200 enrolled, 200 not"


def test_interval_contains_the_figure_and_is_narrower_with_more_people():
    widths = []
    for count in (20, 500):
        tracklets = people(count)
        features = clustered(tracklets, 1.1)
        result = score(
            features, features, EvaluationSet("cross-camera", tracklets, [], True), SETTINGS, head={}, clip_length=4
        )
        low, high = result.intervals["mAP"]
        assert low < result.figures["mAP"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_distances_by_hand():
    a, b = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 0.0], [6.0, 8.0]], np.float32)
    np.testing.assert_allclose(pairwise_distances(a, b, "euclidean"), [[4.0, 5.0]], atol=1e-5)
    np.testing.assert_allclose(pairwise_distances(a, b, "cosine"), [[0.4, 0.0]], atol=1e-6)


def test_settings_choose_re_ranking_and_average_precision():
    tracklets = people(40, cameras=3)
    features = clustered(tracklets, 1.0)
    selection = EvaluationSet("cross-camera", tracklets, [], True)
    plain = score(features, features, selection, SETTINGS, head={}, clip_length=4)
    again = score(features, features, selection, EvaluationSettings(rerank=True), head={}, clip_length=4)
    official = score(
        features, features, selection, EvaluationSettings(average_precision="trapezoid"), head={}, clip_length=4
    )
    assert again.figures["mAP"] > plain.figures["mAP"]
    assert "re-ranking" in again.figures["distance"]
    # Re-ranking uses unit vectors, so the metric makes no difference and is not named.
    other = EvaluationSettings(rerank=True, metric="euclidean")
    figures = score(8 * features, features, selection, other, head={}, clip_length=4).figures
    assert figures["distance"] == again.figures["distance"]
    assert figures["mAP"] == again.figures["mAP"]
    assert official.figures["mAP"] != plain.figures["mAP"]
    assert official.figures["rank-1"] == plain.figures["rank-1"]


def test_mean_over_splits_has_a_standard_deviation():
    results = []
    for split in range(3):
        tracklets = people(30)
        features = clustered(tracklets, 1.2, seed=split)
        selection = EvaluationSet("benchmark", tracklets[::2], tracklets[1::2], False, split=split)
        results.append(score(features[::2], features[1::2], selection, SETTINGS, head={}, clip_length=4))
    figures = summarise_splits(results)
    each = [result.figures["rank-1"] for result in results]
    assert figures["rank-1"] == pytest.approx(np.mean(each), abs=0.01)
    assert figures["rank-1 std"] == pytest.approx(np.std(each, ddof=1), abs=0.01)
    assert figures["split"] == "mean of 3: 0, 1, 2"
    assert (figures["queries"], figures["gallery"]) == ("30", "30")
    with pytest.raises(ValueError, match="at least two results"):
        summarise_splits(results[:1])


def test_protocol_needs_suitable_data(tmp_path):
    with pytest.raises(EvaluationError, match="dataset with test lists"):
        select_tracklets([tmp_path, tmp_path], "benchmark")
    with pytest.raises(DatasetError, match="does not exist"):
        select_tracklets([tmp_path / "nowhere"], "auto")

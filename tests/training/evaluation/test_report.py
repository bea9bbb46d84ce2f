import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.calibrations import make_calibration
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet
from training.evaluation.protocols import EvaluationSet, EvaluationSettings
from training.evaluation.report import write_report
from training.evaluation.report_charts import overlap
from training.evaluation.report_queries import order_queries
from training.evaluation.scoring import score

VOID = {"meta", "img", "link", "br", "hr", "input"}
ODD = '<script>alert("x")</script>&'


class Page(HTMLParser):
    """Elements with their text; fails if tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.inside = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "parents": [e["tag"] for e in self.inside], **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(tag)
            self.inside.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "parents": [], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside.pop()

    def handle_data(self, data):
        for element in self.inside:
            element["text"] += data

    def of(self, tag, name=None):
        return [e for e in self.elements if e["tag"] == tag and (name is None or name in e.get("class", "").split())]


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    drawn = write_synthetic(folder, people=6, cameras=3, frames=6, seed=2, size=(64, 32))
    return [replace(t, person=ODD) if t.person == "0003" else t for t in drawn]


def measure(tracklets, settings=None, calibration=None, **changes):
    """Score features by person with noise, so that some queries get wrong answers."""
    random = np.random.default_rng(4)
    people = {t.person: random.normal(size=8) for t in tracklets}
    features = np.stack([people[t.person] + 1.1 * random.normal(size=8) for t in tracklets]).astype(np.float32)
    selection = EvaluationSet("cross-camera", tracklets, [], queries_in_gallery=True)
    head = {"model": "a model", "data": "drawn <people>"}
    settings = settings or EvaluationSettings()
    options = {"head": head, "clip_length": 4, "seed": 7, "calibration": calibration}
    return replace(score(features, features, selection, settings, **options), **changes)


@pytest.fixture(scope="module")
def result(tracklets):
    return measure(tracklets, frame_weights=lambda tracklet: [0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def text(result, tmp_path_factory):
    return write_report(result, tmp_path_factory.mktemp("out") / "new", queries=3, answers=4).read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_page_is_self_contained(text, page):
    assert not re.search(r"https?:|@import|url\((?!#)|src=\"(?!data:)", text)
    assert not {e["tag"] for e in page.elements} & {"script", "link", "iframe", "object"}
    assert any("default-src 'none'" in e.get("content", "") for e in page.of("meta"))
    assert len(page.of("img")) > 20
    assert all(e["src"].startswith("data:image/jpeg;base64,") for e in page.of("img"))


def test_names_from_the_data_are_escaped(text, page):
    assert ODD not in text
    assert "<people>" not in text
    assert any(e["text"] == ODD for e in page.of("dd"))
    assert page.of("h1")[0]["text"] == "drawn <people>: a model"


def test_tables_have_the_figures_of_the_result(result, page):
    rows = [e["text"] for e in page.of("tr")]
    measured = [name for name in result.figures if name.startswith(("rank-", "mAP", "mINP", "TAR", "DIR"))]
    assert len(measured) >= 9
    for name in measured:
        line = next(text for text in rows if text.strip().startswith(name))
        value = result.figures[name]
        assert ("too few" if np.isnan(value) else f"{value:.2f}") in line
        if name in result.intervals:
            assert "{:.1f}\u2009–\u2009{:.1f}".format(*result.intervals[name]) in line  # noqa: RUF001 - a dash
    for name in ("model", "data", "protocol", "seed", "queries", "gallery"):
        assert any(text.strip() == f"{name}{result.figures[name]}" for text in rows)


def test_json_is_strict(result, tmp_path):
    write_report(result, tmp_path, queries=0)
    written = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written["figures"]["mAP"] == result.figures["mAP"]
    assert written["figures"]["TAR at FAR 0.0001"] is None


def test_each_chart_and_image_has_a_description(page):
    charts = page.of("svg")
    assert len(charts) == 6
    names = {e["id"]: e["text"] for e in page.elements if e["tag"] in ("title", "desc") and "id" in e}
    for chart in charts:
        assert all(names[name] for name in chart["aria-labelledby"].split())
        assert "nan" not in chart["text"]
    assert not re.search(r"nan|inf", " ".join(e["d"] for e in page.of("path")))
    assert all(e["alt"] for e in page.of("img"))


def test_answers_and_marks_follow_the_ranking(result, page):
    answers = page.of("li", "answer")
    worst, best = order_queries(result, 3)
    expected = []
    for place in [*worst, *best]:
        row = result.rank.valid[place]
        query = result.query[row]
        order = [
            result.gallery[g]
            for g in np.argsort(result.distances[row], kind="stable")
            if (result.gallery[g].person, result.gallery[g].camera) != (query.person, query.camera)
        ]
        first = next(i for i, t in enumerate(order) if t.person == query.person)
        assert first + 1 == result.rank.first_hit[place]
        ranks = [0, 1, 2, 3] + ([first] if first > 3 else [])
        expected += [(i + 1, order[i].person == query.person, order[i].camera) for i in ranks]
    assert len(answers) == len(expected)
    assert {right for _, right, _ in expected} == {True, False}
    for answer, (rank, right, camera) in zip(answers, expected, strict=True):
        assert ("right" if right else "wrong") in answer["class"].split()
        words = answer["text"].split()
        assert words[:4] == ["✓" if right else "✗", str(rank), "same" if right else "other", "person"]
        assert f"camera{camera}" in "".join(words)


def test_worst_queries_are_before_best_and_none_is_repeated(result, page):
    worst, best = order_queries(result, 3)
    precision = result.rank.average_precision
    assert list(precision[worst]) == sorted(precision)[:3]
    assert list(precision[best]) == sorted(precision, reverse=True)[:3]
    shown = [f"{100 * precision[place]:.1f}%" for place in [*worst, *best]]
    assert [e["text"].replace("first right answer", "").split("AP")[1].split("rank")[0].strip()
            for e in page.of("dl", "outcome")] == shown  # fmt: skip
    everything, nothing = order_queries(result, 1000)
    assert sorted([*everything, *nothing]) == list(range(result.rank.valid_queries))


def test_attention_is_a_bar_and_a_number_below_each_frame(page):
    lists = page.of("ol", "weights")
    assert len(lists) == len(page.of("img"))
    assert {"".join(e["text"].split()) for e in lists} == {"40%30%20%10%"}
    widths = {e["style"] for e in page.of("i") if "ol" in e["parents"] and "li" in e["parents"]}
    assert {"width: 40%", "width: 10%"} <= widths


@pytest.mark.parametrize("weights", [None, lambda tracklet: None])
def test_page_of_a_model_without_attention_shows_none(tracklets, tmp_path, weights):
    shown = Page(write_report(measure(tracklets, frame_weights=weights), tmp_path, queries=1).read_text("utf-8"))
    assert shown.of("img")
    assert not shown.of("ol", "weights")
    assert any("no attention" in e["text"] for e in shown.of("p", "legend"))


def test_queries_are_left_out_to_keep_the_size_limit(result, tmp_path):
    whole = write_report(result, tmp_path / "whole", queries=9, answers=10).read_text("utf-8")
    assert len(whole) < 8_000_000
    assert "left out" not in whole
    assert len(Page(whole).of("article")) == 18
    bound = 200_000 + len(whole) // 3
    small = write_report(result, tmp_path, queries=9, answers=10, max_bytes=bound)
    assert small.stat().st_size < bound < len(whole)
    assert "left out" in small.read_text("utf-8")
    assert 0 < len(Page(small.read_text("utf-8")).of("article")) < 18


def test_without_an_open_set_and_with_one_query_the_page_stands(tracklets, tmp_path):
    shown = Page(write_report(measure(tracklets[:6], open_set=None), tmp_path, queries=10).read_text("utf-8"))
    assert len(shown.of("svg")) == 4
    assert len(shown.of("article")) == 6


def test_overlap_is_zero_for_pairs_told_apart_and_one_for_alike(result):
    same = np.array([0, 0, 3, 1])
    apart = replace(result.verification, same_histogram=same, different_histogram=np.array([5, 5, 0, 0]))
    assert overlap(apart) == 0
    assert overlap(replace(apart, different_histogram=10 * same)) == pytest.approx(1)


def test_numbers_out_of_range_and_missing_frames_are_errors(result, tmp_path):
    with pytest.raises(ValueError, match="at least 1 answer"):
        write_report(result, tmp_path, answers=0)
    with pytest.raises(ValueError, match="max_bytes"):
        write_report(result, tmp_path, max_bytes=1000)
    gone = [Tracklet(t.person, t.camera, (tmp_path / "gone.jpg",), t.name) for t in result.query]
    with pytest.raises(FileNotFoundError, match="gone"):
        write_report(replace(result, query=gone), tmp_path)


def test_certainty_has_its_curves_and_tables(tracklets, tmp_path):
    plain = measure(tracklets)
    assert "certainty" in plain.as_json()
    shown = Page(write_report(plain, tmp_path, queries=0).read_text("utf-8"))
    section = next(e for e in shown.of("section") if e.get("id") == "certainty")
    assert "half of these people" in section["text"]
    assert "Cllr" in section["text"]
    assert "Thresholds of the model's calibration" not in section["text"]
    rows = [e["text"] for e in shown.of("tr")]
    assert any(row.startswith("10,0001%") and row.endswith("pairs needed") for row in rows)


def test_calibration_of_the_model_is_judged_on_these_people(tracklets, tmp_path):
    calibration = make_calibration()
    result = measure(tracklets, calibration=calibration)
    kept = result.certainty.kept
    assert [row.promised_fmr for row in kept] == [0.01, 0.001]
    across = np.array([[q.camera != g.camera for g in result.gallery] for q in result.query])
    same = np.array([[q.person == g.person for g in result.gallery] for q in result.query])
    scores = 1 - result.distances
    assert kept[0].fnmr == pytest.approx((scores[across & same] < 0.55).mean(), abs=0.02)
    assert result.figures["Cllr"] == pytest.approx(result.certainty.quality.cllr, abs=1e-3)
    text = write_report(result, tmp_path, queries=0).read_text("utf-8")
    assert "Thresholds of the model&#39;s calibration" in text or "Thresholds of the model's calibration" in text
    assert calibration.id in text
    written = json.loads((tmp_path / "evaluation.json").read_text())["certainty"]
    assert len(written["calibration"]["thresholds"]) == 2
    assert written["det"]["false match rate"][0] > written["det"]["false match rate"][-1]


def test_calibration_is_not_used_for_other_scores(tracklets):
    result = measure(tracklets, EvaluationSettings(metric="euclidean"), calibration=make_calibration())
    assert result.certainty.kept == ()
    assert "half of these people" in result.figures["probabilities"]

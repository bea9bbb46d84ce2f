import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import Calibration, CalibrationError
from tests.calibrations import SPACE, make_calibration

SLOPES = st.floats(1e-3, 1e3)
INTERCEPTS = st.floats(-1e3, 1e3)
SCORES = st.floats(-1, 1)
PRIORS = st.floats(1e-12, 1 - 1e-12)


def test_llr_is_the_line_between_its_bounds() -> None:
    calibration = make_calibration(slope=10.0, intercept=-5.0)

    np.testing.assert_allclose(calibration.llr([0.5, 0.7, 0.45]), [0, 2, -0.5], atol=1e-12)
    assert calibration.llr([-1.0, 1.0]).tolist() == [-2.5, 4.5]
    assert calibration.llr(np.zeros((2, 3), np.float32)).shape == (2, 3)


@given(slope=SLOPES, intercept=INTERCEPTS, scores=st.lists(SCORES, min_size=2), prior=PRIORS)
def test_probability_never_falls_as_the_score_rises(
    slope: float, intercept: float, scores: list[float], prior: float
) -> None:
    calibration = make_calibration(slope=slope, intercept=intercept)

    probabilities = calibration.probability(sorted(scores), prior)

    assert (np.diff(probabilities) >= 0).all()
    assert (probabilities > 0).all()
    assert (probabilities < 1).all()


@given(slope=SLOPES, intercept=INTERCEPTS, score=SCORES)
def test_probability_at_even_odds_is_the_sigmoid_of_the_llr(slope: float, intercept: float, score: float) -> None:
    calibration = make_calibration(slope=slope, intercept=intercept)

    llr = float(calibration.llr(score))

    assert float(calibration.probability(score, 0.5)) == pytest.approx(1 / (1 + math.exp(-llr)))


@given(score=SCORES, prior=PRIORS)
def test_odds_are_the_prior_odds_times_the_likelihood_ratio(score: float, prior: float) -> None:
    calibration = make_calibration()

    probability = float(calibration.probability(score, prior))

    odds = prior / (1 - prior) * math.exp(float(calibration.llr(score)))
    assert probability == pytest.approx(odds / (1 + odds), rel=1e-6)


@given(slope=SLOPES, intercept=INTERCEPTS, probability=st.floats(0, 1), prior=PRIORS)
def test_minimum_score_has_the_probability_that_was_asked_for(
    slope: float, intercept: float, probability: float, prior: float
) -> None:
    calibration = make_calibration(slope=slope, intercept=intercept)

    score = calibration.score_at(probability, prior)

    if score == math.inf:
        assert float(calibration.probability(1e9, prior)) <= probability + 1e-9
    elif score == -math.inf:
        assert float(calibration.probability(-1e9, prior)) >= probability - 1e-9
    else:
        assert float(calibration.probability(score, prior)) == pytest.approx(probability, rel=1e-6)


@pytest.mark.parametrize("prior", [5e-324, 1e-300, 1 - 2**-53])
def test_extreme_priors_stay_finite(prior: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = make_calibration().probability([-1.0, 0.0, 1.0], prior)

    assert np.isfinite(values).all()


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_prior_must_be_between_0_and_1(prior: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        make_calibration().probability([0.5], prior)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        make_calibration().score_at(0.5, prior)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_minimum_probability_must_be_0_to_1(probability: float) -> None:
    with pytest.raises(ValueError, match="must be 0 to 1"):
        make_calibration().score_at(probability, 0.5)


def test_file_is_read_back(tmp_path: Path) -> None:
    calibration = make_calibration()
    path = tmp_path / "calibration.json"
    path.write_text(calibration.to_json())

    loaded = Calibration.load(path)

    assert loaded == calibration
    assert loaded.id == calibration.id == json.loads(path.read_text())["id"]
    assert len(loaded.id) == 16
    assert loaded.thresholds[0].fnmr == 0.1


def test_id_depends_on_the_content() -> None:
    assert make_calibration().id == make_calibration().id
    assert len({make_calibration().id, make_calibration(slope=2.0).id, make_calibration(source="others").id}) == 3


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def changed(**facts: Any) -> str:
    return json.dumps(json.loads(make_calibration().to_json()) | facts)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (make_calibration().to_json()[:200], "not JSON"),
        ("", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "must be a JSON object"),
        ("{}", "slope: Field required"),
        (changed(slope=math.nan), "slope"),
        (changed(slope=-3.0), "slope"),
        (changed(slope=0), "slope"),
        (changed(slope="12"), "slope"),
        (changed(slope=True), "slope"),
        (changed(slope=1e300), "slope"),
        (changed(intercept=math.inf), "intercept"),
        (changed(intercept=-1e7), "intercept"),
        (changed(llr_high=-1.0), "llr_high"),
        (changed(llr_high=300.0), "claim more than"),
        (changed(llr_low=-300.0), "claim more than"),
        (changed(mated_pairs=0), "mated_pairs"),
        (changed(mated_pairs=10**400), "mated_pairs"),
        (changed(people=1.5), "people"),
        (changed(mode="magic"), "mode"),
        (changed(format=2), "format"),
        (changed(embedding_space="else where"), "embedding_space"),
        (changed(fitted_at="yesterday"), "fitted_at"),
        (changed(fitted_at="2026-11-28T12:00:00"), "fitted_at"),
        (changed(code="import os"), "code"),
        (changed(source="x" * 3000), "source"),
        (changed(thresholds=[{"fmr": 0.01, "score": 0.5, "fnmr": 0.1, "fnmr_low": 0.2, "fnmr_high": 0.3}]), "fnmr"),
        (changed(thresholds=json.loads(make_calibration().to_json())["thresholds"][::-1]), "falling fmr"),
        (changed(intercept=-4.999), "id: the file says"),
        (changed(id=None), "id: the file says"),
    ],
)
def test_hostile_file_is_refused_with_the_field_and_the_cure(tmp_path: Path, text: str | bytes, fault: str) -> None:
    path = write(tmp_path / "calibration.json", text)

    with pytest.raises(CalibrationError) as refused:
        Calibration.load(path)

    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert fault in message
    assert message.endswith("fit it again with `not3d calibrate`")
    assert len(message) < 600


def test_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="at most 1,048,576 bytes"):
        Calibration.load(write(tmp_path / "calibration.json", " " * (1 << 21)))


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nowhere.json: cannot be read: No such file"):
        Calibration.load(tmp_path / "nowhere.json")
    with pytest.raises(CalibrationError, match="cannot be read"):
        Calibration.load(tmp_path)


def test_calibration_of_another_space_is_refused() -> None:
    make_calibration().check_space(SPACE)

    with pytest.raises(CalibrationError, match=rf"{SPACE}.*{'f' * 16}.*not3d calibrate"):
        make_calibration().check_space("f" * 16)

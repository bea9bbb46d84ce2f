import json
from typing import Any

import pytest
from pydantic import ValidationError

from model.spec import BundleSpec, Calibration

FACTS: dict[str, Any] = {
    "name": "walker",
    "architecture": "2D trunk, attention, BNNeck",
    "backbone": "resnet18",
    "attention": "pooled",
    "frame_height": 192,
    "frame_width": 96,
    "clip_length": 4,
    "dimension": 512,
    "feature": "batch_normed",
    "preprocessing": {"version": "1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "training_data": "drawn people",
    "recipe": {"name": "light", "schedule": {"epochs": 60, "milestones": [20, 40]}},
    "accuracy": [
        {"dataset": "set", "protocol": "cosine", "people": 9, "queries": 18, "gallery": 27, "rank1": 88.8, "map": 70.5}
    ],
    "data_terms": "none",
    "intended_use": "tests",
    "not_for": "anything else",
}


def test_a_spec_survives_being_written_and_read() -> None:
    spec = BundleSpec.model_validate(FACTS)

    assert BundleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.clip_shape == (4, 192, 96, 3)
    assert spec.calibration is None


def test_a_calibration_is_read() -> None:
    spec = BundleSpec.model_validate_json(json.dumps(FACTS | {"calibration": {"slope": 12.5, "intercept": -6.0}}))

    assert spec.calibration == Calibration(slope=12.5, intercept=-6.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("name", ""),
        ("frame_height", 0),
        ("clip_length", 0),
        ("dimension", -1),
        ("feature", "averaged"),
        ("preprocessing", {"version": "1", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.0, 0.2]}),
        ("preprocessing", {"version": "1", "mean": [0.5, 0.5], "std": [0.2, 0.2, 0.2]}),
        ("preprocessing", {"version": "1", "colour": "bgr", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}),
        ("accuracy", [FACTS["accuracy"][0] | {"rank1": 100.1}]),
        ("accuracy", [FACTS["accuracy"][0] | {"map": float("nan")}]),
        ("calibration", {"slope": -1.0, "intercept": 0.0}),
        ("colour", "red"),
    ],
)
def test_a_fact_that_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        BundleSpec.model_validate(FACTS | {field: value})

    assert refusal.value.errors()[0]["loc"][0] == field


def test_a_missing_fact_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="data_terms"):
        BundleSpec.model_validate({name: fact for name, fact in FACTS.items() if name != "data_terms"})

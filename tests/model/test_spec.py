import json
from typing import Any

import pytest
from pydantic import ValidationError

from model.spec import BundleSpec

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


def test_spec_is_the_same_after_writing_and_reading() -> None:
    spec = BundleSpec.model_validate(FACTS)

    assert BundleSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.clip_shape == (4, 192, 96, 3)


def test_empty_calibration_of_earlier_releases_is_ignored() -> None:
    spec = BundleSpec.model_validate_json(json.dumps(FACTS | {"calibration": None}))

    assert spec == BundleSpec.model_validate(FACTS)


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
        ("calibration", {"slope": 1.0, "intercept": 0.0}),
        ("colour", "red"),
    ],
)
def test_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        BundleSpec.model_validate(FACTS | {field: value})

    assert refusal.value.errors()[0]["loc"][0] == field


def test_missing_field_is_named() -> None:
    with pytest.raises(ValidationError, match="data_terms"):
        BundleSpec.model_validate({name: fact for name, fact in FACTS.items() if name != "data_terms"})

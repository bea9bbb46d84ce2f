from pathlib import Path

import pytest

from model.bundle import Bundle, BundleError
from model.calibration import CalibrationError
from tests.bundles import make_bundle
from tests.calibrations import make_calibration
from training.export.calibrated_bundle import add_calibration
from training.export.model_card import describe_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.load(make_bundle(tmp_path / "bundle"))


def test_bundle_carries_the_calibration_and_its_card_says_so(bundle: Bundle) -> None:
    (bundle.path / "MODEL_CARD.md").write_text(describe_bundle(bundle, "itself", "nothing", []))
    calibration = make_calibration(embedding_space=bundle.embedding_space)

    written = add_calibration(bundle, calibration)

    assert written == bundle.path / "calibration.json"
    loaded = Bundle.load(bundle.path)
    assert loaded.calibration == calibration
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert card == describe_bundle(loaded, "itself", "nothing", [])
    assert "| 0.001 | 0.700 | 30.0 % | 20.0 to 50.0 % |" in card
    assert "drawn for tests: 50 people and 4 cameras" in card
    assert card.index("## Measured accuracy") < card.index("## Calibration") < card.index("## Export")


def test_another_calibration_takes_the_place_of_the_first(bundle: Bundle) -> None:
    (bundle.path / "MODEL_CARD.md").write_text(describe_bundle(bundle, "itself", "nothing", []))
    add_calibration(bundle, make_calibration(embedding_space=bundle.embedding_space))

    add_calibration(bundle, make_calibration(embedding_space=bundle.embedding_space, source=r"others \1"))

    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert card.count("## Calibration") == 1
    assert r"others \1: 50 people" in card
    assert "drawn for tests" not in card
    assert Bundle.load(bundle.path).calibration == make_calibration(
        embedding_space=bundle.embedding_space, source=r"others \1"
    )
    assert sorted(path.name for path in bundle.path.iterdir() if path.name.startswith(".")) == []


def test_card_of_another_form_gets_the_section_at_its_end(bundle: Bundle) -> None:
    add_calibration(bundle, make_calibration(embedding_space=bundle.embedding_space))

    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert card.startswith("# Colour grid\n")
    assert card.rstrip().endswith("|")


def test_bundle_without_a_card_is_calibrated_too(bundle: Bundle) -> None:
    (bundle.path / "MODEL_CARD.md").unlink()

    add_calibration(bundle, make_calibration(embedding_space=bundle.embedding_space))

    assert not (bundle.path / "MODEL_CARD.md").exists()
    assert Bundle.load(bundle.path).calibration


def test_calibration_of_other_vectors_or_scores_is_refused(bundle: Bundle) -> None:
    with pytest.raises(CalibrationError, match="not3d calibrate"):
        add_calibration(bundle, make_calibration())
    with pytest.raises(CalibrationError, match=r"cosine scores \(got max\); write it to a file with --out"):
        add_calibration(bundle, make_calibration(embedding_space=bundle.embedding_space, mode="max"))

    assert Bundle.load(bundle.path).calibration is None


def test_retrained_bundle_refuses_the_old_calibration(bundle: Bundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=7)
    (other / "calibration.json").write_text(make_calibration(embedding_space=bundle.embedding_space).to_json())

    with pytest.raises(BundleError, match="embedding_space"):
        Bundle.load(other)

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.bundle import Bundle, BundleError
from not3d.commands.app import app
from tests.bundles import make_bundle
from tests.calibrations import make_calibration


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", dimension=16)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["info", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def calibrate(bundle: Path) -> None:
    space = Bundle.load(bundle).embedding_space
    (bundle / "calibration.json").write_text(make_calibration(embedding_space=space).to_json())


def test_thresholds_of_a_bundle_are_shown(bundle: Path) -> None:
    calibrate(bundle)

    shown = run(bundle)

    assert "16 dimensions" in shown
    assert "drawn for tests (50 people, 4 cameras, 2026-11-28)" in " ".join(shown.split())
    assert "0.700" in shown
    assert "1 in 1,000" in shown
    assert "20.0 to 50.0%" in shown


def test_bundle_without_a_calibration_says_so(bundle: Path) -> None:
    assert "hits have no probability" in " ".join(run(bundle).split())


def test_facts_of_a_bundle_are_given_as_json(bundle: Path) -> None:
    assert json.loads(run(bundle, "--json"))["calibration"] is None
    calibrate(bundle)

    facts = json.loads(run(bundle, "--json"))

    assert facts["embedding_space"] == Bundle.load(bundle).embedding_space
    assert facts["calibration"]["thresholds"][1]["fnmr_high"] == 0.5


def test_damaged_bundle_is_one_message(bundle: Path) -> None:
    (bundle / "calibration.json").write_text("{")

    with pytest.raises(BundleError, match="not JSON"):
        run(bundle)

"""Which calibration is in force, and its prior."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.bundle import Bundle
from model.calibration import CALIBRATION_FILE, CalibrationError
from service.calibration import load_calibration
from service.lifecycle import ServiceState
from service.settings import Settings
from tests.calibrations import make_calibration
from tests.service.live import Live, run_service, wait_for


@pytest.fixture
def loaded(bundle: Path) -> Bundle:
    return Bundle.load(bundle)


def test_a_bundle_without_calibration_has_none_in_force(loaded: Bundle) -> None:
    assert load_calibration(Settings(), loaded.space, loaded.calibration) is None


@pytest.mark.parametrize(("people", "source"), [(7, "site"), (None, "bundle")])
def test_the_sites_file_overrides_the_bundles(
    loaded: Bundle, bundle: Path, tmp_path: Path, people: int | None, source: str
) -> None:
    calibrated = Bundle(
        loaded.path,
        loaded.spec,
        loaded.network_path,
        loaded.embedding_space,
        make_calibration(embedding_space=loaded.embedding_space),
    )
    path = tmp_path / CALIBRATION_FILE
    path.write_text(make_calibration(embedding_space=loaded.embedding_space, people=7).to_json())
    active = load_calibration(Settings(calibration=path if people else None), calibrated.space, calibrated.calibration)
    assert active
    assert (active.source, active.calibration.people) == (source, people or 50)
    assert active.fitted_at.isoformat() == "2026-11-28T12:00:00+00:00"


def test_the_prior_is_the_requests_then_the_settings_then_one_expected_match(loaded: Bundle, tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION_FILE
    path.write_text(make_calibration(embedding_space=loaded.embedding_space).to_json())
    follows = load_calibration(Settings(calibration=path), loaded.space, None)
    fixed = load_calibration(Settings(calibration=path, prior=0.2), loaded.space, None)
    assert follows
    assert fixed
    assert [follows.prior_of(None, searched) for searched in (0, 1, 99, 999_999)] == [0.5, 0.5, 0.01, 1e-6]
    assert [fixed.prior_of(None, searched) for searched in (0, 10**6)] == [0.2, 0.2]
    assert follows.prior_of(0.7, 5) == fixed.prior_of(0.7, 5) == 0.7


def _other_space(path: Path) -> None:
    path.write_text(make_calibration().to_json())


def _damaged(path: Path) -> None:
    path.write_text(make_calibration().to_json()[:-30])


def _missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("write", "reason"),
    [(_other_space, "was fitted in the embedding space 0123456789abcdef"), (_damaged, "damaged"), (_missing, "read")],
)
def test_a_file_that_cannot_be_used_is_an_error_at_start(
    loaded: Bundle, bundle: Path, tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "site.json"
    write(path)
    with pytest.raises(CalibrationError, match=rf"^NOT3D_CALIBRATION: .*{reason}.*not3d calibrate"):
        load_calibration(Settings(calibration=path), loaded.space, None)
    with run_service(bundle, tmp_path / "data", wait_until_ready=False, calibration=path) as live:
        wait_for(lambda: live.lifecycle.state is ServiceState.FAILED)
        assert "cannot start: NOT3D_CALIBRATION: " in (live.lifecycle.reason or "")
    assert not (tmp_path / "data").exists()


def test_info_says_that_there_is_no_calibration(shared: Live) -> None:
    info = shared.client.get("/info").json()
    assert (info["calibration"], info["thresholds"]) == (None, [])


def test_info_has_the_calibration_and_its_thresholds(bundle: Path, tmp_path: Path, loaded: Bundle) -> None:
    calibration = make_calibration(embedding_space=loaded.embedding_space)
    path = tmp_path / "site.json"
    path.write_text(calibration.to_json())
    with run_service(bundle, tmp_path / "data", calibration=path) as live:
        info = live.client.get("/info").json()
    assert info["calibration"] == {
        "id": calibration.id,
        "source": "site",
        "mode": "cosine",
        "prior": None,
        "fitted_people": 50,
        "fitted_cameras": 4,
        "fitted_at": "2026-11-28T12:00:00Z",
    }
    assert info["thresholds"] == [
        {"fmr": 0.01, "score": 0.55, "fnmr": 0.1, "fnmr_low": 0.05, "fnmr_high": 0.2},
        {"fmr": 0.001, "score": 0.7, "fnmr": 0.3, "fnmr_low": 0.2, "fnmr_high": 0.5},
    ]

"""Files of settings that have no end."""

from pathlib import Path

import pytest

from model.calibration import Calibration, CalibrationError
from model.files import read_at_most
from service.alerts.webhooks import AllowedHosts, WebhookError, load_webhooks
from service.keys import KeyFileError, read_file
from service.linking import TravelTimes, TravelTimesError

ENDLESS = Path("/dev/zero")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_at_most(path, 3) == b"abc"
    assert read_at_most(path, 2) is None
    assert read_at_most(ENDLESS, 1000) is None
    with pytest.raises(FileNotFoundError):
        read_at_most(tmp_path / "missing", 3)


def test_a_device_without_end_is_no_file_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read without a limit"))
    with pytest.raises(CalibrationError, match="at most 1,048,576 bytes"):
        Calibration.load(ENDLESS)
    with pytest.raises(TravelTimesError, match="more than 4194304 bytes"):
        TravelTimes.load(ENDLESS)
    with pytest.raises(WebhookError, match="more than 4194304 bytes"):
        load_webhooks(ENDLESS, AllowedHosts.parse(""))
    with pytest.raises(KeyFileError, match="more than 67108864 bytes"):
        read_file(ENDLESS)

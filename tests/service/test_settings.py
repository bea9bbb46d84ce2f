from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import SERVE_OPTIONS, Settings, find_unknown_variables, variable_name


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT3D_PORT", "9000")
    monkeypatch.setenv("NOT3D_DATA_DIR", "/srv/gallery")
    monkeypatch.setenv("NOT3D_MAX_FRAMES", "12")
    monkeypatch.setenv("NOT3D_API_KEYS", " 0123456789abcdef , fedcba9876543210,")
    settings = Settings()
    assert settings.port == 9000
    assert settings.data_dir == Path("/srv/gallery")
    assert settings.engine_cache == Path("/srv/gallery/cache")
    assert settings.max_frames == 12
    assert settings.keys == ("0123456789abcdef", "fedcba9876543210")


def test_arguments_override_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT3D_PORT", "9000")
    assert Settings(port=1234).port == 1234


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT3D_THREADS", "")
    assert Settings().threads is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NOT3D_PORT", "70000"),
        ("NOT3D_PORT", "http"),
        ("NOT3D_DEVICE", "gpu"),
        ("NOT3D_ENGINE", "tensorrt"),
        ("NOT3D_THREADS", "0"),
        ("NOT3D_MIN_USABLE_SHARE", "0"),
        ("NOT3D_MIN_USABLE_SHARE", "nan"),
        ("NOT3D_MAX_FRAMES", "-1"),
        ("NOT3D_MIN_SIDE", "20000"),
        ("NOT3D_MAX_PENDING_BYTES", "1000"),
        ("NOT3D_API_KEYS", "short"),
        ("NOT3D_LOG_LEVEL", "loud"),
        ("NOT3D_RETENTION_DAYS", "0"),
        ("NOT3D_RETENTION_DAYS", "nan"),
        ("NOT3D_RETENTION_DAYS", "inf"),
        ("NOT3D_RETENTION_DAYS", "1e9"),
        ("NOT3D_SWEEP_SECONDS", "0"),
        ("NOT3D_THUMBNAILS", "some"),
        ("NOT3D_PRIOR", "0"),
        ("NOT3D_PRIOR", "1"),
        ("NOT3D_PRIOR", "nan"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Settings(max_frame=3)  # type: ignore[call-arg]


def test_keys_are_not_shown() -> None:
    assert "0123456789abcdef" not in repr(Settings(api_keys="0123456789abcdef"))


def test_unknown_variables_are_reported_with_the_closest_name() -> None:
    environment = {"NOT3D_MAX_FRAME": "3", "NOT3D_XYZZY": "1", "NOT3D_URL": "u", "NOT3D_PORT": "1", "HOME": "/"}
    assert find_unknown_variables(environment) == [
        "NOT3D_MAX_FRAME is not a setting; did you mean NOT3D_MAX_FRAMES?",
        "NOT3D_XYZZY is not a setting",
    ]


def test_every_setting_is_described_and_serve_has_options_of_settings_only() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert set(SERVE_OPTIONS) <= Settings.model_fields.keys()
    assert variable_name("data_dir") == "NOT3D_DATA_DIR"


def test_camera_centring_is_refused_on_a_milvus_server() -> None:
    assert Settings(camera_centring=True).camera_centring
    assert not Settings().camera_centring
    with pytest.raises(ValidationError, match="camera_centring needs the embedded gallery") as caught:
        Settings(camera_centring=True, gallery="milvus://user:secret@example.org")
    assert "secret" not in str(caught.value)

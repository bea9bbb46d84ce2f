from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import SERVE_OPTIONS, Settings, variable_name


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


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_variable_that_is_set_but_empty_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_name(name), value)
    with pytest.raises(ValidationError, match=f"set but empty: {variable_name(name)}.*unset it"):
        Settings()


@pytest.mark.parametrize("value", [",", " , ,", ",\t"])
def test_keys_of_commas_only_are_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT3D_API_KEYS", value)
    with pytest.raises(ValidationError, match="has no key: give at least one, or unset it"):
        Settings()


@pytest.mark.parametrize(
    "address",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "192.0.2.1"},
        {"host": "gallery.example.org"},
        {"host": "127.0.0.1.example.org"},
        {"host": "127.0.0.1", "published": "0.0.0.0:8000"},
        {"host": "0.0.0.0", "published": "8000"},
        {"host": "0.0.0.0", "published": ":8000"},
        {"host": "0.0.0.0", "published": "[::]:8000"},
    ],
)
def test_without_a_key_only_a_loopback_address_is_allowed(address: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"NOT3D_API_KEYS.*NOT3D_ALLOW_ANONYMOUS=true"):
        Settings(**address)
    assert Settings(**address, api_keys="0123456789abcdef").keys
    assert not Settings(**address, allow_anonymous=True).keys


@pytest.mark.parametrize(
    "address",
    [
        {"host": "127.0.0.1"},
        {"host": "127.9.8.7"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "::ffff:127.0.0.1"},
        {"host": "0.0.0.0", "published": "127.0.0.1:8000"},
        {"host": "0.0.0.0", "published": "127.0.0.1:"},
        {"host": "0.0.0.0", "published": "[::1]:8000"},
    ],
)
def test_on_a_loopback_address_no_key_is_needed(address: dict[str, str]) -> None:
    assert Settings(**address).keys == ()


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


NUMBERS = [
    name
    for name, shape in Settings.model_json_schema()["properties"].items()
    if {"integer", "number"} & {each.get("type") for each in (shape, *shape.get("anyOf", ()))}
]


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e400", "1e-12", "-1e-12", f"{10**30}", "1e30", "0x1"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_makes_no_sense_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (name, value) in {("prior", "1e-12"), ("min_usable_share", "1e-12")}:
        pytest.skip("a small share makes sense")
    monkeypatch.setenv(variable_name(name), value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Settings(max_frame=3)  # type: ignore[call-arg]


def test_keys_are_not_shown() -> None:
    assert "0123456789abcdef" not in repr(Settings(api_keys="0123456789abcdef"))


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

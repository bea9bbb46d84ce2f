import pytest

from service.variables import find_unknown_variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NOT3D_MAX_FRAME", "NOT3D_MAX_FRAMES"),
        ("NOT3D_REQUIRED_PURPOSE", "NOT3D_REQUIRE_PURPOSE"),
        ("NOT3D_PURPOSE_REQUIRED", "NOT3D_REQUIRE_PURPOSE"),
        ("NOT3D_PURPOSE", "NOT3D_REQUIRE_PURPOSE"),
        ("not3d_require_purpos", "NOT3D_REQUIRE_PURPOSE"),
        ("NOT_3D_REQUIRE_PURPOSE", "NOT3D_REQUIRE_PURPOSE"),
        ("N0T3D_API_KEYS", "NOT3D_API_KEYS"),
        ("NOT3D_KEYS", "NOT3D_API_KEYS"),
        ("NOT3D_RETENTION", "NOT3D_RETENTION_DAYS"),
        ("NOT3D_ALLOWED_HOST", "NOT3D_ALLOWED_HOSTS"),
        ("NOT3D_TRUSTED_PROXY", "NOT3D_TRUSTED_PROXIES"),
    ],
)
def test_a_misspelt_setting_is_found_with_the_name_that_was_meant(name: str, meant: str) -> None:
    found = find_unknown_variables({name: "1"})
    assert found.misspelt == [f"{name} is not a setting; did you mean {meant}? Rename or unset it"]
    assert found.ignored == []


@pytest.mark.parametrize("name", ["NOT3D_XYZZY", "NOT3D_VERSION", "NOT3D_IMAGE", "NOT3D_HOME", "NOT3D_REPLICAS"])
def test_variables_of_other_programs_do_not_end_the_start(name: str) -> None:
    assert find_unknown_variables({name: "1"}) == ([], [name])


def test_known_variables_are_not_reported() -> None:
    known = ["NOT3D_URL", "NOT3D_SHARED_DATA", "NOT3D_PORT", "not3d_port", "NOT3D_BRIDGE_MQTT", "HOME", "NOTE"]
    linked = ["NOT3D_SERVICE_HOST", "NOT3D_SERVICE_PORT_HTTP", "NOT3D_PORT_8000_TCP", "NOT3D_PORT_8000_TCP_ADDR"]
    assert find_unknown_variables(dict.fromkeys(known + linked, "1")) == ([], [])

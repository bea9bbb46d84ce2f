import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.http.access import check_key
from tests.service.live import Live, run_service
from tests.service.problem import check_problem

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def locked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with two keys."""
    with run_service(bundle, tmp_path_factory.mktemp("data"), api_keys=f"{KEY},{OTHER}") as live:
        yield live


GUARDED = [
    ("POST", "/embed"),
    ("POST", "/search"),
    ("GET", "/gallery"),
    ("GET", "/gallery/a"),
    ("PUT", "/gallery/a"),
    ("DELETE", "/gallery/a"),
    ("POST", "/gallery/erase"),
    ("GET", "/gallery/a/thumbnail"),
    ("GET", "/audit"),
    ("GET", "/info"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_key_is_needed(locked: Live, method: str, path: str) -> None:
    answer = locked.client.request(method, path)
    check_problem(answer, 401, "key-missing")
    assert answer.headers["www-authenticate"] == "Bearer"
    headers = {"authorization": "Bearer " + KEY[:-1]}
    check_problem(locked.client.request(method, path, headers=headers), 403, "key-refused")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {OTHER}"},
        {"x-api-key": OTHER},
    ],
)
def test_either_header_is_accepted(locked: Live, headers: dict[str, str]) -> None:
    assert locked.client.get("/info", headers=headers).status_code == 200


def test_another_authorization_scheme_is_not_a_key(locked: Live) -> None:
    check_problem(locked.client.get("/info", headers={"authorization": f"Basic {KEY}"}), 401, "key-missing")


def test_probes_need_no_key(locked: Live) -> None:
    assert locked.client.get("/livez").status_code == 200
    assert locked.client.get("/readyz").status_code == 200


def test_the_audit_log_has_the_fingerprint_of_the_key_and_not_the_key(locked: Live) -> None:
    for headers in ({"authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}):
        locked.client.put("/gallery/a", json={"embedding": [1.0] * 32}, headers=headers)
        locked.client.delete("/gallery/a", headers=headers)
        log = locked.client.get("/audit?limit=1", headers=headers).text
        assert f'"key:{hashlib.sha256(KEY.encode()).hexdigest()[:12]}"' in log
        assert KEY not in log


def test_keys_are_compared_completely() -> None:
    assert check_key(KEY, (OTHER, KEY))
    assert not check_key(KEY + "0", (OTHER, KEY))
    assert not check_key("", (OTHER, KEY))
    assert not check_key("ключ", (OTHER, KEY))

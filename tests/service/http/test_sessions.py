from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http import sessions
from service.http.sessions import Sessions
from service.keys import changed_file
from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.problem import check_problem

SECRET = "secret-of-desk"
VECTOR = [1.0] + [0.0] * 31


@pytest.fixture(scope="module")
def live(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    data = tmp_path_factory.mktemp("data")
    add_key(data / "keys.json", "desk", SECRET, scopes=("search", "audit"))
    with run_service(bundle, data, trusted_user_header="Remote-User", trusted_groups="ops:search+enroll") as live:
        yield live


@pytest.fixture
def browser(live: Live) -> Iterator[httpx.Client]:
    """A browser that keeps cookies, before it signs in."""
    with httpx.Client(base_url=live.url, headers={"sec-fetch-site": "same-origin"}, timeout=30) as client:
        yield client


def sign_in(client: httpx.Client, **headers: str) -> httpx.Response:
    answer = client.post("/session", json={"key": SECRET}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


def test_a_key_becomes_a_cookie_that_no_script_can_read(browser: httpx.Client) -> None:
    answer = sign_in(browser)
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(f"not3d_session_{browser.base_url.port}=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/;" in cookie
    assert "secure" not in cookie
    assert SECRET not in cookie
    assert answer.json() | {"expires_at": None} == {
        "name": "desk",
        "scopes": ["audit", "search"],
        "cameras": None,
        "signed_in_by": "session",
        "expires_at": None,
    }
    assert browser.get("/session").json() == answer.json()
    assert browser.post("/search", json={"embedding": VECTOR}).status_code == 200
    check_problem(browser.put("/gallery/a", json={"embedding": VECTOR}), 403, "scope-missing")


def test_behind_https_and_a_prefix_the_cookie_is_for_both_alone(live: Live) -> None:
    proxied = {"x-forwarded-proto": "https", "x-forwarded-prefix": "/reid", "x-forwarded-for": "192.0.2.1"}
    answer = live.client.post("/session", json={"key": SECRET}, headers=proxied)
    cookie = answer.headers["set-cookie"].lower()
    assert "; secure" in cookie
    assert "path=/reid;" in cookie
    live.client.cookies.clear()


def test_the_cookie_of_another_service_on_the_same_host_is_no_obstacle(browser: httpx.Client) -> None:
    sign_in(browser)
    [(name, own)] = browser.cookies.items()
    # Browsers send the cookie of the longer path first. A service at the root has signed in this browser, too.
    cookies = {"cookie": f"{name}={own}; {name}=of-the-service-at-the-root"}
    with httpx.Client(base_url=browser.base_url, headers=cookies, timeout=30) as client:
        assert client.get("/session").json()["name"] == "desk"
    # To another port, browsers send the cookie as well, and keep one for each name.
    other = browser.post("/session", json={"key": SECRET}, headers={"host": "127.0.0.1:1"})
    assert other.headers["set-cookie"].startswith("not3d_session_1=")
    behind_proxy = browser.post("/session", json={"key": SECRET}, headers={"host": "reid.example.org"})
    assert behind_proxy.headers["set-cookie"].startswith("not3d_session=")


def test_signing_out_ends_the_session_for_everyone_who_has_the_cookie(browser: httpx.Client) -> None:
    sign_in(browser)
    [(name, stolen)] = browser.cookies.items()
    assert browser.delete("/session").status_code == 204
    assert not browser.cookies
    answer = browser.get("/session", headers={"cookie": f"{name}={stolen}"})
    check_problem(answer, 401, "key-missing")


def test_a_session_ends_with_its_key(live: Live, browser: httpx.Client) -> None:
    path = live.lifecycle.settings.keys_path
    add_key(path, "gone", "secret-of-gone")
    assert browser.post("/session", json={"key": "secret-of-gone"}).status_code == 201
    assert browser.get("/gallery").status_code == 200
    with changed_file(path) as contents:
        contents[0] = contents[0].without("gone")
    check_problem(browser.get("/gallery"), 401, "key-missing")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://evil.127.0.0.1"},
        {"sec-fetch-site": "", "origin": "https://evil.example"},
        {"sec-fetch-site": "", "origin": "null"},
    ],
)
def test_a_page_of_another_site_cannot_use_the_session_or_sign_in(
    browser: httpx.Client, headers: dict[str, str]
) -> None:
    sign_in(browser)
    check_problem(browser.post("/search", json={"embedding": VECTOR}, headers=headers), 403, "origin-refused")
    check_problem(browser.post("/session", json={"key": SECRET}, headers=headers), 403, "origin-refused")
    check_problem(browser.delete("/session", headers=headers), 403, "origin-refused")


def test_a_wrong_key_begins_no_session(browser: httpx.Client) -> None:
    answer = browser.post("/session", json={"key": "wrong"})
    check_problem(answer, 403, "key-refused")
    assert "set-cookie" not in answer.headers
    check_problem(browser.post("/session", json={}), 400, "malformed", field="key")


def test_sign_in_and_out_are_in_the_audit_log(browser: httpx.Client) -> None:
    sign_in(browser)
    browser.delete("/session")
    entries = browser.get("/audit?kind=session&limit=2", headers={"x-api-key": SECRET}).json()["entries"]
    assert [(entry["by"], entry["details"]) for entry in entries] == [
        ("desk", {"action": "end"}),
        ("desk", {"action": "begin"}),
    ]


def test_the_user_of_a_trusted_proxy_has_the_scopes_of_their_groups(live: Live) -> None:
    user = {"remote-user": "ivanova", "remote-groups": "cleaners, ops"}
    assert live.client.get("/session", headers=user).json() == {
        "name": "user:ivanova",
        "scopes": ["enroll", "search"],
        "cameras": None,
        "signed_in_by": "proxy",
        "expires_at": None,
    }
    assert live.client.put("/gallery/p", json={"embedding": VECTOR}, headers=user).status_code == 201
    nobody = {"remote-user": "smith", "remote-groups": "cleaners"}
    check_problem(live.client.get("/gallery", headers=nobody), 403, "scope-missing")
    check_problem(live.client.get("/gallery"), 401, "key-missing")


@pytest.mark.parametrize("twice", ["remote-user", "remote-groups"])
def test_a_header_of_the_proxy_that_comes_twice_is_refused(live: Live, twice: str) -> None:
    """A proxy that adds its header leaves that of the client before it."""
    headers = [("remote-user", "ivanova"), ("remote-groups", "cleaners"), (twice, "ops")]
    check_problem(live.client.get("/session", headers=headers), 400, "malformed")


@pytest.mark.parametrize("site", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
def test_a_page_of_another_site_cannot_use_the_proxys_sign_in(live: Live, site: dict[str, str]) -> None:
    user = {"remote-user": "ivanova", "remote-groups": "ops"}
    answer = live.client.put("/gallery/p", json={"embedding": VECTOR}, headers=user | site)
    check_problem(answer, 403, "origin-refused")


def test_a_rebound_name_cannot_claim_to_be_the_proxy(live: Live) -> None:
    """The page of a name that was pointed to 127.0.0.1 comes from this machine, and can send any header."""
    headers = {"remote-user": "ivanova", "remote-groups": "ops", "host": "evil.example"}
    check_problem(live.client.get("/gallery", headers=headers), 403, "host-refused")


@pytest.mark.parametrize("users", [["a", "b"], [""], ["x" * 201], ["a\tb"]])
def test_a_proxy_must_name_one_user(live: Live, users: list[str]) -> None:
    headers: Any = [("remote-user", user) for user in users]
    check_problem(live.client.get("/gallery", headers=headers), 400, "malformed")


def test_others_cannot_name_a_user(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, trusted_user_header="Remote-User", trusted_proxies="192.0.2.1") as live:
        check_problem(live.client.get("/gallery", headers={"remote-user": "ivanova"}), 401, "key-missing")


def test_sessions_end_in_time_and_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    store = Sessions(3600)
    ids = [store.begin("digest", None)[0] for _ in range(4)]
    assert [store.find(id_) is not None for id_ in ids] == [False, True, True, True]
    soon = datetime.now(UTC) + timedelta(seconds=-1)
    over, session = store.begin("digest", soon)
    assert session.expires_at < datetime.now(UTC)
    assert store.find(over) is None
    assert all(id_.encode() not in key for id_ in ids for key in store._sessions)

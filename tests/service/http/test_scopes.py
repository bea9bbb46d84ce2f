from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.callers import SCOPES
from service.keys import Key, Secret, changed_file, digest_of
from tests.service.live import Live, run_service, wait_for
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

VECTOR = [1.0] + [0.0] * 31
RECORD = {"embedding": VECTOR, "camera_id": "gate"}


@dataclass(frozen=True)
class Guarded:
    """A service with a key for each scope, whose secret is `secret-of-SCOPE`."""

    live: Live
    path: Path

    def client(self, secret: str) -> httpx.Client:
        return httpx.Client(base_url=self.live.url, headers={"x-api-key": secret}, timeout=30)

    def add(self, name: str, secret: str, **values: Any) -> None:
        add_key(self.path, name, secret, **values)


def add_key(path: Path, name: str, secret: str, **values: Any) -> None:
    found = (Secret(sha256=digest_of(secret), created_at=datetime.now(UTC)),)
    with changed_file(path) as contents:
        contents[0] = contents[0].replace(Key(**{"name": name, "scopes": ("search",), "secrets": found} | values))


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    data = tmp_path_factory.mktemp("data")
    for scope in SCOPES:
        add_key(data / "keys.json", scope, f"secret-of-{scope}", scopes=(scope,))
    with run_service(bundle, data) as live:
        yield Guarded(live, data / "keys.json")


CALLS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("search", "POST", "/search", {"json": {"embedding": VECTOR}}),
    ("search", "GET", "/gallery", {}),
    ("search", "GET", "/gallery/a", {}),
    ("search", "GET", "/gallery/a/thumbnail", {}),
    ("enroll", "POST", "/embed", {"files": form(tracklet(1, 1))}),
    ("enroll", "PUT", "/gallery/a", {"json": RECORD}),
    ("erase", "DELETE", "/gallery/b", {}),
    ("erase", "POST", "/gallery/erase", {"json": {"filter": {"camera_ids": ["x"]}}}),
    ("audit", "GET", "/audit", {}),
    ("metrics", "GET", "/metrics", {}),
]


@pytest.mark.parametrize(("scope", "method", "path", "sent"), CALLS)
def test_a_call_needs_its_scope_and_the_answer_names_it(
    guarded: Guarded, scope: str, method: str, path: str, sent: dict[str, Any]
) -> None:
    for other in sorted(SCOPES):
        with guarded.client(f"secret-of-{other}") as client:
            answer = client.request(method, path, **sent)
        if other in {scope, "admin"}:
            assert answer.status_code in {200, 201, 204, 404}, answer.text
        else:
            problem = check_problem(answer, 403, "scope-missing")
            assert f"the scope {scope};" in problem["detail"]
            assert f"the key {other} " in problem["detail"]


def test_vectors_need_a_scope_of_their_own(guarded: Guarded) -> None:
    guarded.add("both", "secret-of-both", scopes=("search", "enroll"))
    guarded.add("all-three", "secret-of-three", scopes=("search", "enroll", "vectors"))
    calls: list[Callable[[httpx.Client], httpx.Response]] = [
        lambda client: client.put("/gallery/v?include_embedding=true", json=RECORD),
        lambda client: client.get("/gallery/v?include_embedding=true"),
        lambda client: client.post("/embed?include_embedding=true&enroll=false", files=form(tracklet(1, 1))),
    ]
    for call in calls:
        with guarded.client("secret-of-both") as client:
            assert "the scope vectors;" in check_problem(call(client), 403, "scope-missing")["detail"]
        with guarded.client("secret-of-three") as client:
            assert "embedding" in call(client).json()


def test_every_key_may_read_what_is_running(guarded: Guarded) -> None:
    for scope in SCOPES:
        with guarded.client(f"secret-of-{scope}") as client:
            assert client.get("/info").status_code == 200


def test_the_audit_log_has_the_name_of_the_key(guarded: Guarded) -> None:
    with guarded.client("secret-of-search") as client:
        client.post("/search", json={"embedding": VECTOR})
    with guarded.client("secret-of-audit") as client:
        assert client.get("/audit", params={"kind": "search", "limit": 1}).json()["entries"][0]["by"] == "search"


def test_an_expired_and_a_revoked_key_are_refused(guarded: Guarded) -> None:
    guarded.add("old", "secret-of-old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    guarded.add("gone", "secret-of-gone")
    with guarded.client("secret-of-old") as client:
        assert "expired" in check_problem(client.get("/info"), 403, "key-refused")["detail"]
    with guarded.client("secret-of-gone") as client:
        assert client.get("/info").status_code == 200
        with changed_file(guarded.path) as contents:
            contents[0] = contents[0].without("gone")
        check_problem(client.get("/info"), 403, "key-refused")


def test_a_key_over_its_rate_is_told_when_to_come_back(guarded: Guarded) -> None:
    guarded.add("slow", "secret-of-slow", rate="3/second")
    guarded.add("slower", "secret-of-slower", rate="3/hour")
    with guarded.client("secret-of-slow") as client, guarded.client("secret-of-slower") as other:
        statuses: list[int] = []
        while 429 not in statuses:  # a machine that stops for a moment makes fewer than four requests in a second
            problem = client.get("/info")
            statuses.append(problem.status_code)
        assert statuses[:3] == [200] * 3
        check_problem(problem, 429, "over-rate")
        assert problem.headers["retry-after"] == "1"
        assert [other.get("/info").status_code for _ in range(3)] == [200] * 3  # each key for itself
        wait = int(other.get("/info").headers["retry-after"])
        assert 3500 < wait <= 3600
        wait_for(lambda: client.get("/info").status_code == 200)


def test_access_without_a_key_ends_when_the_first_key_is_made(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path) as live:
        assert live.client.get("/gallery").status_code == 200
        add_key(tmp_path / "keys.json", "first", "secret-of-first")
        check_problem(live.client.get("/gallery"), 401, "key-missing")
        assert live.client.get("/gallery", headers={"x-api-key": "secret-of-first"}).status_code == 200

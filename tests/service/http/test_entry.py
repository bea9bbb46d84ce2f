"""Path prefixes, HEAD, headers of every answer, and requests that web pages of others send."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from not3d.client import Client
from service.http.entry import Entry
from service.keys import Keys
from service.settings import Settings, parse_prefix
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

EMBEDDING = {"embedding": [1.0] * 32}
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def pictured(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with one record that has a thumbnail, behind a prefix."""
    data = tmp_path_factory.mktemp("data")
    with run_service(bundle, data, thumbnails=True, root_path="/reid/", trusted_proxies="127.0.0.0/8") as live:
        fields = {"id": "a:1", "start_time": "2026-05-04T12:00:00Z"}
        assert live.client.post("/embed", files=form(tracklet(1, 2)), data=fields).status_code == 201
        yield live


GET_PATHS = ["/livez", "/readyz", "/metrics", "/info", "/gallery", "/gallery/a:1", "/gallery/a:1/thumbnail", "/audit"]
GET_PATHS += ["/openapi.json", "/session", "/cameras", "/cases"]
TRACK = "/gallery/a:1/track"
GET_PATHS += [f"{TRACK}?min_score=0.5", "/watchlists", "/alerts"]
ALERT_PATHS = ["/watchlists/{name}", "/alerts/{id}"]
STREAM = "/alerts/stream"
"""It never ends; tests/service/routes/test_alerts.py asks for its head."""
CASE_PATHS = ["/cases/{case}", "/cases/{case}/export", "/cases/{case}/picture"]


@pytest.fixture(scope="module")
def case(pictured: Live) -> str:
    """The id of a case that keeps a picture of its query."""
    case: str = pictured.client.post("/cases", json={"name": "theft", "purpose": "case 7"}).json()["id"]
    assert pictured.client.post("/search", files=form(tracklet(1, 2)), data={"case": case}).status_code == 200
    return case


@pytest.fixture(scope="module")
def alert(pictured: Live) -> str:
    """The id of an alert of the watchlist `watched`."""
    body = {**EMBEDDING, "camera_id": "c1"}
    watched = {"embeddings": [EMBEDDING["embedding"]], "min_score": 0.9}
    assert pictured.client.put("/watchlists/watched", json=watched).status_code == 201
    assert pictured.client.put("/gallery/seen", json=body).status_code == 201
    found: str = pictured.client.get("/alerts").json()["items"][0]["id"]
    return found


@pytest.mark.parametrize("path", GET_PATHS + CASE_PATHS + ALERT_PATHS)
def test_head_is_answered_like_get_without_a_body(pictured: Live, case: str, alert: str, path: str) -> None:
    path = path.replace("{case}", case).replace("{name}", "watched").replace("{id}", alert)
    got, headed = pictured.client.get(path), pictured.client.head(path)
    assert headed.status_code == got.status_code == 200
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    if path.partition("?")[0] not in {"/metrics", "/info", TRACK}:  # their length changes
        assert headed.headers["content-length"] == str(len(got.content))


def test_every_get_route_is_tested_for_head(pictured: Live) -> None:
    paths = pictured.client.get("/openapi.json").json()["paths"]
    routes = {path.replace("/gallery/{id}", "/gallery/a:1") for path, calls in paths.items() if "get" in calls}
    tested = {path.partition("?")[0] for path in GET_PATHS + CASE_PATHS + ALERT_PATHS}
    assert routes - tested - {STREAM} == set(), "add the route to GET_PATHS"


def test_head_of_other_paths_is_refused(pictured: Live) -> None:
    for path, status, allowed in (("/embed", 405, "POST"), ("/nowhere", 404, None), ("/gallery/none", 404, None)):
        answer = pictured.client.head(path)
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers.get("allow") == allowed
        assert int(answer.headers["content-length"]) > 100


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/gallery/a", "DELETE, GET, HEAD, PATCH, PUT"),
        ("OPTIONS", "/gallery", "GET, HEAD"),
        ("PUT", "/gallery", "GET, HEAD"),
        ("TRACE", "/gallery/erase", "DELETE, GET, HEAD, PATCH, POST, PUT"),
        ("DELETE", "/search", "POST"),
        ("POST", "/gallery/a/thumbnail", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("PROPFIND", "/openapi.json", "GET, HEAD"),
    ],
)
def test_405_lists_all_methods_of_the_path(pictured: Live, method: str, path: str, allowed: str) -> None:
    answer = pictured.client.request(method, path)
    document = check_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == allowed
    assert allowed in document["detail"]


def test_every_answer_forbids_caching_and_guessing(pictured: Live) -> None:
    calls = [("GET", path) for path in [*GET_PATHS, "/nowhere"]]
    for method, path in [*calls, ("POST", "/embed"), ("POST", "/search"), ("DELETE", "/gallery/none")]:
        headers = pictured.client.request(method, path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_long_path_is_not_repeated(shared: Live) -> None:
    answer = shared.client.get("/" + "x" * 5000)
    assert len(check_problem(answer, 404, "not-found")["detail"]) < 400


# Prefixes


def test_location_without_a_known_prefix_is_right_below_any(shared: Live) -> None:
    answer = shared.client.post("/embed", files=form(tracklet(1, 1)), data={"id": "far:1"})
    for base in ("http://127.0.0.1", "https://cctv.example/reid"):
        assert urljoin(f"{base}/embed", answer.headers["location"]) == f"{base}/gallery/far:1"
    answer = shared.client.put("/gallery/far:2", json=EMBEDDING)
    for base in ("http://127.0.0.1", "https://cctv.example/reid"):
        assert urljoin(f"{base}/gallery/far:2", answer.headers["location"]) == f"{base}/gallery/far:2"


@pytest.mark.parametrize("below", ["", "/reid"])
def test_the_configured_prefix_may_be_removed_by_the_proxy_or_not(pictured: Live, below: str) -> None:
    answer = pictured.client.put(f"{below}/gallery/put{len(below)}", json=EMBEDDING)
    assert answer.headers["location"] == f"/reid/gallery/put{len(below)}"
    record = pictured.client.get(f"{below}/gallery/a:1").json()
    assert record["thumbnail_url"] == "/reid/gallery/a:1/thumbnail"
    assert pictured.client.get(record["thumbnail_url"]).headers["content-type"] == "image/jpeg"
    hits = pictured.client.post(f"{below}/search", files=form(tracklet(1, 2))).json()["results"]
    assert {hit["id"]: hit.get("thumbnail_url") for hit in hits}["a:1"] == "/reid/gallery/a:1/thumbnail"
    items = pictured.client.get(f"{below}/gallery").json()["items"]
    assert items[0]["thumbnail_url"] == "/reid/gallery/a:1/thumbnail"
    document = pictured.client.get(f"{below}/openapi.json").json()
    assert document["servers"] == [{"url": "/reid"}]
    assert pictured.client.get(f"{below}/livez").status_code == 200


def test_the_prefix_of_a_trusted_proxy_is_used(pictured: Live) -> None:
    forwarded = {"x-forwarded-prefix": "/deep/er/"}
    answer = pictured.client.put("/gallery/put", json=EMBEDDING, headers=forwarded)
    assert answer.headers["location"] == "/deep/er/gallery/put"
    assert pictured.client.get("/openapi.json", headers=forwarded).json()["servers"] == [{"url": "/deep/er"}]
    assert pictured.client.get("/openapi.json").json()["servers"] == [{"url": "/reid"}]


@pytest.mark.parametrize(
    "prefix",
    [
        *("//evil.example", "https://evil.example", "\\evil", "evil", "/a/../b", "/.", "/a//b"),
        *("/a?b", "/a#b", "/a b", "/a;b", "/%2f", "/é", "/" + "a" * 300),
    ],
)
def test_a_prefix_cannot_name_a_host_or_a_scheme(pictured: Live, prefix: str) -> None:
    headers = {"x-forwarded-prefix": prefix.encode()}
    answer = pictured.client.put("/gallery/put", json=EMBEDDING, headers=headers)  # type: ignore[arg-type]
    assert answer.is_success
    answer = pictured.client.get("/gallery/a:1", headers=headers)  # type: ignore[arg-type]
    assert answer.json()["thumbnail_url"] == "/reid/gallery/a:1/thumbnail"
    with pytest.raises(ValidationError, match="must be a path such as /reid"):
        Settings(root_path=prefix)


def test_plain_prefixes_are_accepted() -> None:
    assert [parse_prefix(each) for each in ("", "/", "/reid", "/a/b.c/", "/~x-1_2")] == [
        "",
        "",
        "/reid",
        "/a/b.c",
        "/~x-1_2",
    ]


def test_the_prefix_of_any_other_address_is_ignored(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", trusted_proxies="10.0.0.0/8,::1") as live:
        headers = {"x-forwarded-prefix": "/deep"}
        assert live.client.put("/gallery/a", json=EMBEDDING, headers=headers).headers["location"] == "../gallery/a"
    assert not Settings(trusted_proxies="none").is_trusted_proxy("127.0.0.1")
    assert Settings().is_trusted_proxy("127.0.0.1")
    assert not Settings().is_trusted_proxy("testclient")
    with pytest.raises(ValidationError, match="not an IP address or network"):
        Settings(trusted_proxies="proxy.example")


def test_the_client_works_below_a_prefix(pictured: Live) -> None:
    with Client(f"{pictured.url}/reid") as client:
        assert client.is_ready()
        embedded = client.embed([tracklet(2, 1)[0]], id="by-client")
        assert embedded.id == "by-client"
        assert client.get("a:1").thumbnail_url == "/reid/gallery/a:1/thumbnail"
        assert client.thumbnail("a:1").startswith(b"\xff\xd8")
        assert "by-client" in [record.id for record in client.records()]
        client.delete("by-client")


# Web pages of others


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "localhost", "LOCALHOST:1", "localhost.", "[::1]:8000", "192.168.1.7", "reid.localhost"),
        *("not3d-api:8000", "not3d", "not3d.default.svc.cluster.local:8000", "not3d.prod.svc"),
        *("host.docker.internal", "nvr.local"),
    ],
)
def test_addresses_and_private_names_are_hosts_of_the_service(shared: Live, host: str) -> None:
    """Probes and Prometheus use the address of a container or the name of a service."""
    assert shared.client.get("/metrics", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "127.0.0.1.nip.io", "localhost.evil.example", "evil.example."),
        *("127.0.0.1@evil.example", "", "evil.example#.local", "evil.example/.local", "[evil.example]"),
    ],
)
def test_public_names_are_refused_while_no_key_is_set(shared: Live, host: str) -> None:
    for method, path in (("GET", "/gallery"), ("GET", "/metrics"), ("POST", "/search"), ("GET", "/nowhere")):
        answer = shared.client.request(method, path, headers={"host": host})
        assert "NOT3D_ALLOWED_HOSTS" in check_problem(answer, 403, "host-refused")["detail"]
    assert shared.client.get("/livez", headers={"host": host}).status_code == 200


EVIL = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", EVIL)
def test_pages_of_other_origins_change_nothing(shared: Live, headers: dict[str, str]) -> None:
    """A page can send a form to any address, without asking first."""
    for method, path in (
        ("POST", "/embed"),
        ("PUT", "/gallery/csrf"),
        ("DELETE", "/gallery/x"),
        ("POST", "/gallery/erase"),
    ):
        answer = shared.client.request(method, path, files=form(tracklet(1, 1)), headers=headers)
        check_problem(answer, 403, "origin-refused")
    assert shared.client.get("/gallery/csrf").status_code == 404
    assert shared.client.get("/info", headers=headers).status_code == 200


def test_own_pages_and_programs_may_send(shared: Live) -> None:
    own = [{}, {"origin": shared.url}, {"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}]
    for headers in [*own, {"sec-fetch-site": "none"}]:
        assert shared.client.put("/gallery/own", json=EMBEDDING, headers=headers).is_success


def test_allowed_hosts_and_their_pages_are_accepted(bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path / "data", allowed_hosts="Reid.example.org, *.lab.example") as live:
        for host in ("reid.example.org", "REID.example.org:8000", "a.b.lab.example"):
            assert live.client.get("/gallery", headers={"host": host}).status_code == 200
        for host in ("example.org", "lab.example", "xlab.example", "xreid.example.org"):
            check_problem(live.client.get("/gallery", headers={"host": host}), 403, "host-refused")
        headers = {"origin": "https://reid.example.org", "sec-fetch-site": "same-site"}
        assert live.client.put("/gallery/a", json=EMBEDDING, headers=headers).is_success
    for bad in ("http://a.example", "a.example:80", "a b", "*.*.example"):
        with pytest.raises(ValidationError, match="is not a host name"):
            Settings(allowed_hosts=bad)


def test_with_a_key_any_name_is_accepted(bundle: Path, tmp_path: Path) -> None:
    """A page of another origin does not know the key."""
    with run_service(bundle, tmp_path / "data", api_keys=KEY) as live:
        headers = {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "cross-site"}
        check_problem(live.client.put("/gallery/a", json=EMBEDDING, headers=headers), 401, "key-missing")
        headers |= {"x-api-key": KEY}
        assert live.client.put("/gallery/a", json=EMBEDDING, headers=headers).is_success


@pytest.mark.parametrize(
    ("peer", "client"), [("127.0.0.1", "203.0.113.9"), ("10.1.2.3", "203.0.113.9"), ("198.51.100.1", "198.51.100.1")]
)
def test_the_client_is_the_address_that_a_trusted_proxy_names(peer: str, client: str, tmp_path: Path) -> None:
    """The last address that is not a proxy: a client can write whatever it wants before it."""
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope)

    async def never(*_: object) -> Any:
        raise AssertionError

    entry = Entry(app, Settings(trusted_proxies="127.0.0.0/8, 10.0.0.0/8"), Keys((), tmp_path / "keys.json"))
    headers = [(b"host", b"localhost"), (b"x-forwarded-for", b"192.0.2.1, 203.0.113.9, 10.9.9.9")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/info",
        "headers": headers,
        "client": (peer, 1),
        "scheme": "http",
    }
    asyncio.run(entry(scope, never, never))
    assert seen[0]["client"][0] == client

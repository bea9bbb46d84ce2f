"""A key that is limited to one camera learns nothing of the others, by any route and any sequence of calls.

Two services get the same calls of such a key. In one of them, other keys work with records of other cameras and cases
about them in between; in the other one, none of that exists. Every answer must be the same in both.
"""

import base64
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute

from tests.service.gallery.samples import vector
from tests.service.http.test_scopes import add_key
from tests.service.live import Live, run_service
from tests.service.pictures import draw, encode, form

ALL, GATE = {"x-api-key": "secret-of-all"}, {"x-api-key": "secret-of-gate"}
OWN = ["gate:1", "gate:2", "gate:3", "frigate:gate:7.5-a", "mqtt:gate:1:2"]
HIDDEN = ["door:1", "door-2", "nowhere", "hall:gate:1", "frigate:door:gate:1", "mqtt:gate", "axis:door:1"]
IDS = st.sampled_from(["gate:1", "gate:2", "door:1", "nowhere", *OWN, *HIDDEN, "missing"])
VECTORS = st.sampled_from([[float(value) for value in vector(name, 32)] for name in "abcd"])
CAMERAS = st.sampled_from(["gate", "gate", "door", None])
FRAME = encode(draw(1))
NO_ALERT = "0006000000000000-0000000000000001"
NO_CASE = "00000000-0000-7000-8000-000000000000"


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw some of these fields; those that are `None` are left out."""
    return st.fixed_dictionaries({}, optional=fields).map(
        lambda drawn: {name: value for name, value in drawn.items() if value is not None}
    )


FILTERS = some(
    camera_ids=st.lists(st.sampled_from(["gate", "door"]), min_size=1, max_size=2, unique=True),
    exclude_camera_ids=st.just(["door"]),
    metadata=st.just({"n": 1}),
    without_time=st.just(True),
    after=st.just("2024-05-01T00:00:00Z"),
)
FACTS: dict[str, st.SearchStrategy[Any]] = {
    "camera_id": CAMERAS,
    "start_time": st.just("2024-05-01T12:00:00Z"),
    "metadata": st.sampled_from([{"n": 1}, {"n": 2}]),
}
RECORDS = st.builds(
    lambda embedding, facts: {"embedding": embedding, "camera_id": "gate", **facts}, VECTORS, some(**FACTS)
)
SOME_IDS = st.lists(IDS, max_size=2)
CASES = st.sampled_from(["own", "own", "hidden", "missing"])
SEARCHES = st.builds(
    lambda query, more: {**query, **more},
    st.one_of(
        st.builds(lambda id_: {"id": id_}, IDS),
        st.builds(lambda embedding: {"embedding": embedding}, VECTORS),
        st.builds(lambda ids: {"ids": ids}, st.lists(IDS, min_size=1, max_size=2)),
        st.builds(lambda case: {"case": case}, CASES),
    ),
    some(
        ids=SOME_IDS,
        reject_ids=SOME_IDS,
        top_k=st.integers(1, 4),
        combine=st.sampled_from(["mean", "max"]),
        filter=FILTERS,
        camera_id=CAMERAS,
        exclude_same_camera=st.just(True),
        rerank=st.booleans(),
        min_score=st.just(0.1),
        case=CASES,
    ),
)
CASE_QUERIES = st.one_of(
    st.builds(lambda id_: {"id": id_}, IDS),
    st.builds(lambda embedding, more: {"embedding": embedding, **more}, VECTORS, some(camera_id=CAMERAS)),
)
CASE_BODIES = st.builds(lambda more: {"name": "theft", "purpose": "case 12", **more}, some(query=CASE_QUERIES))
VERDICTS = st.sampled_from([{"verdict": "same"}, {"verdict": "different", "note": "taller"}])


def cursor_after(id: str) -> str:
    return base64.urlsafe_b64encode(f"after:{id}".encode()).decode()


LISTS = some(
    camera_id=st.sampled_from(["gate", "door"]),
    limit=st.integers(1, 3),
    cursor=st.builds(cursor_after, IDS) | st.just("garbage"),
    **{"metadata.n": st.just("1")},
)
Sent = dict[str, Any]
NOTHING: st.SearchStrategy[Sent] = st.just({})


def with_json(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Sent]:
    return st.builds(lambda body: {"json": body}, bodies)


def with_params(params: st.SearchStrategy[Any]) -> st.SearchStrategy[Sent]:
    return st.builds(lambda drawn: {"params": drawn}, params)


EMBEDS = st.builds(
    lambda fields, params: {"data": {"camera_id": "gate", **fields}, "files": form([FRAME]), "params": params},
    some(id=IDS, camera_id=CAMERAS),
    some(enroll=st.booleans(), include_embedding=st.booleans()),
)
RULES: dict[tuple[str, str], st.SearchStrategy[Sent]] = {
    ("GET", "/"): NOTHING,
    ("GET", "/page/{version}/{name:path}"): NOTHING,
    ("GET", "/livez"): NOTHING,
    ("GET", "/readyz"): NOTHING,
    ("GET", "/openapi.json"): NOTHING,
    ("GET", "/metrics"): NOTHING,
    ("GET", "/info"): NOTHING,
    ("POST", "/session"): with_json(st.just({"key": GATE["x-api-key"]})),
    ("GET", "/session"): NOTHING,
    ("DELETE", "/session"): NOTHING,
    ("POST", "/embed"): EMBEDS,
    ("POST", "/search"): with_json(SEARCHES),
    ("GET", "/gallery"): with_params(LISTS),
    ("GET", "/gallery/{id}"): with_params(some(include_embedding=st.booleans())),
    ("PUT", "/gallery/{id}"): with_json(RECORDS),
    ("PATCH", "/gallery/{id}"): with_json(some(**FACTS)),
    ("DELETE", "/gallery/{id}"): NOTHING,
    ("GET", "/gallery/{id}/thumbnail"): with_params(some(frame=st.integers(0, 2))),
    ("GET", "/gallery/{id}/track"): with_params(
        some(min_score=st.sampled_from([-1, 0.5]), max_steps=st.integers(1, 3), after=st.just("2024-05-01T11:00:00Z"))
    ),
    ("POST", "/gallery/erase"): with_json(
        st.builds(lambda chosen, dry: {"filter": chosen, "dry_run": dry}, FILTERS, st.booleans())
    ),
    ("GET", "/cameras"): NOTHING,
    ("GET", "/audit"): NOTHING,
    ("GET", "/cases"): with_params(some(limit=st.integers(1, 3), status=st.sampled_from(["open", "closed"]))),
    ("POST", "/cases"): with_json(CASE_BODIES),
    ("GET", "/cases/{case}"): NOTHING,
    ("PATCH", "/cases/{case}"): with_json(
        some(status=st.sampled_from(["open", "closed"]), name=st.just("new"), query=CASE_QUERIES)
    ),
    ("DELETE", "/cases/{case}"): NOTHING,
    ("PUT", "/cases/{case}/verdicts/{id}"): with_json(VERDICTS),
    ("DELETE", "/cases/{case}/verdicts/{id}"): NOTHING,
    ("GET", "/cases/{case}/picture"): with_params(some(frame=st.integers(0, 1))),
    ("GET", "/cases/{case}/export"): NOTHING,
    ("GET", "/watchlists"): NOTHING,
    ("GET", "/watchlists/{name}"): NOTHING,
    ("PUT", "/watchlists/{name}"): with_json(st.builds(lambda id_: {"ids": [id_], "min_score": 0.5}, IDS)),
    ("DELETE", "/watchlists/{name}"): NOTHING,
    ("GET", "/alerts"): with_params(some(limit=st.integers(1, 3), watchlist=st.just("hidden"))),
    ("GET", "/alerts/stream"): NOTHING,  # sent as HEAD: it does not end
    ("GET", "/alerts/{id}"): NOTHING,
    ("PUT", "/alerts/{id}/verdict"): with_json(st.just({"verdict": "same"})),
    ("DELETE", "/alerts/{id}/verdict"): NOTHING,
}
"""What the key sends to each route."""
OFTEN = [("POST", "/search")] * 10 + [
    ("PUT", "/gallery/{id}"), ("POST", "/cases"), ("PUT", "/cases/{case}/verdicts/{id}"),
] * 2  # fmt: skip
CALLS = st.sampled_from([*RULES, *OFTEN]).flatmap(
    lambda rule: st.tuples(st.just(rule), IDS, CASES, st.integers(0, 3), RULES[rule], st.booleans())
)
"""A rule, an id and a case for its path, which case of several, what is sent, and whether GET is sent as HEAD."""
HIDDEN_IDS = st.sampled_from(HIDDEN)
HIDDEN_CAMERAS = st.sampled_from(["door", "hall", None])
HIDDEN_WORK = st.one_of(
    st.tuples(st.just("put"), HIDDEN_IDS, VECTORS, HIDDEN_CAMERAS),
    st.tuples(st.just("embed"), HIDDEN_IDS),
    st.tuples(st.just("move"), HIDDEN_IDS, HIDDEN_CAMERAS),
    st.tuples(st.just("delete"), HIDDEN_IDS),
    st.tuples(st.just("case"), HIDDEN_IDS),
    st.tuples(st.just("judge"), IDS),
    st.tuples(st.just("search"), IDS),
    st.tuples(st.just("intrude"), HIDDEN_IDS),
    st.tuples(st.just("watch"), HIDDEN_IDS),
)
"""What happens in one of the two services only."""


@dataclass
class World:
    """One of the two services, and the cases that it has."""

    live: Live
    has_others: bool
    own: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    alert: str = NO_ALERT

    def reset(self) -> None:
        client = self.live.client
        client.post("/gallery/erase", json={"filter": {"created_after": "2000-01-01T00:00:00Z"}}, headers=ALL)
        for case in client.get("/cases", headers=ALL).json()["items"]:
            client.delete(f"/cases/{case['id']}", headers=ALL)
        client.cookies.clear()
        client.delete("/watchlists/hidden", headers=ALL)
        self.own, self.hidden = [], []
        for name, seed in (("gate:1", "a"), ("gate:2", "b")):
            body = {"embedding": [float(value) for value in vector(seed, 32)], "camera_id": "gate"}
            assert client.put(f"/gallery/{name}", json=body, headers=ALL).status_code == 201
        if self.has_others:
            for work in (("embed", "door:1"), ("put", "nowhere", body["embedding"], None), ("case", "door:1")):
                self.work(work)
            self.work(("watch", "door:1"))
            self.work(("embed", "door-2"))  # raises an alert
            alerts = client.get("/alerts", headers=ALL).json()["items"]
            self.alert = alerts[0]["id"]
            self.work(("judge", "gate:1"))

    def case(self, kind: str, number: int) -> str:
        """Return the id of a case; in the world without others, hidden ones are missing."""
        known = {"own": self.own, "hidden": self.hidden}.get(kind, [])
        return known[number % len(known)] if known else NO_CASE

    def call(self, call: tuple[Any, ...]) -> Any:
        """Make a call of the limited key, and return all that its answer tells."""
        (method, path), id_, case, number, sent, head = call
        case = self.case(case, number)
        sent = json_with_case(sent, lambda kind: self.case(kind, number))
        id_ = self.alert if path.startswith("/alerts/") else id_
        head = head or path == "/alerts/stream"
        path = path.replace("{id}", id_).replace("{case}", case).replace("{name:path}", "app.js")
        path = path.replace("{name}", "hidden")
        method = "HEAD" if head and method == "GET" else method
        answer = self.live.client.request(method, path, headers=GATE, **sent)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 201 and path == "/cases":
            self.own.append(answer.json()["id"])
        return self.told(answer)

    def told(self, answer: httpx.Response) -> Any:
        def plain(text: str) -> str:
            text = text.replace(self.alert, "ALERT")
            for number, own in enumerate(self.own):
                text = text.replace(own, f"CASE-{number}")
            text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
            text = re.sub(r"(?!2024)\d{4}-\d\d-\d\dT[\d:.]+", "TIME", text)
            text = re.sub(r"[0-9a-f]{64}|(?<=sha-256=:)[^:]+", "SHA-256", text)
            return re.sub(r'"took_ms":[\d.]+', "", text.replace(answer.headers.get("x-request-id", "no id"), "REQUEST"))

        # What is in the body is compared below; `connection: close` says that the body came after an early refusal.
        own_value = {"date", "content-length", "set-cookie", "connection"}
        headers = {name: plain(value) for name, value in answer.headers.items() if name not in own_value}
        if answer.headers.get("content-type") == "application/zip" and answer.content:
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                body: Any = {
                    plain(name): archive.read(name) if name.endswith(".jpg") else plain(archive.read(name).decode())
                    for name in archive.namelist()
                }
        elif answer.headers.get("content-type") == "image/jpeg":
            body = answer.content
        else:
            body = plain(answer.text)
        return answer.status_code, headers, "set-cookie" in answer.headers, body

    def work(self, work: tuple[Any, ...]) -> None:
        """Do what only other keys can see."""
        client = self.live.client

        def send(method: str, path: str, expected: set[int], **sent: Any) -> httpx.Response:
            answer = client.request(method, path, headers=ALL, **sent)
            assert answer.status_code in expected, answer.text
            return answer

        match work:
            case ("put", id_, embedding, camera):
                body = {"embedding": embedding, "metadata": {"n": 1}} | ({"camera_id": camera} if camera else {})
                send("PUT", f"/gallery/{id_}", {200, 201}, json=body)
            case ("embed", id_):
                send("POST", "/embed", {201, 409}, data={"camera_id": "door", "id": id_}, files=form([FRAME]))
            case ("move", id_, camera):
                send("PATCH", f"/gallery/{id_}", {200, 404}, json={"camera_id": camera})
            case ("delete", id_):
                send("DELETE", f"/gallery/{id_}", {204})
            case ("case", id_):
                made = send("POST", "/cases", {201, 404}, json={"name": "x", "purpose": "y", "query": {"id": id_}})
                self.hidden += [made.json()["id"]] if made.status_code == 201 else []
            case ("judge", id_) if self.hidden:
                send("PUT", f"/cases/{self.hidden[-1]}/verdicts/{id_}", {200, 404}, json={"verdict": "same"})
            case ("search", id_) if self.hidden:
                send("POST", "/search", {200, 404}, json={"id": id_, "case": self.hidden[-1]})
            case ("watch", id_):
                body = {"ids": [id_], "min_score": -1, "filter": {"camera_ids": ["door"]}}
                send("PUT", "/watchlists/hidden", {200, 201, 404}, json=body)
            case ("intrude", id_):  # what would show in the key's own camera or cases is refused
                body = {"embedding": [1.0] + [0.0] * 31, "camera_id": "door"}
                for own_id in ("gate:1", "frigate:gate:7.5-a"):
                    send("PUT", f"/gallery/{own_id}", {403}, json=body)
                if self.own:
                    own = self.own[0]
                    send("PUT", f"/cases/{own}/verdicts/{id_}", {403, 404, 409}, json={"verdict": "same"})
                    send("PATCH", f"/cases/{own}", {403, 404, 409}, json={"query": {"id": id_}})


def json_with_case(sent: Sent, find: Callable[[str], str]) -> Sent:
    body = sent.get("json", {})
    return {**sent, "json": {**body, "case": find(body["case"])}} if "case" in body else sent


@pytest.fixture(scope="module")
def worlds(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    with ExitStack() as stack:
        made = []
        for has_others in (True, False):
            data = tmp_path_factory.mktemp("data")
            add_key(data / "keys.json", "all", ALL["x-api-key"], scopes=("admin",))
            scopes = ("search", "enroll", "erase", "vectors")
            add_key(data / "keys.json", "gate", GATE["x-api-key"], scopes=scopes, cameras=("gate",))
            made.append(World(stack.enter_context(run_service(bundle, data, thumbnails=1)), has_others))
        yield made[0], made[1]


def routes_of(routes: Sequence[BaseRoute]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for route in routes:
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in route.methods - {"HEAD"}}
        else:
            found |= routes_of(route.original_router.routes)  # type: ignore[attr-defined] # an included router
    return found


def test_every_route_has_a_rule(worlds: tuple[World, World]) -> None:
    assert routes_of(worlds[0].live.app.routes) == set(RULES), (
        "say in RULES what a key that is limited to a camera sends"
    )


# Shrinking would take minutes.
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.lists(st.one_of(CALLS, CALLS, CALLS, HIDDEN_WORK), min_size=6, max_size=12))
def test_answers_do_not_depend_on_records_of_other_cameras(
    worlds: tuple[World, World], steps: list[tuple[Any, ...]]
) -> None:
    for world in worlds:
        world.reset()
    for step in steps:
        if isinstance(step[0], str):
            worlds[0].work(step)
        else:
            assert worlds[0].call(step) == worlds[1].call(step), step

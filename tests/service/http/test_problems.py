import errno
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from service.gallery import DiskFull, GalleryError, GalleryUnavailable
from service.gallery.embedded.gallery import EmbeddedGallery
from service.http.problems import KINDS, Fault, Problem, field_name
from tests.service.live import Live
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

EMBEDDING = [1.0] * 32
GUIDE = Path(__file__).parents[3] / "docs" / "integrate" / "http.md"


def test_field_names_have_dots_and_indices() -> None:
    assert field_name(("boxes", 3, 1)) == "boxes[3][1]"
    assert field_name(("filter", "camera_ids", 0)) == "filter.camera_ids[0]"
    assert field_name(()) == ""


@pytest.mark.parametrize(
    "body",
    [
        {"boxes": [1]},
        {"boxes": {}},
        {"boxes": []},
        {"boxes": [[0, 0, 0, 9]]},
        {"boxes": [[0, 0, 0, 9, 9, 9]]},
        {"metadata": []},
        {"metadata": {"a": 2**64}},
        {"end_time": "noon"},
        {"filter": 1},
    ],
)
def test_faults_use_the_words_of_json_and_not_of_python(shared: Live, body: dict[str, Any]) -> None:
    path = "/search" if "filter" in body else "/embed"
    errors = check_problem(shared.client.post(path, json=body), 400, "malformed")["errors"]
    assert {fault["field"].partition("[")[0] for fault in errors} == set(body)
    text = " ".join(fault["reason"] for fault in errors)
    for word in ("Value error", "uple", "list", "List", "ictionary", "validation", "Body", "instance"):
        assert word not in text


def test_every_kind_has_an_error_status() -> None:
    assert all(400 <= status < 600 and title for status, title in KINDS.values())


def test_the_guide_lists_every_kind_with_its_status() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| ([^|]*) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {kind: numbers for numbers, kinds in rows for kind in re.findall(r"`([\w-]+)`", kinds)}
    assert set(listed) == set(KINDS)
    for kind, numbers in listed.items():
        assert str(KINDS[kind][0]) in numbers.split(", ")


def test_the_problem_of_a_frame_names_its_index() -> None:
    problem = Problem.of_frame(3, "is dark", "unusable-frames")
    assert problem.status == 422
    assert problem.errors == (Fault(frame=3, reason="is dark"),)
    assert "frame 3" in problem.detail


def test_a_failing_engine_is_a_500_without_its_details(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is not at fault, so 500 is right; the details are in the log and not in the answer."""
    caplog.set_level(logging.ERROR)
    engine = live.model.engine

    def fail(clips: Any) -> None:
        raise RuntimeError("device lost at 0xdead")

    monkeypatch.setattr(type(engine), "embed", lambda self, clips: fail(clips))
    answer = live.client.post("/embed", files=form(tracklet(1, 2)), data={"id": "x"})
    document = check_problem(answer, 500, "internal")
    assert "0xdead" not in answer.text
    assert "0xdead" in caplog.text
    monkeypatch.undo()
    assert live.client.get("/gallery/x").status_code == 404
    assert live.client.post("/embed", files=form(tracklet(1, 2)), data={"id": "x"}).status_code == 201
    assert document["request_id"]


def test_a_full_disk_is_a_507_and_nothing_is_enrolled(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", full)
        answer = live.client.post("/embed", files={"video": ("v.mp4", b"data")})
    check_problem(answer, 507, "disk-full")
    assert live.client.get("/gallery").json()["items"] == []


def test_a_gallery_on_a_full_disk_is_a_507(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise DiskFull("no space left for the gallery")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedGallery, "add", full)
        answer = live.client.post("/embed", files=form(tracklet(1, 1)), data={"id": "later"})
    check_problem(answer, 507, "disk-full")
    assert live.client.post("/embed", files=form(tracklet(1, 1)), data={"id": "later"}).status_code == 201


def put(live: Live, name: str) -> None:
    assert live.client.put(f"/gallery/{name}", json={"embedding": EMBEDDING}).status_code == 201


def test_a_gallery_that_does_not_answer_is_a_503_with_retry_after(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with `Retry-After`, and the same answers as before when it works again."""
    put(live, "a")

    def away(*_arguments: object, **_more: object) -> None:
        raise GalleryUnavailable("the cluster does not answer")

    with monkeypatch.context() as patch:
        for name in ("get", "add", "put", "search", "list", "delete", "erase", "thumbnail", "audit", "count"):
            patch.setattr(EmbeddedGallery, name, away)
        for method, path, body in (
            ("GET", "/gallery/a", None),
            ("GET", "/gallery", None),
            ("GET", "/gallery/a/thumbnail", None),
            ("GET", "/audit", None),
            ("GET", "/info", None),
            ("DELETE", "/gallery/a", None),
            ("PUT", "/gallery/a", {"embedding": EMBEDDING}),
            ("POST", "/search", {"embedding": EMBEDDING}),
            ("POST", "/gallery/erase", {"filter": {"camera_ids": ["c"]}}),
        ):
            answer = live.client.request(method, path, json=body)
            document = check_problem(answer, 503, "gallery-unavailable")
            assert document["detail"] == "the cluster does not answer"
            assert answer.headers["retry-after"] == "2"
        assert "not3d_gallery_records" in live.client.get("/metrics").text
        assert live.client.get("/livez").status_code == 200
    assert live.client.get("/gallery/a").status_code == 200


def test_a_gallery_that_fails_is_a_503_without_retry_after(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with its reason, also in the log, and without `Retry-After`: no time is known at which it works again."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise GalleryError("the disk is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedGallery, "put", refuse)
        answer = live.client.put("/gallery/a", json={"embedding": EMBEDDING})
        assert check_problem(answer, 503, "gallery-unavailable")["detail"] == "the disk is read-only"
        assert "retry-after" not in answer.headers
    [failure] = [record for record in caplog.records if record.getMessage() == "gallery failed"]
    assert failure.facts == {"reason": "the disk is read-only"}  # type: ignore[attr-defined]
    assert live.client.get("/livez").status_code == live.client.get("/readyz").status_code == 200
    put(live, "a")


LONG = 20_000
"""Characters of what is sent; more would be refused earlier."""


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("PUT", "/gallery/a", json.dumps({"x" * LONG: 1})),
        ("PUT", "/gallery/a", json.dumps({f"{number:0>400}": 1 for number in range(150)})),
        ("PUT", "/gallery/a", json.dumps({"id": "a" * LONG})),
        ("PUT", "/gallery/a", json.dumps({"camera_id": "a" * LONG})),
        ("PUT", "/gallery/a", json.dumps({"embedding_space": "a" * LONG})),
        ("PUT", "/gallery/a", json.dumps({"start_time": "2024-01-01" + "1" * LONG})),
        ("PUT", "/gallery/a", json.dumps({"expires_at": "2024-01-01T" + "1" * LONG})),
        ("PUT", "/gallery/a", json.dumps({"metadata": {"a" * LONG: 2**70}})),
        ("PUT", "/gallery/a", json.dumps({"metadata": "a" * LONG})),
        ("PUT", "/gallery/a", '{"embedding":' + "1" * 4000 + "}"),
        ("POST", "/search", json.dumps({"id": "a" * LONG})),
        ("POST", "/search", '{"id":"a","top_k":' + "9" * 4000 + "}"),
        ("POST", "/search", '{"id":"a","top_k":' + "9" * LONG + "}"),
        ("POST", "/search", json.dumps({"filter": {"a" * LONG: 1}})),
        ("POST", "/search", json.dumps({"filter": {"camera_ids": ["b" * 400] * 200}})),
        ("POST", "/search", json.dumps({"filter": {"metadata": {"k": "b" * LONG}}, "id": "a"})),
        ("POST", "/embed", json.dumps({"frames": ["é" * LONG]})),
        ("POST", "/embed", json.dumps({"max_clips": "a" * LONG})),
        ("POST", "/gallery/erase", json.dumps({"a" * LONG: 1})),
        ("POST", "/gallery/erase", "a" * LONG),
        ("GET", "/gallery?limit=" + "9" * 4000, ""),
        ("GET", "/gallery?limit=" + "a" * LONG, ""),
        ("GET", "/gallery?cursor=" + "a" * LONG, ""),
        ("GET", "/gallery?" + "a" * LONG + "=1", ""),
        ("GET", "/gallery?" + "&".join(f"{number:0>300}=1" for number in range(60)), ""),
        ("GET", "/livez?" + "&".join(f"{number:0>300}=1" for number in range(60)), ""),
        ("GET", "/audit?before=" + "a" * LONG, ""),
        ("GET", "/gallery/" + "a" * LONG, ""),
        ("GET", "/" + "a" * LONG, ""),
    ],
)
def test_an_error_repeats_little_of_what_was_sent(
    shared: Live, method: str, path: str, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "not3d")
    answer = shared.client.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    document = answer.json()
    assert all(len(fault.get("field") or "") <= 100 for fault in document.get("errors", []))
    assert len(document["detail"]) <= 600
    repeated = re.findall(r"a+|b+|[019]+|x+|é+|(?:0+\d+)", answer.text)
    assert sum(map(len, (run for run in repeated if len(run) > 20))) <= 600
    assert all(len(str(vars(record))) < 4000 for record in caplog.records if record.name.startswith("not3d"))


@pytest.mark.parametrize("name", ["content-type", "x-request-id", "authorization", "content-encoding"])
def test_an_error_repeats_little_of_a_header(shared: Live, name: str) -> None:
    answer = shared.client.post("/embed", content=b"a", headers={name: "a/" + "b" * LONG})
    assert 400 <= answer.status_code < 500
    assert len(answer.text) < 1000

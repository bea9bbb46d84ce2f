"""Bad requests get a problem document that names the frame or field, and nothing is enrolled."""

import base64
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.live import Live
from tests.service.pictures import draw, encode, form, tracklet, write_video
from tests.service.problem import check_problem

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def nothing_is_enrolled(shared: Live) -> Iterator[None]:
    """Check after each test that no record was enrolled and no slot is taken."""
    yield
    assert shared.client.get("/gallery").json()["items"] == []
    assert "not3d_pending_requests 0.0" in shared.client.get("/metrics").text


def embed(live: Live, frames: list[bytes], **data: str) -> httpx.Response:
    return live.client.post("/embed", files=form(frames), data={"id": "bad"} | data)


def huge_png(width: int, height: int) -> bytes:
    """Return a valid PNG of a few kilobytes that decodes to `width * height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    pixels = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_form_without_frames_is_refused(shared: Live) -> None:
    answer = shared.client.post("/embed", files={"id": (None, "bad")})
    check_problem(answer, 400, "malformed", field="frames")


def test_an_empty_form_is_refused(shared: Live) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    check_problem(shared.client.post("/embed", content=b"--x--\r\n", headers=headers), 400, "malformed", field="frames")
    check_problem(shared.client.post("/embed", content=b"", headers=headers), 400, "malformed")


def test_an_empty_body_is_refused(shared: Live) -> None:
    check_problem(shared.client.post("/embed", content=b"", headers=JSON), 400, "malformed")
    check_problem(shared.client.post("/embed"), 415, "unsupported-content")


def test_an_empty_file_is_not_an_image(shared: Live) -> None:
    check_problem(embed(shared, [b""]), 415, "unsupported-content", frame=0)


def test_text_named_jpg_is_not_an_image(shared: Live) -> None:
    check_problem(embed(shared, [b"I am a picture, I promise.\n" * 100]), 415, "unsupported-content", frame=0)


def test_a_truncated_jpeg_is_unusable(shared: Live) -> None:
    whole = tracklet(1, 1)[0]
    for share in (0.01, 0.3, 0.9):
        check_problem(embed(shared, [whole[: int(len(whole) * share)]]), 422, "unusable-frames", frame=0)


def test_an_image_of_one_pixel_is_unusable(shared: Live) -> None:
    pixel = encode(draw(1)[:1, :1], ".png")
    document = check_problem(embed(shared, [pixel]), 422, "unusable-frames", frame=0)
    assert "1x1" in document["errors"][0]["reason"]


def test_a_huge_png_of_a_few_kilobytes_is_refused_before_decoding(shared: Live) -> None:
    bomb = huge_png(30_000, 30_000)
    assert len(bomb) < 200_000
    document = check_problem(embed(shared, [*tracklet(1, 3), bomb]), 413, "too-large", frame=3)
    assert "30000x30000" in document["errors"][0]["reason"]
    body = {"id": "bad", "frames": [base64.b64encode(bomb).decode()]}
    check_problem(shared.client.post("/embed", json=body), 413, "too-large", frame=0)


def test_ten_thousand_frames_are_refused_before_the_body_is_complete(shared: Live) -> None:
    frame = tracklet(1, 1)[0]
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        head = b'--x\r\nContent-Disposition: form-data; name="frames"; filename="f.jpg"\r\n\r\n'
        for sent in range(1, 10_001):  # noqa: B007 - counted for the test
            yield head + frame + b"\r\n"
        yield b"--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = shared.client.post("/embed?enroll=true", content=body(), headers=headers)
    check_problem(answer, 413, "too-large", field="frames")


def test_ten_thousand_frames_in_json_are_refused(shared: Live) -> None:
    text = base64.b64encode(tracklet(1, 1)[0]).decode()
    answer = shared.client.post("/embed", json={"id": "bad", "frames": [text] * 10_000})
    check_problem(answer, 413, "too-large", field="frames")


def test_ten_thousand_boxes_are_refused(shared: Live) -> None:
    boxes = str([[0, 0, 0, 20, 20]] * 10_000).replace(" ", "")
    check_problem(embed(shared, tracklet(1, 1), boxes=boxes), 413, "too-large", field="boxes")


def test_boxes_outside_the_frame_are_unusable(shared: Live) -> None:
    boxes = "[[0,500,500,50,50],[0,-100,0,50,50]]"
    check_problem(embed(shared, tracklet(1, 1), boxes=boxes), 422, "unusable-frames", frame=1)


@pytest.mark.parametrize(
    ("boxes", "field"),
    [
        ("[[0,0,0,20]]", "boxes[0][4]"),
        ("[[0,0,0,20,20,1]]", "boxes[0]"),
        ('[[0,0,"a",20,20]]', "boxes[0][2]"),
        ("[[1e300,0,0,20,20]]", "boxes[0][0]"),
        ("[[0.5,0,0,20,20]]", "boxes[0][0]"),
        ("[]", "boxes"),
        ("{}", "boxes"),
        ("[[0,0,0,20,20]", "boxes"),
        ("", "boxes"),
    ],
)
def test_malformed_boxes_are_named(shared: Live, boxes: str, field: str) -> None:
    check_problem(embed(shared, tracklet(1, 1), boxes=boxes), 400, "malformed", field=field)


@pytest.mark.parametrize(
    "box", ["[1,0,0,20,20]", "[-1,0,0,20,20]", "[0,0,0,0,20]", "[0,0,0,20,NaN]", "[0,0,1e999,20,20]", "[0,5,null,9,9]"]
)
def test_box_that_cannot_be_cut_out_is_an_unusable_frame(shared: Live, box: str) -> None:
    check_problem(embed(shared, tracklet(1, 1), boxes=f"[{box}]"), 422, "unusable-frames", frame=0)
    answer = shared.client.post(
        "/embed?enroll=false", files=form(tracklet(1, 1)), data={"boxes": f"[[0,0,0,40,90],[0,2,2,40,90],{box}]"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["frames"] == 2
    assert [frame["index"] for frame in answer.json()["rejected_frames"]] == [2]


def test_every_bad_frame_is_named_when_too_few_are_left(shared: Live) -> None:
    good = tracklet(1, 6)
    frames = [good[0], b"text", good[1][:200], encode(draw(1)[:1, :1], ".png"), b"", good[2], b"GIF89a"]
    document = check_problem(embed(shared, frames), 422, "unusable-frames")
    assert [fault["frame"] for fault in document["errors"]] == [1, 2, 3, 4, 6]
    assert all(fault["reason"] for fault in document["errors"])


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"camera": "a"}, "camera"),
        ({"id": "a b"}, "id"),
        ({"id": ".."}, "id"),
        ({"id": ""}, "id"),
        ({"camera_id": ""}, "camera_id"),
        ({"camera_id": "x" * 129}, "camera_id"),
        ({"start_time": "noon"}, "start_time"),
        ({"start_time": "2024-05-01T12:00:00"}, "start_time"),
        ({"start_time": "2024-05-01T12:00:01Z", "end_time": "2024-05-01T12:00:00Z"}, "end_time"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": '{"a": NaN}'}, "metadata.a"),
        ({"metadata": "{"}, "metadata"),
        ({"embedding": "[1]"}, "embedding"),
    ],
)
def test_bad_fields_are_named(shared: Live, data: dict[str, str], field: str) -> None:
    document = check_problem(embed(shared, tracklet(1, 1), **data), 400, "malformed")
    assert document["errors"][0]["field"].startswith(field.split(".", maxsplit=1)[0]), document


def test_metadata_over_the_limit_is_refused(shared: Live) -> None:
    answer = embed(shared, tracklet(1, 1), metadata='{"a": "' + "x" * 17_000 + '"}')
    check_problem(answer, 413, "too-large", field="metadata")


@pytest.mark.parametrize("query", ["enroll=maybe", "enroll=2", "include_embedding=", "enrol=true"])
def test_bad_query_parameters_are_named(shared: Live, query: str) -> None:
    answer = shared.client.post(f"/embed?{query}", files=form(tracklet(1, 1)))
    check_problem(answer, 400, "malformed", field=query.partition("=")[0])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "frames"),
        ({"frames": []}, "frames"),
        ({"frames": ["not base64!"]}, "frames[0]"),
        ({"frames": ["AAA"]}, "frames[0]"),
        ({"frames": ["ÄÄÄÄ"]}, "frames[0]"),
        ({"frames": [1]}, "frames[0]"),
        ({"frames": "AAAA"}, "frames"),
        ({"frames": ["AAAA"], "embedding": [1.0]}, "embedding"),
        ({"frames": ["AAAA"], "metadata": {"a": 2**64}}, "metadata"),
        ({"boxes": [[0, 0, 0, 9, 9]]}, "boxes"),
    ],
)
def test_bad_fields_of_a_json_body_are_named(shared: Live, body: dict[str, Any], field: str) -> None:
    check_problem(shared.client.post("/embed", json=body), 400, "malformed", field=field)


@pytest.mark.parametrize("text", ["", " ", "null", "[]", '"x"', "{", '{"id": "\\ud800"}', "\x00", "[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(shared: Live, text: str) -> None:
    check_problem(shared.client.post("/embed", content=text, headers=JSON), 400, "malformed")


def test_bytes_that_are_not_text_are_refused(shared: Live) -> None:
    check_problem(shared.client.post("/embed", content=b'{"id": "\xff"}', headers=JSON), 400, "malformed")
    answer = shared.client.post("/embed", files=[("id", (None, b"\xff"))])
    check_problem(answer, 400, "malformed", field="id")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "image/jpeg", "\xff", ";;"]
)
def test_other_content_types_are_refused(shared: Live, kind: str) -> None:
    headers = {"content-type": kind.encode("latin-1")}
    check_problem(shared.client.post("/embed", content=b"x", headers=headers), 415, "unsupported-content")  # type: ignore[arg-type]


def test_a_file_that_is_not_a_video_is_refused(shared: Live, tmp_path: Path) -> None:
    def send(data: bytes) -> httpx.Response:
        return shared.client.post("/embed", files={"video": ("v.mp4", data)}, data={"id": "bad"})

    check_problem(send(b"text"), 415, "unsupported-content", field="video")
    check_problem(send(b""), 415, "unsupported-content", field="video")
    whole = write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(5)])
    check_problem(send(whole[:-100]), 422, "unusable-frames", field="video")
    garbled = whole[:32] + bytes(len(whole) - 32)
    check_problem(send(garbled), 422, "unusable-frames", field="video")


def test_frames_and_a_video_together_are_refused(shared: Live, tmp_path: Path) -> None:
    video = ("video", ("v.mp4", write_video(tmp_path / "v.mp4", [draw(1)]), "video/mp4"))
    for files in ([*form(tracklet(1, 1)), video], [video, *form(tracklet(1, 1))]):
        check_problem(shared.client.post("/embed", files=files), 400, "malformed")
    check_problem(shared.client.post("/embed", files=[video, video]), 400, "malformed", field="video")


@pytest.mark.parametrize("path", ["/embed/", "/gallery/", "/docs", "/gallery/a/thumbnail", "/../etc/passwd"])
def test_unknown_paths_are_not_found(shared: Live, path: str) -> None:
    check_problem(shared.client.get(path), 404, "not-found")


def test_other_methods_are_not_allowed(shared: Live) -> None:
    answer = shared.client.get("/embed")
    check_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("boxes", ['[["0","0","0","50","50"]]', "[[true,0,0,50,50]]"])
def test_a_form_is_validated_as_strictly_as_a_json_body(shared: Live, boxes: str) -> None:
    check_problem(embed(shared, tracklet(1, 1), boxes=boxes), 400, "malformed", field="boxes[0][0]")


@pytest.mark.parametrize("option", [{"rerank": "False"}, {"top_k": "five"}, {"top_k": '"5"'}, {"min_score": "NaN"}])
def test_options_in_a_form_are_json_values(shared: Live, option: dict[str, str]) -> None:
    answer = shared.client.post("/search", files=form(tracklet(1, 1)), data=option)
    check_problem(answer, 400, "malformed", field=next(iter(option)))


@pytest.mark.parametrize("name", ["metadata", "start_time", "end_time"])
def test_a_field_of_the_filter_outside_of_the_filter_is_refused_with_its_place(shared: Live, name: str) -> None:
    value = {"site": "a"} if name == "metadata" else "2024-05-01T12:00:00Z"
    answer = shared.client.post("/search", json={"embedding": [1.0] * 32, name: value})
    assert "belongs in filter" in check_problem(answer, 400, "malformed", field=name)["detail"]
    answer = shared.client.post("/search", files=form(tracklet(1, 1)), data={name: "text"})
    assert "belongs in filter" in check_problem(answer, 400, "malformed", field=name)["detail"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"boxes":[' + b"0," * 90_000 + b"0]}", 400),
        (b'{"frames":[' + b"0," * 90_000 + b"0]}", 400),
        (b'{"frames":[' + b'"",' * 1_000_000 + b'""]}', 413),
        (b"{" + b",".join(b'"k%d":0' % i for i in range(30_000)) + b"}", 400),
        (b"{" + b",".join(b'"k%d":0' % i for i in range(100_000)) + b"}", 400),
        (b'{"metadata":{"a":[' + (b"[" * 60 + b"]" * 60 + b",") * 10_000 + b"0]}}", 413),
    ],
    ids=["boxes", "frames", "values", "fields", "more fields", "levels"],
)
def test_the_answer_to_a_million_faults_is_small(shared: Live, content: bytes, status: int) -> None:
    answer = shared.client.post("/embed", content=content, headers=JSON)
    assert answer.status_code == status
    assert len(answer.content) < 1000
    assert answer.json()["errors"]


def test_deep_metadata_is_refused_before_frames_are_decoded(shared: Live) -> None:
    deep = "[" * 70 + "]" * 70
    answer = embed(shared, [b"no picture at all"], metadata=f'{{"a": {deep}}}')
    check_problem(answer, 400, "malformed", field="metadata")


@pytest.mark.parametrize(
    ("query", "field"),
    [("cursor=bm90aGluZw", "cursor"), ("after=2024-05-02T00:00:00Z&before=2024-05-01T00:00:00Z", "before")],
)
def test_bad_parameters_of_a_list_are_named(shared: Live, query: str, field: str) -> None:
    check_problem(shared.client.get(f"/gallery?{query}"), 400, "malformed", field=field)


def test_a_filter_with_a_thousand_keys_is_refused(shared: Live) -> None:
    conditions = {"metadata": {f"k{number}": number for number in range(1200)}}
    answer = shared.client.post("/search", json={"embedding": [1.0] * 32, "filter": conditions})
    check_problem(answer, 400, "malformed", field="filter.metadata")
    answer = shared.client.post("/gallery/erase", json={"filter": conditions})
    check_problem(answer, 400, "malformed", field="filter.metadata")

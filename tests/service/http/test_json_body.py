import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.fields import MAX_ITEMS
from service.http.json_body import MAX_FIELD_BYTES, STEP, decode_base64, split_frames
from service.http.problems import Problem

texts = st.text(max_size=8) | st.sampled_from(["frames", '"', "\\", '\\"', "]", "[", "}", "é", "a/b+c"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)  # six parses an example, on a machine that may be busy
@given(st.dictionaries(texts, values, max_size=5), st.lists(texts, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_the_rest_and_the_frames_are_the_body(fields: dict[str, Any], frames: list[str], indent: int | None) -> None:
    body = {"frames": frames} | {key: value for key, value in fields.items() if key != "frames"}
    for ordered in (body, dict(reversed(body.items()))):
        split = split_frames(bytearray(json.dumps(ordered, indent=indent).encode()))
        assert json.loads(split.fields) == ordered | {"frames": [""] * len(frames)}
        assert [json.loads(b'"' + bytes(text) + b'"') for text in split.frames()] == frames
        compact = split_frames(bytearray(json.dumps(ordered, separators=(",", ":")).encode()))
        assert (json.loads(compact.fields), [*compact.frames()]) == (json.loads(split.fields), [*split.frames()])


@pytest.mark.parametrize("separator", [",", ", ", " ,\n"])
def test_a_hundred_thousand_frames_are_taken_out_soon(separator: str) -> None:
    body = bytearray(b'{"max_clips":1,"frames":[' + separator.join(['"QQ=="'] * MAX_ITEMS).encode() + b'],"id":"a"}')
    start = time.thread_time()
    split = split_frames(body, {"max_clips", "frames", "id"})
    assert time.thread_time() - start < 3
    assert split.count == len(json.loads(split.fields)["frames"]) == MAX_ITEMS
    assert set(map(bytes, split.frames())) == {b"QQ=="}


@pytest.mark.parametrize("name", ["u0", "é", "metadata"])
def test_the_first_unknown_field_ends_the_work(name: str) -> None:
    numbered = ", ".join(f'"u{number}": {number}' for number in range(1, 100_000))
    body = f'{{"id": "a", "frames": ["QQ=="], "{name}": 0, {numbered}}}'.encode()
    start = time.thread_time()
    json.loads(body)
    complete = time.thread_time() - start
    start = time.thread_time()
    with pytest.raises(Problem) as problem:
        split_frames(bytearray(body), {"id", "frames"}, {"metadata": "belongs in filter"})
    assert time.thread_time() - start < complete
    assert (problem.value.status, problem.value.errors[0].field) == (400, name)
    assert problem.value.errors[0].reason == ("belongs in filter" if name == "metadata" else "unknown field")


def test_fields_of_metadata_and_escaped_names_are_left_for_the_validator() -> None:
    body = b'{"metadata":{"colour":"red"},"\\u0069d":"a","frames":["QQ=="]}'
    split = split_frames(bytearray(body), {"metadata", "id", "frames"})
    assert json.loads(split.fields) == {"metadata": {"colour": "red"}, "id": "a", "frames": [""]}


def test_texts_may_be_as_many_as_the_metadata_have_room_for() -> None:
    text = '\\"' * (16_384 // 2 - 10)
    body = f'{{"metadata":{{"k":"{text}"}},"camera_id":"{"x" * 128}"}}'.encode()
    assert json.loads(split_frames(bytearray(body), {"metadata", "camera_id"}, {}, 16_384).fields) == json.loads(body)


@given(st.binary(max_size=200))
def test_what_is_not_json_is_left_for_the_parser(data: bytes) -> None:
    split = split_frames(bytearray(data))
    if not split.count:
        assert split.fields == data


@pytest.mark.parametrize(
    "body",
    [
        '{"metadata":{"frames":["a"]}}',
        '{"frames":[["a"]]}',
        '{"frames":"a"}',
        '["frames",["a"]]',
        '{"frames":{"a":"b"}}',
    ],
)
def test_only_texts_of_the_list_of_frames_are_taken_out(body: str) -> None:
    split = split_frames(bytearray(body.encode()))
    assert (split.fields, split.count) == (body.encode(), 0)


@given(st.binary(max_size=40), st.sampled_from(["plain", "slash", "dotnet", "all"]))
def test_frames_are_decoded_with_the_escapes_of_any_encoder(data: bytes, escapes: str) -> None:
    text = base64.b64encode(data).decode()
    sent = {
        "plain": text,
        "slash": text.replace("/", "\\/"),
        "dotnet": text.replace("+", "\\u002B"),
        "all": "".join(f"\\u{ord(character):04x}" for character in text),
    }[escapes]
    assert decode_base64(memoryview(sent.encode())) == data
    assert decode_base64(text) == data


@pytest.mark.parametrize("shift", range(8))
def test_long_frames_are_decoded_in_pieces_that_split_no_escape(shift: int) -> None:
    data = b"\xff" * (STEP + shift)  # its base64 is slashes
    text = base64.b64encode(data).decode()
    assert decode_base64(memoryview(text.encode())) == data
    assert decode_base64(memoryview(text.replace("/", "\\/").encode())) == data
    assert decode_base64(memoryview(("A" * (4 * shift) + text.replace("/", "\\u002f")).encode()))[3 * shift :] == data


@pytest.mark.parametrize("text", ["Q", "QQ=", "Q Q=", "é", "====", "QQ==QUJD", "QQ==" * (STEP // 2), "QQ\\", "\\q"])
def test_text_that_is_not_base64_is_refused(text: str) -> None:
    for sent in (text, memoryview(text.encode())):
        with pytest.raises(ValueError, match=r".+"):
            decode_base64(sent)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"' + b"a" * MAX_FIELD_BYTES + b'"}',
        b'{"frames":[' + b"0," * MAX_FIELD_BYTES + b"0]}",
        b'{"frames":["' + b'\\"' * 10_000_000 + b'"]}',
        b'{"id":"' + b'\\"' * 900_000 + b'"}',
        b'{"frames":[' + b'"",' * 1_000_000 + b'""]}',
        b'{"' + b"\\" * 20_000_000 + b'"}',
        b" " * 30_000_000,
    ],
    ids=["text", "numbers", "quotes", "quotes of an id", "texts", "backslashes", "blanks"],
)
def test_a_body_that_is_too_large_is_refused_soon(body: bytes) -> None:
    start = time.thread_time()
    with pytest.raises(Problem) as problem:
        split_frames(bytearray(body))
    assert problem.value.status == 413
    assert time.thread_time() - start < 1

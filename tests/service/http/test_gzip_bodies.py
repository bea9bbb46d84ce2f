"""Compressed bodies are read within the limits of plain ones."""

import gzip
import json
import time
import zlib
from pathlib import Path

import httpx
import pytest

from service.http import uploads
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet
from tests.service.problem import check_problem

JSON = {"content-type": "application/json", "content-encoding": "gzip"}
QUERY = json.dumps({"embedding": [1.0] * 32}).encode()
ZIPPED = gzip.compress(QUERY)


def search(live: Live, body: bytes, encoding: str = "gzip") -> httpx.Response:
    return live.client.post("/search", content=body, headers=JSON | {"content-encoding": encoding})


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_gzip_json_is_read(shared: Live, encoding: str) -> None:
    assert search(shared, gzip.compress(QUERY), encoding).json()["results"] == []
    assert search(shared, QUERY, "identity").json()["results"] == []


def test_a_gzip_form_is_read(shared: Live) -> None:
    request = shared.client.build_request("POST", "/embed", files=form(tracklet(1, 2)))
    headers = {"content-type": request.headers["content-type"], "content-encoding": "gzip"}
    answer = shared.client.post("/embed?enroll=false", content=gzip.compress(request.read()), headers=headers)
    assert answer.json()["frames"] == 2


def test_a_body_of_several_members_and_in_pieces_is_read(shared: Live) -> None:
    body = b"".join(gzip.compress(QUERY[begin : begin + 40]) for begin in range(0, len(QUERY), 40))
    assert search(shared, body).json()["results"] == []
    pieces = iter([body[begin : begin + 11] for begin in range(0, len(body), 11)])
    assert shared.client.post("/search", content=pieces, headers=JSON).json()["results"] == []


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "compress", "x" * 5000])
def test_other_encodings_are_refused_with_those_that_are_read(shared: Live, encoding: str) -> None:
    headers = JSON | {"content-encoding": encoding}
    put = shared.client.put("/gallery/a", content=QUERY, headers=headers)
    for answer in (search(shared, QUERY, encoding), put):
        document = check_problem(answer, 415, "unsupported-content")
        assert answer.headers["accept-encoding"] == "gzip"
        assert len(document["detail"]) < 300


@pytest.mark.parametrize(
    "body",
    [
        QUERY,
        b"",
        gzip.compress(QUERY)[:-4],
        gzip.compress(QUERY)[:20],
        zlib.compress(QUERY),
        gzip.compress(QUERY) + b"x",
    ],
    ids=["plain", "empty", "no checksum", "truncated", "zlib", "more"],
)
def test_a_body_that_is_not_complete_gzip_is_malformed(shared: Live, body: bytes) -> None:
    check_problem(search(shared, body), 400, "malformed")


def test_bombs_are_refused(shared: Live) -> None:
    """By their ratio, by their size and by their number of members, each in a short time."""
    megabyte = bytes(2**20)
    head = b'--B\r\nContent-Disposition: form-data; name="frames"\r\n\r\n'
    compressor = zlib.compressobj(1, wbits=31)
    bomb = compressor.compress(head) + b"".join(compressor.compress(megabyte) for _ in range(100)) + compressor.flush()
    assert len(bomb) < 1_000_000
    begin = time.process_time()
    check_problem(search(shared, bomb), 413, "too-large")
    members = gzip.compress(b"") * (uploads.MAX_GZIP_MEMBERS + 100)
    assert "members" in check_problem(search(shared, members), 413, "too-large")["detail"]
    headers = {"content-type": "multipart/form-data; boundary=B", "content-encoding": "gzip"}
    check_problem(shared.client.post("/embed", content=bomb, headers=headers), 413, "too-large")
    assert time.process_time() - begin < 5


def test_the_decompressed_size_has_the_limit_of_a_plain_body(bundle: Path, tmp_path: Path) -> None:
    filler = "".join(f"{number:x}" for number in range(50_000)).encode()
    body = gzip.compress(QUERY[:-1] + b', "x": "' + filler + b'"}')
    with run_service(bundle, tmp_path / "data", max_request_bytes=150_000) as live:
        assert len(body) < 150_000 < len(filler)
        check_problem(search(live, body), 413, "too-large")


def test_waiting_requests_are_answered_while_a_body_is_decompressed(shared: Live) -> None:
    """Each step is short: the decompressor returns at most `GZIP_STEP` bytes."""
    unzip = uploads._Gunzip()
    pieces = list(unzip.pieces(gzip.compress(bytes(range(256)) * 4096)))
    assert b"".join(pieces) == bytes(range(256)) * 4096
    assert max(map(len, pieces)) <= uploads.GZIP_STEP
    unzip.check_end()

"""The fuzzer and the sequences of calls, each in small against the real service."""

import argparse
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.fuzz.__main__ import attack_service, check_log, run, send
from benchmarks.fuzz.drawing import Attack, Drawing, Material
from benchmarks.fuzz.footage import picture_seeds, video_seeds
from benchmarks.process import running_service
from benchmarks.report import Report
from benchmarks.stateful import call_in_sequences
from model.bundle import Bundle
from model.frames import FrameError, read_frame
from tests.bundles import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(make_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    videos = video_seeds(tmp_path_factory.mktemp("videos"))
    return Material([*picture_seeds().values()], [*videos.values()], 32, "space", "127.0.0.1:1")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Listen on a port and give each client the same answer."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1_000_000)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_intact_files_are_readable_and_others_are_not() -> None:
    readable = set()
    for name, data in picture_seeds().items():
        try:
            read_frame(data, 96, 48)
            readable.add(name.split()[0])
        except FrameError:
            continue
    assert readable == {"bmp", "jpeg", "png", "webp"}


def test_a_seed_and_a_number_give_the_same_request(material: Material) -> None:
    one, same, other = (Drawing(seed, material) for seed in (5, 5, 6))
    numbers = range(200)
    assert [one.draw(number) for number in numbers] == [same.draw(number) for number in reversed(numbers)][::-1]
    assert sum(one.draw(number) == other.draw(number) for number in numbers) < 5
    assert {one.draw(number).kind for number in numbers} == {"picture", "video", "form", "json", "query", "head"}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", "500 b'oops'"),
        (b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", "503 b''"),
        (b"HTTP/1.1 400 X\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n", "400 without a problem document"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n", "no complete answer"),
        (b"", "no complete answer"),
        (
            b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\nContent-Length: 0\r\n\r\n",
            "",
        ),
    ],
)
def test_wrong_answers_are_faults_of_their_request(answer: bytes, fault: str) -> None:
    with answering(answer) as port:
        seen = send(port, Attack(7, "query", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert seen.fault.startswith(fault)
    assert bool(seen.fault) == bool(fault)


def test_faults_are_listed_by_number(material: Material) -> None:
    with answering(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n") as port:
        result = attack_service(port, Drawing(1, material), range(3, 6), clients=2)
    assert set(result.faults) == {3, 4, 5}


def test_lines_of_a_log_that_are_errors_or_no_json_are_found(tmp_path: Path) -> None:
    lines = ['{"level": "info"}', "libpng error: x", '{"level": "error"}', "7"]
    (tmp_path / "log").write_text("\n".join(lines))
    assert check_log(tmp_path / "log") == lines[1:]


def test_the_service_withstands_hostile_requests(bundle: Bundle, tmp_path: Path) -> None:
    options = argparse.Namespace(bundle=bundle.path, requests=150, seed=1, clients=2, only=None, seconds=math.inf)
    failures = run(Report(), tmp_path, options)
    # OpenCV writes some of its warnings about broken videos to standard error.
    assert [failure for failure in failures if not failure.startswith("log: [ WARN")] == []


def test_sequences_of_calls_are_answered_as_documented(bundle: Bundle, tmp_path: Path) -> None:
    with running_service(bundle.path, tmp_path, "--engine", "onnxruntime", "--threads", "1") as server:
        done = call_in_sequences(server.url, bundle.spec.dimension, examples=15, seed=1)
    assert done.returncode == 0, done.stdout

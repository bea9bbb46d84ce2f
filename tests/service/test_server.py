"""The real process: start, refusal to start, end, and what is left after it is killed."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from not3d.ports import free_port
from service.lifecycle import CLOSE_SECONDS
from tests.bundles import make_bundle
from tests.service.live import TIMEOUT, wait_for
from tests.service.pictures import draw, encode, form, tracklet, write_video

PROJECT = Path(__file__).parents[2]
COMMAND = "from service.server import serve; from service.settings import Settings; serve(Settings())"


def start(bundle: Path, data_dir: Path, command: str = COMMAND, **settings: str) -> tuple[subprocess.Popen[str], str]:
    """Start the process; return it and its address."""
    port = free_port()
    variables = {"BUNDLE": str(bundle), "DATA_DIR": str(data_dir), "PORT": str(port), "ENGINE": "onnxruntime"}
    variables |= {"DEVICE": "cpu", "THREADS": "1"} | settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
    environment |= {f"NOT3D_{name}": value for name, value in variables.items()} | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=data_dir.parent,
    )
    return process, f"http://127.0.0.1:{port}"


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=TIMEOUT).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(
    bundle: Path, data_dir: Path, command: str = COMMAND, **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process, url = start(bundle, data_dir, command, **settings)
    try:
        wait_for(lambda: process.poll() is not None or is_ready(url))
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process, url
    finally:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; return the exit status and standard error."""
    _, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, errors


def test_sigterm_finishes_accepted_requests_and_exits_with_0(bundle: Path, tmp_path: Path) -> None:
    """The signal comes while the body is being sent: the request is answered before the process ends."""
    with running(bundle, tmp_path / "data") as (process, url):
        frames = tracklet(1, 3)
        request = httpx.Client().build_request("POST", url + "/embed", files=form(frames), data={"id": "last"})
        body = request.read()
        idle = httpx.Client(base_url=url, timeout=TIMEOUT)  # an open connection that must not delay the end
        assert idle.get("/livez").status_code == 200
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=TIMEOUT) as connection:
            head = "POST /embed HTTP/1.1\r\nHost: x\r\n"
            head += f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[:2000])
            wait_for(lambda: "not3d_open_requests 1.0" in idle.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: not is_ready(url))
            assert process.poll() is None
            connection.sendall(body[2000:])
            answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 201"), answer
        status, errors = end_of(process)
        assert status == 0, errors
        idle.close()
    with running(bundle, tmp_path / "data") as (_, url):
        assert httpx.get(f"{url}/gallery/last", timeout=TIMEOUT).json()["frames"] == 3


def test_sigterm_during_startup_exits_with_0(bundle: Path, tmp_path: Path) -> None:
    process, _ = start(bundle, tmp_path / "data")
    assert process.stderr
    assert "Started server process" in process.stderr.readline()  # the model is being loaded now
    process.send_signal(signal.SIGTERM)
    status, errors = end_of(process)
    assert status == 0, errors


def test_records_answered_with_201_are_found_after_kill_9(bundle: Path, tmp_path: Path) -> None:
    """Four concurrent writers and several kills, on one gallery."""
    acknowledged: dict[str, int] = {}
    for attempt in range(3):
        with running(bundle, tmp_path / "data") as (process, url):
            found_again(url, acknowledged)
            writers = [
                threading.Thread(target=enrol_until_killed, args=(url, f"{attempt}-{writer}", acknowledged))
                for writer in range(4)
            ]
            for writer in writers:
                writer.start()
            wanted = len(acknowledged) + 8 + 5 * attempt
            wait_for(lambda wanted=wanted: len(acknowledged) >= wanted)
            process.send_signal(signal.SIGKILL)
            for writer in writers:
                writer.join()
    with running(bundle, tmp_path / "data") as (_, url):
        found_again(url, acknowledged)
    assert len(acknowledged) >= 24


def enrol_until_killed(url: str, prefix: str, acknowledged: dict[str, int]) -> None:
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        for number in range(10_000):
            name = f"{prefix}-{number}"
            try:
                answer = client.post("/embed", files=form(tracklet(hash(name) % 50, 1)), data={"id": name})
            except httpx.TransportError:
                return
            assert answer.status_code == 201
            acknowledged[name] = answer.json()["frames"]


def found_again(url: str, acknowledged: dict[str, int]) -> None:
    """Check that each record is found by its id, in the list, and by a search for its own embedding."""
    with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        listed = {item["id"] for item in client.get("/gallery?limit=1000").json()["items"]}
        assert acknowledged.keys() <= listed
        for name in acknowledged:
            record = client.get(f"/gallery/{name}?include_embedding=true").json()
            found = client.post("/search", json={"embedding": record["embedding"], "min_score": 0.9999, "top_k": 100})
            assert name in [hit["id"] for hit in found.json()["results"]]


def refused(bundle: Path, data_dir: Path, **settings: str) -> str:
    """Start a service that cannot start; return its last line on standard error."""
    process, _ = start(bundle, data_dir, **settings)
    status, errors = end_of(process)
    assert status == 1, errors
    return errors.strip().splitlines()[-1]


def test_a_service_that_cannot_start_says_why_and_exits_with_1(bundle: Path, tmp_path: Path) -> None:
    missing = refused(tmp_path / "nowhere", tmp_path / "data")
    assert re.fullmatch(r"not3d: cannot start: .*nowhere.*", missing)
    misspelt = refused(bundle, tmp_path / "data", PURPOSE_REQUIRED="true")
    assert "did you mean NOT3D_REQUIRE_PURPOSE?" in misspelt


def test_a_folder_for_uploads_that_cannot_be_used_stops_the_start(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path / "file", Path("/proc")):
        message = refused(bundle, tmp_path / "data", TEMP_DIR=str(folder))
        assert re.fullmatch(rf"not3d: cannot start: NOT3D_TEMP_DIR: {folder} cannot be used \(.+\): name a .*", message)


def test_a_gallery_of_another_model_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "data") as (_, url):
        assert httpx.post(f"{url}/embed", files=form(tracklet(1, 1)), timeout=TIMEOUT).status_code == 201
        message = refused(bundle, tmp_path / "data")
        assert "process" in message
    message = refused(make_bundle(tmp_path / "other", seed=1), tmp_path / "data")
    assert "embedding" in message


def test_an_address_in_use_is_reported(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process, _ = start(bundle, tmp_path / "data", PORT=str(taken.getsockname()[1]))
        status, errors = end_of(process)
    assert status == 1
    assert errors.strip().splitlines()[-1].startswith("not3d: cannot listen at 127.0.0.1:")
    assert "Address already in use" in errors


STUCK_COMMAND = """
import threading, time
import service.embedding.footage
from service.server import serve
from service.settings import Settings

def stuck(*_, **__):
    print("decoding", flush=True)
    time.sleep(600)

service.embedding.footage.read_sized_frame = stuck
serve(Settings())
"""


LOADING_COMMAND = """
import time
import service.lifecycle
from service.server import serve
from service.settings import Settings

def stuck(*_, **__):
    print("loading", flush=True)
    time.sleep(600)

service.lifecycle.open_gallery = stuck
serve(Settings())
"""


NOISY_COMMAND = f"""
import logging, os, threading, time, warnings
def write():
    while not logging.getLogger().handlers:  # the service has not begun yet
        time.sleep(0.05)
    os.write(2, b"libpng warning: iCCP: known incorrect sRGB profile\\nno end of line")
    os.write(2, b" yet\\n\\xff is not UTF-8\\n")
    for number in range(100_000):  # more than the pipe holds; a library must not wait for the log
        try:
            os.write(2, b"message %d of a library\\n" % number)
        except BlockingIOError:
            pass
    time.sleep(3)
    warnings.warn("a warning of Python")
    os.system("echo of a child process >&2")
    print("done", flush=True)
threading.Thread(target=write).start()
{COMMAND}"""


def test_every_line_on_standard_error_is_json(bundle: Path, tmp_path: Path) -> None:
    """Also what libraries write there, damaged footage, and a flood of it."""
    begin = time.monotonic()
    process, url = start(bundle, tmp_path / "data", NOISY_COMMAND)
    try:
        wait_for(lambda: is_ready(url))
        whole, [picture] = write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(20)]), tracklet(1, 1)
        files = [picture[: len(picture) // 2], encode(draw(1), ".png")[:-200], whole[:-500], whole[:500] + whole[600:]]
        for data in files:
            footage = {"video" if data[:8] == whole[:8] else "frames": data}
            httpx.post(f"{url}/embed", files=footage, timeout=TIMEOUT)
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        seconds = time.monotonic() - begin
        process.send_signal(signal.SIGTERM)
        status, errors = end_of(process)
    finally:
        process.kill()
    assert status == 0, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    said = [line["message"] for line in lines if line["logger"] == "not3d.stderr"]
    assert {"libpng warning: iCCP: known incorrect sRGB profile", "no end of line yet", "of a child process"} <= {*said}
    assert 20 < len(said) < 25 * (seconds + 2)
    assert any("more messages of libraries were left out" in message for message in said)
    assert any("a warning of Python" in line["message"] for line in lines)


def test_no_core_is_dumped_and_a_crash_shows_where(bundle: Path, tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    with running(bundle, tmp_path / "data") as (process, _):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 ", limits)
        process.send_signal(signal.SIGABRT)
        status, errors = end_of(process)
    # faulthandler reads the frames of threads that run, and may itself end with a segmentation fault.
    assert -status in {signal.SIGABRT, signal.SIGSEGV}
    assert "Fatal Python error: Aborted" in errors


def test_a_decoder_that_never_ends_does_not_delay_the_end(bundle: Path, tmp_path: Path) -> None:
    """When the time for accepted requests is over, the process closes the gallery and ends, whatever threads do."""
    process, url = start(bundle, tmp_path / "data", STUCK_COMMAND, DRAIN_SECONDS="1")
    try:
        wait_for(lambda: is_ready(url))
        connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30)
        request = httpx.Client().build_request("POST", url + "/embed", files=form(tracklet(1, 1)))
        body = request.read()
        head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: {request.headers['content-type']}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert process.stdout
        assert process.stdout.readline() == "decoding\n"
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        status, errors = end_of(process)
        assert time.monotonic() - begun < 1 + CLOSE_SECONDS + 30  # the decoder takes ten minutes
        assert status == 0, errors
        assert "still being computed" in errors.splitlines()[-1]
        connection.close()
    finally:
        process.kill()
        process.communicate()
    with running(bundle, tmp_path / "data") as (_, url):
        assert httpx.get(f"{url}/gallery", timeout=TIMEOUT).json()["items"] == []


def test_a_start_that_never_ends_does_not_delay_the_end(bundle: Path, tmp_path: Path) -> None:
    process, _ = start(bundle, tmp_path / "data", LOADING_COMMAND)
    try:
        assert process.stdout
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        status, errors = end_of(process)
    finally:
        process.kill()
        process.communicate()
    assert status == 0, errors
    assert "still being computed" in errors.splitlines()[-1]


def test_the_service_does_not_load_torch() -> None:
    code = "import sys; import service.server; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=False)
    assert done.returncode == 0


def test_a_broken_gallery_ends_the_process_and_the_next_one_has_everything(bundle: Path, tmp_path: Path) -> None:
    """A restart repairs it: only the index in memory missed a commit."""
    command = f"""
from service.gallery.embedded import gallery as embedded
whole = embedded.FilterValues
def no_memory(number, camera_id, *more):
    if camera_id == "b":
        raise MemoryError
    return whole(number, camera_id, *more)
embedded.FilterValues = no_memory
{COMMAND}"""
    process, url = start(bundle, tmp_path / "data", command)
    try:
        wait_for(lambda: is_ready(url))
        for name in "ab":
            body = {"embedding": [1.0] * 32, "camera_id": name}
            assert httpx.put(f"{url}/gallery/{name}", json=body, timeout=TIMEOUT).status_code == 201
        assert httpx.get(f"{url}/livez", timeout=TIMEOUT).status_code == 503
        status, errors = end_of(process)
    finally:
        process.kill()
    assert status == 1
    assert errors.rstrip().endswith("no longer follows the database: restart the service")
    with running(bundle, tmp_path / "data") as (_, url):
        found = httpx.post(f"{url}/search", json={"embedding": [1.0] * 32}, timeout=TIMEOUT).json()["results"]
        assert {one["id"] for one in found} == {"a", "b"}

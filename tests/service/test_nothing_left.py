"""What the real process leaves behind when it is killed: no upload, not even a part of one."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx

from service.http.uploads import FLUSH_BYTES
from tests.service.live import TIMEOUT, wait_for
from tests.service.pictures import draw, form, tracklet, write_video
from tests.service.test_server import running

MARK = os.urandom(64)
"""Bytes that no file has by chance."""
BODY = MARK * (2 * FLUSH_BYTES // len(MARK))


def part(name: str, data: bytes) -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + data


def files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def has_upload(path: Path) -> bool:
    try:
        return MARK in path.read_bytes()
    except OSError:  # a file of another user, or one that was removed meanwhile
        return False


def test_no_upload_survives_a_kill(bundle: Path, tmp_path: Path) -> None:
    temporary, data = tmp_path / "temporary", tmp_path / "data"
    temporary.mkdir()
    before = set(files(Path("/dev/shm")))
    with running(bundle, data, TEMP_DIR=str(temporary)) as (process, url), ExitStack() as connections:
        for name in ("video", "frames", "video", "frames"):
            address = ("127.0.0.1", int(url.rpartition(":")[2]))
            connection = connections.enter_context(socket.create_connection(address, timeout=TIMEOUT))
            head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            connection.sendall(f"{head}Content-Length: {10 * len(BODY)}\r\n\r\n".encode() + part(name, BODY))
        wait_for(lambda: _value(url, "not3d_pending_bytes") > 4 * (len(BODY) - FLUSH_BYTES))
        wait_for(lambda: _anonymous_bytes(process.pid, temporary) >= 2 * (len(BODY) - FLUSH_BYTES))
        assert list(files(temporary)) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = [path for path in files(tmp_path, Path("/dev/shm")) if path not in before]
        assert [path for path in left if has_upload(path)] == []
        assert list(temporary.iterdir()) == []


def test_no_upload_survives_a_kill_while_it_is_decoded(bundle: Path, tmp_path: Path) -> None:
    temporary, data = tmp_path / "temporary", tmp_path / "data"
    temporary.mkdir()
    video = write_video(tmp_path / "v.mp4", [draw(1, seed) for seed in range(300)])
    with running(bundle, data, TEMP_DIR=str(temporary), THUMBNAILS="true") as (process, url):
        assert httpx.post(f"{url}/embed", files=form(tracklet(1, 2)), timeout=TIMEOUT).status_code == 201
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=TIMEOUT) as connection:
            body = part("video", video) + b"\r\n--x--\r\n"
            head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.1)
            assert list(files(temporary)) == []
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert list(temporary.iterdir()) == []
    databases = {f"{name}.sqlite{end}" for name in ("gallery", "audit", "cases") for end in ("", "-wal", "-shm")}
    assert {path.name for path in files(data) if "cache" not in path.parts} <= databases | {"lock"}


def _value(url: str, metric: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=TIMEOUT).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{metric} ")))


def _anonymous_bytes(pid: int, folder: Path) -> int:
    """Bytes in the files of this folder that a process has open and that have no name."""
    total = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
            if target.startswith(f"{folder}/") and target.endswith(" (deleted)"):
                total += entry.stat().st_size
        except OSError:  # closed meanwhile
            continue
    return total

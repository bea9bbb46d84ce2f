"""Each video is decoded in a process with limits, which ends with its reader."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from model.frames import FrameLimits
from model.video import STARTER, UNLIMITED, VideoError, VideoLimits, open_video
from model.video.process import Connection
from tests.videos import figure, repeat_png, write

ROOT = Path(__file__).parents[2]
FRAMES = FrameLimits(max_pixels=25_000_000)
MIB = 2**20


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a few MB that takes minutes to decode."""
    return repeat_png(tmp_path_factory.mktemp("slow") / "slow.mov", 4900, 500)


def children(parent: int) -> dict[int, int]:
    """The processes below one, with their parents."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(folder.name)] = int(fields[1])
    found = {parent: 0}
    while new := {each: of for each, of in parents.items() if of in found and each not in found}:
        found |= new
    del found[parent]
    return found


def starters() -> set[int]:
    """The starters of this process, at most one; other tests may have left it other processes."""
    found = set()
    for process, parent in children(os.getpid()).items():
        with suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            if parent == os.getpid() and b"model.decoder.starter" in command:
                found.add(process)
    return found


def decoders() -> set[int]:
    """The processes that decode a video for this one."""
    return {each for starter in starters() for each in children(starter)}


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what takes less than a second on a machine that does nothing else, and no `slow` video is that fast."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def count(path: Path, limits: VideoLimits = UNLIMITED, cancelled: threading.Event | None = None) -> int:
    with open_video(path, limits, threads=1, cancelled=cancelled) as video:
        return video.count()


def test_each_video_has_a_process_of_its_own_which_ends_with_it(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 3)
    seen = set()
    for _ in range(2):
        with open_video(path) as video:
            frames = video.read_all()
            next(frames)
            (worker,) = decoders()
            seen.add(worker)
            assert len(list(frames)) == 2
        wait_for(lambda: not decoders())
    assert len(seen) == 2


def test_limits_of_a_decoder(slow: Path) -> None:
    limits = VideoLimits(FRAMES, 10**6, 10**15, cpu_seconds=60, memory=512 * MIB)
    cancelled = threading.Event()
    thread = threading.Thread(target=lambda: _ignore(lambda: count(slow, limits, cancelled)))
    thread.start()
    try:
        wait_for(lambda: len(decoders()) == 1)
        (worker,) = decoders()
        wait_for(lambda: "1000" in Path(f"/proc/{worker}/oom_score_adj").read_text())
        wait_for(lambda: _limit(worker, "Max cpu time") == "60")
        assert _limit(worker, "Max file size") == "0"
        assert _limit(worker, "Max core file size") == "0"
        assert int(_limit(worker, "Max open files")) <= 64
        assert int(_limit(worker, "Max address space")) < 4096 * MIB
        assert "NoNewPrivs:\t1" in Path(f"/proc/{worker}/status").read_text()
        wait_for(lambda: os.getpriority(os.PRIO_PROCESS, worker) >= 5)
    finally:
        cancelled.set()
        thread.join()


def _limit(process: int, name: str) -> str:
    lines = Path(f"/proc/{process}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith(name))[len(name) :].split()[0]


def _ignore(work: Callable[[], object]) -> None:
    with pytest.raises(VideoError):
        work()


def test_cancelling_ends_the_process(slow: Path) -> None:
    cancelled, errors = threading.Event(), list[VideoError]()

    def work() -> None:
        with pytest.raises(VideoError) as error:
            count(slow, cancelled=cancelled)
        errors.append(error.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: len(decoders()) == 1)
    cancelled.set()
    wait_for(lambda: not decoders())
    thread.join()
    assert errors[0].kind == "cancelled"


def test_cancelling_ends_a_count_that_never_waits(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 40)
    cancelled = threading.Event()
    with open_video(path, cancelled=cancelled) as video:
        cancelled.set()
        with pytest.raises(VideoError) as error:
            video.count()
    assert error.value.kind == "cancelled"


def test_cancelling_ends_frames_that_are_read_without_waiting(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 40)
    cancelled = threading.Event()
    with open_video(path, cancelled=cancelled) as video:
        frames = video.read_all()
        next(frames)
        cancelled.set()
        with pytest.raises(VideoError) as error:
            list(frames)
    assert error.value.kind == "cancelled"


def test_cancelling_ends_a_message_to_a_decoder_that_reads_nothing() -> None:
    """A file may have taken the decoder over."""
    cancelled, errors = threading.Event(), list[VideoError]()
    ours, theirs = socket.socketpair()

    def work() -> None:
        with pytest.raises(VideoError) as error:
            Connection(ours, cancelled).send(kind="read", wanted=list(range(1_000_000)), pixels=True)
        errors.append(error.value)

    with ours, theirs:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        cancelled.set()
        thread.join(20)
        assert not thread.is_alive()
    assert errors[0].kind == "cancelled"


def test_cpu_time_is_limited(slow: Path) -> None:
    limits = VideoLimits(FRAMES, 10**6, 10**15, cpu_seconds=1)
    with pytest.raises(VideoError, match="memory and CPU time"):
        count(slow, limits)


def test_memory_is_limited(tmp_path: Path) -> None:
    path = repeat_png(tmp_path / "v.mov", 12_500, 1)
    large = VideoLimits(FrameLimits(max_pixels=10**9), 10, 10**12, memory=128 * MIB)
    with pytest.raises(VideoError):
        count(path, large)
    assert count(path, VideoLimits(FrameLimits(max_pixels=10**9), 10, 10**12, memory=2048 * MIB)) == 1


def test_frames_that_become_too_large_are_refused(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{side}.ts", [figure(side, side)] * 3) for side in (64, 512)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match="the frames change to 512x512 pixels") as error:
        count(path, VideoLimits(FrameLimits(max_pixels=100_000), 100, 10**9))
    assert error.value.kind == "too_large"


def test_starter_that_was_killed_is_started_again(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", [figure()] * 3)
    STARTER.start()
    (starter,) = starters()
    os.kill(starter, signal.SIGKILL)
    assert count(path) == 3


def test_killed_process_leaves_no_decoder(slow: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from model.video import open_video\n"
        "with open_video(Path(sys.argv[1])) as video:\n    print('open', flush=True); video.count()"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(slow)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"open\n"
        below = set(children(process.pid))
        assert len(below) == 2
        process.kill()
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in below))


def test_this_process_never_loads_the_decoder() -> None:
    program = (
        "import sys; import model.video, service.app, not3d.enrol.footage; model.video.STARTER.start()\n"
        "found = [name for name in sys.modules if name.split('.')[0] == 'av']\n"
        "maps = open('/proc/self/maps').read()\n"
        "sys.exit(str(found) if found or 'libx264' in maps else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_decoder_imports_little(tmp_path: Path) -> None:
    STARTER.start()
    (starter,) = starters()
    maps = Path(f"/proc/{starter}/maps").read_text()
    assert "libavcodec" in maps
    assert "cv2" not in maps
    assert "numpy" not in maps

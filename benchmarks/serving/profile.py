"""CPU profile of the service under load: per thread from the kernel, within threads from samples.

Needs py-spy (extra `bench`) and the permission to trace another process.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.process import cpu_seconds, running_service
from benchmarks.report import describe_machine
from benchmarks.serving.load import send_load
from benchmarks.serving.service import COMPUTE, MeasurementSettings, Plans
from model.bundle import Bundle

WARM_UP, SAMPLES_PER_SECOND, LINES = 2.0, 50, 12
PARSING = ("python_multipart/", "service/http/uploads.py", "service/http/tracklet_request.py")
THREADS = {"MainThread": "event loop", "decode": "decoders", "gallery": "gallery", "asyncio": "other threads"}
"""Parts by prefix of the Python thread name. Other threads belong to the engine: OpenVINO's and those that call it."""


def find_sampler() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def profile(bundle: Bundle, folder: Path, plans: Plans, settings: MeasurementSettings) -> str:
    """Load the service and return, as text, the share of CPU time of each part of the work.

    Raises:
        SystemExit: py-spy is missing or lacks permission.
    """
    sampler = find_sampler()
    if sampler is None:
        raise SystemExit("the profile needs py-spy: pip install 'not3d[bench]'")
    samples = folder / "samples.txt"
    with running_service(bundle.path, folder) as server, ThreadPoolExecutor(1) as pool:
        facts = server.get("/info")["engine"]
        loading = pool.submit(
            send_load,
            server.port,
            plans.mixed,
            clients=settings.clients,
            seconds=settings.seconds + 2 * WARM_UP,
            path=COMPUTE,
            dimension=bundle.spec.dimension,
        )
        time.sleep(WARM_UP)
        before = _thread_seconds(server.pid)
        command = [sampler, "record", "--nonblocking", "--threads", "--format", "raw", "--output", str(samples)]
        command += ["--rate", str(SAMPLES_PER_SECOND), "--duration", str(max(1, round(settings.seconds)))]
        subprocess.run([*command, "--pid", str(server.pid)], check=True, capture_output=True)
        after, names = _thread_seconds(server.pid), _thread_names(sampler, server.pid)
        rate = loading.result().rate
    used = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    head = (
        f"{bundle.spec.name}, {bundle.spec.frame_height}x{bundle.spec.frame_width}, {facts['name']} "
        f"{facts['precision']}, {facts['threads']} threads; {settings.clients} clients, tracklets of "
        f"{settings.lengths[0]} to {settings.lengths[1]} frames: {rate:.0f} frames per second during the profile.\n"
        f"{describe_machine()}"
    )
    return f"{head}\n\n{describe(used, names, read_samples(samples))}"


def _thread_seconds(pid: int) -> dict[int, float]:
    return {int(task.name): cpu_seconds(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()}


def _thread_names(sampler: str, pid: int) -> dict[int, str]:
    """Return the names of Python's threads by kernel thread id."""
    done = subprocess.run(
        [sampler, "dump", "--nonblocking", "--json", "--pid", str(pid)], check=True, capture_output=True
    )
    return {item["os_thread_id"]: item["thread_name"] or "" for item in json.loads(done.stdout)}


def read_samples(path: Path) -> list[tuple[list[str], int]]:
    """Return stacks, outermost function first after the thread, with their number of samples."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        found.append((stack.split(";"), int(count)))
    return found


def describe(used: dict[int, float], names: dict[int, str], stacks: list[tuple[list[str], int]]) -> str:
    """Return the shares as text: threads by CPU time, parsing and single functions by samples."""
    parts: defaultdict[str, float] = defaultdict(float)
    for thread, seconds in used.items():
        name = names.get(thread, "")
        parts[next((part for prefix, part in THREADS.items() if name.startswith(prefix)), "engine")] += seconds
    total = sum(parts.values())
    loop = [(stack, count) for stack, count in stacks if "MainThread" in stack[0]]
    in_loop = sum(count for _, count in loop)
    parsing = sum(count for stack, count in loop if any(word in frame for frame in stack for word in PARSING))
    parsed = parts["event loop"] / total * (parsing / in_loop if in_loop else 0)
    lines = [f"{'CPU seconds':>12}  {'share':>6}  part"]
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        lines.append(f"{seconds:12.2f}  {seconds / total:6.1%}  {part}")
        if part == "event loop":
            lines.append(f"{'':12}  {parsed:6.1%}    of it parsing: forms, fields and their limits")
    lines += ["", f"Decoding and parsing: {parts['decoders'] / total + parsed:.1%} of the service's CPU time.", ""]
    lines.append("Functions by samples of running threads, innermost frame:")
    leaves: Counter[str] = Counter()
    for stack, count in stacks:
        leaves[stack[-1]] += count
    seen = sum(leaves.values())
    lines += [f"{count / seen:20.1%}  {leaf}" for leaf, count in leaves.most_common(LINES)]
    return "\n".join(lines) + "\n"

"""``python -m benchmarks.serving``: frames per second of the engines alone, and of the service that clients see.

All in one run on one machine, so that ratios mean something where the machine is shared. The engines get ready-made
arrays; the service is the real one, in a process of its own, and gets JPEG crops over loopback. Tracklets are drawn
by the project. The PyTorch row, the authors' way, needs the extra ``train``.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle import BUNDLED, Bundle
from model.engines import EngineError
from model.engines.cpu_limit import available_cpus
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.openvino_engine import OpenVinoEngine
from model.frames import decode_frame, read_header, resize_frame
from not3d.client import Client
from not3d.demo import running_service
from training.datasets.synthetic import write_synthetic

Embed = Callable[[NDArray[np.uint8]], object]

ROUNDS, CLIPS, CLIENTS = 5, 8, 16


def main() -> None:
    """Measure and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the model (default: the bundled one)")
    parser.add_argument(
        "--full-size",
        action="store_true",
        help="the paper's ResNet50-IBN-a at 224x112 with fresh weights, in its place",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load on the service")
    arguments = parser.parse_args()
    with _bundle(arguments.bundle, full_size=arguments.full_size) as bundle:
        spec = bundle.spec
        print(f"{spec.name}: {spec.backbone} at {spec.frame_height}x{spec.frame_width}, {available_cpus()} CPUs\n")
        print("| what | frames per second | |\n|---|---|---|")
        for name, rate in _measure_engines(bundle):
            print(f"| {name}, arrays | {rate:.0f} | batch of {CLIPS} clips of {spec.clip_length} frames |", flush=True)
        _measure_service(bundle, arguments.seconds)


@contextmanager
def _bundle(path: Path, *, full_size: bool) -> Iterator[Bundle]:
    if not full_size:
        yield Bundle.load(path)
        return
    from benchmarks.full_size import write_full_size  # noqa: PLC0415 - needs torch, which the service does without

    with tempfile.TemporaryDirectory() as folder:
        yield write_full_size(Path(folder) / "bundle")


def _measure_engines(bundle: Bundle) -> list[tuple[str, float]]:
    """Median frames per second, measured in turns, so that a busy moment hits all."""
    spec = bundle.spec
    clips = np.random.default_rng(1).integers(0, 256, (CLIPS, *spec.clip_shape), dtype=np.uint8)
    candidates: list[tuple[str, Embed]] = []
    threads = available_cpus()
    try:
        from benchmarks.full_size import eager_network  # noqa: PLC0415 - needs torch

        candidates.append(("PyTorch eager fp32", eager_network(spec)))
    except ImportError:
        print("(no PyTorch here: its row is left out)\n")
    candidates.append(("ONNX Runtime f32", OnnxRuntimeEngine(bundle, device="cpu", threads=threads).embed))
    candidates.append(("OpenVINO f32", OpenVinoEngine(bundle, threads=threads, precision="f32").embed))
    try:
        candidates.append(("OpenVINO bf16", OpenVinoEngine(bundle, threads=threads, precision="bf16").embed))
    except EngineError as error:
        print(f"({error})\n")
    rates: dict[str, list[float]] = {name: [] for name, _ in candidates}
    for turn in range(ROUNDS + 1):
        for name, embed in candidates:
            started = time.perf_counter()
            embed(clips)
            if turn:  # the first warms up
                rates[name].append(CLIPS * spec.clip_length / (time.perf_counter() - started))
    return [(name, statistics.median(values)) for name, values in rates.items()]


def _measure_service(bundle: Bundle, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        drawn = write_synthetic(Path(folder) / "people", people=8, cameras=1, frames=60, seed=1)
        frames = [[path.read_bytes() for path in tracklet.frames] for tracklet in drawn]
        _measure_decoding(frames[0], bundle)
        (Path(folder) / "data").mkdir()
        with running_service(bundle.path, Path(folder) / "data") as client:
            engine = client.info().engine
            print(f"\nThe service runs {engine['name']} in {engine['precision']}, {engine['threads']} threads.\n")
            print("| load | frames per second | median ms | p99 ms |\n|---|---|---|---|", flush=True)
            length = bundle.spec.clip_length
            for clients, shortest, longest in ((1, length, length), (1, 30, 30), (CLIENTS, 8, 60)):
                rate, times = _load(client.url, frames, clients, (shortest, longest), seconds)
                size = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
                p99 = float(np.percentile(times, 99))
                what = f"{clients} client{'s' * (clients > 1)}, tracklets of {size} frames"
                print(f"| {what} | {rate:.0f} | {statistics.median(times):.0f} | {p99:.0f} |", flush=True)


def _measure_decoding(frames: Sequence[bytes], bundle: Bundle) -> None:
    started = time.perf_counter()
    for data in frames:
        resize_frame(decode_frame(data), bundle.spec.frame_height, bundle.spec.frame_width)
    rate = len(frames) / (time.perf_counter() - started)
    header = read_header(frames[0])
    print(
        f"| decoding and resizing one by one | {rate:.0f} | JPEG crops of {header.width}x{header.height}, one thread |"
    )


def _load(
    url: str, tracklets: Sequence[Sequence[bytes]], clients: int, lengths: tuple[int, int], seconds: float
) -> tuple[float, list[float]]:
    """Frames per second over all clients, and each request's milliseconds."""
    until = time.perf_counter() + seconds

    def work(number: int) -> tuple[int, list[float]]:
        rng, done, times = np.random.default_rng(number), 0, []
        with Client(url) as client:
            while time.perf_counter() < until:
                count = int(rng.integers(lengths[0], lengths[1] + 1))
                started = time.perf_counter()
                client.embed(tracklets[int(rng.integers(len(tracklets)))][:count], enroll=False)
                times.append(1000 * (time.perf_counter() - started))
                done += count
        return done, times

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(work, range(clients)))
    rate = sum(done for done, _ in results) / (time.perf_counter() - started)
    return rate, [value for _, times in results for value in times]


if __name__ == "__main__":
    main()

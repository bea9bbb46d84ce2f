"""Mixed load while memory, threads and open files are recorded, and start times."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress

from benchmarks.process import MB, FootprintRecorder, footprint, running_service
from benchmarks.report import Report
from benchmarks.serving.load import Crops
from model.bundle import Bundle
from model.frames import decode_frame

WARM_UP_SHARE = 0.2
BLOCKS = 24
LIMIT = 1200 * MB
START_SECONDS, START_SECONDS_OF_LIGHT = 5.0, 2.0


def soak(report: Report, bundle: Bundle, crops: Crops, folder: Path, minutes: float) -> None:
    """Run the load and print resident set, its slope, threads and files."""
    material = folder / "material"
    write_material(crops, material)
    with running_service(bundle.path, folder / "gallery") as server:
        engine = server.get("/info")["engine"]
        command = [sys.executable, "-m", "benchmarks.serving.mixed", "--port", str(server.port)]
        command += ["--material", str(material), "--seconds", str(60 * minutes)]
        with FootprintRecorder(server.pid) as recorder:
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise SystemExit(f"mixed load: the client process failed with status {done.returncode}")
        samples = [*recorder.samples, footprint(server.pid)]
    counts: dict[str, dict[str, int]] = json.loads(done.stdout)
    busy = f"{_listed(counts['busy'])}; each of these requests was sent again" if counts["busy"] else "none"
    report.say(
        f"**{minutes:g} minutes of mixed load** on {engine['name']} {engine['precision']}: "
        f"{sum(counts['done'].values())} requests, {_listed(counts['done'])}. Answers of 503: {busy}."
    )
    report.head("", "start", "median", "most", "at the end")
    resident = [sample.resident / MB for sample in samples]
    for name, values in (
        ("resident set, MB", resident),
        ("threads", [sample.threads for sample in samples]),
        ("open files", [sample.files for sample in samples]),
    ):
        report.row(name, *(f"{value:.0f}" for value in (values[0], np.median(values), max(values), values[-1])))
    report.end_table()
    times = np.asarray([sample.time for sample in samples]) - samples[0].time
    warm = times >= WARM_UP_SHARE * times[-1]
    slope, error = (3600 * value for value in fit_slope(times[warm], np.asarray(resident)[warm]))
    report.say(
        f"Slope of the resident set after the first {WARM_UP_SHARE:.0%} of the time: {slope:+.1f} MB per hour, "
        f"standard error {error:.1f} (from the means of {BLOCKS} blocks: neighbouring seconds are not independent)."
    )
    most = max(resident)
    report.target("mixed load: resident set at most 1200 MB", f"{most:.0f} MB", met=most * MB <= LIMIT)
    measured = f"{slope:+.1f} ± {error:.1f} MB per hour"
    target = "mixed load: flat (the slope is within two standard errors of 0, or negative)"
    report.target(target, measured, met=slope <= 2 * error)


def fit_slope(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the least-squares slope of `values` over `times` and its standard error, from means of blocks."""
    blocks = min(BLOCKS, len(times))
    if blocks < 3:
        raise ValueError(f"{blocks} samples are too few for a slope with an error (3 needed)")
    x, y = ([block.mean() for block in np.array_split(given, blocks)] for given in (times, values))
    fit = linregress(x, y)
    return float(fit.slope), float(fit.stderr)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def write_material(crops: Crops, folder: Path) -> None:
    """Write crops, a full frame with three people, and a video that pans over it."""
    folder.mkdir(parents=True)
    for number, tracklet in enumerate(crops.tracklets[:8]):
        for index, frame in enumerate(tracklet[:60]):
            (folder / f"{number}-{index:03d}.jpg").write_bytes(frame)
    people = [cv2.resize(decode_frame(frames[0]), (128, 256)) for frames in (3 * [*crops.tracklets])[:3]]
    scene: NDArray[np.uint8] = np.full((480, 640, 3), 90, dtype=np.uint8)
    for number, image in enumerate(people):
        scene[150:406, 40 + 190 * number : 168 + 190 * number] = image
    cv2.imwrite(str(folder / "scene.jpg"), scene[..., ::-1])
    writer = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (640, 480))
    for step in range(24):
        writer.write(np.roll(scene, 2 * step, axis=1)[..., ::-1].copy())
    writer.release()


def measure_starts(report: Report, bundle: Bundle, folder: Path, times: int) -> None:
    """Measure a first start with an empty data folder and a second in the same folder, several times."""
    first, second, resident = [], [], []
    for number in range(times):
        data = folder / f"start-{number}"
        with running_service(bundle.path, data) as server:
            first.append(server.start_seconds)
        with running_service(bundle.path, data) as server:
            second.append(server.start_seconds)
            resident.append(footprint(server.pid).resident / MB)
    report.head("start to `/readyz` 200", "median s", "each", "resident set then")
    for name, seconds, size in (("first, nothing cached", first, ""), ("second", second, f"{median(resident):.0f} MB")):
        report.row(name, f"{median(seconds):.2f}", ", ".join(f"{value:.2f}" for value in seconds), size)
    report.end_table()
    limit = START_SECONDS if bundle.spec.backbone.startswith("resnet50") else START_SECONDS_OF_LIGHT
    took = median(second)
    report.target(f"{bundle.spec.name}: second start at most {limit:.0f} s", f"{took:.2f} s", met=took <= limit)

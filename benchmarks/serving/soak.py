"""Mixed load while memory, threads and open files are recorded, and start times."""

import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.footage import Crops
from benchmarks.serving.process import MB, Footprint, Watch, look_at, running_service
from benchmarks.serving.report import Report
from model.bundle import Bundle
from model.frames import decode_frame

MATERIAL = "video.avi", "scene.jpg"
WARM_UP_SHARE = 0.2
BLOCKS = 24
LIMIT = 1200 * MB


def soak(report: Report, bundle: Bundle, crops: Crops, folder: Path, minutes: float, samples: Path | None) -> None:
    """Run the load; print resident set, slope, threads and files; write all samples to a CSV file."""
    material = folder / "material"
    _write_material(crops, material)
    with running_service(bundle.path, folder / "gallery") as server:
        engine = server.get("/info")["engine"]
        command = [sys.executable, "-m", "benchmarks.serving.mixed", "--port", str(server.port)]
        command += ["--material", str(material), "--seconds", str(60 * minutes)]
        with Watch(server.pid) as watch:
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        said = json.loads(done.stdout or b"{}")
        if done.returncode:
            raise SystemExit(f"mixed load: {said.get('faults') or 'the client process ended without output'}")
        after = look_at(server.pid)
    if samples is not None:
        _write_samples(watch.seen, samples)
    report.say(
        f"**{minutes:g} minutes of mixed load** on {engine['name']} {engine['precision']}: "
        f"{sum(said['done'].values())} requests, "
        + ", ".join(f"{count} {what}" for what, count in sorted(said["done"].items()))
        + "."
    )
    _print(report, watch.seen, after)


def _print(report: Report, seen: Sequence[Footprint], after: Footprint) -> None:
    begin = seen[0].at
    warm = [item for item in seen if item.at - begin >= WARM_UP_SHARE * (seen[-1].at - begin)]
    report.head("", "start", "median", "most", "at the end")
    for what, values, scale in (
        ("resident set, MB", [item.resident for item in seen], MB),
        ("of it anonymous, MB", [item.anonymous for item in seen], MB),
        ("threads", [item.threads for item in seen], 1),
        ("open files", [item.files for item in seen], 1),
    ):
        last = {"resident set, MB": after.resident, "of it anonymous, MB": after.anonymous}
        end = last.get(what, after.threads if what == "threads" else after.files)
        report.row(what, *(f"{value / scale:.0f}" for value in (values[0], np.median(values), max(values), end)))
    report.end_table()
    slope, error = fit_slope([item.at for item in warm], [item.resident / MB for item in warm])
    report.say(
        f"Slope of the resident set after the first {WARM_UP_SHARE:.0%} of the time: {3600 * slope:+.1f} MB per hour, "
        f"standard error {3600 * error:.1f} (from the means of {BLOCKS} blocks: neighbouring seconds are not "
        "independent)."
    )
    flat = 3600 * slope - 2 * 3600 * error <= 0
    most = max(item.resident for item in seen)
    report.target("mixed load: resident set at most 1200 MB", f"{most / MB:.0f} MB", met=most <= LIMIT)
    measured = f"{3600 * slope:+.1f} ± {3600 * error:.1f} MB per hour"
    report.target("mixed load: flat (the slope is within two standard errors of 0, or negative)", measured, met=flat)


def fit_slope(times: Sequence[float], values: Sequence[float], blocks: int = BLOCKS) -> tuple[float, float]:
    """Return the least-squares slope of `values` over `times` and its standard error, from means of `blocks` parts."""
    parts = min(blocks, len(times))
    if parts < 3:
        raise ValueError(f"{parts} samples are too few for a slope with an error (3 needed)")
    at, height = (
        np.asarray([part.mean() for part in np.array_split(np.asarray(given, dtype=np.float64), parts)])
        for given in (times, values)
    )
    centred = at - at.mean()
    slope = float(centred @ height / (centred @ centred))
    rest = height - height.mean() - slope * centred
    return slope, float(np.sqrt(rest @ rest / (parts - 2) / (centred @ centred)))


def _write_samples(seen: Sequence[Footprint], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "resident_bytes", "anonymous_bytes", "threads", "files"])
        for item in seen:
            row = f"{item.at - seen[0].at:.1f}", item.resident, item.anonymous, item.threads, item.files
            writer.writerow(row)


def _write_material(crops: Crops, folder: Path) -> None:
    """Write crops, a full frame with three people, and a video that pans over it."""
    folder.mkdir(parents=True)
    for number, tracklet in enumerate(crops.tracklets[:8]):
        for index, frame in enumerate(tracklet[:60]):
            (folder / f"{number}-{index:03d}.jpg").write_bytes(frame)
    people = [
        cv2.resize(decode_frame(item[0]), (128, 256))
        for item in [*crops.tracklets, *crops.tracklets, *crops.tracklets][:3]
    ]
    scene: NDArray[np.uint8] = np.full((480, 640, 3), 90, dtype=np.uint8)
    for place, image in enumerate(people):
        scene[150:406, 40 + 190 * place : 168 + 190 * place] = image
    cv2.imwrite(str(folder / MATERIAL[1]), scene[..., ::-1])
    writer = cv2.VideoWriter(str(folder / MATERIAL[0]), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (640, 480))
    for step in range(24):
        writer.write(np.roll(scene, 2 * step, axis=1)[..., ::-1].copy())
    writer.release()


SECONDS, LIGHT_SECONDS = 5.0, 2.0


def measure_starts(report: Report, bundle: Bundle, folder: Path, times: int) -> None:
    """Measure a first start with an empty data folder and a second in the same folder, several times."""
    first, second, resident = [], [], []
    for number in range(times):
        data = folder / f"start-{number}"
        with running_service(bundle.path, data) as server:
            first.append(server.start_seconds)
        with running_service(bundle.path, data) as server:
            second.append(server.start_seconds)
            resident.append(look_at(server.pid).resident / MB)
    report.head("start to `/readyz` 200", "median s", "each", "resident set then")
    report.row("first, nothing cached", f"{statistics.median(first):.2f}", _listed(first), "")
    report.row("second", f"{statistics.median(second):.2f}", _listed(second), f"{statistics.median(resident):.0f} MB")
    report.end_table()
    limit = SECONDS if bundle.spec.backbone.startswith("resnet50") else LIGHT_SECONDS
    took = statistics.median(second)
    report.target(f"{bundle.spec.name}: second start at most {limit:.0f} s", f"{took:.2f} s", met=took <= limit)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)

"""From the start of the process until it is ready, with and without the compiled model of an earlier start."""

import statistics
from pathlib import Path

from benchmarks.serving.process import MB, look_at, running_service
from benchmarks.serving.report import Report
from model.bundle import Bundle

SECONDS, LIGHT_SECONDS = 5.0, 2.0


def measure_starts(report: Report, bundle: Bundle, folder: Path, times: int) -> None:
    """A first start with an empty data folder and a second in the same, several times."""
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

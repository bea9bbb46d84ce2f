"""`not3d demo`: the complete service in one command.

It starts the service on the bundled model with an empty gallery, enrols tracklets, searches for the people of the
others, and writes the first answer as a picture. At the end it stops the service and removes the gallery.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from model.errors import extra
from not3d.client import Client
from not3d.client.responses import SearchResult
from not3d.commands import Failure, messages, results, show_progress
from not3d.commands.search import describe_calibration, make_table
from not3d.enrol.discovery import as_footage, read_footage
from not3d.enrol.enrolment import Outcome, Result, enroll_all
from not3d.enrol.tracklets import FootageError, LocalTracklet, is_same_person
from not3d.ports import free_port
from training.datasets.mars import is_mars, read_mars

PEOPLE, CAMERAS, FRAMES = 8, 3, 8
# With this seed the first query, which is drawn, shows the usual case: a right first answer. Over seeds 1 to 9 the
# bundled model is right for 5 to 8 of the 8 queries, 62 of 72 in all. The demo prints its own count.
SEED = 7
DRAWN = Path("demo-data") / f"seed-{SEED}-people-{PEOPLE}-cameras-{CAMERAS}-frames-{FRAMES}"
"""Folder of the drawn people. Its name has all parameters, so that people of other parameters are never in it."""
READY_SECONDS, STOP_SECONDS = 120, 15


@dataclass(frozen=True)
class Split:
    """What is enrolled and what is searched for; `origin` says how they were chosen."""

    gallery: list[LocalTracklet]
    queries: list[LocalTracklet]
    origin: str

    @property
    def answerable(self) -> list[LocalTracklet]:
        """Queries whose person was seen by another camera of the gallery."""
        return [
            query
            for query in self.queries
            if query.person and any(i.person == query.person and i.camera != query.camera for i in self.gallery)
        ]


def split_tracklets(folder: Path) -> Split:
    """Split MARS by its own list of queries; otherwise the first camera of each person asks for the others.

    Raises:
        Not3dError: not enough tracklets, or people and cameras are unknown.
    """
    if is_mars(folder):
        mars = read_mars(folder)
        gallery, queries = ([as_footage(item, folder) for item in part] for part in (mars.gallery, mars.query))
        return Split(gallery, queries, "MARS's own lists")
    found = read_footage(folder)
    first: dict[str, str] = {}
    for item in found:
        if item.person:
            first.setdefault(item.person, item.camera)
    queries = [item for item in found if item.person and item.camera == first[item.person]]
    gallery = [item for item in found if not item.person or item.camera != first[item.person]]
    if not queries or not gallery:
        raise FootageError(
            f"{folder} does not name people and cameras: the demo needs person/camera/tracklet folders with two "
            "cameras, or MARS"
        )
    return Split(gallery, queries, "each person's first camera asks for the others")


@contextmanager
def running_service(
    bundle: Path, data_dir: Path, *options: str, port: int = 0, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Client]:
    """Run the service in a process of its own until the block ends, on a free port or the given one.

    Args:
        bundle: the model.
        data_dir: an empty folder.
        options: more options of `not3d serve`.
        port: 0 for any free port.
        variables: settings of the service, as variables.

    Raises:
        Failure: the service ended or was not ready in time; with its own messages.
    """
    if not port:
        port = free_port()
    log = data_dir / "service.log"
    command = [sys.executable, "-m", "not3d", "serve", "--bundle", str(bundle), "--data-dir", str(data_dir / "gallery")]
    # Variables in this shell are meant for another service.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
    environment |= variables
    process = None
    try:
        with log.open("wb") as output, late_interrupt():
            process = subprocess.Popen(  # noqa: S603 - not from outside
                [*command, "--port", str(port), *options], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        with Client(f"http://127.0.0.1:{port}") as client:
            until = time.monotonic() + READY_SECONDS
            while not client.is_ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise Failure(f"the service did not get ready: {_find_cause(log)}")
                time.sleep(0.1)
            yield client
    finally:
        if process is not None:
            end_process(process)


@contextmanager
def late_interrupt() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block: one that comes while a process starts would leave it behind."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came.is_set():
        signal.raise_signal(signal.SIGINT)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it if it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find_cause(log: Path) -> str:
    """Return why the service failed: its output outside the log of JSON lines, otherwise the errors in the log."""
    printed, logged = [], []
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            printed.append(line.removeprefix("not3d: "))
        elif entry.get("level") in {"error", "critical"}:
            logged.append(str(entry.get("message")))
    return "\n".join((printed or logged)[-8:]) or "it gave no reason"


def enroll_gallery(client: Client, gallery: Sequence[LocalTracklet]) -> None:
    """Enrol all tracklets.

    Raises:
        Failure: the service refused a tracklet.
    """
    with show_progress() as progress:
        task = progress.add_task("Enrolling", total=len(gallery))

        def report(outcome: Outcome) -> None:
            if outcome.result is Result.REFUSED:
                raise Failure(f"{outcome.id} was refused: {outcome.reason}")
            progress.advance(task)

        enroll_all(client, gallery, report=report)


def search_all(client: Client, queries: Sequence[LocalTracklet]) -> list[SearchResult]:
    """Search for each query in the other cameras."""
    with show_progress() as progress:
        return [
            client.search(query.frames, camera_id=query.camera, top_k=5, exclude_same_camera=True)
            for query in progress.track(queries, description="Searching")
        ]


def demo(
    tracklets: Annotated[
        Path | None,
        typer.Argument(help="Tracklets in person/camera/tracklet folders, or MARS. [dim]Default: drawn people[/]"),
    ] = None,
    *,
    picture: Annotated[Path, typer.Option(metavar="FILE", help="The picture of the first answer.")] = Path(
        "ranked.png"
    ),
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model. [dim]Default: the bundle in the package[/]")
    ] = None,
) -> None:
    """Start the service, enrol tracklets, search for people, draw the first answer, and stop."""
    with extra("cpu"):
        import fastapi  # noqa: F401 - for the process of the service
        import onnxruntime  # noqa: F401

        from model.bundle import BUNDLED
        from not3d.enrol.footage import read_pictures
        from not3d.picture import Panel, draw_ranked, make_panels, write_picture
        from training.datasets.synthetic.dataset import write_synthetic
    folder = tracklets or DRAWN
    if tracklets is None:
        with messages.status("Drawing people who walk past three cameras"):
            write_synthetic(folder, people=PEOPLE, cameras=CAMERAS, frames=FRAMES, seed=SEED)
    split = split_tracklets(folder)
    queries = split.answerable
    if not queries:
        raise FootageError(f"no person in {folder} was seen by two cameras, so there is nothing to find")
    with tempfile.TemporaryDirectory(prefix="not3d-demo-") as data_dir:
        messages.print("Starting the service", style="dim")
        with running_service(bundle or BUNDLED, Path(data_dir)) as client:
            model = client.info().model["name"]
            enroll_gallery(client, split.gallery)
            answers = search_all(client, queries)
    query, answer = queries[0], answers[0]
    panel = Panel(read_pictures(query), query.id, query.camera)
    subtitle = (
        f"{query.id} at camera {query.camera}, among {answer.searched} tracklets of the other cameras; model {model}"
    )
    panels = make_panels(answer, query.person, [folder])
    basis = describe_calibration(answer.calibration) if answer.calibration else ""
    write_picture(picture, draw_ranked(panel, panels, subtitle=subtitle, basis=basis))
    results.print(f"\nWhere else was {query.id} seen?", style="bold", highlight=False)
    results.print(make_table(answer, query.person))
    if basis:
        results.print(f"probability: {basis}\n", style="dim", highlight=False)
    right = sum(
        bool(answer.hits) and is_same_person(answer.hits[0], query.person) is True
        for query, answer in zip(queries, answers, strict=True)
    )
    results.print(
        f"The first answer was the right person for {right} of {len(queries)} queries "
        f"({len(split.gallery)} tracklets enrolled; {split.origin}; other cameras only).",
        highlight=False,
    )
    if len(split.queries) > len(queries):
        results.print(
            f"{len(split.queries) - len(queries)} more queries were skipped: no other camera saw the person.",
            style="dim",
        )
    results.print(f"\nLook at [bold]{picture.resolve()}[/]", soft_wrap=True, highlight=False)
    if tracklets is None:
        results.print(f"The drawn people are in {folder.resolve()}", soft_wrap=True, highlight=False)

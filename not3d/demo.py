"""The whole service in one command: ``not3d demo``, which ``make demo`` runs.

Starts the service on the bundled model with an empty gallery, enrols tracklets, asks where each of the others was seen,
and writes the first answer as a picture. The service is stopped and its gallery removed at the end.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import BUNDLED
from not3d.client import Client
from not3d.client.responses import SearchResult
from not3d.commands import Failure, messages, results, show_progress
from not3d.enrol.enrolment import Outcome, Result, enroll_all
from not3d.enrol.footage import Footage, FootageError, as_footage, read_footage, read_pictures
from not3d.picture import Card, write_picture
from not3d.ranked import is_same_person, make_cards, make_picture, make_table
from training.datasets.mars import is_mars, read_mars
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import DatasetError

PEOPLE, CAMERAS, FRAMES = 8, 3, 8
# A seed whose picture, which is of the first query, shows the usual case: a right first answer. Over seeds 1 to 9 the
# bundled model is right for 5 to 8 of the 8 queries, 62 of 72 in all; the demo prints its own count.
SEED = 7
DRAWN = Path("demo-data") / f"seed-{SEED}-people-{PEOPLE}-cameras-{CAMERAS}-frames-{FRAMES}"
"""Where the people are drawn. All that decides what is drawn is in the name, so others are never among them."""
READY_SECONDS, STOP_SECONDS = 120, 15


@dataclass(frozen=True)
class Split:
    """What is enrolled and what is asked for; ``described`` says where they are from."""

    gallery: list[Footage]
    queries: list[Footage]
    described: str

    @property
    def answerable(self) -> list[Footage]:
        """Queries whose person another camera of the gallery has seen."""
        return [
            query
            for query in self.queries
            if query.person and any(i.person == query.person and i.camera != query.camera for i in self.gallery)
        ]


def split_tracklets(folder: Path) -> Split:
    """MARS by its own list of queries; otherwise the first camera of every person asks for the others.

    Raises:
        FootageError: too little there, or people and cameras are not known.
    """
    if is_mars(folder):
        try:
            mars = read_mars(folder)
        except DatasetError as error:
            raise FootageError(str(error)) from error
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
            f"{folder} does not say who is who: the demo needs person/camera/tracklet folders with two cameras, or MARS"
        )
    return Split(gallery, queries, "each person's first camera asks for the others")


@contextmanager
def running_service(bundle: Path, data_dir: Path, *options: str, port: int = 0) -> Iterator[Client]:
    """The real service in a process of its own, ready, on a free port or that one of this machine; stopped in the end.

    ``options`` are more options of ``not3d serve``.

    Raises:
        Failure: it ended, or did not get ready in time; with what it said of that.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    log = data_dir / "service.log"
    command = [sys.executable, "-m", "not3d", "serve", "--bundle", str(bundle), "--data-dir", str(data_dir / "gallery")]
    # Settings of a real service in this shell are not meant for the demo's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, "--port", str(port), *options], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            until = time.monotonic() + READY_SECONDS
            while not client.is_ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise Failure(f"the service did not get ready: {_last_words(log)}")
                time.sleep(0.1)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(log: Path) -> str:
    """Why the service failed: what it said outside of its log of JSON lines, else the errors in there."""
    said, logged = [], []
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            said.append(line.removeprefix("not3d: "))
        elif entry.get("level") in {"error", "critical"}:
            logged.append(str(entry.get("message")))
    return "\n".join((said or logged)[-8:]) or "it said nothing of why"


def enroll_gallery(client: Client, gallery: Sequence[Footage]) -> None:
    """Enrol all of it.

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


def search_all(client: Client, queries: Sequence[Footage]) -> list[SearchResult]:
    """Ask for each query in the other cameras."""
    found = []
    with show_progress() as progress:
        for query in progress.track(queries, description="Searching"):
            found.append(  # noqa: PERF401 - a comprehension would hide what is asked
                client.search(query.frames, camera_id=query.camera, top_k=5, exclude_same_camera=True)
            )
    return found


def demo(
    tracklets: Annotated[
        Path | None, typer.Argument(help="Tracklets in person/camera/tracklet folders, or MARS; drawn ones if absent.")
    ] = None,
    *,
    picture: Annotated[Path, typer.Option(metavar="FILE", help="Where the first answer is drawn.")] = Path(
        "ranked.png"
    ),
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="The model. [dim]Default: the bundled one.[/]")] = BUNDLED,
) -> None:
    """Start the service, enrol tracklets, search for people, draw the first answer, and stop."""
    folder = tracklets or DRAWN
    if tracklets is None:
        with messages.status("Drawing people who walk past three cameras"):
            write_synthetic(folder, people=PEOPLE, cameras=CAMERAS, frames=FRAMES, seed=SEED)
    split = split_tracklets(folder)
    queries = split.answerable
    if not queries:
        raise FootageError(f"nobody in {folder} was seen by two cameras, so there is nothing to find")
    with tempfile.TemporaryDirectory(prefix="not3d-demo-") as data_dir:
        messages.print("Starting the service", style="dim")
        with running_service(bundle, Path(data_dir)) as client:
            model = client.info().model["name"]
            enroll_gallery(client, split.gallery)
            answers = search_all(client, queries)
    query, answer = queries[0], answers[0]
    card = Card(read_pictures(query), query.id, query.camera)
    subtitle = (
        f"{query.id} at camera {query.camera}, among {answer.searched} tracklets of the other cameras; model {model}"
    )
    write_picture(picture, make_picture(card, make_cards(answer, query.person, [folder]), subtitle=subtitle))
    results.print(f"\nWhere else was {query.id} seen?", style="bold", highlight=False)
    results.print(make_table(answer, query.person))
    right = sum(
        bool(answer.hits) and is_same_person(answer.hits[0], query.person) is True
        for query, answer in zip(queries, answers, strict=True)
    )
    results.print(
        f"The first answer was the right person for {right} of {len(queries)} queries "
        f"({len(split.gallery)} tracklets enrolled; {split.described}; other cameras only).",
        highlight=False,
    )
    if len(split.queries) > len(queries):
        results.print(
            f"{len(split.queries) - len(queries)} more queries were seen by no other camera: not asked.", style="dim"
        )
    results.print(f"\nLook at [bold]{picture.resolve()}[/]", soft_wrap=True, highlight=False)
    if tracklets is None:
        results.print(f"The drawn people are in {folder.resolve()}", soft_wrap=True, highlight=False)

"""`not3d demo-site`: a small site with four cameras, from its recordings to the search page, without a camera.

It draws people who walk past the cameras and writes real video files with their true tracks. The tracks go the way that
those of any tracker go: one message when a track ends, through an MQTT broker and `not3d bridge`, to the service. One
person is put on a watchlist, and the next camera that sees them raises an alert.
"""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import quote

import typer

from model.errors import extra
from not3d.client import Client
from not3d.client.responses import Alert
from not3d.commands import Failure, messages, print_message, results, show_progress
from not3d.demo import end_process, late_interrupt, running_service
from not3d.enrol.readers.tracks import TrackOptions, TracksFormat
from not3d.enrol.tracklets import LocalTracklet
from not3d.ports import free_port

CAMERAS = ("entrance", "corridor", "yard", "car-park")
PEOPLE, PASSES, SEED = 10, 3, 7
SIZE = (360, 640)
WATCHLIST = "demo"
LEAST_PROBABILITY = 0.5
CROPS = 8
"""Crops of a track that are sent, evenly spaced."""
WAIT_SECONDS = 90.0
_TOPIC = "not3d/tracks"


@dataclass(frozen=True)
class SiteSize:
    """How large the site is. The demo's own size renders in half a minute."""

    people: int = PEOPLE
    cameras: int = len(CAMERAS)
    passes: int = PASSES
    size: tuple[int, int] = SIZE

    @property
    def folder_name(self) -> str:
        """The name of a folder for it, with all parameters."""
        height, width = self.size
        return f"site-seed-{SEED}-people-{self.people}-cameras-{self.cameras}-passes-{self.passes}-of-{width}x{height}"


def write_site(folder: Path, size: SiteSize, progress: Callable[[int], None] = lambda _frames: None) -> None:
    """Write `CAMERA.mp4` and `CAMERA.tracks.csv` (MOTChallenge) of each camera, and `site.json`.

    In `site.json` are the start of each track in seconds from the start of the recordings and its person.

    Args:
        folder: is created; if it is complete, nothing is written.
        size: of the site.
        progress: called with the number of frames of each second of video.

    Raises:
        OSError: a file cannot be written.
    """
    import av

    from training.datasets.synthetic.site import FRAMES_PER_SECOND, plan_site, record

    facts = folder / "site.json"
    if facts.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    site = plan_site(people=size.people, cameras=size.cameras, passes=size.passes, seed=SEED, size=size.size)
    height, width = size.size
    for camera in range(size.cameras):
        name = CAMERAS[camera]
        rows: list[tuple[object, ...]] = []
        with av.open(folder / f"{name}.mp4", "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.bit_rate = 3_000_000
            for number, frame in enumerate(record(site, camera), start=1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
                rows += [
                    (number, index, *(f"{value:g}" for value in box), 1, -1, -1, -1)
                    for index, box in frame.boxes.items()
                ]
                if number % FRAMES_PER_SECOND == 0:
                    progress(FRAMES_PER_SECOND)
            container.mux(stream.encode())
        with (folder / f"{name}.tracks.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    walks = {str(index): {"start": walk.start, "person": walk.person} for index, walk in enumerate(site.walks)}
    facts.write_text(json.dumps({"seconds": site.seconds, "walks": walks}, indent=1))


def read_site(folder: Path, size: SiteSize, began: datetime) -> list[LocalTracklet]:
    """Return the tracks of a site with their crops, in the order in which they end.

    Args:
        folder: from `write_site`.
        size: of the site.
        began: when its recordings began.
    """
    from not3d.enrol.footage import cut_tracks, list_tracks

    facts = json.loads((folder / "site.json").read_text())["walks"]
    tracks = []
    for name in CAMERAS[: size.cameras]:
        options = TrackOptions(TracksFormat.MOT, frame_base=1)
        items, _ = list_tracks(folder / f"{name}.mp4", folder / f"{name}.tracks.csv", options, camera=name)
        spread = [replace(item, boxes=_spread(item.boxes, CROPS)) for item in items]
        for track in cut_tracks(spread, began):
            person = facts[track.origin["track"]]["person"]
            tracks.append(replace(track, person=f"{person + 1:04d}"))
    return sorted(tracks, key=lambda track: track.end_time or began)


def _spread(items: Sequence[Any], most: int) -> tuple[Any, ...]:
    """Return at most `most` items, evenly spaced, with the first and the last one."""
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(place * (len(items) - 1) / (most - 1))] for place in range(most))


class Sender(Protocol):
    """Takes the tracks, one by one."""

    def send(self, track: LocalTracklet) -> None:
        """Send one track that has ended."""


class _Direct:
    """Sends tracks to the service without a broker."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, track: LocalTracklet) -> None:
        self._client.embed(
            track.frames,
            id=f"{track.camera}-{track.origin['track']}",
            camera_id=track.camera,
            start_time=track.start_time,
            end_time=track.end_time,
            metadata={"person": track.person},
        )


class _ByBroker:
    """Publishes each track, as any tracker can do it."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="demo-tracker")
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def send(self, track: LocalTracklet) -> None:
        from not3d.bridges.tracks import track_message

        assert track.start_time and track.end_time  # noqa: S101, PT018 - of a recording
        crops = [frame if isinstance(frame, bytes) else frame.read_bytes() for frame in track.frames]
        message = track_message(
            track.camera,
            track.origin["track"],
            track.start_time.timestamp(),
            track.end_time.timestamp(),
            crops,
            {"person": track.person},
        )
        self._client.publish(f"{_TOPIC}/{track.camera}", message, qos=1).wait_for_publish(WAIT_SECONDS)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; Ctrl-C reaches this process only, which ends the program."""
    # Variables in this shell are meant for another bridge and service.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOT3D_")}
    process = None
    try:
        with log.open("ab") as output, late_interrupt():
            process = subprocess.Popen(  # noqa: S603 - not from outside
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        yield process
    finally:
        if process is not None:
            end_process(process)


@contextmanager
def _through_broker(folder: Path, url: str) -> Iterator[Sender]:
    """Run a broker and the bridge until the block ends, and yield what publishes tracks.

    Raises:
        Failure: one of them ended or was not ready in time.
    """
    program = find_mosquitto()
    assert program  # noqa: S101 - the caller has looked
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    log = folder / "bridge.log"
    command = [sys.executable, "-m", "not3d", "bridge", "mqtt", "--mqtt", f"mqtt://127.0.0.1:{port}", "--url", url]
    command += ["--topic", f"{_TOPIC}/#", "--state", str(folder / "bridge.sqlite")]
    with ExitStack() as stack:
        broker = stack.enter_context(_running([program, "-c", str(config)], folder / "mosquitto.log"))
        _wait(lambda: _answers(port), broker, folder / "mosquitto.log", "mosquitto")
        bridge = stack.enter_context(_running(command, log))
        _wait(lambda: '"connected"' in log.read_text(errors="replace"), bridge, log, "the bridge")
        sender = _ByBroker(port)
        stack.callback(sender.close)
        yield sender


def find_mosquitto() -> str | None:
    """Return the path of the broker; Debian has it in a folder that is not in everyone's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, name: str) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            raise Failure(f"{name} did not get ready: {log.read_text(errors='replace')[-500:].strip()}")
        time.sleep(0.05)


def run_site(client: Client, sender: Sender, tracks: Sequence[LocalTracklet]) -> Alert:
    """Send all tracks, and return the alert that the last one raises: its person is put on a watchlist before.

    Args:
        client: of a service with an empty gallery.
        sender: takes the tracks.
        tracks: in the order in which they end.

    Raises:
        Failure: a track was not enrolled in time, or there was no alert.
    """
    *before, last = tracks
    people = len({track.person for track in tracks})
    with show_progress() as progress:
        task = progress.add_task("Tracks through the bridge", total=len(tracks))

        def enrolled() -> int:
            done: int = client.info().gallery["records"]
            progress.update(task, completed=done)
            return done

        for track in before:
            sender.send(track)
            enrolled()
        _wait_for(lambda: enrolled() >= len(before), "not all tracks were enrolled")
        examples = [record.id for record in client.records(metadata={"person": last.person})]
        # One track in `people` shows this person.
        client.put_watchlist(WATCHLIST, ids=examples, min_probability=LEAST_PROBABILITY, prior=1 / people)
        sender.send(last)
        _wait_for(lambda: enrolled() >= len(tracks), "the last track was not enrolled")
    alerts: list[Alert] = []

    def arrived() -> bool:
        alerts[:] = client.alerts(watchlists=[WATCHLIST]).items
        return bool(alerts)

    _wait_for(arrived, "the next appearance of the watched person raised no alert", seconds=10)
    return alerts[0]


def _wait_for(condition: Callable[[], bool], otherwise: str, seconds: float = WAIT_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Failure(f"{otherwise} within {seconds:g} seconds")
        time.sleep(0.1)


def demo_site(
    *,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where recordings and tracks are written. [dim]Default: in demo-data[/]"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any free port.")] = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    broker: Annotated[bool, typer.Option(help="Use mosquitto and the bridge if mosquitto is installed.")] = True,
    stay: Annotated[bool, typer.Option(help="Keep the page until Ctrl-C; otherwise end after the alert.")] = True,
    people: Annotated[int, typer.Option(min=2, max=40, help="Number of people.")] = PEOPLE,
    cameras: Annotated[int, typer.Option(min=2, max=len(CAMERAS), help="Number of cameras.")] = len(CAMERAS),
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model. [dim]Default: the bundle in the package[/]")
    ] = None,
) -> None:
    """Show the way from recordings to the search page: drawn people, four cameras, a broker, a bridge, an alert.

    Nothing is detected: the tracks are those with which the people were drawn.
    """
    with extra("cpu"):
        import fastapi  # noqa: F401 - for the process of the service
        import onnxruntime  # noqa: F401

        from model.bundle import BUNDLED
    size = SiteSize(people, cameras, min(PASSES, cameras))
    place = folder or Path("demo-data") / size.folder_name
    with tempfile.TemporaryDirectory(prefix="not3d-demo-site-") as scratch, ExitStack() as stack:
        data_dir = Path(scratch)
        messages.print("Starting the service", style="dim")
        service = running_service(bundle or BUNDLED, data_dir, port=port, variables={"NOT3D_THUMBNAILS": "4"})
        client = stack.enter_context(service)
        tracks = _prepare(place, size)
        sender = stack.enter_context(_open_sender(broker, data_dir, client))
        alert = run_site(client, sender, tracks)
        record = quote(alert.record_id)
        address = f"{client.url}/#/search?like={record}&path={record}"
        _describe(tracks, size, alert, address, place)
        if browser:
            webbrowser.open(address)
        if stay:
            print_message("Ctrl-C ends the demo and removes its gallery.")
            _stay()


def _prepare(place: Path, size: SiteSize) -> list[LocalTracklet]:
    with show_progress() as progress:
        task = progress.add_task("Drawing recordings of people who walk past the cameras", total=None)
        write_site(place, size, lambda frames: progress.advance(task, frames))
    facts = json.loads((place / "site.json").read_text())
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=facts["seconds"] + 60)
    with messages.status("Cutting the people out of the recordings, as a tracker would"):
        return read_site(place, size, began)


@contextmanager
def _open_sender(wanted: bool, folder: Path, client: Client) -> Iterator[Sender]:
    if wanted and find_mosquitto() and _has_bridge():
        with _through_broker(folder, client.url) as sender:
            yield sender
        return
    if wanted:
        missing = "mosquitto is not installed: apt-get install mosquitto, or brew install mosquitto"
        if find_mosquitto():
            missing = "the packages of the bridge are not installed: pip install 'not3d[bridge]'"
        print_message(f"Without a broker, the tracks go to the service directly ({missing})")
    yield _Direct(client)


def _has_bridge() -> bool:
    try:
        import aiomqtt  # noqa: F401
        import paho.mqtt.client  # noqa: F401
    except ImportError:
        return False
    return True


def _describe(tracks: Sequence[LocalTracklet], size: SiteSize, alert: Alert, address: str, place: Path) -> None:
    def show(text: str) -> None:
        results.print(text, soft_wrap=True, highlight=False)

    sure = f", probability {alert.probability:.0%}" if alert.probability is not None else ""
    show(f"\n{len(tracks)} tracks of {size.people} people at {size.cameras} cameras are enrolled.")
    show(
        f"Alert of the watchlist [bold]{alert.watchlist}[/]: a probable appearance at [bold]{alert.camera_id}[/]{sure}"
    )
    show(f"The recordings and tracks are in {place.resolve()}")
    show(f"\nThe page: [bold]{address}[/]")


def _stay() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended.wait(0.5):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

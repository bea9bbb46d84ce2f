"""The demo, on a small bundle: the whole way from tracklets to the picture."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from not3d.client import Client
from not3d.commands import Failure
from not3d.demo import DRAWN, _find_cause, running_service, split_tracklets
from not3d.enrol.tracklets import FootageError
from tests.not3d.pictures import shows_frames
from training.datasets.synthetic.dataset import write_synthetic

COMMAND = (sys.executable, "-m", "not3d", "demo")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def run_demo(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_demo_ranks_draws_and_stops(people: Path, bundle: Path, tmp_path: Path) -> None:
    ended = run_demo(tmp_path, people, "--bundle", bundle)
    assert ended.returncode == 0, ended.stderr
    assert "Where else was 0001-c1-t1 seen?" in ended.stdout
    assert "of 3 queries" in ended.stdout
    assert str(tmp_path / "ranked.png") in ended.stdout.replace("\n", "")
    image = cv2.imread(str(tmp_path / "ranked.png"))
    assert image is not None
    assert shows_frames(image) == [True] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["ranked.png"]


def test_drawn_people_are_not_mixed_with_those_of_an_earlier_demo(bundle: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "demo-data", people=9, cameras=2, frames=2, seed=7, size=(32, 16))
    other = DRAWN.with_name(DRAWN.name.replace("seed-", "seed-1"))
    write_synthetic(tmp_path / other, people=9, cameras=2, frames=2, seed=7, size=(32, 16))
    ended = run_demo(tmp_path, "--bundle", bundle)
    assert ended.returncode == 0, ended.stderr
    assert "of 8 queries (16 tracklets enrolled" in ended.stdout.replace("\n", " ")


def test_an_interrupted_demo_is_one_line_and_leaves_nothing_behind(people: Path, bundle: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [*COMMAND, str(people), "--bundle", str(bundle)],
        env=ENVIRONMENT | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "Starting the service\n"
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), rest.splitlines()[-1]) == (130, "Interrupted")
    assert "Traceback" not in rest
    assert list(scratch.iterdir()) == []


def test_ctrl_c_while_the_service_starts_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), running_service(tmp_path / "none", tmp_path):
        pass
    assert [process.poll() is not None for process in started] == [True]


def test_mars_is_split_by_its_own_lists(shared_data: Path) -> None:
    split = split_tracklets(shared_data / "mini-mars")
    assert (len(split.queries), len(split.gallery), len(split.answerable)) == (12, 12, 8)
    assert not {item.id for item in split.queries} & {item.id for item in split.gallery}


def test_people_folders_are_split_by_camera(people: Path) -> None:
    split = split_tracklets(people)
    assert [item.id for item in split.queries] == ["0001-c1-t1", "0002-c1-t1", "0003-c1-t1"]
    assert [item.id for item in split.gallery] == ["0001-c2-t1", "0002-c2-t1", "0003-c2-t1"]
    assert split.answerable == split.queries


def test_tracklets_without_person_and_camera_are_refused(people: Path) -> None:
    with pytest.raises(FootageError, match="does not name people and cameras"):
        split_tracklets(people / "0001" / "c1")


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failure) as failed, running_service(tmp_path / "none", tmp_path):
        pass
    (line,) = str(failed.value).splitlines()
    assert line.startswith("the service did not get ready: cannot start: ")
    assert str(tmp_path / "none") in line


def test_the_cause_of_a_failure_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text(
        '{"level": "info", "message": "GET /readyz"}\n{"level": "error", "message": "address in use"}\n'
        '{"level": "info", "message": "GET /readyz"}\n'
    )
    assert _find_cause(log) == "address in use"
    log.write_text('{"level": "info", "message": "GET /readyz"}\nTraceback:\n  in x\n17\n')
    assert _find_cause(log) == "Traceback:\n  in x\n17"
    log.write_text("")
    assert _find_cause(log) == "it gave no reason"


def test_the_service_is_stopped_at_the_end_of_the_demo(bundle: Path, tmp_path: Path) -> None:
    with running_service(bundle, tmp_path, "--engine", "onnxruntime") as client:
        assert client.is_ready()
    with Client(client.url) as again:
        assert not again.is_ready()

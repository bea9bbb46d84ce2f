"""The demo, on a small bundle: the whole way from tracklets to the picture."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from not3d.client import Client
from not3d.commands import Failure
from not3d.demo import running_service, split_tracklets
from not3d.footage import FootageError


def run_demo(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "not3d.demo", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_demo_ranks_draws_and_stops(people: Path, bundle: Path, tmp_path: Path) -> None:
    ended = run_demo(tmp_path, people, "--bundle", bundle)
    assert ended.returncode == 0, ended.stderr
    assert "Where else was 0001-c1-t1 seen?" in ended.stdout
    assert "of 3 queries" in ended.stdout
    assert str(tmp_path / "ranked.png") in ended.stdout.replace("\n", "")
    assert cv2.imread(str(tmp_path / "ranked.png")) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["ranked.png"]


def test_mars_is_asked_by_its_own_lists(shared_data: Path) -> None:
    split = split_tracklets(shared_data / "mini-mars")
    assert (len(split.queries), len(split.gallery), len(split.answerable)) == (12, 12, 8)
    assert not {item.id for item in split.queries} & {item.id for item in split.gallery}


def test_people_folders_are_split_by_camera(people: Path) -> None:
    split = split_tracklets(people)
    assert [item.id for item in split.queries] == ["0001-c1-t1", "0002-c1-t1", "0003-c1-t1"]
    assert [item.id for item in split.gallery] == ["0001-c2-t1", "0002-c2-t1", "0003-c2-t1"]
    assert split.answerable == split.queries


def test_tracklets_of_nobody_known_are_refused(people: Path) -> None:
    with pytest.raises(FootageError, match="does not say who is who"):
        split_tracklets(people / "0001" / "c1")


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match=r"(?s)did not get ready.*cannot start"),
        running_service(tmp_path / "none", tmp_path),
    ):
        pass


def test_the_service_is_gone_when_the_demo_is_done(bundle: Path, tmp_path: Path) -> None:
    with running_service(bundle, tmp_path, "--engine", "onnxruntime") as client:
        assert client.is_ready()
    with Client(client.url) as again:
        assert not again.is_ready()

"""The command line, from its arguments to its exit status."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from not3d.client import Client
from service.variables import CLIENT_VARIABLES
from tests.not3d.conftest import Run
from tests.not3d.pictures import shows_frames
from tests.not3d.videos import write_video
from tests.service.live import run_service

COMMANDS = (
    "serve",
    "enroll",
    "search",
    "list",
    "cameras",
    "delete",
    "erase",
    "case",
    "info",
    "demo",
    "train",
    "evaluate",
    "export",
)


def test_help_lists_every_command(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for command in COMMANDS:
        assert f" {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Usage" in out


def test_version(run: Run) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("not3d")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("enroll",),
        ("search",),
        ("search", "--reject", "x"),
        ("search", "--id", "x", "--combine", "median"),
        ("erase",),
        ("erase", "--metadata", "x"),
        ("delete",),
        ("case", "judge", "case", "id", "maybe"),
        ("search", "--id", "x", "--after", "yesterday"),
        ("search", "--id", "x", "--max-clips", "1"),
        ("enroll", "folder", "--max-clips", "0"),
        ("search", "--id", "x", "--min-probability", "1.5"),
        ("search", "--id", "x", "--pictures", "nowhere"),
        ("search", "--id", "x", "--after", "2026-05-01T12:00:00"),
        ("serve", "--port", "99999"),
        ("serve", "--device", "tpu"),
        ("serve", "--prior", "1"),
        ("train", "missing.toml", "--data", "x", "--out", "y"),
    ],
)
def test_wrong_usage_is_status_two(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert err


def test_a_setting_that_is_wrong_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT3D_MAX_FRAMES", "many")
    status, _, err = run("serve")
    assert status == 2
    assert "NOT3D_MAX_FRAMES" in err


def test_settings_are_listed(run: Run) -> None:
    status, out, _ = run("serve", "--settings")
    assert status == 0
    assert "NOT3D_DATA_DIR" in out
    assert "NOT3D_MAX_REQUEST_BYTES" in out


@pytest.mark.parametrize("command", [("info",), ("enroll", "."), ("search", "--id", "x")])
def test_no_service_is_one_message(run: Run, people: Path, command: tuple[str, ...]) -> None:
    arguments = [str(people) if argument == "." else argument for argument in command]
    status, out, err = run(*arguments, "--url", "http://127.0.0.1:9")
    assert status == 1
    assert out == ""
    assert err.strip().startswith("Error: no service answers at http://127.0.0.1:9")


def tracklets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*"))


def test_info_shows_engine_and_embedding_space(run: Run, client: Client) -> None:
    status, out, _ = run("info", "--url", client.url)
    assert status == 0
    assert client.info().embedding_space in out
    status, out, _ = run("info", "--url", client.url, "--json")
    assert json.loads(out)["engine"]["name"] == "onnxruntime"


def test_enroll_then_search(run: Run, client: Client, people: Path, tmp_path: Path) -> None:
    status, out, _ = run("enroll", people, "--url", client.url)
    assert (status, out.strip()) == (0, "6 of 6 tracklets enrolled")
    picture = tmp_path / "ranked.png"
    query = people / "0001" / "c1" / "t1"
    status, out, err = run("search", query, "--top-k", 3, "--person", "0001", "--picture", picture, "--url", client.url)
    assert status == 0
    first = next(line for line in out.splitlines() if line.strip().startswith("1 "))
    assert first.split() == ["1", "0001-c1-t1", "1.000", "c1", "same"]
    assert "6 tracklets searched" in out
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] > 1200
    assert str(picture) in err


def test_full_frames_are_warned_of(run: Run, client: Client, tmp_path: Path) -> None:
    for name, size in (("full", (90, 160)), ("crop", (160, 90))):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((*size, 3), 90, np.uint8))
    status, out, err = run("enroll", tmp_path, "--url", client.url)
    assert (status, out.strip()) == (0, "2 of 2 tracklets enrolled")
    assert "Warning: doubtful tracklets: 1; the first, full: 1 of 1 frames have the shape" in err
    picture = tmp_path / "ranked.png"
    status, _, err = run("search", tmp_path / "full", "--picture", picture, "--url", client.url)
    assert status == 0
    assert "Warning: 1 of 1 frames have the shape or size of a full frame (160x90 pixels)" in err
    heights = [cv2.imread(str(picture)).shape[0]]
    status, _, err = run("search", tmp_path / "crop", "--picture", picture, "--url", client.url)
    assert "Warning" not in err
    heights.append(cv2.imread(str(picture)).shape[0])
    assert heights[0] > heights[1]  # the picture has the warning too
    _, out, _ = run("search", tmp_path / "full", "--json", "--url", client.url)
    assert len(json.loads(out)["warnings"]) == 1


def test_max_clips_limits_the_clips_of_enrolment_and_search(run: Run, client: Client, people: Path) -> None:
    status, out, _ = run("enroll", people, "--max-clips", 1, "--url", client.url)
    assert (status, out.strip()) == (0, "6 of 6 tracklets enrolled")
    assert {record.clips for record in client.records()} == {1}
    query = people / "0001" / "c1" / "t1"

    def score(*options: object) -> float:
        _, out, _ = run("search", query, *options, "--json", "--url", client.url)
        scores: dict[str, float] = {hit["id"]: hit["score"] for hit in json.loads(out)["results"]}
        return scores["0001-c1-t1"]

    assert score("--max-clips", 1) == pytest.approx(1, abs=1e-5)
    assert score() < score("--max-clips", 1) - 1e-7


def test_frames_of_hits_are_found_from_the_parent_folder_and_by_option(
    run: Run, client: Client, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "ranked.png"
    monkeypatch.chdir(people.parent)
    run("enroll", f"{people.name}/", "--url", client.url)
    assert str(people.parent) not in str([record.metadata for record in client.records()])

    def search(*options: object) -> tuple[list[bool], str]:
        status, _, err = run("search", *options, "--picture", picture, "--url", client.url)
        assert status == 0
        image = cv2.imread(str(picture))
        assert image is not None
        return shows_frames(image), err

    assert search(f"{people.name}/0001/c1/t1")[0] == [True] * 6
    assert search("--id", "0001-c1-t1")[0] == [True] * 6
    monkeypatch.chdir(tmp_path)
    shown, err = search("--id", "0001-c1-t1")
    assert shown == [False] * 6
    assert "No frames of 6 of its 6 tracklets below" in err
    shown, err = search("--id", "0001-c1-t1", "--pictures", tmp_path, "--pictures", people)
    assert shown == [True] * 6
    assert "No frames" not in err
    monkeypatch.setenv("NOT3D_PICTURES", os.pathsep.join([str(tmp_path), str(people)]))
    assert search("--id", "0001-c1-t1")[0] == [True] * 6
    assert "NOT3D_PICTURES" in CLIENT_VARIABLES


def test_a_record_cannot_make_a_search_show_other_files(
    run: Run, client: Client, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, picture = tmp_path / "here", tmp_path / "ranked.png"
    here.mkdir()
    monkeypatch.chdir(here)
    query = people / "0001" / "c1" / "t1"
    frames = sorted(query.glob("*.jpg"))
    client.embed(frames, id="hostile", metadata={"source": str(query), "tracklet": "t1"})
    status, _, _ = run("search", query, "--picture", picture, "--url", client.url)
    assert status == 0
    image = cv2.imread(str(picture))
    assert image is not None
    assert shows_frames(image) == [True, False]


def test_the_table_says_when_it_is_ordered_by_reranking(run: Run, client: Client, people: Path) -> None:
    run("enroll", people, "--url", client.url)
    _, plain, _ = run("search", "--id", "0001-c1-t1", "--url", client.url)
    assert "re-ranking" not in plain
    _, reranked, _ = run("search", "--id", "0001-c1-t1", "--rerank", "--url", client.url)
    assert "In the order of re-ranking; score: cosine" in reranked


def test_search_prints_json(run: Run, client: Client, people: Path) -> None:
    rows = [f"{t.relative_to(people)},{t.parts[-2]},2026-05-01T12:00:00+02:00,{t.parts[-3]}" for t in tracklets(people)]
    manifest = people / "list.csv"
    manifest.write_text("\n".join(["path,camera,start,person", *rows]))
    assert run("enroll", "--manifest", manifest, "--url", client.url)[0] == 0
    manifest.unlink()
    status, out, _ = run(
        *("search", "--id", "0001-c1-t1", "--exclude-same-camera", "-k", 2, "--json", "--url", client.url),
        *("--after", "2026-05-01T09:00:00Z", "--before", "2026-05-01T11:00:00Z", "--camera-ids", "c2", "--rerank"),
    )
    assert status == 0
    answer = json.loads(out)
    assert [hit["camera_id"] for hit in answer["results"]] == ["c2", "c2"]
    assert answer["results"][0]["start_time"].startswith("2026-05-01T10:00:00")
    assert answer["searched"] == 3


def test_a_search_and_a_path_name_purpose_and_operator(run: Run, bundle: Path, tmp_path: Path) -> None:
    with run_service(bundle, tmp_path, require_purpose=True) as live:
        dimension = live.client.get("/info").json()["dimension"]
        record = {"embedding": [1.0] * dimension, "start_time": "2026-05-01T12:00:00Z"}
        assert live.client.put("/gallery/a", json=record).status_code == 201
        status, _, err = run("search", "--id", "a", "--url", live.url)
        assert (status, "purpose" in err) == (1, True)
        for call in (("search", "--id", "a"), ("track", "a", "--min-score", "0.5")):
            status, _, err = run(*call, "--purpose", "report 7", "--operator", "ann", "--url", live.url)
            assert (status, err) == (0, "")
        entries = live.client.get("/audit?kind=search").json()["entries"]
    assert [(each["details"]["purpose"], each["operator"]) for each in entries] == [("report 7", "ann")] * 2


def test_search_shows_probabilities_and_what_they_are_based_on(
    run: Run, calibrated: Client, people: Path, tmp_path: Path
) -> None:
    run("enroll", people, "--replace", "--url", calibrated.url)
    picture = tmp_path / "ranked.png"
    query = ("search", people / "0001" / "c1" / "t1", "--pictures", people, "--url", calibrated.url)
    status, out, _ = run(*query, "--picture", picture)
    assert status == 0
    first = next(line for line in out.splitlines() if line.strip().startswith("1 "))
    assert re.fullmatch(r"1 +0001-c1-t1 +1\.000 +97 % +c1", first.strip())
    assert re.search(r"prior 0\.3; site calibration [0-9a-f]{16}, fitted on 50 people and 4 cameras", out)
    assert picture.is_file()
    _, out, _ = run(*query, "--prior", 0.01, "--json")
    answer = json.loads(out)
    assert answer["calibration"]["prior"] == 0.01
    assert answer["calibration"]["fitted_at"] == "2026-11-28T12:00:00Z"
    least = sorted(hit["probability"] for hit in answer["results"])[2]
    _, out, _ = run(*query, "--prior", 0.01, "--min-probability", least, "--json")
    assert [hit["probability"] >= least for hit in json.loads(out)["results"]] == [True] * 3
    _, out, _ = run(*query, "--rerank")
    assert "probability" not in out


def test_info_shows_the_calibration_and_its_thresholds(run: Run, calibrated: Client, client: Client) -> None:
    status, out, _ = run("info", "--url", calibrated.url)
    assert status == 0
    assert re.search(
        r"prior 0\.3; site calibration [0-9a-f]{16}, fitted on 50 people and 4 cameras \(2026-11-28\)", out
    )
    assert re.search(r"0\.001 +0\.700 +30\.0% +20\.0% to 50\.0%", out)
    status, out, _ = run("info", "--url", calibrated.url, "--json")
    assert json.loads(out)["thresholds"][0]["score"] == 0.55
    _, out, _ = run("info", "--url", client.url)
    assert "none, so hits have no probability" in out
    assert "FNMR" not in out


def test_min_probability_without_a_calibration_is_one_message(run: Run, client: Client, people: Path) -> None:
    run("enroll", people, "--url", client.url)
    status, out, err = run("search", "--id", "0001-c1-t1", "--min-probability", 0.5, "--url", client.url)
    assert (status, out) == (1, "")
    assert "NOT3D_CALIBRATION" in err


def test_what_is_enrolled_is_skipped_unless_replaced(run: Run, client: Client, people: Path) -> None:
    run("enroll", people / "0001" / "c1" / "t1", "--url", client.url)
    status, out, err = run("enroll", people / "0001" / "c1" / "t1", "--url", client.url)
    assert status == 0
    assert out.strip() == "0 of 1 tracklets enrolled, 1 skipped: the same footage is enrolled already"
    assert "Skipped: t1" in err
    status, out, err = run("enroll", people / "0001" / "c1" / "t1", "--url", client.url, "--camera", "y")
    assert (status, out.strip()) == (1, "0 of 1 tracklets enrolled")
    assert "enrolled without a camera" in err
    assert client.get("t1").camera_id is None
    status, _, _ = run("enroll", people / "0001" / "c1" / "t1", "--replace", "--camera", "x", "--url", client.url)
    assert status == 0
    assert client.get("t1").camera_id == "x"


@contextmanager
def holding(url: str, after: int) -> Iterator[tuple[str, threading.Semaphore, threading.Event]]:
    """Pass requests on to a service, but hold tracklets after so many of them until the event.

    Yields:
        The address, what is released for each that is held, and the event.
    """
    passed, held, may_go_on = itertools.count(1), threading.Semaphore(0), threading.Event()

    class Relay(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "POST" and next(passed) > after:
                held.release()
                may_go_on.wait(120)
            headers = {"Content-Type": self.headers.get("Content-Type", "")}
            answer = httpx.request(self.command, url + self.path, content=body, headers=headers, timeout=120)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", held, may_go_on
        may_go_on.set()
        server.shutdown()


def test_the_same_command_continues_an_interrupted_enrolment(
    run: Run, client: Client, people: Path, tmp_path: Path
) -> None:
    count = 60
    for number in range(count):
        shutil.copytree(people / "0001" / "c1" / "t1", tmp_path / f"t{number}")
    with holding(client.url, after=20) as (url, held, may_go_on):
        command = [sys.executable, "-m", "not3d", "enroll", str(tmp_path), "--workers", "2", "--url", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2):
            assert held.acquire(timeout=120)
        process.send_signal(signal.SIGINT)
        may_go_on.set()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert re.search(r"Interrupted; \d+ enrolled of 60; the same command continues from here", err)
    enrolled = client.info().gallery["records"]
    assert 20 <= enrolled <= 22
    status, out, _ = run("enroll", tmp_path, "--dry-run", "--url", client.url)
    first, *named, more = out.splitlines()
    assert first == f"{count - enrolled} of {count} tracklets would be sent, {enrolled} are enrolled already"
    assert (len(named), more.split()[0]) == (20, "and")
    status, out, _ = run("enroll", tmp_path, "--url", client.url)
    assert status == 0
    assert out.strip() == (
        f"{count - enrolled} of {count} tracklets enrolled, {enrolled} skipped: the same footage is enrolled already"
    )
    assert client.info().gallery["records"] == count


def test_without_ray_the_extra_is_named(
    run: Run, client: Client, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")  # put back as they were
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    status, out, err = run("enroll", people, "--ray", "auto", "--url", client.url)
    assert (status, out) == (1, "")
    assert "not3d[ray]" in err


def test_refused_tracklets_are_shown_and_written_to_the_report(
    run: Run, client: Client, people: Path, tmp_path: Path
) -> None:
    folder, report = tmp_path / "folder", tmp_path / "refused.jsonl"
    shutil.copytree(people / "0001" / "c1" / "t1", folder / "good")
    for name in ("bad-1", "bad-2"):
        (folder / name).mkdir()
        (folder / name / "1.jpg").write_text("text")
    status, out, _ = run("enroll", folder, "--dry-run", "--url", client.url)
    assert status == 0
    assert out.startswith("3 of 3 tracklets would be sent, 0 are enrolled already\n")
    assert not list(client.records())
    status, out, err = run("enroll", folder, "--report", report, "--verbose", "--url", client.url)
    assert status == 1
    assert "1 of 3 tracklets enrolled" in out
    assert "good: enrolled" in err
    assert "Error: 2 tracklets were refused" in err
    refused = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(line["id"] for line in refused) == ["bad-1", "bad-2"]
    assert {line["source"] for line in refused} == {str(folder / "bad-1"), str(folder / "bad-2")}
    assert all(line["status"] >= 400 and line["reason"] for line in refused)


def test_tracks_of_a_video_are_enrolled_and_searched(run: Run, client: Client, tmp_path: Path) -> None:
    video = write_video(tmp_path / "yard.avi", frames=8)
    tracks = tmp_path / "tracks.csv"
    tracks.write_text("1,1,0,10,32,64,1\n2,1,4,10,32,64,1\n4,2,50,10,40,70,1\n")
    options = ("--tracks", tracks, "--url", client.url)
    status, out, _ = run("enroll", video, *options, "--camera", "yard", "--start", "2026-05-01T12:00:00Z")
    assert (status, out.strip()) == (0, "2 of 2 tracklets enrolled")
    status, out, _ = run("enroll", video, *options)
    assert (status, out.split()[0]) == (0, "0")
    record = client.get("yard-2")
    assert record.camera_id == "yard"
    assert record.start_time is not None
    assert record.start_time.isoformat() == "2026-05-01T12:00:00.300000+00:00"

    picture = tmp_path / "ranked.jpg"
    status, out, _ = run("search", video, *options, "--tracklet", "2", "--picture", picture)
    assert status == 0
    assert out.split()[out.split().index("1") + 1] == "yard-2"
    assert picture.is_file()
    status, _, err = run("search", video, *options)
    assert status == 2
    assert "yard-1, yard-2" in err
    status, _, err = run("search", video, *options, "--tracklet", "5")
    assert status == 2
    assert "no tracklet 5, only yard-1, yard-2" in err


def test_tracks_need_a_video(run: Run, client: Client, people: Path) -> None:
    status, _, err = run("enroll", people, "--tracks", "a.csv", "--url", client.url)
    assert status == 2
    assert "--tracks" in err


def test_same_camera_needs_a_camera(run: Run, client: Client, people: Path) -> None:
    status, _, err = run("search", people / "0001" / "c1" / "t1", "--exclude-same-camera", "--url", client.url)
    assert status == 2
    assert "--camera" in err


def test_a_picture_of_another_format_is_refused(run: Run, client: Client, people: Path) -> None:
    query = people / "0001" / "c1" / "t1"
    status, _, err = run("search", query, "--picture", "ranked.gif", "--url", client.url)
    assert status == 2
    assert "ranked.gif" in err


def test_what_the_service_refuses_is_one_message(run: Run, client: Client) -> None:
    status, out, err = run("search", "--id", "nobody", "--url", client.url)
    assert (status, out) == (1, "")
    assert err.startswith("Error: Not found (404)")


def test_a_folder_without_images_is_one_message(run: Run, client: Client, tmp_path: Path) -> None:
    status, _, err = run("enroll", tmp_path, "--url", client.url)
    assert status == 1
    assert "no images found" in err


def test_serving_a_missing_bundle_fails_with_one_message(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "not3d",
        "serve",
        "--bundle",
        tmp_path / "none",
        "--data-dir",
        tmp_path,
        "--port",
        "0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "cannot start" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "not3d", "info", "--url", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        silent.settimeout(60)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        connection.close()
    assert (process.returncode, out, err) == (130, "", "Interrupted\n")


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from not3d.cli import main
main()
"""


@pytest.mark.parametrize("module", ["httpx", "typer", "not3d.commands.training"])
def test_ctrl_c_during_imports_is_one_line(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


def test_ctrl_c_during_code_from_a_string_ends_with_130(tmp_path: Path) -> None:
    program = INTERRUPTED_IMPORT.replace("os.kill(os.getpid(), signal.SIGINT)", 'exec("signal.raise_signal(2)")')
    (tmp_path / "interrupted.py").write_text(program)
    command = [sys.executable, "-m", "interrupted", "typer"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted\n")


HIDDEN_TORCH = """
import sys
sys.modules["torch"] = None
sys.argv = ["not3d", "export", sys.argv[1], "--out", "bundle"]
from not3d.cli import main
main()
"""


def test_export_without_torch_names_the_extra(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.pt"
    checkpoint.touch()
    command = [sys.executable, "-c", HIDDEN_TORCH, checkpoint]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "the package `torch` is not installed" in ended.stderr
    assert "not3d[train]" in ended.stderr


def test_the_command_line_starts_without_slow_packages() -> None:
    slow = {"cv2", "fastapi", "numpy", "onnx", "onnxruntime", "scipy", "torch"}
    code = f"import sys, not3d.commands.app; print(sorted({slow} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["model", "service", "training"])
@pytest.mark.parametrize("started", ["module", "script"])
def test_a_file_that_hides_a_package_is_named(tmp_path: Path, name: str, started: str) -> None:
    (tmp_path / f"{name}.py").write_text("print('imported')")
    script = tmp_path / "bin" / "not3d"
    script.parent.mkdir()
    script.write_text("import sys\nfrom not3d.cli import main\nsys.exit(main())\n")
    root = str(Path(__file__).parents[2])
    if started == "module":  # the working directory comes first
        command, path = ["-m", "not3d"], root
    else:  # it is not on the path, unless a variable says so
        command, path = [str(script)], os.pathsep.join([str(tmp_path), root])
    ended = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"not3d: {tmp_path / name}.py hides not3d's own package `{name}`")

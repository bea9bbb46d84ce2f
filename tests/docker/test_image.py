"""The CPU image as an operator uses it: built and started by Compose, killed, restarted, stopped."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.docker.compose import IMAGE, Project, run
from tests.videos import figure, write
from training.datasets.synthetic.dataset import write_synthetic

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The frames of three drawn people at two cameras, by `person-camera`."""
    drawn = write_synthetic(tmp_path_factory.mktemp("drawn"), people=3, cameras=2, frames=6, seed=5)
    return {
        f"{tracklet.person}-{tracklet.camera}": [path.read_bytes() for path in tracklet.frames] for tracklet in drawn
    }


def form(frames: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("frames", (f"{index}.jpg", frame, "image/jpeg")) for index, frame in enumerate(frames)]


def run_in_image(*command: str) -> str:
    return run(["docker", "run", "--rm", "--network", "none", "--entrypoint", command[0], IMAGE, *command[1:]])


def test_image_is_within_the_documented_size(project: Project) -> None:
    size = int(run(["docker", "image", "inspect", "--format", "{{.Size}}", IMAGE]))
    assert size <= 900 * MEGABYTE


def test_image_carries_the_model_but_no_torch_and_no_compiler(project: Project) -> None:
    program = (
        "from importlib.util import find_spec; from model.bundle import BUNDLED, Bundle; from shutil import which; "
        "print(find_spec('torch'), which('gcc') or which('cc'), Bundle.load(BUNDLED).embedding_space)"
    )
    torch, compiler, space = run_in_image("python", "-c", program).split()
    assert (torch, compiler) == ("None", "None")
    assert len(space) == 16


def test_image_decodes_all_codecs_without_the_encoders_x264_and_x265(project: Project, tmp_path: Path) -> None:
    quick = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}
    codecs = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "libdav1d", "libvpx-vp9": "vp9", "mpeg4": "mpeg4"}
    for codec in codecs:
        write(tmp_path / f"{codec}.mkv", [figure()] * 3, codec, options=quick.get(codec))
    program = (
        "import sys; from pathlib import Path; from model.video import open_video; import av\n"
        "for path in sorted(Path('/videos').iterdir()):\n"
        "    with open_video(path, threads=1) as video:\n"
        "        print(path.stem, video.codec, sum(hasattr(frame.pixels, 'shape') for frame in video.read_all()))\n"
        "for path in Path(av.__file__).parents[1].rglob('libx26*'):\n"
        "    print('bytes', path.name[:7], path.stat().st_size < 10_000)\n"
    )
    options = ["--rm", "--network", "none", "--user", "0:0", "--volume", f"{tmp_path}:/videos:ro"]
    lines = run(["docker", "run", *options, "--entrypoint", "python", IMAGE, "-c", program]).splitlines()
    decoded = [f"{codec} {decoder} 3" for codec, decoder in codecs.items()]
    assert sorted(lines) == sorted([*decoded, "bytes libx264 True", "bytes libx265 True"])


def test_image_runs_as_an_ordinary_user_who_owns_only_the_data(project: Project) -> None:
    script = "id -u; touch /data/gallery && echo written; touch /opt/not3d/bin/not3d 2>/dev/null || echo refused"
    assert run_in_image("sh", "-c", script).split() == ["10001", "written", "refused"]


def test_enrolled_tracklet_is_found_after_the_container_was_killed(
    project: Project, tracklets: dict[str, list[bytes]]
) -> None:
    with httpx.Client(base_url=project.start(), timeout=60) as client:
        for name, frames in tracklets.items():
            camera = name.rpartition("-")[2]
            answer = client.post("/embed", files=form(frames), data={"id": name, "camera_id": camera})
            assert answer.status_code == 201, answer.text

    project.signal("SIGKILL")
    assert project.wait() == 137

    with httpx.Client(base_url=project.start(), timeout=60) as client:
        for name, frames in tracklets.items():
            answer = client.post("/search", files=form(frames), data={"top_k": "10"})
            assert answer.status_code == 200, answer.text
            results = answer.json()["results"]
            assert {hit["id"] for hit in results} == set(tracklets)
            assert results[0]["id"] == name
            assert results[0]["score"] == pytest.approx(1, abs=1e-3)


def test_sigterm_lets_the_accepted_request_finish(project: Project, tracklets: dict[str, list[bytes]]) -> None:
    address = urlsplit(project.start())
    request = httpx.Request(
        "POST", f"{address.geturl()}/embed", files=form(next(iter(tracklets.values()))), data={"id": "last-one"},
        headers={"Expect": "100-continue", "Connection": "close"},
    )  # fmt: skip
    head = "\r\n".join(
        [f"POST {request.url.path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items()), "", ""]
    )
    body = request.read()
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(head.encode())
        # Only a server that has begun to read the body says this.
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        project.signal("SIGTERM")
        connection.sendall(body)
        with connection.makefile("rb") as stream:
            assert stream.readline().split()[1] == b"201"
    assert project.wait() == 0

    assert httpx.get(f"{project.start()}/gallery/last-one", timeout=30).status_code == 200

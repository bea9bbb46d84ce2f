"""No process of ours looks up a name or connects to anything that it was not told to: seen in its system calls.

The tests take some seconds each, because they run every kind of process as a user does, below `strace`.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from not3d.ports import free_port
from tests.bundles import make_bundle
from tests.service.live import TIMEOUT, wait_for
from tests.service.pictures import form, tracklet
from tests.service.test_server import COMMAND, is_ready, running
from tests.training.recipes import TINY_TRIAL
from training.datasets.synthetic.dataset import write_synthetic

REPOSITORY = Path(__file__).parents[1]
CALLS = "connect,sendto,sendmsg,sendmmsg"
DNS_PORT = 53
INTERNET = re.compile(
    r"sin6?_port=htons\((?P<port>\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"(?P<address>[^\"]+)\""
)
LIKE_SWITCHES = re.compile(r"^(ORT_|OPENVINO|RAY_|DO_NOT_TRACK|CI$|XDG_|NOT3D_|PIP_|HF_|TORCH)")


@pytest.fixture(autouse=True)
def _installed() -> None:
    if shutil.which("strace"):
        return
    if os.environ.get("REQUIRE_STRACE"):
        pytest.fail("strace is not installed")
    pytest.skip("strace is not installed (Debian's package of that name has it)")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=24, cameras=2, frames=2, seed=2, size=(64, 32))
    return folder


@dataclass(frozen=True)
class Traced:
    """A program below strace, with a home folder of its own and nothing in its environment that silences a library."""

    folder: Path
    more: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @contextmanager
    def start(self, *command: str | Path) -> Iterator["subprocess.Popen[str]"]:
        self.home.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not LIKE_SWITCHES.match(name)}
        environment |= {"HOME": str(self.home), "PYTHONPATH": str(REPOSITORY)} | self.more
        options = ["-f", "-qq", "--seccomp-bpf", "-e", f"trace={CALLS}", "-s", "100", "-o", str(self.folder / "trace")]
        process = subprocess.Popen(
            ["strace", *options, *map(str, command)],
            env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, *command: str | Path) -> str:
        with self.start(*command) as process:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, output + errors
        return output

    def check(self) -> None:
        """Assert that only this machine was called, and that nothing is left in the home folder."""
        assert outside((self.folder / "trace").read_text(errors="replace")) == []
        left = [str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file()]
        assert left == []


def outside(trace: str) -> list[str]:
    """Return the calls that go beyond this machine, or that ask for a name."""
    found = []
    for line in trace.splitlines():
        called = INTERNET.search(line)
        if called is None:
            continue
        address = ip_address(called["address"])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_loopback or int(called["port"]) == DNS_PORT:
            found.append(line)
    return found


@pytest.fixture(params=["no variables", "the image's variables"])
def traced(request: pytest.FixtureRequest, tmp_path: Path) -> Traced:
    return Traced(tmp_path, {} if request.param == "no variables" else image_variables())


def image_variables() -> dict[str, str]:
    """Return what the image sets, without its folders and its address."""
    text = (REPOSITORY / "docker/Dockerfile").read_text().replace("\\\n", " ")
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"^ENV (.*)$", text, re.MULTILINE))))
    here = {"PATH", "LD_LIBRARY_PATH", "NOT3D_HOST", "NOT3D_DATA_DIR", "NOT3D_DEVICE"}
    return {name: value for name, value in variables.items() if name not in here}


def test_calls_beyond_this_machine_are_seen(tmp_path: Path) -> None:
    """The tests below would pass if this did not work."""
    code = (
        "import socket\n"
        "for family, address in ((2, '192.0.2.1'), (2, '127.0.0.1'), (10, '2001:db8::1'), (10, '::1')):\n"
        "    for port in (53, 4317):\n"
        "        socket.socket(family, socket.SOCK_DGRAM).connect_ex((address, port))\n"
        "socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\n"
    )
    program = Traced(tmp_path, {})
    program.run(sys.executable, "-c", code)
    found = outside((tmp_path / "trace").read_text())
    assert len(found) == 6
    assert sum("htons(4317)" in line for line in found) == 2


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_service_calls_nobody(bundle: Path, traced: Traced, engine: str) -> None:
    port = free_port()
    settings = {"BUNDLE": bundle, "DATA_DIR": traced.folder / "data", "PORT": port, "ENGINE": engine, "DEVICE": "cpu"}
    traced.more.update({f"NOT3D_{name}": str(value) for name, value in settings.items()})
    url = f"http://127.0.0.1:{port}"
    with traced.start(sys.executable, "-c", COMMAND) as process:
        wait_for(lambda: process.poll() is not None or is_ready(url))
        assert process.poll() is None, process.communicate()
        enrolled = httpx.post(f"{url}/embed", files=form(tracklet(1, 4)), data={"id": "a"}, timeout=TIMEOUT)
        assert enrolled.status_code == 201
        found = httpx.post(f"{url}/search", files=form(tracklet(1, 4)), timeout=TIMEOUT)
        assert found.json()["results"][0]["id"] == "a"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
    traced.check()


def test_the_client_commands_call_only_the_service(bundle: Path, people: Path, tmp_path: Path) -> None:
    program = Traced(tmp_path, {})
    with running(bundle, tmp_path / "data") as (_, url):
        picture = next(people.rglob("*.jpg"))
        commands = [["enroll", str(people)], ["info"], ["search", str(picture.parent), "--picture", "ranked.png"]]
        commands += [["gallery", "snapshot", str(tmp_path / "snapshot"), "--data-dir", str(tmp_path / "data")]]
        program.more["NOT3D_URL"] = url
        program.run(sys.executable, "-c", RUN_COMMANDS, json.dumps(commands))
    program.check()
    called = re.findall(INTERNET, (tmp_path / "trace").read_text())
    assert {port for port, _ in called} == {url.rpartition(":")[2]}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_local_ray_cluster_calls_nobody(bundle: Path, people: Path, tmp_path: Path) -> None:
    """The start of a cluster takes most of the time."""
    program = Traced(tmp_path, {})
    with running(bundle, tmp_path / "data") as (_, url):
        program.more["NOT3D_URL"] = url
        program.run(sys.executable, "-m", "not3d", "enroll", next(people.iterdir()), "--ray", "local")
    program.check()


def test_training_and_the_commands_for_models_call_nobody(bundle: Path, people: Path, tmp_path: Path) -> None:
    """The search of hyper-parameters trains."""
    write_frame_model(tmp_path / "frame.onnx")
    write_synthetic(tmp_path / "others", people=3, cameras=2, frames=1, seed=3, size=(64, 32))
    changes = [part for name, value in TINY_TRIAL.items() for part in ("--set", f"{name}={value}")]
    data = ["--data", str(people)]
    checkpoint = "tuned/trial-000/best.pt"
    commands = [
        ["tune", "fantastic", *data, "--out", "tuned", "--trials", "1", *changes],
        ["export", checkpoint, "--crops", str(people), "--out", "exported"],
        ["evaluate", checkpoint, *data],
        ["import", "frame.onnx", "--out", "imported"],
        ["quantize", "imported", "--calibrate", str(people), "--validate", "others", "--clips", "20"],
        ["calibrate", str(bundle), *data],
    ]
    program = Traced(tmp_path, {})
    program.run(sys.executable, "-c", RUN_COMMANDS, json.dumps(commands))
    program.check()


def write_frame_model(path: Path) -> None:
    """Write a model of one frame: the mean colour, multiplied by a matrix."""
    weights = np.random.default_rng(1).random((3, 8), np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["frames"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    takes = helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["N", 3, 64, 32])
    gives = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "frame", [takes], [gives], [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.skipif(importlib.util.find_spec("milvus_lite") is None, reason="milvus-lite is not installed")
def test_the_client_of_milvus_calls_only_its_server(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from service.gallery.address import MilvusAddress\n"
        "from service.gallery.milvus import MilvusGallery\n"
        "from tests.service.gallery.samples import record\n"
        "space = '0123456789abcdef'\n"
        "address = MilvusAddress(sys.argv[1])\n"
        "gallery = MilvusGallery.open(address, embedding_space=space, dimension=8, model_name='sample')\n"
        "gallery.add(record('a'))\n"
        "assert gallery.search(record('a').embedding, 1).hits\n"
        "gallery.close()\n"
    )
    program = Traced(tmp_path, {})
    program.run(sys.executable, "-c", code, tmp_path / "lite.db")
    program.check()


def test_the_images_variables_silence_onnx_runtime_without_our_code(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "assert 'model' not in sys.modules\n"
        "time.sleep(3)\n"
    )
    program = Traced(tmp_path, image_variables())
    program.run(sys.executable, "-c", code, bundle / "model.onnx")
    program.check()


RUN_COMMANDS = """
import json, sys
from typer.testing import CliRunner
from not3d.commands.app import app
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    refused = "nothing was written" in str(result.exception)  # an int8 network of such weights, after its measurement
    if result.exit_code and not refused:
        sys.exit(f"{arguments}: {result.output} {result.exception!r}")
"""

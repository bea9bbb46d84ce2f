"""The command line as `pip install .` alone brings it: other packages are hidden."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import contextlib, io, json, sys

HIDDEN = json.loads(sys.argv[1])
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from not3d.cli import main

for arguments in json.loads(sys.argv[2]):
    sys.argv = ["not3d", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    print(json.dumps([status, out.getvalue()]))
    print("--- end", file=sys.stderr, flush=True)
"""
HIDDEN = {
    "aiokafka",
    "aiomqtt",
    "ax",
    "cv2",
    "faiss",
    "fastapi",
    "faststream",
    "h5py",
    "httptools",
    "jinja2",
    "multipart",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "paho",
    "prometheus_client",
    "pyarrow",
    "pydantic_settings",
    "pymilvus",
    "python_multipart",
    "ray",
    "redis",
    "scipy",
    "simplejpeg",
    "starlette",
    "tensorboard",
    "torch",
    "torchvision",
    "uvicorn",
}
NOWHERE = ("--url", "http://127.0.0.1:9")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "t1").mkdir(parents=True)
    (tmp_path / "data" / "t1" / "1.jpg").write_bytes(b"")
    for name in ("model.onnx", "checkpoint.pt", "in.parquet", "video.mp4", "tracks.csv"):
        (tmp_path / name).write_bytes(b"PK\x03\x04" if name == "checkpoint.pt" else b"")
    return tmp_path


def run(folder: Path, *commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Status, standard output and standard error of each command, all run in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(sorted(HIDDEN)), json.dumps(commands)],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    errors = done.stderr.split("--- end\n")
    return [(*json.loads(line), error) for line, error in zip(done.stdout.splitlines(), errors, strict=False)]


EXTRAS = {
    ("train", "light", "-d", "data", "-o", "out"): "train",
    ("evaluate", "model.onnx", "-d", "data"): "train",
    ("export", "checkpoint.pt", "-o", "out"): "train",
    ("import", "model.onnx", "-o", "out"): "train",
    ("import", "checkpoint.pt", "-o", "out"): "train",
    ("calibrate", "--data", "data"): "train",
    ("quantize", "data", "--calibrate", "data"): "quantize",
    ("tune", "light", "-d", "data", "-o", "out"): "tune",
    ("reproduce", "--list"): "train",
    ("datasets", "list"): "train",
    ("datasets", "check", "data"): "train",
    ("gallery", "export", "out.parquet"): "parquet",
    ("gallery", "import", "in.parquet"): "parquet",
    ("gallery", "snapshot", "out"): "cpu",
    ("enroll", "data", "--ray", "auto", *NOWHERE): "ray",
    ("enroll", "video.mp4", "--tracks", "tracks.csv", *NOWHERE): "video",
    ("search", "data", "--picture", "ranked.png", *NOWHERE): "video",
    ("info", "data"): "video",
    ("bridge", "frigate", "--mqtt", "mqtt://broker", "--frigate", "http://frigate:5000"): "bridge",
    ("bridge", "axis", "--mqtt", "mqtt://broker"): "bridge",
    ("bridge", "onvif", "--mqtt", "mqtt://broker"): "bridge",
    ("bridge", "deepstream", "--redis", "redis://broker", "--space", "s"): "bridge",
    ("bridge", "deepstream", "--kafka", "broker:9092", "--space", "s"): "kafka",
    ("serve",): "cpu",
    ("serve", "--help"): "cpu",
    ("demo",): "cpu",
    ("demo-site",): "cpu",
}


def test_a_missing_extra_is_one_line_in_every_command(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    for (command, extra), (status, out, error) in zip(EXTRAS.items(), run(folder, *EXTRAS), strict=True):
        assert (status, out) == (1, ""), command
        (line,) = error.splitlines()
        assert line.startswith("Error: the package `"), command
        assert line.endswith(f"it comes with the extra `{extra}`: pip install 'not3d[{extra}]'"), command
    assert sorted(path.name for path in folder.iterdir()) == before


def test_client_commands_need_no_extra(folder: Path) -> None:
    commands = [("--help",), ("enroll", "data", *NOWHERE), ("search", "--id", "x", *NOWHERE), ("info", *NOWHERE)]
    (status, out, _), *others = run(folder, *commands)
    assert status == 0
    assert " serve " in out
    for status, _, error in others:
        assert status == 1
        assert error.startswith("Error: no service answers at http://127.0.0.1:9")

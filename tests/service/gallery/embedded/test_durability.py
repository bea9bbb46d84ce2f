"""The real service on full, read-only and damaged disks: clear errors, no loss of data, and no restart needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from not3d.commands.app import app
from service.gallery.archive.verify import verify
from tests.service.gallery.samples import open_gallery, record
from tests.service.live import Live, run_service
from tests.service.pictures import form, tracklet

ROOT = Path(__file__).parents[4]
CUT_OFF = """
import sys
from pathlib import Path
import tests.service.gallery.embedded.test_durability as here
disk, bundle = Path(sys.argv[1]), Path(sys.argv[2])
getattr(here, sys.argv[3])(disk, bundle)
print("done")
"""


def run_on_a_small_disk(disk: Path, bundle: Path, what: str) -> None:
    """Run a function of this module on a file system of two megabytes, which needs a user namespace."""
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=2m none {disk}"
    namespace = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    done = subprocess.run(
        [*namespace, "sh", "-c", f'{mount} && exec "$0" -c "$@"', sys.executable, CUT_OFF, disk, bundle, what],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NOT3D_CACHE_DIR": str(disk.parent / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


def enrol(live: Live, name: str) -> httpx.Response:
    fields = {"id": name, "camera_id": "c1", "metadata": json.dumps({"padding": name * 2000})}
    return live.client.post("/embed", files=form(tracklet(1, 2)), data=fields)


def serve(bundle: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Start a service that should end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "not3d", "serve", "--bundle", bundle, "--data-dir", data_dir, "--port", "0"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NOT3D_ENGINE": "onnxruntime"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def gallery_command(*words: str | Path) -> str:
    """Run `not3d gallery` and return its error, or nothing."""
    result = CliRunner().invoke(app, ["gallery", *map(str, words)])
    return "" if result.exit_code == 0 else str(result.exception)


def fill_the_disk(disk: Path, bundle: Path) -> None:
    """Enrol until nothing fits, free some space, and go on with the same process."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    with run_service(bundle, disk / "data", cache_dir=disk.parent / "cache") as live:
        names = [f"id-{number:04}" for number in range(1000)]
        enrolled = []
        for refused in names:
            answer = enrol(live, refused)
            if answer.status_code != 201:
                break
            enrolled.append(refused)
        assert len(enrolled) > 10
        assert answer.status_code == 507, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].endswith("disk-full")
        assert "no space left" in answer.json()["detail"]
        # Reading works, and the refused record does not exist.
        assert live.client.get("/readyz").status_code == 200
        assert [live.client.get(f"/gallery/{name}").status_code for name in enrolled] == [200] * len(enrolled)
        assert live.client.get(f"/gallery/{refused}").status_code == 404
        # A search that cannot be recorded is not answered.
        query = {"id": enrolled[0], "top_k": 1000}
        unrecorded = live.client.post("/search", json=query)
        assert (unrecorded.status_code, unrecorded.json()["type"].rpartition(":")[2]) == (507, "disk-full"), (
            unrecorded.text
        )
        ballast.unlink()
        assert live.client.post("/search", json=query).json()["searched"] == len(enrolled) - 1
        assert enrol(live, refused).status_code == 201
        enrolled.append(refused)
        # A removal first needs some space for the log.
        assert live.client.delete(f"/gallery/{enrolled.pop()}").status_code == 204
    report = verify(disk / "data")
    assert (report.problems, report.counts["records"]) == ([], len(enrolled))


def use_a_read_only_disk(disk: Path, bundle: Path) -> None:
    """The service refuses a gallery that cannot be written, but it can be verified, copied and exported."""
    gallery = open_gallery(disk / "data")
    gallery.add(record("a"))
    gallery.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refused = serve(bundle, disk / "data")
    assert refused.returncode == 1, refused.stderr
    assert "cannot be written: Read-only file system" in refused.stderr
    assert "Traceback" not in refused.stderr
    for command in (
        ("verify", disk / "data"),
        ("snapshot", "--data-dir", disk / "data", disk.parent / "snapshot"),
        ("export", "--data-dir", disk / "data", disk.parent / "out.parquet"),
        ("audit", "--data-dir", disk / "data"),
    ):
        assert gallery_command(*command) == ""
    assert verify(disk.parent / "snapshot").counts["records"] == 1
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    gallery = open_gallery(disk / "data")
    assert gallery.count() == 1
    gallery.close()


@pytest.mark.parametrize("what", ["fill_the_disk", "use_a_read_only_disk"])
def test_full_and_read_only_disks(tmp_path: Path, bundle: Path, what: str) -> None:
    if what == "use_a_read_only_disk":
        pytest.importorskip("pyarrow")
    run_on_a_small_disk(tmp_path / "disk", bundle, what)


def test_a_second_service_on_one_directory_refuses_to_start(tmp_path: Path, bundle: Path) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        assert enrol(live, "a").status_code == 201
        refused = serve(bundle, tmp_path / "data")
        assert refused.returncode == 1
        assert f"is open already (by process {os.getpid()})" in refused.stderr
        assert "--data-dir" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert enrol(live, "b").status_code == 201
        assert live.client.get("/gallery/a").status_code == 200


def test_a_damaged_database_is_refused_and_its_snapshot_can_be_restored(tmp_path: Path, bundle: Path) -> None:
    with run_service(bundle, tmp_path / "data") as live:
        assert enrol(live, "a").status_code == 201
        assert gallery_command("snapshot", "--data-dir", tmp_path / "data", tmp_path / "snapshot") == ""
    with (tmp_path / "data" / "gallery.sqlite").open("r+b") as file:
        file.write(os.urandom(4096))
    refused = serve(bundle, tmp_path / "data")
    assert refused.returncode == 1
    assert "is damaged" in refused.stderr
    assert "restore it from a backup" in refused.stderr
    assert "not3d gallery restore" in gallery_command("verify", tmp_path / "data")
    assert gallery_command("restore", tmp_path / "snapshot", "--data-dir", tmp_path / "new") == ""
    with run_service(bundle, tmp_path / "new") as live:
        assert live.client.get("/gallery/a").status_code == 200
        assert enrol(live, "b").status_code == 201

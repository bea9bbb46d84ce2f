import os
import subprocess
import sys
import tarfile

import pytest

from training.datasets.market1501 import is_market1501, read_market1501
from training.datasets.tracklet import DatasetError

NAMES = [
    "0002_c1s1_000451_03.jpg",
    "0002_c1s1_000420_01.jpg",
    "0002_c2s1_000001_01.jpg",
    "0007_c3s3_077419_02.jpg",
    "-1_c3s3_077419_03.jpg",
    "0000_c3s3_077419_04.jpg",
]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "Market" / "bounding_box_train"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(b"")
    return tmp_path / "Market"


def test_crops_are_grouped_by_person_and_camera_in_time_order(root):
    tracklets = read_market1501(root)
    assert [(t.person, t.camera, t.name) for t in tracklets] == [
        ("0002", "C1", "0002C1"),
        ("0002", "C2", "0002C2"),
        ("0007", "C3", "0007C3"),
    ]
    assert [f.name for f in tracklets[0].frames] == ["0002_c1s1_000420_01.jpg", "0002_c1s1_000451_03.jpg"]


def test_archive_reads_like_its_folder(root, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    archive = tmp_path / "market.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "Market")
    assert is_market1501(archive)
    for _ in range(2):  # unpacked the first time, found the second
        assert [t.name for t in read_market1501(archive)] == [t.name for t in read_market1501(root)]
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_several_processes_can_unpack_one_archive_at_once(root, tmp_path):
    for number in range(500):  # unpacking takes long enough to overlap
        (root / "bounding_box_train" / f"0009_c1s1_{number:06}_01.jpg").write_bytes(b"")
    archive, scratch = tmp_path / "market.tar", tmp_path / "scratch"
    scratch.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "Market")
    program = "import sys, pathlib; from training.datasets.market1501 import read_market1501 as read; "
    program += "sys.stdin.readline(); print(sum(len(t.frames) for t in read(pathlib.Path(sys.argv[1]))))"
    command = [sys.executable, "-c", program, str(archive)]
    options = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"TMPDIR": str(scratch)},
    }
    running = [subprocess.Popen(command, **options) for _ in range(3)]
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0].strip() for process in running] == ["504"] * 3
    assert len(list(scratch.iterdir())) == 1


def test_hidden_and_other_files_are_skipped(root):
    expected = [t.name for t in read_market1501(root)]
    for name in ("._0002_c1s1_000420_01.jpg", "Thumbs.db", ".DS_Store"):
        (root / "bounding_box_train" / name).write_bytes(b"")
    assert [t.name for t in read_market1501(root)] == expected


def test_unexpected_file_is_named(root, tmp_path):
    (root / "bounding_box_train" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holiday\.jpg"):
        read_market1501(root)
    assert not is_market1501(tmp_path / "scratch")
    with pytest.raises(DatasetError, match="bounding_box_train"):
        read_market1501(tmp_path / "nowhere")


def test_real_archive_is_read(shared_data):
    tracklets = read_market1501(shared_data / "market1501-train.tar")
    assert len({t.person for t in tracklets}) == 645
    assert sum(len(t.frames) for t in tracklets) == 11_123
    assert {t.camera for t in tracklets} == {f"C{n}" for n in range(1, 7)}

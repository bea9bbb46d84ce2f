import tarfile

import pytest

from training.datasets.archive import first_member, unpack_to_root
from training.datasets.catalog import kind_of, read_training
from training.datasets.tracklet import DatasetError


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def pack(tmp_path, *names):
    path = tmp_path / "site.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            file = tmp_path / "in" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
            tar.add(file, name)
    return path


def test_archive_of_people_cameras_and_tracklets_reads_as_a_folder(tmp_path, scratch):
    archive = pack(tmp_path, "site/0005/a/1/1.jpg", "site/0005/a/1/2.jpg", "site/0005/b/1/3.jpg", "site/0008/a/1/1.jpg")
    assert kind_of(archive) == "folder"
    found = [(t.person, t.camera, len(t.frames)) for t in read_training([archive])]
    assert found == [("0005", "a", 2), ("0005", "b", 1), ("0008", "a", 1)]
    assert unpack_to_root(archive).name == "site"
    assert len(list(scratch.iterdir())) == 1  # unpacked once


def test_file_that_is_not_an_archive_is_an_error(tmp_path):
    (tmp_path / "people.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(DatasetError, match="not a tar archive"):
        first_member(tmp_path / "people.tar")


def test_archive_without_files_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="contains no files"):
        first_member(pack(tmp_path))

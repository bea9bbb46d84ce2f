import tarfile

import pytest

from training.datasets.catalog import kind_of, read_training, set_aside
from training.datasets.cuhk03 import is_cuhk03, read_cuhk03
from training.datasets.market1501 import is_market1501
from training.datasets.tracklet import DatasetError

NAMES = ["0000/p1a/1/00.jpg", "0000/p1a/1/01.jpg", "0000/p1b/1/05.jpg", "0001/p2a/1/00.jpg", "0001/p2b/1/10.jpg"]


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        file = tmp_path / "data" / "cuhk03" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "data"


@pytest.fixture
def archive(root, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "cuhk03.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(root / "cuhk03", "cuhk03")
    return path


@pytest.mark.parametrize("place", ["data", "data/cuhk03"])
def test_one_tracklet_for_each_person_and_view(root, place):
    tracklets = read_cuhk03(root.parent / place)
    assert [(t.person, t.camera, t.name, len(t.frames)) for t in tracklets] == [
        ("cuhk03:0000", "p1a", "0000-p1a-1", 2),
        ("cuhk03:0000", "p1b", "0000-p1b-1", 1),
        ("cuhk03:0001", "p2a", "0001-p2a-1", 1),
        ("cuhk03:0001", "p2b", "0001-p2b-1", 1),
    ]


def test_archive_is_recognised_and_reads_like_its_folder(root, archive):
    assert is_cuhk03(archive)
    assert not is_market1501(archive)
    assert kind_of(archive) == kind_of(root) == "cuhk03"
    assert [t.name for t in read_cuhk03(archive)] == [t.name for t in read_cuhk03(root)]


def test_validation_people_are_the_same_with_and_without_other_data(archive, tmp_path):
    other = tmp_path / "Market" / "bounding_box_train"
    other.mkdir(parents=True)
    for name in ("0001_c1s1_000420_01.jpg", "0001_c2s1_000421_01.jpg"):
        (other / name).write_bytes(b"")
    together, alone = read_training([archive, other.parent]), read_training([archive])
    assert {t.person for t in together} == {"cuhk03:0000", "cuhk03:0001", "0001"}
    for seed in range(8):
        aside = {t.person for t in set_aside(together, 0.5, seed)[1]} - {"0001"}
        assert aside == {t.person for t in set_aside(alone, 0.5, seed)[1]}


def test_view_with_another_name_is_an_error(root):
    place = root / "cuhk03" / "0001" / "front" / "1"
    place.mkdir(parents=True)
    with pytest.raises(DatasetError, match="front: expected a folder of the form PPPP/pNa"):
        read_cuhk03(root)


def test_view_without_crops_is_an_error(root):
    (root / "cuhk03" / "0001" / "p2b" / "1" / "10.jpg").unlink()
    with pytest.raises(DatasetError, match="contains no crops"):
        read_cuhk03(root)

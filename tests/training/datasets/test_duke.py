import pytest

from tests.training.datasets.layouts import write_duke, write_image
from training.datasets.duke import is_duke, read_duke
from training.datasets.tracklet import DatasetError


def test_parts_and_both_forms_of_names_are_read(tmp_path):
    write_duke(tmp_path / "DukeMTMC-VideoReID")
    assert is_duke(tmp_path)
    read = read_duke(tmp_path)
    assert [(t.person, t.camera, len(t.frames)) for t in read.train] == [
        ("0001", "C1", 2),
        ("0001", "C2", 2),
        ("0002", "C1", 2),
    ]
    assert [(t.person, t.camera) for t in read.query] == [("0007", "C3")]
    # The gallery folder repeats the query's tracklet, which is not an answer.
    assert [(t.person, t.camera) for t in read.gallery] == [("0007", "C5"), ("0009", "C8")]


def test_missing_or_unexpected_file_is_named(tmp_path):
    write_duke(tmp_path)
    write_image(tmp_path / "train" / "0002" / "0003" / "holiday.jpg")
    with pytest.raises(DatasetError, match=r"holiday\.jpg: expected a name such as"):
        read_duke(tmp_path)
    (tmp_path / "query" / "0008" / "0001").mkdir(parents=True)
    (tmp_path / "train" / "0002" / "0003" / "holiday.jpg").unlink()
    with pytest.raises(DatasetError, match="0008/0001 contains no images"):
        read_duke(tmp_path)
    with pytest.raises(DatasetError, match="no train/, query/ and gallery/"):
        read_duke(tmp_path / "train")

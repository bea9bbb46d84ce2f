import pytest

from tests.training.datasets.layouts import write_duke, write_image
from training.datasets.duke import DukeError, is_duke, read_duke


def test_parts_and_cameras_at_either_place_of_the_name(tmp_path):
    write_duke(tmp_path / "DukeMTMC-VideoReID")
    assert is_duke(tmp_path)
    read = read_duke(tmp_path)
    assert [(t.person, t.camera, len(t.frames)) for t in read.train] == [
        ("0001", "C1", 2),
        ("0001", "C2", 2),
        ("0002", "C1", 2),
    ]
    assert [(t.person, t.camera) for t in read.query] == [("0007", "C3")]
    # The query's own tracklet, where the gallery repeats it, is no answer.
    assert [(t.person, t.camera) for t in read.gallery] == [("0007", "C5"), ("0009", "C8")]


def test_what_is_missing_or_foreign_is_named(tmp_path):
    write_duke(tmp_path)
    write_image(tmp_path / "train" / "0002" / "0003" / "holiday.jpg")
    with pytest.raises(DukeError, match=r"holiday\.jpg is not named like"):
        read_duke(tmp_path)
    (tmp_path / "query" / "0008" / "0001").mkdir(parents=True)
    (tmp_path / "train" / "0002" / "0003" / "holiday.jpg").unlink()
    with pytest.raises(DukeError, match="0008/0001 holds no images"):
        read_duke(tmp_path)
    with pytest.raises(DukeError, match="no train/, query/ and gallery/"):
        read_duke(tmp_path / "train")

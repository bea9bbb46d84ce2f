import pytest
from scipy.io import savemat

from tests.training.datasets.layouts import write_ilids_vid, write_image
from training.datasets.ilids_vid import IlidsVidError, is_ilids_vid, read_ilids_vid


def test_the_first_half_of_a_row_are_the_test_people_by_place_in_the_sorted_list(tmp_path):
    rows = write_ilids_vid(tmp_path)
    assert is_ilids_vid(tmp_path)
    for split, row in enumerate(rows):
        read = read_ilids_vid(tmp_path, split)
        people = sorted(f"{2 * (place - 1) + 1:03}" for place in row[:3])
        assert [t.person for t in read.query] == people == [t.person for t in read.gallery]
        assert {t.person for t in read.train} == {f"{2 * (place - 1) + 1:03}" for place in row[3:]}
        assert {t.camera for t in read.query} == {"cam1"}
        assert len(read.train) == 6
        # In time, not in the order of letters.
        assert [f.stem.split("_")[-1] for f in read.query[0].frames] == ["2", "10"]


def test_what_is_missing_or_foreign_is_named(tmp_path):
    write_ilids_vid(tmp_path)
    with pytest.raises(IlidsVidError, match="not 10"):
        read_ilids_vid(tmp_path, 10)
    list_file = tmp_path / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    write_image(tmp_path / "i-LIDS-VID" / "sequences" / "cam1" / "person999" / "1.png")
    with pytest.raises(IlidsVidError, match="person999 is in one of"):
        read_ilids_vid(tmp_path, 0)
    write_image(tmp_path / "i-LIDS-VID" / "sequences" / "cam2" / "person999" / "1.png")
    with pytest.raises(IlidsVidError, match=r"about 6 people, .* has 7"):
        read_ilids_vid(tmp_path, 0)
    savemat(list_file, {"ls_set": [[1, 2]] * 9})
    with pytest.raises(IlidsVidError, match="ten rows"):
        read_ilids_vid(tmp_path, 0)
    list_file.write_bytes(b"no matrix")
    with pytest.raises(IlidsVidError, match="not iLIDS-VID's list"):
        read_ilids_vid(tmp_path, 0)
    list_file.unlink()
    with pytest.raises(IlidsVidError, match=r"train-test people splits/train_test_splits_ilidsvid\.mat is missing"):
        read_ilids_vid(tmp_path, 0)

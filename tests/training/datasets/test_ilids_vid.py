import pytest
from scipy.io import savemat

from tests.training.datasets.layouts import write_ilids_vid, write_image
from training.datasets.ilids_vid import is_ilids_vid, read_ilids_vid
from training.datasets.tracklet import DatasetError


def test_first_half_of_a_row_are_test_people_by_position_in_the_sorted_list(tmp_path):
    rows = write_ilids_vid(tmp_path)
    assert is_ilids_vid(tmp_path)
    for split, row in enumerate(rows):
        read = read_ilids_vid(tmp_path, split)
        people = sorted(f"{2 * (position - 1) + 1:03}" for position in row[:3])
        assert [t.person for t in read.query] == people == [t.person for t in read.gallery]
        assert {t.person for t in read.train} == {f"{2 * (position - 1) + 1:03}" for position in row[3:]}
        assert {t.camera for t in read.query} == {"cam1"}
        assert len(read.train) == 6
        # In time order, not alphabetical order.
        assert [f.stem.split("_")[-1] for f in read.query[0].frames] == ["2", "10"]


def test_missing_or_malformed_file_is_named(tmp_path):
    write_ilids_vid(tmp_path)
    with pytest.raises(DatasetError, match="not 10"):
        read_ilids_vid(tmp_path, 10)
    list_file = tmp_path / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    write_image(tmp_path / "i-LIDS-VID" / "sequences" / "cam1" / "person999" / "1.png")
    with pytest.raises(DatasetError, match="person999 is in one of"):
        read_ilids_vid(tmp_path, 0)
    write_image(tmp_path / "i-LIDS-VID" / "sequences" / "cam2" / "person999" / "1.png")
    with pytest.raises(DatasetError, match=r"lists 6 people, but .* has 7"):
        read_ilids_vid(tmp_path, 0)
    savemat(list_file, {"ls_set": [[1, 2]] * 9})
    with pytest.raises(DatasetError, match="ten rows"):
        read_ilids_vid(tmp_path, 0)
    list_file.write_bytes(b"no matrix")
    with pytest.raises(DatasetError, match=r"not a MATLAB 5\.0"):
        read_ilids_vid(tmp_path, 0)
    list_file.unlink()
    with pytest.raises(DatasetError, match=r"train-test people splits/train_test_splits_ilidsvid\.mat is missing"):
        read_ilids_vid(tmp_path, 0)

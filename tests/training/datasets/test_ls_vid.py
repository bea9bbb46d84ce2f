import pytest

from tests.training.datasets.layouts import write_ls_vid
from training.datasets.ls_vid import is_ls_vid, read_ls_vid
from training.datasets.tracklet import DatasetError


@pytest.fixture
def root(tmp_path):
    write_ls_vid(tmp_path / "LS-VID")
    return tmp_path / "LS-VID"


def test_lists_prefixes_and_queries_are_read(root):
    assert is_ls_vid(root)
    assert is_ls_vid(root.parent)
    read = read_ls_vid(root)
    assert [(t.person, t.camera, len(t.frames)) for t in read.train] == [
        ("0", "C3", 2),
        ("0", "C12", 2),
        ("1", "C3", 2),
    ]
    assert [(t.person, t.camera) for t in read.query] == [("5", "C1"), ("6", "C1")]
    assert [(t.person, t.camera) for t in read.gallery] == [("5", "C2"), ("6", "C15")]


def test_missing_or_malformed_list_is_named(root):
    (root / "tracklet_test" / "0005" / "0005_c_02_0001_0001.jpg").unlink()
    (root / "tracklet_test" / "0005" / "0005_c_02_0001_0002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"0005_c_02_0001\*\.jpg is missing; .*list_seq_test.txt, line 2"):
        read_ls_vid(root)
    (root / "list_sequence" / "list_seq_test.txt").write_text("only-a-path\n")
    with pytest.raises(DatasetError, match="line 1: expected a path prefix and a person"):
        read_ls_vid(root)
    (root / "list_sequence" / "list_seq_test.txt").unlink()
    with pytest.raises(DatasetError, match=r"list_seq_test\.txt is missing"):
        read_ls_vid(root)


def test_missing_or_unreadable_query_list_is_named(root):
    file = root / "test" / "data" / "info_test.mat"
    file.write_bytes(b"MATLAB 5.0")
    with pytest.raises(DatasetError, match="not LS-VID's list of queries"):
        read_ls_vid(root)
    file.unlink()
    with pytest.raises(DatasetError, match=r"info_test\.mat is missing"):
        read_ls_vid(root)

import json
import shutil

import pytest

from tests.training.datasets.layouts import write_prid2011
from training.datasets.prid2011 import is_prid2011, read_prid2011
from training.datasets.tracklet import DatasetError


@pytest.fixture
def root(tmp_path):
    return write_prid2011(tmp_path)


@pytest.mark.parametrize("split", range(10))
def test_split_has_the_people_of_its_list(root, split):
    listed = json.loads((root / "splits_prid2011.json").read_text())[split]
    read = read_prid2011(root, split)
    assert [t.person for t in read.query] == [name[7:] for name in listed["test"]]
    assert [t.person for t in read.gallery] == [t.person for t in read.query]
    assert sorted({f"person_{t.person}" for t in read.train}) == listed["train"]
    assert {t.camera for t in read.query} == {"cam_a"}
    assert {t.camera for t in read.gallery} == {"cam_b"}
    assert len(read.train) == 4
    assert all([f.name for f in t.frames] == ["0001.png", "0002.png", "0003.png"] for t in read.train)


def test_dataset_is_found_from_any_folder_around_it(root):
    for place in (root, root / "multi_shot", root.parent):
        assert is_prid2011(place)
        assert read_prid2011(place, 0) == read_prid2011(root, 0)


def test_missing_or_malformed_file_is_named(root):
    with pytest.raises(DatasetError, match="splits 0 to 9, not 10"):
        read_prid2011(root, 10)
    for person in (root / "multi_shot" / "cam_b").iterdir():
        shutil.rmtree(person)
    with pytest.raises(DatasetError, match=r"cam_b/person_\d{4} is missing or contains no images"):
        read_prid2011(root, 0)
    (root / "splits_prid2011.json").write_text("[]")
    with pytest.raises(DatasetError, match="ten times"):
        read_prid2011(root, 0)
    (root / "splits_prid2011.json").unlink()
    with pytest.raises(DatasetError, match=r"splits_prid2011\.json is missing"):
        read_prid2011(root, 0)
    with pytest.raises(DatasetError, match="no multi_shot"):
        read_prid2011(root / "multi_shot" / "cam_a", 0)


def test_the_published_splits_name_178_people(shared_data, root):
    published = shared_data.parent / "reference" / "splits_prid2011.json"
    splits = json.loads(published.read_text())
    people = {name for split in splits for part in split.values() for name in part}
    assert len(people) == 178
    for name in people:
        for camera in ("cam_a", "cam_b"):
            folder = root / "multi_shot" / camera / name
            folder.mkdir(exist_ok=True)
            (folder / "0001.png").touch()
    shutil.copy(published, root / "splits_prid2011.json")
    for split in range(10):
        read = read_prid2011(root, split)
        assert (len(read.train), len(read.query), len(read.gallery)) == (178, 89, 89)
        assert not {t.person for t in read.train} & {t.person for t in read.query}
    assert "person_0006" not in people
    assert "person_0200" not in people

from pathlib import Path

import pytest

from tests.training.datasets.layouts import write_duke, write_ilids_vid, write_prid2011
from training.datasets.catalog import (
    kind_of,
    one_per_person_and_camera,
    read_benchmark,
    read_training,
    set_aside,
    site_of,
    split_count,
)
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import DatasetError, Tracklet


def tracklets(count):
    return [Tracklet(f"{p:04d}", c, (Path("a"),) * (p % 3 + 1)) for p in range(count) for c in ("C1", "C2")]


def test_person_is_on_one_side_only():
    train, aside = set_aside(tracklets(400), 0.1, 1)
    assert not {t.person for t in train} & {t.person for t in aside}
    assert len(train) + len(aside) == 800
    assert 20 < len({t.person for t in aside}) < 60


def test_more_data_moves_no_person_to_the_other_side():
    _, few = set_aside(tracklets(200), 0.2, 1)
    _, many = set_aside(tracklets(400), 0.2, 1)
    assert {t.person for t in few} == {t.person for t in many if t.person < "0200"}
    _, other = set_aside(tracklets(200), 0.2, 2)
    assert {t.person for t in other} != {t.person for t in few}


def test_people_of_one_camera_are_never_set_aside():
    single = [Tracklet(f"{p}", "C1", (Path("a"),)) for p in range(100)]
    assert set_aside(single, 0.5, 1) == (single, [])


def test_longest_tracklet_of_person_and_camera_is_kept():
    short, long = Tracklet("a", "C1", (Path("x"),)), Tracklet("a", "C1", (Path("x"), Path("y")))
    other = Tracklet("a", "C2", (Path("x"),))
    assert one_per_person_and_camera([other, short, long]) == [long, other]


def test_folder_with_datasets_of_two_kinds_is_refused(tmp_path):
    write_prid2011(tmp_path)
    assert kind_of(tmp_path) == "prid2011"
    write_ilids_vid(tmp_path / "ilids")
    write_ilids_vid(tmp_path)
    with pytest.raises(DatasetError, match="several datasets, prid2011 and ilids-vid"):
        kind_of(tmp_path)


def test_benchmark_is_read_by_split(tmp_path):
    write_prid2011(tmp_path / "prid")
    write_duke(tmp_path / "duke")
    assert (split_count(tmp_path / "prid"), split_count(tmp_path / "duke")) == (10, 1)
    assert read_benchmark(tmp_path / "prid", 9).split == 9
    assert read_benchmark(tmp_path / "duke").split is None
    with pytest.raises(DatasetError, match=r"10 splits: choose one \(0 to 9\)"):
        read_benchmark(tmp_path / "prid")
    with pytest.raises(DatasetError, match="splits 0 to 9, not 10"):
        read_benchmark(tmp_path / "prid", 10)
    with pytest.raises(DatasetError, match="no splits: omit the split"):
        read_benchmark(tmp_path / "duke", 0)
    # Each dataset numbers its people from 1, so their ids get a prefix if both are read.
    people = {t.person for t in read_training([tmp_path / "prid", tmp_path / "duke"], split=0)}
    assert {person.partition(":")[0] for person in people} == {"prid2011", "duke"}


def test_training_reads_folders_with_people_and_cameras_only(tmp_path):
    write_synthetic(tmp_path / "a", people=2, cameras=2, frames=2, seed=1)
    found = read_training([tmp_path / "a"])
    assert len({t.person for t in found}) == 2
    assert len({t.camera for t in found}) == 2
    with pytest.raises(DatasetError, match="does not exist"):
        read_training([tmp_path / "b"])
    flat = tmp_path / "c" / "one"
    flat.mkdir(parents=True)
    (flat / "1.jpg").write_bytes(found[0].frames[0].read_bytes())
    with pytest.raises(DatasetError, match="person/camera/tracklet"):
        read_training([tmp_path / "c"])


def test_site_is_the_prefix_of_the_id():
    assert [site_of(person) for person in ("0001", "cuhk03:0001", "ls-vid:12")] == ["", "cuhk03", "ls-vid"]


def test_dataset_that_is_given_twice_is_refused(tmp_path):
    for camera in ("c1", "c2"):
        (tmp_path / "site" / "p1" / camera / "t1").mkdir(parents=True)
        (tmp_path / "site" / "p1" / camera / "t1" / "1.jpg").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "site")
    with pytest.raises(DatasetError, match="link is given twice"):
        read_training([tmp_path / "site", tmp_path / "link"])


def test_images_at_another_depth_are_named(tmp_path):
    write_synthetic(tmp_path / "site", people=2, cameras=2, frames=1, seed=1, size=(32, 16))
    (tmp_path / "site" / "stray.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"training needs person/camera.*; .*site has images at another depth"):
        read_training([tmp_path / "site"])

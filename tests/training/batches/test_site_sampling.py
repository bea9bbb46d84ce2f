from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.batches.site_sampling import SiteSampler
from training.datasets.tracklet import Tracklet


def site(name, people, cameras=2):
    prefix = f"{name}:" if name else ""
    return [Tracklet(f"{prefix}{p:04}", f"c{c}", (Path("x.jpg"),)) for p in range(people) for c in range(cameras)]


@pytest.fixture
def dataset():
    return [*site("", 10, cameras=4), *site("cuhk03", 30)]


def test_every_batch_holds_as_many_people_of_each_site(dataset, rng):
    for batch in SiteSampler(dataset, 8, 4).batches(rng):
        people = [dataset[i].person for i in batch[::4]]
        assert len(set(people)) == 8
        assert Counter(":" in person for person in people) == {False: 4, True: 4}


def test_each_person_gives_two_tracklets_of_each_of_two_cameras(dataset, rng):
    for batch in SiteSampler(dataset, 8, 4).batches(rng):
        for start in range(0, len(batch), 4):
            drawn = [dataset[i] for i in batch[start : start + 4]]
            assert len({t.person for t in drawn}) == 1
            assert sorted(Counter(t.camera for t in drawn).values()) == [2, 2]


def test_an_epoch_is_the_largest_site_once(dataset, rng):
    batches = SiteSampler(dataset, 8, 4).batches(rng)
    assert len(batches) == 30 // 4
    large = [dataset[i].person for batch in batches for i in batch[::4] if ":" in dataset[i].person]
    small = [dataset[i].person for batch in batches for i in batch[::4] if ":" not in dataset[i].person]
    assert max(Counter(large).values()) == 1
    assert set(Counter(small).values()) == {2, 3}  # 28 draws of 10 people, all before any comes again


def test_a_person_of_one_camera_gives_all_from_it(rng):
    dataset = [*site("a", 3), *[Tracklet("a:0009", "c0", (Path("x.jpg"),), str(i)) for i in range(3)]]
    batches = SiteSampler(dataset, 4, 4).batches(rng)
    drawn = [i for batch in batches for i in batch if dataset[i].person == "a:0009"]
    assert len(drawn) == 4
    assert set(drawn) == {6, 7, 8}


def test_with_one_camera_each_person_gives_all_from_it(dataset, rng):
    for batch in SiteSampler(dataset, 8, 4, cameras=1).batches(rng):
        for start in range(0, len(batch), 4):
            assert len({(dataset[i].person, dataset[i].camera) for i in batch[start : start + 4]}) == 1


def test_same_seed_gives_same_batches(dataset):
    one, other = (SiteSampler(dataset, 8, 4).batches(np.random.default_rng([1, 5])) for _ in range(2))
    assert one == other


def test_people_of_a_batch_must_divide_among_sites(dataset):
    with pytest.raises(ValueError, match=r"multiple of the number of sites, 2 \(got 7\)"):
        SiteSampler(dataset, 7, 4)


def test_too_few_people_is_an_error():
    with pytest.raises(
        ValueError, match=r"needs 8 people \(batch.people\), but the training set has 3: give more people"
    ):
        SiteSampler(site("", 3), 8, 4)

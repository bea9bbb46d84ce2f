"""The benchmark of linking, on people who are easy to tell apart."""

import numpy as np

from benchmarks.linking import draw_world, measure
from benchmarks.recognition.sites import Site
from service.linking import Place


def make_site() -> Site:
    rng = np.random.default_rng(3)
    people = [f"p{number // 4}" for number in range(40)]
    centres = {name: rng.standard_normal(32) for name in sorted(set(people))}
    features = np.stack([centres[name] + 0.05 * rng.standard_normal(32) for name in people]).astype(np.float32)
    return Site("drawn", "all", features, people, [f"c{number % 4}" for number in range(40)])


def test_the_drawn_walks_keep_the_minimum_times() -> None:
    site = make_site()
    world = draw_world(site, np.random.default_rng(1))
    assert [record.camera_id for record in world.records] == site.cameras
    for one, name in zip(world.records, world.people, strict=True):
        for other, other_name in zip(world.records, world.people, strict=True):
            if one.id != other.id and name == other_name:
                first, second = Place.of(one), Place.of(other)
                assert first
                assert second
                assert world.travel_times.allow(first, second)


def test_clear_people_are_found_by_all_methods() -> None:
    [row] = measure(make_site(), {"strict": 0.9}, draws=1, seeds=10)
    same = "100.0 / 100.0<br>+0.0 (+0.0 to +0.0) / +0.0 (+0.0 to +0.0)"
    assert row == ["strict (0.900)", "100.0 / 100.0", "100.0 / 100.0", same, same]

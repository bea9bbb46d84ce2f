"""The gallery's benchmark: drawn vectors, judging of answers, and the complete command once."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gallery.drawing import CHUNK, SPREAD, Drawing, Population, Spread, cameras_of, id_of, number_of
from benchmarks.gallery.embedded import SPACE
from benchmarks.gallery.ground_truth import Truth, count_wrong, recall_of
from benchmarks.gallery.spread import Covariances, camera_share, cosines
from benchmarks.process import ObjectProcess, footprint
from service.gallery.embedded.gallery import EmbeddedGallery

ROOT = Path(__file__).parents[2]


def test_drawn_vectors_are_reproducible_unit_vectors():
    one, two = (Drawing(96, 50, seed=3) for _ in range(2))
    rows = np.concatenate(list(one.rows(CHUNK + 10)))
    assert rows.shape == (CHUNK + 10, 96)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(rows[CHUNK:], two.chunk(1)[:10])  # without drawing the rows before
    assert np.array_equal(one.queries(5), two.queries(5))
    assert not np.array_equal(one.chunk(0)[:5], Drawing(96, 50, seed=4).chunk(0)[:5])


@pytest.mark.parametrize("dimension", [384, 2048])
def test_cosines_of_drawn_vectors_match_real_ones(dimension):
    kept = json.loads(SPREAD.read_text())
    drawing = Drawing(dimension, 600)
    seen = cosines(drawing.chunk(0)[:2500], drawing.people_of(0)[:2500])
    for which, tolerance in (("same", 0.07), ("other", 0.05)):
        # From 5 to 95 %: the real ends are of few pairs.
        real = np.mean([kept["cosines"][which], kept["cosines_set_aside"][which]], axis=0)
        assert np.abs(np.asarray(seen[which]) - real)[1:6].max() < tolerance, which


def test_cameras_shift_drawn_vectors_as_much_as_real_ones():
    drawing = Drawing(384, 600)
    rows, people, cameras = drawing.chunk(0), drawing.people_of(0), cameras_of(0)
    assert camera_share(rows, people, cameras) == pytest.approx(json.loads(SPREAD.read_text())["camera"], rel=0.25)
    assert camera_share(rows, people, np.roll(cameras, 1)) == pytest.approx(0, abs=0.005)


def test_rotation_spreads_the_variance_over_all_axes():
    rows = Drawing(512, 400).chunk(0)
    spread = Spread.load().stretched(512)
    variances = spread.between + spread.within
    assert variances.max() / variances.mean() > 5
    assert rows.var(axis=0).max() / rows.var(axis=0).mean() < 2.5


def test_stretching_keeps_variance_and_number_of_directions():
    measured = Spread.load()
    for dimension in (512, 2048):
        longer = measured.stretched(dimension)
        assert len(longer.between) == len(longer.within) == dimension
        for name in ("between", "within"):
            assert getattr(longer, name).sum() == pytest.approx(getattr(measured, name).sum())
        old, new = (part.between + part.within for part in (measured, longer))
        assert new.sum() ** 2 / (new**2).sum() == pytest.approx(old.sum() ** 2 / (old**2).sum(), rel=0.05)


def test_covariances_match_those_of_the_drawn_rows():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(3000), 3)
    rows = rng.normal(0, [2, 1, 0.5], (3000, 3))[people] + rng.normal(0, [0.3, 0.6, 0.9], (9000, 3)) + [5, 0, 0]
    found = Covariances.of(rows, people)
    assert found.mean == pytest.approx([5, 0, 0], abs=0.15)
    assert np.diag(found.between) == pytest.approx([4, 1, 0.25], rel=0.12)
    assert np.diag(found.within) == pytest.approx([0.09, 0.36, 0.81], rel=0.05)


def test_conditions_select_the_rows_that_the_gallery_selects(tmp_path):
    count = 1500
    population, rows = Population(count), np.concatenate(list(Drawing(16, 60).rows(count)))
    gallery = EmbeddedGallery.open(tmp_path, embedding_space=SPACE, dimension=16, model_name="drawn")
    try:
        gallery.enrol(population.records(0, rows), "replace")
        conditions = population.conditions(range(100, 130))
        for condition in conditions:
            result = gallery.search(rows[0], count, condition.filter)
            assert {number_of(hit.record.id) for hit in result.hits} == set(np.flatnonzero(condition.mask).tolist())
    finally:
        gallery.close()
    shares = {condition.name: condition.mask.mean() for condition in conditions}
    assert shares["none"] == 1
    assert shares["metadata, one row"] == 1 / count
    assert shares["metadata, 50 %"] == pytest.approx(0.5, abs=0.05)
    assert shares["all but 30 ids"] == 1 - 30 / count


def test_truth_from_chunks_equals_a_full_sort():
    rng = np.random.default_rng(1)
    queries, rows = (rng.normal(size=(count, 8)).astype(np.float32) for count in (5, 900))
    mask = rng.random(900) < 0.01
    mask[:3] = True
    truth = Truth(queries, [np.ones(900, np.bool_), mask])
    for start in range(0, 900, 128):
        truth.add(start, rows[start : start + 128])
    scores = queries @ rows.T
    for query in range(5):
        assert truth.threshold(0, query) == pytest.approx(np.sort(scores[query])[-10])
        passing = np.sort(scores[query, mask])
        assert truth.threshold(1, query) == pytest.approx(passing[-min(10, len(passing))])
    best = [np.argsort(-row)[:10].tolist() for row in scores]
    values = [[float(scores[query, number]) for number in numbers] for query, numbers in enumerate(best)]
    assert recall_of(truth, 0, best, values) == 1
    best[0][9], values[0][9] = best[0][0], values[0][0]  # a row twice counts once
    best[1][9] = int(np.argmin(scores[1]))
    values[1][9] = float(scores[1].min())
    assert recall_of(truth, 0, best, values) == 1 - 2 / 50


def test_wrong_answers_have_excluded_duplicate_or_missing_rows():
    mask = np.asarray([True, True, True, False])
    assert count_wrong(mask, [[0, 1], [2, 0]], 2) == 0
    assert count_wrong(mask, [[0, 3], [1, 1], [2], [0, 1, 2]], 2) == 4


def test_ids_contain_row_numbers():
    assert number_of(id_of(999_999)) == 999_999


def test_object_process_reports_an_error_or_its_end():
    with ObjectProcess(list, "ab") as process:
        assert process.call("count", "a") == 1
        used = footprint(process.pid)
        assert used.peak >= used.resident > 1_000_000
        with pytest.raises(SystemExit, match="not in list"):
            process.call("index", "c")
    with ObjectProcess(list, "ab") as process:
        process.kill()
        with pytest.raises(SystemExit, match="code -9"):
            process.call("count", "a")


def test_command_measures_the_gallery_and_peers(tmp_path):
    peers = ["not3d", *(["hnswlib"] if importlib.util.find_spec("hnswlib") else [])]
    command = [sys.executable, "-m", "benchmarks.gallery", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run([*command, "--peers", *peers], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| **not3d**, as it comes |" in done.stdout
    assert "lists of 8-bit codes" in done.stdout  # the size is above the limit it was given
    assert done.stdout.count("| metadata, one row | 1 |") == 1
    targets = done.stdout.split("Targets:")[1].strip().splitlines()
    judged = re.search(r": 0 of (\d+) do not: \*\*met\*\*$", targets[0])
    assert judged
    assert 280 <= int(judged[1]) <= 290  # 20 queries under each of 13 filters; 20 to 30 without one, as time allows
    assert all(line.endswith(("**met**", "**missed**")) for line in targets)
    assert list(tmp_path.iterdir()) == []

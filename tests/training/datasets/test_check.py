from pathlib import Path

import pytest

from tests.training.datasets.layouts import write_duke, write_ilids_vid, write_image, write_ls_vid, write_prid2011
from training.datasets.check import count, inspect_dataset
from training.datasets.matfile import read_mat
from training.datasets.official import OFFICIAL
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet


def test_counts_of_mars_are_the_official_ones(shared_data):
    reference = shared_data.parent / "reference"

    def tracklets(part):
        rows = read_mat(reference / f"tracks_{part}_info.mat")[f"track_{part}_info"].astype(int)
        return rows, [
            Tracklet(f"{person:04}", f"C{camera}", (Path(),) * (last - first + 1), str(row))
            for row, (first, last, person, camera) in enumerate(rows)
        ]

    _, train = tracklets("train")
    rows, test = tracklets("test")
    queries = set((read_mat(reference / "query_IDX.mat")["query_IDX"].astype(int).ravel() - 1).tolist())
    query = [tracklet for row, tracklet in enumerate(test) if row in queries]
    gallery = [t for row, t in enumerate(test) if row not in queries and rows[row, 2] != -1]
    junk = [t for row, t in enumerate(test) if rows[row, 2] == -1]
    counts = count(Benchmark("mars", train, query, gallery, junk=junk))
    assert {name: counts[name] for name in OFFICIAL["mars"].counts} == OFFICIAL["mars"].counts


def test_excerpt_has_no_problems(shared_data):
    found = inspect_dataset(shared_data / "mini-mars", decode=20)
    assert found.problems == []
    assert "an excerpt: 16 of 625 train people" in found.notes
    assert found.facts["queries with a match"] == "8"
    assert found.facts["queries with a match, queries in the gallery"] == "12"
    assert found.facts["images decoded"] == "20 of 3,550"


@pytest.mark.parametrize(
    ("write", "kind", "queries"),
    [(write_prid2011, "prid2011", "2"), (write_ilids_vid, "ilids-vid", "3"), (write_duke, "duke", "1"),
     (write_ls_vid, "ls-vid", "2")],
)  # fmt: skip
def test_each_layout_is_recognised_and_read(tmp_path, write, kind, queries):
    write(tmp_path)
    found = inspect_dataset(tmp_path, decode="all")
    assert (found.kind, found.problems) == (kind, [])
    assert found.facts["query tracklets"] == queries
    assert any(note.startswith("an excerpt") for note in found.notes)
    assert found.facts.get("splits") == ("10" if kind in ("prid2011", "ilids-vid") else None)


def test_folder_of_own_footage_has_no_problems(tmp_path):
    write_image(tmp_path / "anna" / "door" / "1" / "1.jpg")
    found = inspect_dataset(tmp_path)
    assert (found.kind, found.problems, found.notes) == ("folder", [], [])
    assert found.facts["train people"] == "1"


@pytest.mark.parametrize(("official", "excerpt"), [(3, True), (2, False)])
def test_dataset_with_nine_in_ten_of_the_people_must_be_complete(tmp_path, monkeypatch, official, excerpt):
    write_duke(tmp_path)  # two training people
    monkeypatch.setitem(OFFICIAL["duke"].counts, "train people", official)
    found = inspect_dataset(tmp_path)
    assert (not found.problems) == excerpt
    assert any("an excerpt" in note for note in found.notes) == excerpt


def test_wrong_counts_of_a_complete_dataset_are_problems(tmp_path, monkeypatch):
    write_prid2011(tmp_path)
    monkeypatch.setitem(OFFICIAL["prid2011"].counts, "train people", 2)
    found = inspect_dataset(tmp_path)
    assert "split 0: 4 train tracklets, officially 178" in found.problems
    for name, number in {"train tracklets": 4, "query tracklets": 2, "gallery tracklets": 2}.items():
        monkeypatch.setitem(OFFICIAL["prid2011"].counts, name, number)
    found = inspect_dataset(tmp_path)
    assert found.problems == []
    assert "complete: all counts are the official ones" in found.notes


def test_damaged_images_are_problems_and_unused_images_are_noted(tmp_path):
    write_duke(tmp_path)
    frame = next((tmp_path / "train" / "0001").rglob("*.jpg"))
    frame.write_bytes(b"not a picture")
    write_image(tmp_path / "readme" / "figure.png")
    found = inspect_dataset(tmp_path, decode="all")
    assert len(found.problems) == 1
    assert found.problems[0].startswith(str(frame))
    # The query's tracklet is repeated in the gallery, where it is not used.
    assert any("3 images belong to no tracklet" in note for note in found.notes)


def test_unreadable_lists_are_problems(tmp_path):
    write_prid2011(tmp_path)
    (tmp_path / "prid_2011" / "splits_prid2011.json").unlink()
    found = inspect_dataset(tmp_path)
    assert "splits_prid2011.json is missing" in found.problems[0]
    with pytest.raises(DatasetError, match="does not exist"):
        inspect_dataset(tmp_path / "nowhere")

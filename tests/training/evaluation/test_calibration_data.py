from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.calibration import CalibrationError
from tests.bundles import make_bundle
from tests.training.recipes import set_recipe
from training.datasets.catalog import set_aside
from training.datasets.synthetic.dataset import write_synthetic
from training.evaluation.calibration_data import embed_pairs, pairs_of_judged, read_judged_pairs, select_tracklets


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "score,same\n0.5,1\n-0.25,0\n",
        "\ufeffScore;Same\r\n0.5;yes\r\n-0.25;No\r\n",
        "same\tscore\tnote\nsame\t0.5\tx\n\ndifferent\t-0.25\ty\n",
        '"score","same"\n"0.5","TRUE"\n" -0.25 ",false',
    ],
)
def test_csv_of_scores_is_read_in_several_dialects(tmp_path: Path, text: str) -> None:
    judged = read_judged_pairs(write(tmp_path / "pairs.csv", text))

    assert judged.scores == (0.5, -0.25)
    assert judged.same == (True, False)
    pairs, left_out = pairs_of_judged(judged)
    assert (pairs.named, pairs.mated, pairs.non_mated, left_out) == (False, 1, 1, 0)


def test_persons_and_cameras_of_a_csv_are_used(tmp_path: Path) -> None:
    rows = ["0.5,1,p,p,1,2", "0.1,0,p,q,1,2", "0.9,1,p,p,2,2", "0.2,0,q,r,,"]
    path = write(tmp_path / "pairs.csv", "score,same,person_a,person_b,camera_a,camera_b\n" + "\n".join(rows))

    pairs, left_out = pairs_of_judged(read_judged_pairs(path))

    assert left_out == 1
    assert pairs.scores.tolist() == [0.5, 0.1, 0.2]
    assert (pairs.people, pairs.cameras) == (3, 2)


def test_tracklets_are_joined_to_people_by_the_pairs_that_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "id_a,id_b,same\na,b,1\nb,c,1\na,d,0\nd,e,1\ne,c,0\n")

    judged = read_judged_pairs(path)
    pairs, _ = pairs_of_judged(judged, scores=[0.9, 0.8, 0.1, 0.7, 0.2])

    assert judged.scores is None
    assert judged.ids is not None
    assert pairs.people == 2
    assert pairs.people_pairs == 1


def test_verdicts_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "id_a,id_b,same\na,b,1\nb,c,1\na,c,0\n")
    with pytest.raises(CalibrationError, match=r"line 4: 'same' is 0, .* make it one person; correct"):
        pairs_of_judged(read_judged_pairs(path), scores=[1, 1, 1])

    path = write(tmp_path / "pairs.csv", "score,same,person_a,person_b\n0.4,1,p,q\n")
    with pytest.raises(CalibrationError, match=r"line 2: 'same' is 1, .* make it two people"):
        pairs_of_judged(read_judged_pairs(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header must name the columns score,same or id_a,id_b,same"),
        ("0.4,1\n", "line 1: the header must name"),
        ("score,label\n0.4,1\n", "line 1: the header must name"),
        ("score,same\n0.4,1\nhigh,0\n", r"line 3: score must be a number \(got 'high'\)"),
        ("score,same\nnan,1\n", "line 2: score must be a number"),
        ("score,same\n1e999,1\n", "line 2: score must be a number"),
        ("score,same\n37,1\n", r"line 2: score must be -1 to 1, .*\(got 37\)"),
        ("score,same\n0.4,maybe\n", r"line 2: same must be 1 or 0 \(got 'maybe'\)"),
        ("score,same\n0.4\n", "line 2: same must be 1 or 0"),
        ("id_a,id_b,same\na,,1\n", "line 2: id_a and id_b must not be empty"),
        ("id_a,id_b,same\na,a,1\n", "line 2: id_a and id_b are both 'a'"),
        ("score,same,person_a,person_b\n0.1,0,p,\n", "line 2: person_a and person_b must not be empty"),
        ('score,same\n0.4,"1\n', "line .*: unexpected end of data"),
    ],
)
def test_wrong_csv_is_an_error_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_judged_pairs(write(tmp_path / "pairs.csv", text))


def test_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"\xff\xfe\x00score")

    with pytest.raises(CalibrationError, match="not a text file in UTF-8"):
        read_judged_pairs(path)


def test_scores_of_another_mode_may_have_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "score,same\n37,1\n")

    assert read_judged_pairs(path, "reranked").scores == (37.0,)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "people"
    write_synthetic(folder, people=24, cameras=2, frames=2, seed=5, size=(64, 32))
    return folder


def test_people_set_aside_are_those_of_the_training(tmp_path: Path, people: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    set_recipe(folder, seed=3, validation_share=0.4)
    bundle = Bundle.load(folder)

    everyone, described = select_tracklets(bundle, [people], aside=False)
    chosen, aside_described = select_tracklets(bundle, [people], aside=True)

    assert described == "people of people"
    assert chosen == set_aside(everyone, 0.4, 3)[1]
    count = len({tracklet.person for tracklet in chosen})
    assert 0 < count < 24
    assert aside_described == "people of people whom the training set aside"


def test_a_model_that_set_nobody_aside_says_so(tmp_path: Path, people: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    with pytest.raises(CalibrationError, match="its training set no people aside"):
        select_tracklets(Bundle.load(folder), [people], aside=True)

    set_recipe(folder, seed=3, validation_share=1e-6)
    with pytest.raises(CalibrationError, match="none of the 24 people of people were set aside"):
        select_tracklets(Bundle.load(folder), [people], aside=True)


def test_tracklets_are_embedded_and_paired_across_cameras(tmp_path: Path, people: Path) -> None:
    bundle = Bundle.load(make_bundle(tmp_path / "bundle"))
    tracklets, _ = select_tracklets(bundle, [people], aside=False)
    steps: list[int] = []

    pairs = embed_pairs(bundle, tracklets, progress=lambda: steps.append(1))

    assert len(steps) == len(tracklets) == 48
    assert (pairs.mated, pairs.non_mated, pairs.people, pairs.cameras) == (24, 24 * 23, 24, 2)
    assert np.abs(pairs.scores).max() <= 1 + 1e-6
    assert pairs.scores[pairs.same].mean() > pairs.scores[~pairs.same].mean()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,same,same\n0.5,1,0\n", "line 1: the column same is there twice"),
        ("score,Score,same\n0.5,0.1,0\n", "line 1: the column score is there twice"),
        ("score,same\n0.5,1,\n0,1,7\n", "line 3: more values than the header has columns"),
        ("id_a,id_b,same\na,b,1\na,c,0\nc,a,0\n", "line 4: 'c' and 'a' were judged in line 3 already"),
    ],
)
def test_csv_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        read_judged_pairs(write(tmp_path / "pairs.csv", text))

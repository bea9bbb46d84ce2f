"""Rows that run on a small synthetic dataset in the layout of MARS, with a light backbone."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import training.reproduction.training as trainings
from not3d.commands import Interrupted
from not3d.commands.app import app
from tests.training.datasets.layouts import write_prid2011
from training.batches.augmentation import Augmentation
from training.datasets.mars import JUNK_PERSON
from training.datasets.matfile import read_integers
from training.datasets.synthetic.dataset import write_synthetic
from training.loop import trainer
from training.loop.optimiser import learning_rate
from training.loop.run import BEST, LAST
from training.reproduction.papers import ReproductionError, load_differences, select_rows
from training.reproduction.report import Measurement, compare, describe_differences
from training.reproduction.reproduce import average, find_data, run_row
from training.reproduction.training import FINISHED, ReproductionSettings, Training

savemat = pytest.importorskip("scipy.io").savemat
CHOICES = {
    "1-euclidean": ("euclidean", 1, "batch_normed"),
    "4-cosine": ("cosine", 2, "batch_normed"),
    "rfu-inference": ("cosine", 3, "raw"),
}
"""Distance, number of clips in the smoke run, and feature."""
LIGHT = {"network.backbone": "resnet18_ibn_a_x0_75"}


@pytest.fixture(scope="module")
def mars(tmp_path_factory):
    """Six training people and four test people at two cameras; the first camera has the queries."""
    root, drawn = tmp_path_factory.mktemp("mars"), tmp_path_factory.mktemp("drawn")
    write_synthetic(drawn, people=10, cameras=2, frames=6, seed=4, size=(64, 32))
    (root / "info").mkdir()
    queries = []
    for part, people in (("train", range(1, 7)), ("test", range(7, 11))):
        names, rows = [], []
        for person in people:
            for camera in (1, 2):
                frames = sorted((drawn / f"{person:04d}" / f"c{camera}").rglob("*.jpg"))
                rows.append([len(names) + 1, len(names) + len(frames), person, camera])
                if part == "test" and camera == 1:
                    queries.append(len(rows))
                for number, frame in enumerate(frames, 1):
                    names.append(f"{person:04d}C{camera}T0001F{number:03d}.jpg")
                    target = root / f"bbox_{part}" / f"{person:04d}" / names[-1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(frame, target)
        (root / "info" / f"{part}_name.txt").write_bytes("".join(f"{name}\r\n" for name in names).encode())
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(rows, dtype=np.int32)})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([queries], dtype=np.uint16)})
    return root


@pytest.fixture
def setting(mars, tmp_path):
    console = Console(quiet=True)
    return ReproductionSettings(find_data([mars], smoke=True), tmp_path, LIGHT, smoke=True, console=console)


@pytest.fixture
def trained(monkeypatch):
    """Record trainings: folder, and whether it was resumed."""
    calls, real = [], trainings.train

    def train(recipe, data, out, *, resume, **options):
        calls.append((out.name.rpartition("-")[0], resume))
        return real(recipe, data, out, resume=resume, **options)

    monkeypatch.setattr(trainings, "train", train)
    return calls


def test_rows_that_differ_in_inference_share_one_training(setting, trained):
    rows = [item for table in ("1", "2") for item in select_rows("aas-rfu", table) if item[2].name in CHOICES]
    first = [run_row(row, setting) for row in rows]
    assert trained == [("aas-rfu-clips-1", False)]
    # Both protocols that the paper may mean: without and with the queries in the gallery.
    assert [c.own.protocol for c in first[0]] == ["mars", "mars-all-queries"]
    assert [(c.own.queries, c.own.gallery) for c in first[0]] == [(4, 4), (4, 8)]
    again = [run_row(row, setting) for row in rows]
    assert len(trained) == 1
    assert again == first
    # The evaluation uses the choices of the row.
    (folder,) = (setting.out / "runs").iterdir()
    options = [json.loads(file.read_text())["options"] for file in (folder / "evaluations").iterdir()]
    kept = {(o["metric"], o["max_clips"], o["feature"]) for o in options if o["protocol"] == "mars"}
    assert kept == set(CHOICES.values())


def test_interrupted_row_is_resumed(setting, trained, monkeypatch):
    # Two of six people per batch, therefore three steps.
    setting = replace(setting, overrides=LIGHT | {"batch.people": "4"})
    (row,) = select_rows("aas-rfu", "2", "rfu-training")
    steps, real = [], trainer.Run.step

    def step(run, batch):
        if len(steps) == 1:
            steps.append("interrupted")
            raise trainer.TrainingInterrupted
        steps.append(batch.labels.tolist())
        return real(run, batch)

    monkeypatch.setattr(trainer.Run, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run_row(row, setting)
    (folder,) = (setting.out / "runs").iterdir()
    assert (folder / LAST).is_file()
    assert not (folder / FINISHED).exists()
    (done, _) = run_row(row, setting)
    assert trained == [("aas-rfu", False), ("aas-rfu", True)]
    assert done.own is not None
    assert (folder / BEST).is_file()
    assert not (folder / LAST).exists()
    # Only the interrupted step is repeated: each person occurs once.
    batches = [set(step) for step in steps if step != "interrupted"]
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert set.union(*batches) == set(range(6))


def test_a_sequence_of_trainings_is_run_in_its_order(setting, trained):
    (row,), (short,) = select_rows("not3d", "V", "mars+ilids-prid"), select_rows("not3d", "V", "mars-prid")
    (comparison,) = run_row(row, setting)
    assert trained == [("not3d", False), ("not3d-transfer", False), ("not3d-transfer-prid", False)]
    # A row that leaves out the second training shares the first.
    (after_one,) = run_row(short, setting)
    assert trained[3:] == [("not3d-transfer-prid", False)]
    assert any("86 of 89" in remark for remark in after_one.unlike)
    runs = setting.out / "runs"
    chain = [comparison.run]
    while before := json.loads((runs / chain[-1] / FINISHED).read_text())["transferred from"]:
        chain.append(before)
    assert [name.rpartition("-")[0] for name in chain] == ["not3d-transfer-prid", "not3d-transfer", "not3d"]
    note = json.loads((runs / after_one.run / FINISHED).read_text())
    assert note["transferred from"] == chain[-1]
    assert comparison.own.figures["rank-1"] >= 0


def test_all_people_train_unless_some_are_held_out(mars, tmp_path):
    setting = ReproductionSettings({"mars": mars}, tmp_path)
    assert setting.recipe("not3d")[0].validation_share == 0
    assert replace(setting, held_out=0.2).recipe("fantastic")[0].validation_share == 0.2
    (selected,) = select_rows("not3d", "IV", "32-mars")
    own = Measurement("mars", "the only one", 1, 1840, 9330, {"rank-1": 89.0, "mAP": 83.0}, {}, {})
    chosen = compare(*selected, own, "run", 0.2, []).unlike
    assert any(line.startswith("training people: 20% of them do not train, but choose the epoch") for line in chosen)
    everyone = compare(*selected, own, "run", 0.0, []).unlike
    assert any("own the last one" in line for line in everyone)


def test_each_row_says_where_the_recipe_differs_from_the_program(mars, tmp_path):
    setting = ReproductionSettings({"mars": mars}, tmp_path)
    lines = describe_differences(setting.differences("not3d"))
    assert len(lines) == 5
    assert any(line.startswith("evaluation.max_clips = all, program 41: ") and "112 of 1,980" in line for line in lines)
    printed = describe_differences(setting.differences("not3d", "as_printed"), "as_printed")
    assert any(line.startswith("losses.center = 0.0005, paper 5e-05: ") for line in printed)
    (centers,) = (line for line in describe_differences(setting.differences("fantastic")) if "num_centers" in line)
    assert centers.startswith("losses.num_centers = one for each person, program 751: ")
    published = replace(setting, as_published=True)
    assert published.differences("not3d") == {}
    assert replace(published, held_out=0.2).recipe("not3d")[0].validation_share == 0.2
    recipe, _ = published.recipe("not3d")
    assert (recipe.schedule.form, recipe.augmentation.erase_attempts, recipe.evaluation.max_clips) == ("code", 1, 41)
    assert Training(setting, "not3d", ("mars",)).key != Training(published, "not3d", ("mars",)).key
    assert published.recipe("aas-rfu") == setting.recipe("aas-rfu")


def test_memory_of_the_network_needs_no_data(mars, tmp_path):
    arguments = ("--paper", "not3d", "--table", "II", "--out", tmp_path)
    ran = reproduce(*arguments, "--smoke", "--data", mars)
    assert ran.exit_code == 0, ran.output
    for value in ("9.19", "171.92", "290.58", "471.69"):  # counted at full size, also in a smoke run
        assert ran.output.count(value) == 2, ran.output
    assert "mean nothing" not in ran.output
    assert "means nothing" not in ran.output
    assert "130.4 MB" in ran.output
    wider = reproduce(*arguments, "--set", "network.frame_height=256", "--set", "network.frame_width=128")
    assert "set by hand: network.frame_height = 256" in wider.output
    assert "12.00" in wider.output


def test_run_is_named_by_all_that_decides_the_weights(setting):
    def key(name, **changes):
        return Training(setting, name, ("mars",), **changes).key

    assert key("aas-rfu/clips-1") == key("aas-rfu/rfu-inference") == key("aas-rfu/baseline")
    assert key("fantastic/osm") == key("fantastic/osm-rerank")
    different = ["aas-rfu", "aas-rfu/baseline", "not3d", "not3d/t8", "not3d/batch-6x6", "not3d/batch-6x8", "fantastic"]
    assert len({key(name) for name in different}) == len(different)
    source = Training(setting, "not3d", ("mars",))
    assert len({key("not3d"), key("not3d", split=1), key("not3d", source=source)}) == 3


def test_rows_without_their_data_are_skipped_and_name_it(mars, tmp_path):
    setting = ReproductionSettings({"mars": mars}, tmp_path)
    (row,) = select_rows("not3d", "transfer", "mars+ilids-prid")
    (skipped,) = run_row(row, setting)
    assert skipped.skipped == "needs prid2011 and ilids-vid: give --data for it"
    assert skipped.own is None


def test_data_that_no_row_uses_are_an_error(tmp_path, mars):
    with pytest.raises(ReproductionError, match="a folder; give MARS"):
        find_data([tmp_path])
    with pytest.raises(ReproductionError, match="give one"):
        find_data([mars, mars])
    with pytest.raises(ReproductionError, match="--smoke needs --data"):
        find_data([], smoke=True)


def test_smoke_run_keeps_the_choices_of_the_row(setting):
    assert replace(setting, held_out=0.2).recipe("not3d")[0].validation_share == 0.2
    recipe, _ = setting.recipe("not3d/batch-6x8-prid")
    assert (recipe.batch.people, recipe.batch.tracklets, recipe.losses.ranked_list_margin) == (3, 4, 0.04)
    assert setting.recipe("not3d/t8")[0].network.clip_length == 8
    baseline = setting.recipe("fantastic/baseline")[0]
    assert (baseline.network.last_stride, baseline.start.weights, baseline.schedule.epochs) == (2, "none", 1)


def test_weights_are_used_for_rows_with_their_backbone(mars, tmp_path):
    setting = ReproductionSettings({"mars": mars}, tmp_path, weights={"resnet50": "/w/plain.pth", "": "/w/ibn.pth"})
    assert setting.recipe("fantastic")[0].start.weights == "/w/plain.pth"
    assert setting.recipe("not3d")[0].start.weights == "/w/ibn.pth"
    assert setting.recipe("not3d/transfer")[0].start.weights == "none"


def test_missing_weights_name_the_option(mars, tmp_path):
    small = {"batch.people": "4", "network.frame_height": "64", "network.frame_width": "32", "validation_share": "0"}
    weights = {"resnet50": str(tmp_path / "none.pth")}
    setting = ReproductionSettings({"mars": mars}, tmp_path, small, weights, console=Console(quiet=True))
    (row,) = select_rows("fantastic", "mars", "osm")
    with pytest.raises(ReproductionError, match=r"fantastic/osm: .*none\.pth.*--weights resnet50=FILE"):
        run_row(row, setting)


def test_one_split_and_all_splits(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("training.reproduction.reproduce.split_count", lambda path: 3)  # ten would take longer
    path = write_prid2011(tmp_path / "data", people=8)
    small = {
        "batch.people": "2",
        "batch.tracklets": "2",
        "schedule.epochs": "1",
        "network.frame_height": "32",
        "network.frame_width": "32",
        "start.weights": "none",
        "validation_share": "0",
    }
    setting = ReproductionSettings(find_data([path]), tmp_path / "out", LIGHT | small, console=Console(quiet=True))
    (row,) = select_rows("not3d", "4", "32-prid")
    (default,) = run_row(row, setting)
    assert (default.own.split, default.own.queries) == ("0", 4)
    assert "split: paper one, not stated which; own 0. One query is 1.12 points." in default.unlike
    assert "queries: paper 89, own 4. Other data: the figures cannot be compared." in default.unlike
    (mean,) = run_row(row, setting, split="all")
    assert len(trained) == 3  # the first split is not trained again
    assert mean.own.split == "mean of 0, 1, 2"
    (figure,) = mean.figures
    assert figure.deviation is not None
    assert figure.interval[0] <= figure.own <= figure.interval[1]


def test_mean_and_deviation_over_splits():
    def one(split, rank1):
        return Measurement("benchmark", split, 1, 89, 89, {"rank-1": rank1}, {"rank-1": (0.0, 100.0)}, {})

    mean = average([one("0", 90.0), one("1", 92.0), one("2", 94.0)])
    assert (mean.figures, mean.deviations, mean.split) == ({"rank-1": 92.0}, {"rank-1": 2.0}, "mean of 0, 1, 2")
    assert mean.intervals == {"rank-1": (89.69, 94.31)}
    assert average([one("3", 90.0)]).split == "3"


def reproduce(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def test_command_prints_both_figures_with_their_conditions(mars, tmp_path):
    light = ("--set", "network.backbone=resnet18_ibn_a_x0_75")
    result = reproduce(
        "--smoke", "--paper", "not3d", "--table", "4", "--row", "36-mars", "--data", mars, "--out", tmp_path, *light
    )
    assert result.exit_code == 0, result.output
    assert "89.62" in result.output
    assert "84.61" in result.output
    assert "queries 1840 | 4" in result.output
    assert "protocol mars | mars" in result.output
    assert "seed not stated | 1" in result.output
    assert "set by hand: network.backbone" in result.output
    assert f"smoke: {mars.name} is used for mars" in result.output
    lines = [line for line in result.output.splitlines() if "89.62" in line or "84.61" in line]
    assert len(lines) == 2
    assert all("means" in line for line in lines)
    content = json.loads((tmp_path / "reproduction.json").read_text())
    (row,) = content["rows"]
    figures = {figure["measure"]: figure for figure in row["figures"]}
    assert figures["rank-1"]["paper"] == 89.62
    assert figures["rank-1"]["difference"] == round(figures["rank-1"]["own"] - 89.62, 2)
    low, high = figures["rank-1"]["interval"]
    assert figures["rank-1"]["covered"] is (low <= 89.62 <= high)
    assert row["conditions"]["paper"]["queries"] == 1840
    assert row["conditions"]["own"]["queries"] == 4
    assert "| 36-mars | rank-1 | 89.62 |" in (tmp_path / "reproduction.md").read_text()
    assert list(tmp_path.rglob("*.pt")) == []  # a smoke run leaves no models


def test_skipped_rows_are_listed_and_give_status_3(mars, tmp_path):
    result = reproduce("--paper", "not3d", "--table", "4", "--row", "36-prid", "--data", mars, "--out", tmp_path)
    assert result.exit_code == 3
    assert "needs prid2011" in result.output
    assert json.loads((tmp_path / "reproduction.json").read_text())["rows"][0]["skipped"]


def test_list_names_papers_tables_and_rows():
    output = reproduce("--list").output
    for name in (
        "--paper not3d --table IV or batch",
        "--paper fantastic --table 1 or rerank",
        "rfu-training",
        "36-ilids",
    ):
        assert name in output


def test_ctrl_c_says_how_to_resume(mars, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainings, "train", stop)
    result = reproduce("--smoke", "--paper", "aas-rfu", "--data", mars, "--out", tmp_path)
    assert isinstance(result.exception, Interrupted)
    assert "the same command" in str(result.exception)


def test_sentences_about_the_programs_say_what_the_options_do(rng):
    says = {name: difference.says for name, difference in load_differences().items()}
    own, code = (
        Augmentation(erase_fill=form).fill((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for form in ("mean", "code")
    )
    assert f"(RGB {', '.join(map(str, code))} instead of {', '.join(map(str, own))})" in says["augmentation.erase_fill"]

    rates = {form: [learning_rate(epoch, form, base=1.0) for epoch in range(1, 121)] for form in ("paper", "code")}
    falls = {form: [e + 1 for e in range(1, 120) if rate[e] < rate[e - 1]] for form, rate in rates.items()}
    assert (
        f"is {rates['code'][0]:.1%} of the full rate in the first epoch instead of {rates['paper'][0]:.0%}"
        in says["schedule.form"]
    )
    assert f"from epochs {falls['code'][0]} and {falls['code'][1]} on" in says["schedule.form"]
    assert f"instead of {falls['paper'][0]} and {falls['paper'][1]}." in says["schedule.form"]

    once = Augmentation(erase=1.0, erase_attempts=1, flip=0.0, pad=0)
    clip = np.zeros((100, 224, 112, 3), np.uint8)
    fits = [once.apply(clip, np.zeros(3, np.uint8), rng)[1].mean() for _ in range(20)]
    assert np.mean(fits) / 2 == pytest.approx(0.47, abs=0.01)
    assert "about 47% of the frames" in says["augmentation.erase_attempts"]


def test_sentence_about_41_clips_holds_on_the_official_lists_of_mars(shared_data):
    reference = shared_data.parent / "reference"
    if not reference.is_dir():
        pytest.skip("the official MARS lists are not beside the shared data")
    rows = read_integers(reference / "tracks_test_info.mat", "track_test_info", "MARS")
    queries = read_integers(reference / "query_IDX.mat", "query_IDX", "MARS").ravel() - 1
    lengths = rows[:, 1] - rows[:, 0] + 1
    others = np.setdiff1d(np.flatnonzero(rows[:, 2] != JUNK_PERSON), queries)
    four, eight = ([int((lengths[part] > 41 * clip).sum()) for part in (queries, others)] for clip in (4, 8))
    matters = load_differences()["evaluation.max_clips"].matters
    assert (len(queries), len(others)) == (1980, 9330)
    assert f"{four[0]} of 1,980 queries and {four[1]} of 9,330 gallery tracklets with clips of 4" in matters
    assert f"and {eight[0]} and {eight[1]} with clips of 8" in matters

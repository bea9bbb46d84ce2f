"""The benchmarks of recognition in small, on drawn people."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.recognition import ablation, common, feedback, fine_tuning, questions, short_runs, single_crop
from benchmarks.recognition.__main__ import main
from benchmarks.recognition.ablation import LEVERS
from benchmarks.recognition.comparison import write_card
from model.bundle import BUNDLED, CARD_FILE, SPEC_FILE, Bundle
from tests.bundles import make_bundle
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet
from training.export.export import export_bundle
from training.loop.trainer import train
from training.recipe import find_recipe, load_recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two training sites, one of them in the layout of CUHK03, and another site."""
    place = tmp_path_factory.mktemp("people")
    for number, name in enumerate(("own", "drawn", "other")):
        write_synthetic(place / name, people=12, cameras=2, frames=4, seed=number, size=(64, 32))
    for camera in sorted((place / "drawn").glob("*/c*")):
        target = place / "cuhk03" / camera.parent.name / f"p1{'ab'[int(camera.name[1:]) - 1]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        camera.rename(target)
        (target / "t1").rename(target / "1")
    return {name: place / name for name in ("own", "cuhk03", "other")}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("teacher") / "bundle", dimension=16, clip_length=1)


@pytest.fixture(scope="module")
def start(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained for two steps, without the site in the layout of CUHK03."""
    place = tmp_path_factory.mktemp("start")
    losses = {"losses.distillation": "0", "losses.relation": "0"}
    changes = common.QUICK | losses | short_runs.length("unseen-sites", 32, common.QUICK)
    return train(find_recipe("unseen-sites"), [folders["own"]], place, overrides=changes, console=Console(quiet=True))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the teacher's features out of the system's folder."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a benchmark in this process and return what it printed."""

    def run(*arguments: object) -> str:
        command = ["recognition", *map(str, arguments)]
        command += [] if arguments[0] == "speed" else ["--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", command)
        main()
        return capsys.readouterr().out

    return run


def data(folders: dict[str, Path]) -> list[object]:
    return ["--data", folders["own"], "--data", folders["cuhk03"], "--other-site", folders["other"]]


def table(printed: str) -> list[str]:
    """Return the lines of tables; the text above them contains the load of the machine."""
    return [line for line in printed.splitlines() if line.startswith("|")]


class TestComparison:
    @pytest.fixture
    def models(self, tmp_path: Path) -> list[str]:
        """Two bundles; the first one says who its validation people are."""
        ours = make_bundle(tmp_path / "ours", seed=1)
        spec = json.loads((ours / SPEC_FILE).read_text())
        (ours / SPEC_FILE).write_text(json.dumps(spec | {"recipe": {"validation_share": 0.4, "seed": 1}}))
        return [f"ours={ours}", f"peer={make_bundle(tmp_path / 'peer', seed=2)}"]

    def test_table_has_each_kind_of_people_and_each_model(self, folders, models, call, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("# Accuracy\n")
        printed = call("comparison", *models, *data(folders), "--page", page)
        for name in (
            "people set aside, all training sites",
            "of these, own alone",
            "of these, CUHK03 alone",
            "other site",
        ):
            assert f"| {name} |" in printed
        assert "| measure | ours | peer |" in printed
        assert str(tmp_path) not in page.read_text()
        assert page.read_text().startswith("# Accuracy\n\n<!-- begin comparison -->\n## ours, compared with peer")
        assert "| rank-1 / mAP, 12 people: other site |" in printed

    def test_feedback_compares_the_methods_on_the_same_rest(self, folders, models, call):
        ours = models[0].partition("=")[2]
        printed = call("feedback", ours, *data(folders), "--quick")
        for name in ("people set aside", "other site"):
            assert f"| {name} | 1 | " in printed
        lines = [line.split(" | ") for line in table(printed)]
        first = next(row for row, line in enumerate(lines) if line[0] == "| people set aside")
        assert [line[3] for line in lines[first : first + 5]] == ["no feedback", *feedback.METHODS]
        assert table(call("feedback", ours, *data(folders), "--quick")) == table(printed)

    def test_one_crop_is_compared_with_the_tracklet_in_query_and_gallery(self, folders, models, call):
        ours = models[0].partition("=")[2]
        lines = [line.strip("| ").split(" | ") for line in table(call("single-crop", ours, *data(folders), "--quick"))]
        first = next(row for row, line in enumerate(lines) if line[0] == "people set aside")
        compared = [tuple(line[-4:-2]) for line in lines[first : first + 4]]
        assert compared == list(single_crop.COMPARED)
        frames = tuple(Path(f"{number}.jpg") for number in range(9))
        tracklet = Tracklet("1", "c1", frames, "t")
        chosen = [single_crop.one_frame(tracklet, seed).frames for seed in range(20)]
        assert all(len(one) == 1 and one[0] in frames for one in chosen)
        assert len(set(chosen)) > 3

    def test_finished_measurements_are_kept(self, folders, models, call, monkeypatch):
        first = call("comparison", *models, *data(folders), "--quick")
        monkeypatch.setattr(common, "compare", None)
        assert table(call("comparison", *models, *data(folders), "--quick")) == table(first) != []

    def test_sites_alone_are_ranked_as_if_given_alone(self, folders, models, call, tmp_path):
        call("comparison", *models, *data(folders), "--quick")
        together = json.loads((tmp_path / "out" / "validation.json").read_text())["value"]
        call("comparison", *models, "--data", folders["cuhk03"], "--quick")
        alone = json.loads((tmp_path / "out" / "validation.json").read_text())["value"]
        assert together[2]["name"] == "of these, CUHK03 alone"
        assert together[2]["models"] == alone[0]["models"]

    def test_card_shows_our_figures_and_the_table(self, tmp_path):
        bundle = shutil.copytree(BUNDLED, tmp_path / "bundle")
        space = Bundle.load(bundle).embedding_space
        counts = {"people": 3, "queries": 6, "gallery": 6}
        measured = {"rank-1": [50.0, 40.0, 60.0], "mAP": [45.0, 35.0, 55.0]}
        row = {"name": "other site", "protocol": "other-site", **counts}
        write_card(bundle, [{**row, "models": {"ours": counts | measured, "peer": counts | measured}}], "ours")
        loaded = Bundle.load(bundle)
        assert loaded.embedding_space == space
        assert [(figures.dataset, figures.rank1, figures.map) for figures in loaded.spec.accuracy] == [
            ("other site", 50.0, 45.0)
        ]
        card = (bundle / CARD_FILE).read_text()
        assert "| measure | ours | peer |" in card
        assert card.index("## Measured accuracy") < card.index("| measure |") < card.index("## Export")


class TestSpeed:
    def test_each_engine_is_measured_on_the_bundles_that_it_runs(self, start, call, tmp_path):
        export_bundle(start, tmp_path / "new")
        printed = call("speed", f"old={BUNDLED}", f"new={tmp_path / 'new'}", "--quick")
        cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table(printed)[2:]]
        assert {(name, engine) for name, _, engine, _, _ in cells} >= {
            ("old", "onnxruntime f32"),
            ("new", "onnxruntime f32"),
        }
        for name, _, _, milliseconds, ratio in cells:
            assert float(milliseconds) > 0
            assert (float(ratio) == 1) if name == "old" else (float(ratio) < 1)


class TestAblation:
    def test_quick_form_compares_each_row_with_the_complete_recipe(self, folders, teacher, call):
        only = [part for key in ("cuhk03", "views", "zoom") for part in ("--only", key)]
        printed = call(
            "ablation", *data(folders), "--teacher", teacher, "--quick", *only, "--set", "augmentation.zoom=0"
        )
        rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")][1:]
        assert [row[0].strip() for row in rows] == [
            lever.without for lever in LEVERS if lever.key in ("complete", "cuhk03", "views")
        ]
        assert rows[0][2].strip() == ""  # the complete recipe is not compared with itself
        assert rows[1][2].strip()[0] in "+-"
        assert "not run: zoom." in " ".join(printed.split())

    def test_finished_runs_are_skipped_after_an_interruption(self, folders, teacher, call, monkeypatch):
        arguments = ["ablation", *data(folders), "--teacher", teacher, "--quick", "--only", "views"]
        trained: list[str] = []
        real = short_runs.train

        def counted(path, data, out, **options):
            if out.name == "views-1" and len(trained) == 1:
                trained.append("interrupted")
                raise KeyboardInterrupt
            trained.append(out.name)
            return real(path, data, out, **options)

        monkeypatch.setattr(short_runs, "train", counted)
        with pytest.raises(SystemExit, match="the same command continues"):
            call(*arguments)
        call(*arguments)
        assert trained == ["complete-1", "interrupted", "views-1"]
        with pytest.raises(SystemExit, match="a run with other settings"):
            call(*arguments, "--set", "augmentation.erase=0.1")

    @pytest.mark.parametrize("lever", LEVERS[1:], ids=lambda lever: lever.key)
    def test_each_lever_is_a_valid_change(self, lever):
        path = find_recipe("unseen-sites")
        base = {"augmentation.zoom": "0.15"}
        changed = load_recipe(path, base | lever.changes) != load_recipe(path, base)
        assert changed != bool(lever.dataset)

    def test_all_runs_have_as_many_steps(self):
        base = short_runs.length("unseen-sites", 21_120, {})
        assert short_runs.samples_of("unseen-sites", base) == 21_120
        assert base["optimiser.head_steps"] == "33"
        for lever in LEVERS:
            assert short_runs.samples_of("unseen-sites", base | lever.changes) == 21_120


class TestFineTuning:
    def test_quick_form_measures_start_and_tuned_model_on_other_people(self, folders, start, call, tmp_path):
        printed = call("fine-tuning", "--site", folders["cuhk03"], "--start", start, "--quick")
        row = next(line for line in printed.splitlines() if line.startswith("| 6 |"))
        assert len(row.split("|")) == 8
        place = tmp_path / "out" / "draw-1-of-4"
        assert len(list((place / "people-6").iterdir())) == 6
        people = [{path.name for path in (place / name).iterdir()} for name in ("people-6", "test")]
        assert not people[0] & people[1]

    def test_start_is_trained_without_the_site_if_none_is_given(self, folders, teacher, call, tmp_path):
        printed = call(
            "fine-tuning", "--site", folders["cuhk03"], "--data", folders["own"], "--teacher", teacher, "--quick"
        )
        assert "trained by `unseen-sites` on own alone" in " ".join(printed.split())
        assert (tmp_path / "out" / "start" / "best.pt").is_file()

    def test_too_few_people_at_the_site_are_an_error(self, folders, start, call):
        with pytest.raises(SystemExit, match="has 12 people of two cameras, but 330 are needed"):
            call("fine-tuning", "--site", folders["cuhk03"], "--start", start, "--people", "30")


class TestQuestions:
    def test_quick_form_answers_each_with_a_section(self, folders, teacher, start, call, tmp_path, monkeypatch):
        monkeypatch.setattr(questions, "SIZES", ((96, 48),))
        page = tmp_path / "page.md"
        page.write_text("# Questions\n")
        arguments = [start, *data(folders)[:4], "--teacher", teacher]
        call("questions", *arguments, "--quick", "--fine-tune", 32, "--rounds", 0, "--page", page)
        text = page.read_text()
        assert "| 64x32 (its own) |" in text
        assert "| 96x48 |" in text
        assert "| fine-tuned on clips of 4, attention |" in text
        assert "| every other frame mirrored |" in text
        assert [line for line in text.splitlines() if line.startswith("<!-- begin")] == [
            f"<!-- begin questions: {name} -->" for name in ("sizes", "attention", "flips")
        ]

    def test_clips_of_each_size_are_timed(self, folders, start, call, monkeypatch):
        monkeypatch.setattr(questions, "SIZES", ())
        printed = call("questions", start, *data(folders), "--quick", "--only", "sizes")
        head, _, row = table(printed)
        assert "onnxruntime f32: CPU ms of a clip" in head
        cells = dict(zip(head.split("|"), row.split("|"), strict=True))
        assert float(cells[" onnxruntime f32: CPU ms of a clip "]) > 0

    def test_every_other_frame_is_mirrored(self, rng):
        clips = rng.integers(0, 256, (2, 5, 4, 3, 3)).astype("uint8")
        mirrored = questions.mirror(clips, 2)
        assert (mirrored[:, ::2] == clips[:, ::2]).all()
        assert (mirrored[:, 1::2] == clips[:, 1::2, :, ::-1]).all()
        assert (questions.mirror(clips) == clips[:, :, :, ::-1]).all()


@pytest.mark.parametrize("module", [ablation, fine_tuning, questions])
def test_help_names_the_page(module, monkeypatch, capsys):
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    monkeypatch.setattr(sys, "argv", ["recognition", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "docs/figures/unseen-sites.md" in " ".join(capsys.readouterr().out.split())

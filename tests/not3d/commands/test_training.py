"""Train, evaluate and export as a user does: on a folder of drawn people, with one tiny recipe."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.bundle import WEIGHTS_FILE, Bundle
from model.errors import Not3dError
from not3d.commands import Interrupted
from not3d.commands.app import app
from tests.bundles import make_bundle
from tests.training.datasets.layouts import write_prid2011
from tests.training.recipes import TINY_RECIPE
from training.datasets.synthetic.dataset import write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_synthetic(folder / "people", people=10, cameras=2, frames=4, seed=2, size=(64, 32))
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    return folder


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_a_recipe_to_a_bundle(folder: Path) -> None:
    checkpoint = run("train", folder / "tiny.toml", "--data", folder / "people", "--out", folder / "run").strip()
    assert checkpoint == str(folder / "run" / "best.pt")
    printed = run("evaluate", checkpoint, "--data", folder / "people", "--out", folder / "report")
    assert "rank-1" in printed
    assert (folder / "report" / "evaluation.json").is_file()
    exported = run("export", checkpoint, "--name", "lobby", "--out", folder / "bundle").strip()
    assert exported == str(folder / "bundle")
    bundle = Bundle.load(folder / "bundle")
    assert (bundle.spec.name, bundle.spec.frame_height, bundle.spec.dimension) == ("lobby", 64, 384)
    assert (folder / "bundle" / WEIGHTS_FILE).is_file()
    # The figures of the held-out people travel with the bundle.
    assert bundle.spec.accuracy[0].queries > 0
    assert "rank-1" in run("evaluate", folder / "bundle", "--data", folder / "people")


def test_models_are_compared_in_one_table(folder: Path, tmp_path: Path) -> None:
    one, other = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "other", seed=1)
    options = ("--data", folder / "people", "--protocol", "other-site", "--against", other, "--out", tmp_path / "out")
    printed = run("evaluate", one, *options)
    assert printed.count(" to ") == 6  # intervals of three figures of each model
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert [model["figures"]["gallery"] for model in content] == [10, 10]


def test_all_splits_give_a_mean_and_a_report_each(tmp_path: Path) -> None:
    bundle, prid = make_bundle(tmp_path / "bundle"), write_prid2011(tmp_path, people=4)
    printed = run("evaluate", bundle, "--data", prid, "--split", "all", "--rerank", "--out", tmp_path / "out")
    assert "mean of 10" in printed
    assert "rank-1 std" in printed
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())["figures"]
    assert (figures["queries"], figures["gallery"]) == ("2", "2")
    assert "k-reciprocal" in figures["distance"]
    assert len(list((tmp_path / "out").glob("split-*/report.html"))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothing", "--data", "people", "--out", "x"), "no recipe nothing: give a file, or one of .*light"),
        (("train", "tiny.toml", "--data", "tiny.toml", "--out", "x"), "tiny.toml"),
        (("train", "tiny.toml", "--data", "people", "--out", "x", "--set", "batch.people=40"), "40 people"),
        (("train", "tiny.toml", "--data", "people", "--out", "x", "--set", "schedule.epoch=4"), "schedule.epoch"),
        (("train", "tiny.toml", "--data", "people", "--out", "x", "--resume"), "no run to resume"),
        (("evaluate", "tiny.toml", "--data", "people"), "not a checkpoint"),
        (("evaluate", "people", "--data", "people"), r"model\.json"),
        (("export", "tiny.toml", "--out", "y"), "not a checkpoint"),
    ],
)
def test_expected_errors_are_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(Not3dError, match=message):
        run(*arguments)


@pytest.mark.parametrize(
    ("left", "message"), [(True, "continue with --resume"), (False, "no checkpoint was written yet")]
)
def test_an_interrupted_training_says_how_to_continue(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool, message: str
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> Path:
        if left:
            (tmp_path / "last.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("training.loop.trainer.train", interrupt)
    with pytest.raises(Interrupted, match=message):
        run("train", folder / "tiny.toml", "--data", folder / "people", "--out", tmp_path)

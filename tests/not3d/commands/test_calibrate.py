"""Calibrate as an operator does: from footage, from a CSV, from the tracklets of a service."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from model.bundle import BUNDLED, Bundle
from model.calibration import Calibration, CalibrationError
from model.errors import Not3dError
from not3d.commands.app import app
from tests.bundles import make_bundle
from tests.training.recipes import set_recipe
from training.datasets.synthetic.dataset import write_synthetic


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "lobby"
    write_synthetic(folder, people=36, cameras=2, frames=2, seed=5, size=(64, 32))
    return folder


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT3D_URL", raising=False)


def run(*arguments: str | Path) -> tuple[str, str]:
    command = ["calibrate", *(str(argument) for argument in arguments)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def write_scores(path: Path, people: int = 30, seed: int = 1) -> Path:
    random = np.random.default_rng(seed)
    lines = ["score,same,person_a,person_b"]
    for a in range(people):
        lines += [f"{min(1, 0.7 + 0.15 * random.standard_normal()):.4f},1,{a},{a}" for _ in range(3)]
        lines += [f"{0.15 * random.standard_normal():.4f},0,{a},{b}" for b in range(a)]
    path.write_text("\n".join(lines))
    return path


def test_footage_gives_a_calibration_file(footage: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")

    printed, shown = run(bundle, "--data", footage, "--out", "site.json")

    assert printed.strip() == "site.json"
    calibration = Calibration.load(Path("site.json"))
    calibration.check_space(Bundle.load(bundle).embedding_space)
    assert (calibration.people, calibration.cameras, calibration.mated_pairs) == (36, 2, 36)
    assert calibration.source == "people of lobby"
    assert "1 in 100" in shown
    assert "No threshold for 1 in 10,000: it needs 30,000 pairs of two people, and there are 1,260" in shown
    assert "ECE" in shown


def test_people_set_aside_go_into_the_bundle(footage: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    set_recipe(bundle, seed=1, validation_share=0.8)

    printed, _ = run(bundle, "--data", footage, "--set-aside", "--into-bundle")

    assert printed.strip() == str(bundle / "calibration.json")
    calibration = Bundle.load(bundle).calibration
    assert calibration is not None
    assert 20 <= calibration.people < 36
    assert "whom the training set aside" in (bundle / "MODEL_CARD.md").read_text()


def test_scores_of_a_csv_give_a_calibration(tmp_path: Path) -> None:
    printed, shown = run("--pairs", write_scores(tmp_path / "judged.csv"), "--source", "Lobby, May")

    assert printed.strip() == "calibration.json"
    calibration = Calibration.load(tmp_path / "calibration.json")
    assert calibration.embedding_space == Bundle.load(BUNDLED).embedding_space
    assert (calibration.people, calibration.source) == (30, "Lobby, May")
    assert calibration.slope == pytest.approx(0.7 / 0.15**2, rel=0.3)
    assert "30 people" in shown


def test_mode_is_kept(tmp_path: Path) -> None:
    run("--pairs", write_scores(tmp_path / "judged.csv"), "--mode", "max")

    assert Calibration.load(tmp_path / "calibration.json").mode == "max"


class Records:
    """A client of a service whose records have vectors by person."""

    score_mode = "cosine"

    def __init__(self, url: str, api_key: str | None, timeout: float, ca_file: Path | None) -> None:
        self.random = np.random.default_rng(3)
        self.people = self.random.standard_normal((30, 16))

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, id: str, *, include_embedding: bool) -> Any:
        assert include_embedding
        person, _, camera = id.partition("-")
        vector = self.people[int(person)] + 0.3 * np.random.default_rng(list(id.encode())).standard_normal(16)

        return SimpleNamespace(embedding=list(vector), camera_id=camera, embedding_space="00000000000000aa")

    def info(self) -> Any:
        return SimpleNamespace(embedding_space="00000000000000bb", gallery={"score_mode": self.score_mode})


def test_judged_tracklets_of_a_service_give_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("not3d.commands.calibrate.Client", Records)
    lines = ["id_a,id_b,same", "0-x,0-x2,1", "0-x,1-x,0"]
    lines += [f"{a}-x,{a}-y,1" for a in range(30)] + [f"{a}-x,{b}-y,0" for a in range(30) for b in range(a)]
    (tmp_path / "judged.csv").write_text("\n".join(lines))

    _, shown = run("--pairs", "judged.csv", "--url", "http://127.0.0.1:9")

    calibration = Calibration.load(tmp_path / "calibration.json")
    assert calibration.embedding_space == "00000000000000aa"
    assert calibration.people == 30
    assert calibration.mated_pairs == 31
    assert "1 pairs from one camera are left out" in shown


def test_ids_of_a_service_with_centred_scores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("not3d.commands.calibrate.Client", Records)
    monkeypatch.setattr(Records, "score_mode", "centred")
    (tmp_path / "judged.csv").write_text("id_a,id_b,same\n0-x,1-y,0\n")

    with pytest.raises(Not3dError, match=r"centred scores, .* add a column score .* use --mode centred"):
        run("--pairs", "judged.csv")


def test_scores_from_a_service_belong_to_its_embedding_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("not3d.commands.calibrate.Client", Records)

    run("--pairs", write_scores(tmp_path / "judged.csv"), "--url", "http://127.0.0.1:9")

    assert json.loads((tmp_path / "calibration.json").read_text())["embedding_space"] == "00000000000000bb"


def test_too_few_people_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"too few people whom two cameras saw: 12, .* at least 20"):
        run("--pairs", write_scores(tmp_path / "judged.csv", people=12))

    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data, or judged pairs with --pairs"),
        (("--data", "footage", "--pairs", "judged.csv"), "--data, or judged pairs with --pairs"),
        (("--pairs", "judged.csv", "--set-aside"), "--set-aside needs the training data"),
        (("--pairs", "judged.csv", "--into-bundle"), "--into-bundle needs the bundle's folder"),
        (("footage", "--pairs", "judged.csv", "--into-bundle", "--out", "x"), "choose --out or --into-bundle"),
        (("--pairs", "judged.csv", "--out", "judged.csv"), "judged.csv exists"),
        (("--pairs", "judged.csv", "--mode", "magic"), "--mode must be one of cosine, centred"),
        (("--data", "footage", "--mode", "max"), "give scores of another mode with --pairs"),
    ],
)
def test_options_that_do_not_fit_are_one_message(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "footage").mkdir()
    write_scores(tmp_path / "judged.csv")

    with pytest.raises(Not3dError, match=message):
        run(*arguments)


def test_the_authority_of_the_service_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "judged.csv").write_text("id_a,id_b,same\na,b,1\n")
    (tmp_path / "text.pem").write_text("no certificate")
    command = ["calibrate", "--pairs", "judged.csv", "--url", "https://127.0.0.1:9", "--ca-file", "text.pem"]
    result = CliRunner().invoke(app, command)
    assert "text.pem is not a file of certificates" in str(result.exception), result.output

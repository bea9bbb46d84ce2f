"""NNCF quantises the bundled network and OpenVINO runs it; people are drawn."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model.bundle import BUNDLED, IR_FILES, SPEC_FILE, WEIGHTS_FILE, Bundle, BundleError
from model.calibration import CALIBRATION_FILE
from model.engines import open_engine
from model.engines.self_test import run_self_test
from model.errors import Not3dError
from model.spec import Quantisation
from not3d.commands.app import app
from tests.bundles import make_bundle
from tests.calibrations import make_calibration
from training.datasets.catalog import read_training
from training.datasets.synthetic.dataset import write_synthetic
from training.export.bundle_assembly import ExportError
from training.export.quantise import (
    CalibrationClips,
    choose_calibration,
    quantise,
    select_people,
)

RUN = CliRunner()


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = shutil.copytree(BUNDLED, tmp_path_factory.mktemp("floats") / "bundle")
    (folder / WEIGHTS_FILE).write_bytes(b"trained weights")
    space = Bundle.load(folder).embedding_space
    (folder / CALIBRATION_FILE).write_text(make_calibration(embedding_space=space).to_json())
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network whose recipe has no validation people."""
    return Bundle.load(make_bundle(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drawn people for calibration and others for measurement, with different ids.

    Those for measurement look the same to both cameras. Otherwise a rank that the rounding of one CPU changes decides
    whether the int8 network is refused.
    """
    folder = tmp_path_factory.mktemp("people")
    for name, people, seed in (("calibrate", 32, 1), ("validate", 8, 2)):
        write_synthetic(folder / name, people=people, cameras=2, frames=4, seed=seed, size=(160, 80))
        for person in list((folder / name).iterdir()):
            person.rename(person.with_name(f"{name}-{person.name}"))
    for person in (folder / "validate").iterdir():
        first, second = sorted(person.iterdir())
        (tracklet,) = second.iterdir()
        shutil.rmtree(tracklet)
        shutil.copytree(next(first.iterdir()), tracklet)
    return {name: folder / name for name in ("calibrate", "validate")}


@pytest.fixture(scope="module")
def quantised(floats: Bundle, people: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    measured_on = select_people(floats, [people["calibrate"]], [people["validate"]])
    calibration = choose_calibration(floats, [people["calibrate"]], measured_on)
    return quantise(floats, tmp_path_factory.mktemp("int8") / "bundle", calibration, measured_on).bundle


def test_int8_network_that_ranks_like_float_shares_its_embedding_space(floats: Bundle, quantised: Bundle) -> None:
    facts = quantised.spec.quantisation
    assert facts is not None
    assert (facts.of, facts.people, facts.queries) == (floats.embedding_space, 8, 16)
    assert 32 <= facts.clips <= 64
    assert facts.float_map is not None
    assert facts.map is not None
    assert facts.float_map - 0.3 <= facts.map <= 100
    assert 0.99 < (facts.mean_cosine or 0) <= 1
    assert facts.network != floats.embedding_space
    assert quantised.embedding_space == (floats.embedding_space if facts.ranks_alike else facts.network)
    assert quantised.spec.accuracy[0].map == facts.map
    assert (quantised.path / WEIGHTS_FILE).read_bytes() == b"trained weights"
    assert quantised.calibration == (floats.calibration if facts.ranks_alike else None)
    card = (quantised.path / "MODEL_CARD.md").read_text()
    assert "## Quantisation" in card
    assert f"| int8 | float | {facts.map_in_float_gallery:.2f} |" in card


def test_engine_computes_in_int8_nearly_the_float_embeddings(floats: Bundle, quantised: Bundle) -> None:
    engine = open_engine(quantised, "cpu", threads=2)
    assert (engine.name, engine.precision) == ("openvino", "int8")
    assert run_self_test(engine, quantised).min_cosine > 0.999
    rows = engine.embed(floats.golden().clips)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True) * floats.golden().embeddings).sum(axis=1)
    assert 0.9 < cosines.min() < 0.9999999  # different from float, but not by much


def test_network_with_wrong_ranges_is_refused_and_nothing_is_written(
    floats: Bundle, people: dict[str, Path], tmp_path: Path
) -> None:
    measured_on = select_people(floats, [people["calibrate"]], [people["validate"]])
    black = CalibrationClips(np.zeros((8, *floats.spec.clip_shape), np.uint8), "black frames")
    with pytest.raises(ExportError, match=r"mAP goes from .* mean cosine"):
        quantise(floats, tmp_path / "out", black, measured_on)
    assert not list(tmp_path.iterdir())


def test_facts_measured_on_another_network_are_refused(quantised: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(quantised.path, tmp_path / "copy")
    weights = bytearray((copy / IR_FILES[1]).read_bytes())
    weights[-1] ^= 1
    (copy / IR_FILES[1]).write_bytes(weights)
    with pytest.raises(BundleError, match="was measured on the network"):
        Bundle.load(copy)


def test_worse_figures_give_an_own_embedding_space(quantised: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(quantised.path, tmp_path / "copy")
    spec = json.loads((copy / SPEC_FILE).read_text())
    spec["quantisation"]["map_in_float_gallery"] = spec["quantisation"]["float_map"] - 0.31
    (copy / SPEC_FILE).write_text(json.dumps(spec))
    (copy / CALIBRATION_FILE).unlink(missing_ok=True)
    assert Bundle.load(copy).embedding_space == spec["quantisation"]["network"]


def test_unmeasured_network_has_its_own_embedding_space(small: Bundle, tmp_path: Path) -> None:
    clips = small.golden().clips
    report = quantise(small, tmp_path / "out", CalibrationClips(clips, "golden clips"), None)
    assert report.bundle.spec.quantisation is not None
    assert not report.bundle.spec.quantisation.ranks_alike
    assert report.bundle.embedding_space == report.bundle.spec.quantisation.network
    with pytest.raises(ExportError, match="already quantised"):
        quantise(report.bundle, tmp_path / "again", CalibrationClips(clips, "golden clips"), None)
    with pytest.raises(ExportError, match="exists"):
        quantise(small, tmp_path / "out", CalibrationClips(clips, "golden clips"), None)


@pytest.mark.parametrize(
    ("changed", "alike"),
    [
        ({}, True),
        ({"map": 79.7}, True),
        ({"map_of_float_queries": 79.6}, False),
        ({"mean_cosine": 0.98}, False),
        ({"float_map": None}, False),
    ],
)
def test_ranking_alike_follows_from_measured_figures(changed: dict[str, float | None], alike: bool) -> None:
    facts = {
        "of": "a",
        "network": "b",
        "calibration": "c",
        "clips": 1,
        "validation": "v",
        "people": 2,
        "queries": 4,
        "float_map": 80.0,
        "map": 80.0,
        "map_in_float_gallery": 79.9,
        "map_of_float_queries": 80.1,
        "mean_cosine": 0.999,
        "min_cosine": 0.99,
    }
    assert Quantisation.model_validate(facts | changed).ranks_alike is alike


def test_measured_people_are_not_used_for_calibration(small: Bundle, people: dict[str, Path]) -> None:
    measured_on = select_people(small, [], [people["validate"]])
    both = [people["calibrate"], people["validate"]]
    assert len(choose_calibration(small, both, measured_on).clips) == 64
    assert len(choose_calibration(small, both, None).clips) == 80
    assert len(choose_calibration(small, both, None, clips=5).clips) == 5
    with pytest.raises(ExportError, match="no people are left"):
        choose_calibration(small, [people["validate"]], measured_on)


def test_quantize_command(floats: Bundle, small: Bundle, people: dict[str, Path], tmp_path: Path) -> None:
    bundle = shutil.copytree(floats.path, tmp_path / "mine")
    data = ["--calibrate", str(people["calibrate"]), "--validate", str(people["validate"])]
    done = RUN.invoke(app, ["quantize", str(bundle), *data])
    assert done.exit_code == 0, done.output
    assert "8 people, 16 queries" in done.output
    assert done.stdout.strip().endswith("mine-int8")
    assert Bundle.load(tmp_path / "mine-int8").spec.name == "bundled-int8"
    again = RUN.invoke(app, ["quantize", str(bundle), *data])
    assert isinstance(again.exception, Not3dError)
    assert "exists" in str(again.exception)
    alone = RUN.invoke(app, ["quantize", str(small.path), *data[:2], "--out", str(tmp_path / "other")])
    assert isinstance(alone.exception, Not3dError)
    assert "has no validation people" in str(alone.exception)
    assert not (tmp_path / "other").exists()


def test_people_of_several_datasets_are_set_aside_by_their_prefixed_ids(
    small: Bundle, people: dict[str, Path], tmp_path: Path
) -> None:
    """If read with another dataset, people of Duke are called `duke:0001`, and are set aside and left out as that."""
    frame = next(people["calibrate"].rglob("*.jpg")).read_bytes()
    for person in range(1, 31):
        for camera in (1, 2):
            folder = tmp_path / "duke" / "train" / f"{person:04}" / f"{person:04}C{camera}T{person:03}"
            folder.mkdir(parents=True)
            for index in range(4):
                (folder / f"{person:04}_C{camera}_F{index:04}_X{person}.jpg").write_bytes(frame)
    for part in ("query", "gallery"):
        shutil.copytree(tmp_path / "duke" / "train", tmp_path / "duke" / part)
    spec = small.spec.model_copy(update={"recipe": {"validation_share": 0.3, "seed": 1}})
    bundle = Bundle(small.path, spec, small.network_path, small.embedding_space)
    both = [tmp_path / "duke", people["calibrate"]]
    measured_on = select_people(bundle, both, [])
    aside = {tracklet.person for tracklet in measured_on.query}
    assert any(person.startswith("duke:") for person in aside)
    all_tracklets = read_training(both)
    left = [tracklet for tracklet in all_tracklets if tracklet.person not in aside]
    assert 0 < len(left) < len(all_tracklets)
    assert len(choose_calibration(bundle, both, None, clips=1000).clips) == len(left)


def test_import_and_quantisation_send_no_telemetry(tmp_path: Path) -> None:
    """Without the variable CI, OpenVINO would fork a child that reports its import, and leave files."""
    code = (
        "import sys, time\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event in ('os.fork', 'os.posix_spawn') else None)\n"
        "import training.export.quantise, model.engines.openvino_engine\n"
        "with training.export.quantise._quiet_nncf(): pass\n"
        "import nncf.telemetry.wrapper as wrapper\n"
        "time.sleep(1)\n"
        "print(seen, isinstance(wrapper.telemetry, wrapper.NNCFTelemetry))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[] False"
    assert not (tmp_path / "intel").exists()

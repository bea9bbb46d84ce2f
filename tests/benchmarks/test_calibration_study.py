"""The study of calibrations runs on drawn sites, and fills the documents."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.recognition import calibration, sites
from benchmarks.recognition.sites import Site, open_site, parse_site
from model.bundle import Bundle
from tests.bundles import make_bundle
from training.datasets.synthetic.dataset import write_synthetic


def draw_site(name: str, people: int, noise: float, seed: int) -> Site:
    """Two cameras saw each person; the noise decides how alike the tracklets of one person are."""
    random = np.random.default_rng(seed)
    faces = np.repeat(random.standard_normal((people, 24)), 2, axis=0)
    features = faces + noise * random.standard_normal(faces.shape)
    names = [str(k // 2) for k in range(2 * people)]
    return Site(name, "set-aside", features.astype(np.float32), names, ["1", "2"] * people)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "figures").mkdir(parents=True)
    for page, names in calibration.PAGES.items():
        text = "\n\n".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->" for name in names)
        (folder / page).write_text(f"# Title\n\n{text}\n\nThe end.\n")
    return folder


def test_study_fills_the_documents_and_draws_the_picture(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {"a": draw_site("a", 45, 0.5, 1), "b": draw_site("b", 40, 0.9, 2), "c": draw_site("c", 6, 0.5, 3)}
    monkeypatch.setattr(calibration, "open_site", lambda bundle, text, cache: drawn[text])
    bundle = make_bundle(tmp_path / "bundle")
    command = ["study", str(bundle), "--site", "a", "--site", "b", "--site", "c", "--draws", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--write", str(documents)])

    calibration.main()

    for page in calibration.PAGES:
        text = (documents / page).read_text()
        assert "\nold\n" not in text
        assert text.startswith("# Title\n")
        assert text.endswith("The end.\n")
        assert "| a | b | " in text
        assert "| c | a | " not in text  # six people are too few to fit on
        assert "nan" not in text
    people = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| b | ")]
    assert any("none: fitted on a" in line for line in people)
    assert any(line.startswith("| b | 20 | ") and "±" in line for line in people)
    assert any("only 40 people" in line for line in people)
    picture = ElementTree.parse(documents / "figures" / "thresholds.svg")
    said = " ".join(element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text"))
    assert "strangers match" in said
    assert "b, people set aside" in said


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synthetic(tmp_path / "people", people=3, cameras=2, frames=2, seed=5, size=(64, 32))
    bundle = Bundle.load(make_bundle(tmp_path / "bundle"))
    text = f"mine={tmp_path / 'people'}@all"

    first = open_site(bundle, text, tmp_path / "cache")
    monkeypatch.setattr(sites, "embed_tracklets", lambda *_, **__: pytest.fail("embedded again"))
    second = open_site(bundle, text, tmp_path / "cache")

    assert first.described == "mine, all people"
    assert (first.pairs.mated, first.pairs.people) == (3, 3)
    np.testing.assert_array_equal(first.features, second.features)


def test_sites_are_named_with_their_part() -> None:
    assert parse_site("a=x.tar,y@set-aside") == ("a", [Path("x.tar"), Path("y")], "set-aside")
    for wrong in ("x.tar@all", "a=x.tar", "a=x.tar@half", "a=@all"):
        with pytest.raises(SystemExit, match="--site must be"):
            parse_site(wrong)

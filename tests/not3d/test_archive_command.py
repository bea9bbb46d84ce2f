"""``not3d gallery`` as it is typed."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from not3d.commands import Failure
from not3d.commands.app import app
from tests.service.gallery.samples import enrol, open_gallery, record

RUN = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, [record(f"r{number}") for number in range(5)])
    gallery.close()
    return tmp_path / "data"


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    result = RUN.invoke(app, ["gallery", *map(str, words)], env=env)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output.replace("\n", " ")


def refusal(*words: str | Path) -> str:
    result = RUN.invoke(app, ["gallery", *map(str, words)])
    assert isinstance(result.exception, Failure), result.output
    return str(result.exception)


def test_the_help_names_every_command() -> None:
    said = run("--help")
    for command in ("snapshot", "restore", "verify"):
        assert command in said
        assert "Example" in run(command, "--help")


def test_a_snapshot_is_taken_checked_and_restored(data: Path, tmp_path: Path) -> None:
    assert "5 records" in run("snapshot", tmp_path / "s", env={"NOT3D_DATA_DIR": str(data)})
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["records"] == 5
    assert "It is whole" in run("verify", tmp_path / "s")
    restored = run("restore", tmp_path / "s", "--data-dir", tmp_path / "new")
    assert "5 records" in restored
    assert "what was erased since is there again" in restored
    assert "It is whole" in run("verify", tmp_path / "new")
    assert "not empty" in refusal("restore", tmp_path / "s", "--data-dir", tmp_path / "new")
    assert "exists" in refusal("snapshot", "--data-dir", data, tmp_path / "s")


def test_damage_ends_with_a_sentence_that_says_what_to_do(data: Path, tmp_path: Path) -> None:
    run("snapshot", "--data-dir", data, tmp_path / "s")
    for folder, advice in ((tmp_path / "s", "use another snapshot"), (data, "not3d gallery restore")):
        with (folder / "gallery.sqlite").open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(8192 * 3))
        assert advice in refusal("verify", folder)
    assert "there is no gallery" in refusal("verify", tmp_path)

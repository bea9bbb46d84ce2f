from typer.testing import CliRunner

from model.errors import Not3dError
from not3d.commands.app import app
from tests.training.datasets.layouts import write_duke

RUN = CliRunner()


def test_the_list_names_every_dataset():
    result = RUN.invoke(app, ["datasets", "list"])
    assert result.exit_code == 0
    for text in ("mars", "8,298 train tracklets", "1,980 query tracklets", "splits_prid2011.json", "LS-VID"):
        assert text in result.output


def test_a_complete_dataset_ends_with_0_and_a_damaged_file_is_named(tmp_path):
    write_duke(tmp_path)
    result = RUN.invoke(app, ["datasets", "check", str(tmp_path), "--decode", "all"])
    assert result.exit_code == 0
    assert "an excerpt: 2 of 702 train people" in result.output
    frame = next(tmp_path.rglob("*.jpg"))
    frame.write_bytes(b"")
    result = RUN.invoke(app, ["datasets", "check", str(tmp_path), "--decode", "all"])
    assert isinstance(result.exception, Not3dError)
    assert frame.name in result.output.replace("\n", "")


def test_decode_is_a_number_or_all(tmp_path):
    result = RUN.invoke(app, ["datasets", "check", str(tmp_path), "--decode", "some"])
    assert isinstance(result.exception, Not3dError)
    assert "--decode must be a number or all (got some)" in str(result.exception)

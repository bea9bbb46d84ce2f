import json
from pathlib import Path

import pytest

from tests.not3d.commands.test_keys import run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose audit log has three entries."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b", "c"):
        run("keys", "create", name, "--scope", "search", "--data-dir", str(folder))
    return folder


def test_the_log_is_shown_and_verified(data: Path) -> None:
    assert "create" in run("audit", "show", "--data-dir", str(data), "--kind", "key")
    last = run("audit", "verify", "--data-dir", str(data)).splitlines()[-1]
    assert last.startswith("3:")
    assert run("gallery", "audit", "--verify", "--data-dir", str(data)).splitlines()[-1] == last
    run("keys", "revoke", "a", "--data-dir", str(data))
    run("audit", "verify", "--data-dir", str(data), "--expect", last)
    wrong = f"3:{'0' * 64}"
    assert "another one" in run("audit", "verify", "--data-dir", str(data), "--expect", wrong, code=1)
    beyond = f"9:{'0' * 64}"
    assert "cut off" in run("audit", "verify", "--data-dir", str(data), "--expect", beyond, code=1)
    assert "POSITION:HASH" in run("audit", "verify", "--data-dir", str(data), "--expect", "x", code=1)


def test_an_export_can_be_verified_elsewhere_and_shows_changes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.jsonl"
    run("audit", "export", str(out), "--data-dir", str(data))
    lines = out.read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["key", "key", "key", "export"]
    assert out.stat().st_mode & 0o077 == 0
    assert run("audit", "verify", str(out)).splitlines()[-1].startswith("4:")
    assert "name a new file" in run("audit", "export", str(out), "--data-dir", str(data), code=1)
    out.write_text("\n".join(lines).replace('"b"', '"x"'))
    assert "entry 2 was changed" in run("audit", "verify", str(out), code=1)
    out.write_text("\n".join([lines[0], *lines[2:]]))
    assert "are missing" in run("audit", "verify", str(out), code=1)
    out.write_text("no JSON")
    assert "line 1 is not an entry" in run("audit", "verify", str(out), code=1)


def test_a_directory_without_a_log_is_an_error(tmp_path: Path) -> None:
    for command in (("verify",), ("show",), ("export", str(tmp_path / "out"))):
        assert "has no audit log" in run("audit", *command, "--data-dir", str(tmp_path), code=1)
    assert list(tmp_path.iterdir()) == []

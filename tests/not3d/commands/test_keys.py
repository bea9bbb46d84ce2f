import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from not3d.commands.app import app
from service.audit.database import reading
from service.audit.entries import read_page
from service.keys import Keys

runner = CliRunner()


def run(*arguments: str, code: int = 0) -> str:
    done = runner.invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    if code:
        return done.output or str(done.exception)
    return done.stdout.strip()


def test_a_key_is_made_used_rotated_and_revoked(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path))
    first = run("keys", "create", "desk", "--scope", "search", "--scope", "enroll", "--rate", "9/minute",
                "--camera", "gate", *data)  # fmt: skip
    keys = Keys((), tmp_path / "keys.json")
    found = keys.find(first)
    assert found
    assert (found.name, found.scopes, found.cameras, found.rate) == ("desk", {"search", "enroll"}, {"gate"}, "9/minute")
    second = run("keys", "rotate", "desk", "--overlap", "1", *data)
    old, new = keys.find(first), keys.find(second)
    assert old
    assert new
    assert old.expires_at
    assert timedelta(minutes=59) < old.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert new.expires_at is None
    third = run("keys", "rotate", "desk", "--overlap", "0", *data)
    assert keys.find(second) is None
    listed = run("keys", "list", "--json", *data)
    assert [key["name"] for key in json.loads(listed)] == ["desk"]
    assert "sha256" not in listed
    assert "desk" in run("keys", "list", *data)
    run("keys", "revoke", "desk", *data)
    assert keys.find(third) is None
    with reading(tmp_path) as connection:
        entries = read_page(connection, 9)
    assert [entry.details["action"] for entry in entries] == ["revoke", "rotate", "rotate", "create"]
    assert all(entry.kind == "key" and entry.by.startswith("account:") for entry in entries)
    text = (tmp_path / "audit.sqlite").read_bytes()
    assert not any(secret.encode() in text for secret in (first, second, third))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--scope", "read"), "--scope"),
        (("--scope", "audit", "--camera", "gate"), "cannot have the scope audit"),
        (("--scope", "search", "--rate", "many"), "--rate"),
        (("--scope", "search", "--expires", "2020-01-01"), "in the past"),
    ],
)
def test_impossible_keys_are_refused(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    assert reason in run("keys", "create", "desk", "--data-dir", str(tmp_path), *options, code=1)
    assert not (tmp_path / "keys.json").exists()


def test_a_name_is_given_once_and_must_exist_to_be_changed(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "new"), "--file", str(tmp_path / "shared.json"))
    run("keys", "create", "desk", "--scope", "admin", *data)
    assert "not3d keys rotate desk" in run("keys", "create", "desk", "--scope", "admin", *data, code=1)
    assert "not3d keys list" in run("keys", "revoke", "other", *data, code=1)
    assert "not3d keys list" in run("keys", "rotate", "other", *data, code=1)
    assert not (tmp_path / "new").exists()

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.keys import Key, KeyFileError, Keys, Secret, changed_file, digest_of, new_secret, read_file

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def make(name: str, *given: str, **values: Any) -> Key:
    found = tuple(Secret(sha256=digest_of(secret), created_at=NOW) for secret in given or (new_secret(),))
    return Key(**({"name": name, "scopes": ("search",), "secrets": found} | values))


def write(path: Path, *keys: Key) -> None:
    with changed_file(path) as contents:
        for key in keys:
            contents[0] = contents[0].replace(key)


def test_secrets_have_256_random_bits_and_only_their_hash_is_kept(tmp_path: Path) -> None:
    secret = new_secret()
    assert len(secret) == len("not3d_") + 43
    assert secret != new_secret()
    write(tmp_path / "keys.json", make("desk", secret))
    text = (tmp_path / "keys.json").read_text()
    assert secret not in text
    assert digest_of(secret) in text
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = Keys((), path)
    assert not keys.required
    write(path, make("desk", "secret"))
    assert keys.required
    found = keys.find("secret")
    assert found
    assert (found.name, found.scopes, found.cameras) == ("desk", {"search"}, None)
    with changed_file(path) as contents:
        contents[0] = contents[0].without("desk")
    assert keys.find("secret") is None


def test_a_service_that_required_a_key_goes_on_to_require_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, make("desk", "secret"))
    keys = Keys((), path)
    path.unlink()
    assert keys.find("secret") is None
    assert keys.required
    with changed_file(path):
        pass
    assert Keys((), path).required  # a file without keys is not the same as no file


def test_a_file_that_cannot_be_read_ends_the_start_but_not_a_running_service(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, make("desk", "secret"))
    keys = Keys((), path)
    path.write_text("{")
    assert keys.find("secret")
    with pytest.raises(KeyFileError, match="is not a file of keys"):
        Keys((), path)
    with pytest.raises(KeyFileError, match="is missing: make it with"):
        Keys((), tmp_path / "other.json", must_exist=True)


def test_the_earlier_of_both_ends_counts(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old = Secret(sha256=digest_of("old"), created_at=NOW, expires_at=NOW - HOUR)
    new = Secret(sha256=digest_of("new"), created_at=NOW)
    write(path, make("desk", secrets=(old, new), expires_at=NOW + HOUR))
    keys = Keys((), path)
    first, second = keys.find("old"), keys.find("new")
    assert first
    assert second
    assert (first.expired, second.expired) == (True, False)


def test_plain_keys_have_every_scope_and_the_name_of_their_fingerprint(tmp_path: Path) -> None:
    keys = Keys(("0123456789abcdef",), tmp_path / "keys.json")
    found = keys.find("0123456789abcdef")
    assert found
    assert found.name == f"key:{digest_of('0123456789abcdef')[:12]}"
    assert found.caller(None).may("admin")
    assert keys.find("0123456789abcdeg") is None
    assert keys.find("") is None


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "key:0123"},
        {"scopes": ()},
        {"scopes": ("read",)},
        {"cameras": ()},
        {"cameras": ("",)},
        {"rate": "0/minute"},
        {"rate": "5/fortnight"},
        {"scopes": ("search", "audit"), "cameras": ("gate",)},
        {"scopes": ("admin",), "cameras": ("gate",)},
        {"scopes": ("metrics",), "cameras": ("gate",)},
        {"secrets": ()},
    ],
)
def test_impossible_keys_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make("desk", **values) if "name" not in values else make(**values)


def test_two_keys_cannot_share_a_name_or_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(ValidationError, match="same name or secret"):
        write(path, make("a", "secret"), make("b", "secret"))
    assert not path.exists()


def test_a_failed_change_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, make("desk", "secret"))
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="there is no key other"), changed_file(path) as contents:
        contents[0] = contents[0].without("other")
    assert path.read_bytes() == before
    assert [key.name for key in read_file(path).keys] == ["desk"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]

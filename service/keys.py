"""API keys: the file that keeps them, and the keys in force.

A key is a name with scopes and limits, and one secret, or two while it is rotated. The file has the SHA-256 of each
secret. That is enough, because a secret has 256 random bits: unlike a password it cannot be guessed.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import Not3dError
from model.files import read_at_most
from service.callers import SCOPES, Caller, Scope

FILE_NAME: Final = "keys.json"
_MAX_FILE: Final = 64 * 2**20
SECRET_PREFIX: Final = "not3d_"  # noqa: S105 - it is public
"""The start of each secret, by which programs find secrets that were published by mistake."""
SECRET_BYTES: Final = 32
FINGERPRINT_DIGITS: Final = 12
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
RATE_PATTERN: Final = r"^[1-9][0-9]{0,5}/(second|minute|hour|day)$"
OF_ALL_CAMERAS: Final[frozenset[Scope]] = frozenset({"audit", "metrics", "admin"})
"""Scopes that a key with a list of cameras cannot have, because they tell about records of all cameras."""

log = logging.getLogger("not3d.service")


class KeyFileError(Not3dError):
    """The file of keys cannot be used, or a key cannot be made as asked."""


class Secret(BaseModel):
    """The digest of one secret of a key, and when the secret ends because the key was rotated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None


class Key(BaseModel):
    """A key as the file has it. `cameras`: it sees only records of these; `null`: all records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    cameras: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1)] | None = (
        None
    )
    rate: Annotated[str, Field(pattern=RATE_PATTERN)] | None = None
    expires_at: AwareDatetime | None = None
    secrets: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=8)]

    @model_validator(mode="after")
    def _check_scopes(self) -> Self:
        if self.cameras is not None and (refused := sorted(OF_ALL_CAMERAS.intersection(self.scopes))):
            raise ValueError(
                f"a key with a list of cameras cannot have the scope {' or '.join(refused)}, which reveals all "
                "cameras: make a second key for it"
            )
        return self


class KeyFile(BaseModel):
    """The contents of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=1)] = 1
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        names = [key.name for key in self.keys]
        digests = [secret.sha256 for key in self.keys for secret in key.secrets]
        if len(set(names)) < len(names) or len(set(digests)) < len(digests):
            raise ValueError("two keys have the same name or secret")
        return self

    def find(self, name: str) -> Key:
        """Return the key of this name. Raises `KeyFileError` if there is none."""
        for key in self.keys:
            if key.name == name:
                return key
        raise KeyFileError(f"there is no key {name}: not3d keys list shows the names")

    def replace(self, key: Key) -> "KeyFile":
        """Return the file with another key of the same name, at its place or at the end."""
        if any(each.name == key.name for each in self.keys):
            return KeyFile(keys=tuple(key if each.name == key.name else each for each in self.keys))
        return KeyFile(keys=(*self.keys, key))

    def without(self, name: str) -> "KeyFile":
        """Return the file without the key of this name. Raises `KeyFileError` if there is none."""
        gone = self.find(name)
        return KeyFile(keys=tuple(key for key in self.keys if key is not gone))


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key in force, as one of its secrets names it: `digest` is the SHA-256 of that secret in hexadecimal."""

    digest: str
    name: str
    scopes: frozenset[Scope] = SCOPES
    cameras: frozenset[str] | None = None
    rate: str | None = None
    expires_at: datetime | None = None

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def caller(self, operator: str | None) -> Caller:
        """Return who calls with this key."""
        return Caller(self.name, self.scopes, self.cameras, operator)


class Keys:
    """The keys in force: those of the settings, and those of the file, which is read again when it changes.

    If the file cannot be read any more, its last contents stay in force and the log says so. If it is removed, its keys
    end. A service that once required a key requires one until it ends.
    """

    def __init__(self, plain: tuple[str, ...], path: Path, *, must_exist: bool = False, required: bool = False) -> None:
        """Take the plain keys of the settings, and the path of the file, which may be missing unless it `must_exist`.

        With `required`, a request needs a key (or a session, or a proxy's user) even if there is none.

        Raises:
            KeyFileError: the file is missing or invalid.
        """
        self.path = path
        self._plain = {
            digest: ActiveKey(digest, f"key:{digest[:FINGERPRINT_DIGITS]}") for digest in map(digest_of, plain)
        }
        self._active: Mapping[str, ActiveKey] = self._plain
        self._version: tuple[int, int, int] | None = None
        self._limited: frozenset[str] = frozenset()
        self._required = required or bool(plain)
        if must_exist and not path.is_file():
            raise KeyFileError(f"the file of keys {path} is missing: make it with not3d keys create NAME --file {path}")
        self._reload(first=True)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        self._reload()
        return self._required

    @property
    def limited_cameras(self) -> frozenset[str]:
        """The cameras that keys are limited to."""
        self._reload()
        return self._limited

    def find(self, secret: str) -> ActiveKey | None:
        """Return the key of a secret, even if it has expired; `None` if there is none."""
        return self.find_digest(digest_of(secret))

    def find_digest(self, digest: str) -> ActiveKey | None:
        """Return the key whose secret has this digest.

        The time that this takes may depend on the digest. That tells nothing about the secret.
        """
        self._reload()
        return self._active.get(digest)

    def _reload(self, *, first: bool = False) -> None:
        try:
            status = self.path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            version = None
        except OSError:  # reading it says why
            version = (-1, -1, -1)
        if version == self._version and not first:
            return
        self._version = version
        try:
            file = KeyFile() if version is None else read_file(self.path)
        except KeyFileError as error:
            self._complain(error, first=first)
            return
        active = dict(self._plain)
        for key in file.keys:
            for secret in key.secrets:
                ends = min((time for time in (key.expires_at, secret.expires_at) if time), default=None)
                cameras = None if key.cameras is None else frozenset(key.cameras)
                active[secret.sha256] = ActiveKey(
                    secret.sha256, key.name, frozenset(key.scopes), cameras, key.rate, ends
                )
        self._active = active
        self._limited = frozenset(camera for key in file.keys for camera in key.cameras or ())
        self._required = self._required or version is not None
        if not first:
            log.info("keys read again", extra={"facts": {"keys": len(file.keys)}})

    def _complain(self, error: KeyFileError, *, first: bool) -> None:
        if first:
            raise error
        log.error("keys not read again; the last ones stay in force", extra={"facts": {"reason": str(error)}})


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """Return a new secret of 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def read_file(path: Path) -> KeyFile:
    """Read a file of keys.

    Raises:
        KeyFileError: it cannot be read, or is not a file of keys.
    """
    try:
        content = read_at_most(path, _MAX_FILE)
        if content is None:
            raise KeyFileError(f"the file of keys {path} has more than {_MAX_FILE} bytes, the maximum of keys")
        return KeyFile.model_validate_json(content)
    except OSError as error:
        raise KeyFileError(f"the file of keys {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise KeyFileError(f"{path} is not a file of keys: {place}: {first['msg']}") from error


@contextmanager
def changed_file(path: Path) -> Iterator[list[KeyFile]]:
    """Give the contents of a file of keys in a list, and replace the file by what is in the list at the end.

    Only one process changes the file at a time, and a reader sees either the old or the new contents. The file is for
    its owner alone.

    Raises:
        KeyFileError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (path.parent / f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            contents = [read_file(path) if path.exists() else KeyFile()]
            yield contents
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                json.dump(_plain_json(contents[0]), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            _keep_owner(part, path)
            part.replace(path)
    except OSError as error:
        raise KeyFileError(f"the file of keys {path} cannot be written: {error.strerror or error}") from error


def _plain_json(file: KeyFile) -> Any:
    return file.model_dump(mode="json", exclude_none=True)


def _keep_owner(part: Path, path: Path) -> None:
    """Let the service read the file after another account, such as root, has changed it."""
    owner = (path if path.exists() else path.parent).stat()
    if os.geteuid() == 0:
        os.chown(part, owner.st_uid, owner.st_gid)
        if path.exists():
            part.chmod(owner.st_mode & 0o777)

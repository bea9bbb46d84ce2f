import sqlite3
from pathlib import Path
from typing import Any

import pytest

from service.gallery import GalleryError
from service.gallery.embedded import readers
from service.gallery.embedded.database import connect
from service.gallery.embedded.readers import Readers
from tests.service.gallery.samples import open_gallery


class Failing:
    """A real connection whose ROLLBACK fails."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real = real
        self.closed = False

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return self.real.execute(statement, *values)

    def close(self) -> None:
        self.closed = True
        self.real.close()


def test_a_connection_is_lent_again(tmp_path: Path) -> None:
    open_gallery(tmp_path).close()
    lent = Readers(tmp_path)
    with lent.snapshot() as first, lent.snapshot() as second:
        assert first is not second
    with lent.snapshot() as third:
        assert third in {first, second}
    lent.close()


def test_a_connection_that_cannot_end_its_transaction_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_gallery(tmp_path).close()
    lent = Readers(tmp_path)
    failing = Failing(connect(tmp_path, read_only=True))
    with monkeypatch.context() as patch:
        patch.setattr(readers, "connect", lambda *_arguments, **_more: failing)
        with pytest.raises(GalleryError), lent.snapshot():
            pass
    assert failing.closed
    with lent.snapshot() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    lent.close()

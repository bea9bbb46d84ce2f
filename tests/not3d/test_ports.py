import socket
from pathlib import Path

import pytest

from not3d import ports
from not3d.ports import free_port


@pytest.mark.parametrize(("given", "end"), [("32768\t60999\n", 32768), ("1024 65535", 65535), ("none", 65535)])
def test_a_free_port_is_below_those_of_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, end: int
) -> None:
    (tmp_path / "range").write_text(given)
    monkeypatch.setattr(ports, "_OF_CONNECTIONS", tmp_path / "range")
    found = {free_port() for _ in range(200)}
    assert len(found) > 150
    assert 10_000 <= min(found) < max(found) < end


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free, used = free_port(), free_port()
    given = iter([used, used, free])
    monkeypatch.setattr(ports.secrets, "randbelow", lambda _: next(given) - 10_000)
    with socket.create_server(("127.0.0.1", used)):
        assert free_port() == free

"""A free port for a program that is started next."""

import secrets
import socket
from contextlib import suppress
from pathlib import Path

_FIRST, _LAST = 10_000, 65_535
_OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a free TCP port of the loopback interface, if possible below those that the system gives away itself.

    The system could give one of those to another program before the started one listens on it, or while that restarts.
    """
    end = _LAST
    with suppress(OSError, ValueError):
        end = int(_OF_CONNECTIONS.read_text().split()[0])
    if end < 2 * _FIRST:
        end = _LAST
    while True:
        port = _FIRST + secrets.randbelow(end - _FIRST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

"""Messages with the process that asked for a video."""

import array
import json
import socket
import struct
from typing import Any, Final

MAX_MESSAGE: Final = 4 * 1024 * 1024


class Refused(Exception):
    """A video that cannot be used; `kind` is a `VideoErrorKind`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Gone(Exception):
    """The other process has closed the socket."""


class Channel:
    """Messages over a socket: JSON behind four bytes of length, with file descriptors."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, **message: Any) -> None:
        """Send a message."""
        data = json.dumps(message).encode()
        self._socket.sendall(struct.pack(">I", len(data)) + data)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Return the next message and its files; raise `Gone` if there is none."""
        head, files = self._read(4)
        (length,) = struct.unpack(">I", head)
        if length > MAX_MESSAGE:
            raise Gone
        body, more = self._read(length)
        message: dict[str, Any] = json.loads(body)
        return message, files + more

    def _read(self, count: int) -> tuple[bytes, list[int]]:
        data, files = b"", []
        while len(data) < count:
            piece, ancillary, _, _ = self._socket.recvmsg(min(count - len(data), 65_536), socket.CMSG_SPACE(4 * 8))
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % 4])
                    files += list(numbers)
            if not piece:
                raise Gone
            data += piece
        return data, files

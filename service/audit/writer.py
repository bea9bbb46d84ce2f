"""The process that adds entries to the audit log, so that the service does not wait for Python's lock meanwhile.

The service sends entries over a socket, each as a line of JSON (`NewEntry.to_line`). All entries that have come share a
transaction. After each transaction the process answers with a line: how many entries it was for, and `null` or what
went wrong. It ends when the socket is closed, also because the service was killed.
"""

import json
import logging
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from service.audit.database import FILE_NAME, connect, identity_of, translate
from service.audit.entries import NewEntry, append
from service.audit.mentions import ENTRIES_AT_ONCE, count_unindexed, index_next
from service.gallery.records import DiskFull, GalleryError, StorageLost
from service.sqlite import transaction

INDEX_AFTER: Final = 4096
"""Entries that may be missing in the index of ids; to complete it takes a few tenths of a second."""
PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[3]); from service.audit.writer import main; main()"
"""Isolated mode ignores the folder of a script, so the folder that holds this project's packages is an argument."""
READY: Final = b"ready\n"
ERRORS: Final[dict[str, type[GalleryError]]] = {
    error.__name__: error for error in (DiskFull, StorageLost, GalleryError)
}
"""What can go wrong, by the name that stands in an answer."""
_READ_BYTES: Final = 2**20

log = logging.getLogger("not3d.service")


def start(directory: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process; `channel` is its end of the socket."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-c", PROGRAM, str(channel.fileno()), str(directory.absolute()), root],
        pass_fds=[channel.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"OPENBLAS_NUM_THREADS": "1"},  # no keys; and NumPy is imported, but computes nothing
        cwd="/",
        start_new_session=True,  # Ctrl-C is for the service, which closes the socket
    )


def main() -> None:
    """Run the process."""
    # A service manager may send it to all processes of a service, which still answers what it has accepted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel, Path(sys.argv[2]))


def serve(channel: socket.socket, directory: Path) -> None:
    """Add the entries that come until the socket is closed."""
    path = directory / FILE_NAME
    with closing(connect(directory)) as connection:
        identity = identity_of(path)
        unindexed = count_unindexed(connection)  # about: other processes may add and index entries
        channel.sendall(READY)
        for lines in _read(channel):
            error = _add(connection, [NewEntry.from_line(line) for line in lines], path, identity)
            answer = [len(lines), None if error is None else [type(error).__name__, str(error)]]
            try:
                channel.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:  # the service was killed
                return
            unindexed += len(lines)
            if unindexed >= INDEX_AFTER:
                unindexed = _index(connection, unindexed)


def _read(channel: socket.socket) -> Iterator[list[bytes]]:
    """Yield the lines that have come, at least one at a time."""
    pieces: list[bytes] = []
    while piece := channel.recv(_READ_BYTES):
        pieces.append(piece)
        if b"\n" in piece:
            *lines, rest = b"".join(pieces).split(b"\n")
            pieces = [rest]
            yield lines


def _add(
    connection: sqlite3.Connection, entries: list[NewEntry], path: Path, identity: tuple[int, int]
) -> GalleryError | None:
    try:
        for entry in entries:
            entry.prepare()  # before the file is locked
        with transaction(connection):
            append(connection, entries)
        if identity_of(path) != identity:
            return StorageLost(f"{path} was removed or replaced: restart the service")
    except (sqlite3.Error, OSError) as error:
        return translate(error, path)
    except Exception as error:  # the process must go on, and every request must get an answer
        log.exception("audit log not written")
        return GalleryError(f"the audit log failed: {error}")
    return None


def _index(connection: sqlite3.Connection, unindexed: int) -> int:
    """Add some entries to the index, and return how many are left."""
    try:
        with transaction(connection):
            count = index_next(connection)
    except sqlite3.Error as error:
        # The mark did not move, so nothing is lost. The next try comes after as many new entries.
        log.warning("audit log not indexed: %s", error)  # to standard error, and so into the log of the service
        return 0
    return unindexed - count if count == ENTRIES_AT_ONCE else 0

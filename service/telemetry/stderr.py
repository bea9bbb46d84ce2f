"""Standard error of libraries as log records, so that every line that the service writes there is JSON.

Decoders and engines write messages about damaged files straight to file descriptor 2. Only two texts are not JSON: the
traceback of `faulthandler` if the process crashes, and the sentence with which a process ends that could not start.
"""

import faulthandler
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_PIPE_BYTES = 1024 * 1024
_MAX_LINE = 2000
_LINES_PER_SECOND = 20
"""A client that sends damaged files must not fill the log."""
_JOIN_SECONDS = 1.0
"""A child process may still hold the other end of the pipe when the service ends."""

log = logging.getLogger("not3d.stderr")


@contextmanager
def captured_stderr() -> Iterator[TextIO]:
    """Turn what is written to file descriptor 2 into log records until the context ends.

    Yields:
        The stream for the log itself: standard error as it was before. It stays open.
    """
    sys.stderr.flush()
    original = os.dup(2)
    reading, writing = os.pipe()
    with suppress(OSError):  # a lower limit of this user
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    # A library may write while it holds the interpreter's lock, which the reader needs: a full pipe must not block it.
    os.set_blocking(writing, False)
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(target=_log_lines, args=(reading,), name="stderr", daemon=True)
    reader.start()
    faulthandler.enable(original)
    try:
        yield os.fdopen(original, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    finally:
        with suppress(OSError):  # the pipe is full
            sys.stderr.flush()
        os.dup2(original, 2)
        reader.join(_JOIN_SECONDS)


def _log_lines(descriptor: int) -> None:
    pending, second, lines, dropped = b"", 0, 0, 0
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while data := pipe.read(_PIPE_BYTES):
            *complete, pending = (pending + data).split(b"\n")
            if len(pending) > _MAX_LINE:
                complete, pending = [*complete, pending], b""
            for line in filter(bytes.strip, complete):
                if (now := int(time.monotonic())) != second:
                    if dropped:
                        log.warning("%d more messages of libraries were left out", dropped)
                    second, lines, dropped = now, 0, 0
                lines += 1
                if lines > _LINES_PER_SECOND:
                    dropped += 1
                else:
                    log.warning("%s", line[:_MAX_LINE].decode("utf-8", "replace").rstrip())
    if pending.strip():
        log.warning("%s", pending.decode("utf-8", "replace"))

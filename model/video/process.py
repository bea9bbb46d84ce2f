"""Starts decoder processes and speaks with them; `model.decoder` is the other side.

The decoder is not trusted: a file may have taken it over. Each size and offset that it sends is checked here.
"""

import array
import atexit
import json
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from model.errors import extra
from model.video.limits import VideoError

PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv[2]); from model.decoder.starter import main; main()"
"""Isolated mode ignores the folder of a script, so the folder that holds this project's packages is an argument."""
MAX_MESSAGE: Final = 64 * 1024
CHECK_SECONDS: Final = 0.05
"""How often a thread that waits for the decoder looks whether its request has been cancelled."""
START_SECONDS: Final = 60.0
MIN_SLOTS, MAX_SLOTS = 2, 16
"""Frames in the shared memory: the decoder fills one while the other is read."""
SMALL_BYTES: Final = 1024 * 1024
"""As many more small frames as fit into this, so that the two processes wait for each other less often."""


class Event(Protocol):
    """A `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether the work has been cancelled."""


class DecoderEnded(Exception):
    """The decoder process ended without an answer: it crashed, or the kernel ended it at a limit."""


class Connection:
    """Messages to and from one decoder process: JSON behind four bytes of length, with file descriptors."""

    def __init__(self, connection: socket.socket, cancelled: Event | None = None) -> None:
        self._socket, self._cancelled = connection, cancelled
        self._received = b""
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)

    def send(self, files: tuple[int, ...] = (), **message: Any) -> None:
        """Send a message.

        Raises:
            DecoderEnded: the decoder has ended.
            VideoError: `cancelled` if the request was cancelled while the decoder reads nothing.
        """
        body = json.dumps(message).encode()
        data = memoryview(struct.pack(">I", len(body)) + body)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        while data:
            self._wait(self._writable, None)
            try:
                data = data[self._socket.sendmsg([data], ancillary, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                raise DecoderEnded from None
            ancillary = []

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Raises:
            DecoderEnded: there is none, or it is not well formed.
            VideoError: `cancelled` if the request was cancelled, also while this waits.
        """
        self._check_cancelled()  # a fast decoder never lets this thread wait
        try:
            (length,) = struct.unpack(">I", self._read(4, seconds))
            if length > MAX_MESSAGE:
                raise DecoderEnded
            message = json.loads(self._read(length, seconds))
        except (OSError, ValueError):
            raise DecoderEnded from None
        if not isinstance(message, dict):
            raise DecoderEnded
        return message

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _read(self, count: int, seconds: float | None) -> bytes:
        while len(self._received) < count:
            self._wait(self._readable, seconds)
            piece = self._socket.recv(MAX_MESSAGE)  # often several messages
            if not piece:
                raise DecoderEnded
            self._received += piece
        data, self._received = self._received[:count], self._received[count:]
        return data

    def _wait(self, ready: select.poll, seconds: float | None) -> None:
        if self._cancelled is None:
            if not ready.poll(None if seconds is None else seconds * 1000):
                raise DecoderEnded
            return
        while not ready.poll(CHECK_SECONDS * 1000):
            self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise VideoError("cancelled", "the request was cancelled")


class Worker:
    """A decoder process for one video. Closing it kills the process."""

    def __init__(self, connection: Connection, lifeline: socket.socket) -> None:
        self.connection, self._lifeline = connection, lifeline

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._lifeline.close()
        self.connection.close()


class Starter:
    """The process that forks a decoder for each video in a millisecond. It is started when it is first needed.

    It ends when this process ends, however that happens, and takes the decoders with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Connection | None = None

    def start(self) -> None:
        """Start the process unless it runs.

        Raises:
            MissingExtra: PyAV is not installed.
            VideoError: the process does not start.
        """
        with self._lock:
            self._start()

    def fork(self, cancelled: Event | None = None) -> Worker:
        """Return a new decoder process.

        Raises:
            MissingExtra: PyAV is not installed.
            VideoError: no process can be started.
        """
        ours, theirs = socket.socketpair()
        lifeline, far_end = socket.socketpair()
        try:
            with self._lock:
                for attempt in range(2):  # the starter may have been killed since the last video
                    control = self._start()
                    try:
                        control.send((theirs.fileno(), far_end.fileno()), kind="fork")
                        control.receive(START_SECONDS)
                        break
                    except DecoderEnded:
                        self._stop()
                        if attempt:
                            raise VideoError("unusable", "the video decoder does not start") from None
        except BaseException:
            ours.close()
            lifeline.close()
            raise
        finally:
            theirs.close()
            far_end.close()
        return Worker(Connection(ours, cancelled), lifeline)

    def stop(self) -> None:
        """End the process and all decoders; a later call starts it again."""
        with self._lock:
            self._stop()

    def _start(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._control is not None:
            return self._control
        with extra("video"):
            _require_pyav()
        ours, theirs = socket.socketpair()
        # One malloc arena and no mmap for large blocks: decoded frames are freed and allocated all the time.
        environment = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "-1"}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-c", PROGRAM, str(theirs.fileno()), str(Path(__file__).parents[2])],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for this process; it ends the decoders
            )
        control = Connection(ours)
        try:
            control.receive(START_SECONDS)
        except DecoderEnded:
            ours.close()
            self._stop()
            raise VideoError("unusable", "the video decoder does not start; is PyAV installed correctly?") from None
        self._control = control
        return control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _require_pyav() -> None:
    """Raise ImportError if PyAV is missing. It is not imported here: its libraries stay out of this process."""
    from importlib.util import find_spec

    if find_spec("av") is None:
        raise ModuleNotFoundError("No module named 'av'", name="av")


STARTER: Final = Starter()
"""Shared by all videos of this process."""
atexit.register(STARTER.stop)


class SharedMemory:
    """The frames of one decoder: `slots` of the same `size` in bytes, in memory without a name."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.slots = max(MIN_SLOTS, min(MAX_SLOTS, SMALL_BYTES // self.size))
        if sys.platform == "linux":
            self.file = os.memfd_create("not3d-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                self.file = os.dup(file.fileno())
        os.ftruncate(self.file, self.size * self.slots)
        if sys.platform == "linux":  # a smaller file would end this process with a bus error
            import fcntl

            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.map = mmap.mmap(self.file, self.size * self.slots, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Release the memory."""
        os.close(self.file)
        with suppress(BufferError):  # an array still looks at it
            self.map.close()

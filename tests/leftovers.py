"""End the processes that tests have started, if the tests' own process is killed before its fixtures can do so."""

import os
import subprocess
import sys
from uuid import uuid4

MARK = "PROCESS_OF_TESTS"
"""Variable in the environment of every process that the tests start."""

_GUARD = """
import os, signal, sys, time
from pathlib import Path

if os.fork():  # no child of the tests, which count theirs
    os._exit(0)
mark = os.environb[sys.argv[1].encode()]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()  # ends when the tests' process has ended

def left():
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid()
        except OSError:
            continue
        if marked:
            yield int(folder.name)

for number in (signal.SIGTERM, signal.SIGKILL):
    for process in left():
        try:
            os.kill(process, number)
        except OSError:
            pass
    until = time.monotonic() + 5
    while any(left()) and time.monotonic() < until:
        time.sleep(0.1)
"""


def end_with_this_process() -> None:
    """Start a process that waits for the end of this one, however it ends, and then ends what this one has started.

    Only on Linux, where the environment of a process can be read.
    """
    if sys.platform != "linux":
        return
    os.environ[MARK] = uuid4().hex
    reading, writing = os.pipe()  # the system closes the other end together with this process
    # A session of its own, so that a signal to the group of the tests does not reach it.
    command = [sys.executable, "-I", "-S", "-c", _GUARD, MARK]
    subprocess.run(command, stdin=reading, start_new_session=True, check=True)
    os.close(reading)
    _open.append(writing)


_open: list[int] = []

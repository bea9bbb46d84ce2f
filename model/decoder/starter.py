"""The starter: it forks a worker for each video and kills it when the other process does not need it any more."""

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

import av.logging

from model.decoder.channel import Channel, Gone
from model.decoder.worker import run_worker

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38


def main() -> None:
    """Be the starter; the first argument is the number of the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    av.logging.set_level(None)
    run_starter(control)


def run_starter(control: socket.socket) -> NoReturn:
    """Fork a worker for each pair of sockets that arrives; kill it when its lifeline closes."""
    channel = Channel(control)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the other process decides
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    workers: dict[int, int] = {}  # the lifeline of each worker, and its process
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    channel.send(kind="ready")
    try:
        while True:
            for file, _ in poll.poll():
                if file == control.fileno():
                    _, files = channel.receive()
                    connection, lifeline = files
                    workers[lifeline] = _fork(connection, [control.fileno(), woken.fileno(), wake.fileno(), *workers])
                    os.close(connection)
                    poll.register(lifeline, select.POLLIN)
                    channel.send(kind="forked")
                elif file in workers:  # the other process does not need the worker any more
                    os.kill(workers[file], signal.SIGKILL)
                    poll.unregister(file)
                elif file == woken.fileno():
                    with suppress(BlockingIOError):
                        woken.recv(4096)
                    _reap(workers, poll)
    except (Gone, OSError):
        for process in workers.values():
            os.kill(process, signal.SIGKILL)
    os._exit(0)


def _reap(workers: dict[int, int], poll: select.poll) -> None:
    for lifeline, process in list(workers.items()):
        if os.waitpid(process, os.WNOHANG)[0]:
            with suppress(KeyError):
                poll.unregister(lifeline)
            os.close(lifeline)
            del workers[lifeline]


def _fork(connection: int, unwanted: list[int]) -> int:
    starter = os.getpid()
    process = os.fork()
    if process:
        return process
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in unwanted:
            os.close(file)
        _call_prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _call_prctl(PR_SET_NO_NEW_PRIVS, 1)
        if os.getppid() == starter:
            run_worker(Channel(socket.socket(fileno=connection)))
    except BaseException:  # noqa: BLE001 - a worker never returns into the starter's loop
        os._exit(1)
    os._exit(0)


def _call_prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)

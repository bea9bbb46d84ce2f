"""Ctrl-C in training: asked for at any moment, obeyed where the state can be saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console


class Stopped(KeyboardInterrupt):
    """Training was interrupted between two steps; its state is whole."""


class Interruption:
    """Holds Ctrl-C (and SIGTERM) back until :attr:`asked` is looked at; a second one ends at once.

    Not with ``patient``: torchrun's processes get the same Ctrl-C twice, from the terminal and from torchrun, which
    ends them itself if they take longer than 30 seconds.

    Only the main thread may handle signals: elsewhere nothing is held back.
    """

    def __init__(self, console: Console, *, patient: bool = False) -> None:
        self.asked, self._patient = False, patient
        self._console = console
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's signature
        if self.asked and not self._patient:
            raise KeyboardInterrupt
        if not self.asked:
            more = "" if self._patient else "; once more stops at once, without"
            self._console.print(f"Stopping after this step, with a checkpoint{more}.")
        self.asked = True

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

    Only the main thread may handle signals: elsewhere nothing is held back.
    """

    def __init__(self, console: Console) -> None:
        self.asked = False
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
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._console.print("Stopping after this step, with a checkpoint; once more stops at once, without.")

"""What one request took, for its line in the log."""

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Cost:
    """Seconds by stage, usable frames, clips computed, bytes of the body. Several threads work for one request."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    clips: int = 0
    bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Count time in a stage.

        A request of several pieces is in a stage several times, also at the same time, so that the stages may add up
        to more than the request took.
        """
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


current_cost: ContextVar[Cost | None] = ContextVar("current_cost", default=None)
"""Of the request that the current task is answering. A thread that was not given the task's context sees none."""

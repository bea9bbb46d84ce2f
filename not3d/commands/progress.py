"""How far an enrolment is, on standard error: a bar on a terminal, a line every now and then elsewhere."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from not3d.commands import messages
from not3d.enrol.tally import Tally

LINE_SECONDS = 10.0
"""Between two lines, where there is no terminal."""


@contextmanager
def show_tally(tally: Tally) -> Iterator[None]:
    """Show the counts, the pace and the time left while the block runs."""
    if messages.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Pace(tally))
        with Progress(*columns, console=messages) as progress:
            task = progress.add_task("Enrolling", total=tally.total)

            def draw() -> None:
                progress.update(task, completed=tally.done)

            with _every(0.2, draw):
                yield
            draw()
        return
    with _every(LINE_SECONDS, lambda: say(f"{tally.done} of {tally.total}: {describe(tally)}")):
        yield


@contextmanager
def counting(what: str) -> Iterator["Count"]:
    """Show a growing number while the block runs."""
    count = Count()
    if messages.is_terminal:
        with messages.status(what) as status, _every(0.2, lambda: status.update(f"{what}: {count.value}")):
            yield count
        return
    with _every(LINE_SECONDS, lambda: say(f"{what}: {count.value}")):
        yield count


class Count:
    """A number that others look at."""

    value = 0

    def __call__(self, value: int) -> None:
        """Change it."""
        self.value = value


def describe(tally: Tally) -> str:
    """Counts, pace and time left in a line."""
    left = tally.seconds_left()
    return f"{tally.describe()}; {tally.pace():.1f}/s, {'-:--:--' if left is None else clock(left)} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def say(line: str) -> None:
    """One line on standard error, never wrapped."""
    messages.print(line, soft_wrap=True, markup=False, highlight=False)


class _Pace(ProgressColumn):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def render(self, task: Task) -> Text:  # noqa: ARG002
        return Text(describe(self._tally))


@contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` in a thread again and again while the block runs; first after that time."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            act()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)

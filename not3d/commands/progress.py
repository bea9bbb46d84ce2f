"""The progress of an enrolment on standard error: a bar on a terminal, otherwise a line now and then."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from not3d.commands import messages, print_message
from not3d.enrol.counts import EnrolmentCounts

LINE_SECONDS = 10.0
"""Between two lines, if there is no terminal."""


@contextmanager
def show_counts(counts: EnrolmentCounts) -> Iterator[None]:
    """Show the counts, the pace and the time left while the block runs."""
    if messages.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Pace(counts))
        with Progress(*columns, console=messages) as progress:
            task = progress.add_task("Enrolling", total=counts.total)

            def draw() -> None:
                progress.update(task, completed=counts.done)

            with _every(0.2, draw):
                yield
            draw()
        return
    with _every(LINE_SECONDS, lambda: print_message(f"{counts.done} of {counts.total}: {describe(counts)}")):
        yield


@contextmanager
def show_count(what: str) -> Iterator["Count"]:
    """Show a growing number while the block runs."""
    count = Count()
    if messages.is_terminal:
        with messages.status(what) as status, _every(0.2, lambda: status.update(f"{what}: {count.value}")):
            yield count
        return
    with _every(LINE_SECONDS, lambda: print_message(f"{what}: {count.value}")):
        yield count


class Count:
    """A number that another thread shows."""

    value = 0

    def __call__(self, value: int) -> None:
        """Set the number."""
        self.value = value


def describe(counts: EnrolmentCounts) -> str:
    """Return counts, pace and time left in a line."""
    left = counts.seconds_left()
    return f"{counts.describe()}; {counts.pace():.1f}/s, {'-:--:--' if left is None else clock(left)} left"


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds, as `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class _Pace(ProgressColumn):
    def __init__(self, counts: EnrolmentCounts) -> None:
        super().__init__()
        self._counts = counts

    def render(self, task: Task) -> Text:  # noqa: ARG002
        return Text(describe(self._counts))


@contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in a thread every so many seconds while the block runs."""
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

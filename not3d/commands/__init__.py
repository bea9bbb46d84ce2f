"""The commands of `not3d`, one plain function each, and what they share."""

from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

from model.errors import Not3dError

UNLIMITED = 1_000_000
"""Columns of an output that is not a terminal."""


class Results(Console):
    """Standard output. Only on a terminal tables are as wide as the window: other programs get each cell as it is."""

    @property
    def size(self) -> ConsoleDimensions:
        """The number of columns and lines."""
        return super().size if self.is_terminal else ConsoleDimensions(UNLIMITED, 25)

    @size.setter
    def size(self, new: tuple[int, int]) -> None:
        self._width, self._height = new


results = Results()
"""Standard output: what was asked for."""
messages = Console(stderr=True)
"""Standard error: progress and remarks."""


class Failure(Not3dError):
    """A command cannot do what was asked."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message, if there is one, says how to continue."""


class Interruptible(TyperGroup):
    """A group whose commands end with `Interrupted`: what Typer does on Ctrl-C depends on its version."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


def count_of(number: int, noun: str) -> str:
    """Return such as "1 record" and "2,000 records"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def print_result(text: str) -> None:
    """Print text as it is to standard output, never wrapped."""
    results.print(text, soft_wrap=True, markup=False, highlight=False)


def print_message(text: str) -> None:
    """Print text as it is to standard error, never wrapped."""
    messages.print(text, soft_wrap=True, markup=False, highlight=False)


def print_error(text: str) -> None:
    """Print an error message to standard error, never wrapped."""
    messages.print(Text.assemble(("Error: ", "bold red"), text), soft_wrap=True)


def show_progress() -> Progress:
    """Return a progress bar on standard error that counts what is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=messages,
    )

"""The commands of ``not3d``, one plain function each, and what they share."""

import importlib
import sys
from types import ModuleType

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from not3d.client import ClientError
from not3d.footage import FootageError

results = Console()
"""Standard output: what was asked for."""
messages = Console(stderr=True)
"""Standard error: progress and remarks."""


class Failure(Exception):  # noqa: N818 - it ends a command, the message is all there is to it
    """A command cannot do what was asked; the message is for the user."""


def load(name: str, extra: str) -> ModuleType:
    """Import a module of this project whose dependencies come with an extra of the package.

    Raises:
        Failure: a dependency is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"not3d", "service", "training", "model"}:
            raise
        raise Failure(
            f"this needs {package}, which is not installed. It comes with the extra: pip install 'not3d[{extra}]'"
        ) from error


def show_progress() -> Progress:
    """A progress bar on standard error that counts what is done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=messages,
    )


def run_app(app: typer.Typer) -> None:
    """Run a command line and end the process: what is expected to go wrong becomes one message and status 1."""
    try:
        app()
    except (Failure, ClientError, FootageError, OSError) as error:
        messages.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)

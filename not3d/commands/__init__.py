"""The commands of ``not3d``, one plain function each, and what they share."""

import importlib
import signal
import sys
from types import ModuleType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

from not3d.client import ClientError
from not3d.enrol.footage import FootageError

results = Console()
"""Standard output: what was asked for."""
messages = Console(stderr=True)
"""Standard error: progress and remarks."""


class Failure(Exception):
    """A command cannot do what was asked; the message is for the user."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message, if there is one, says how to go on."""


class Interruptible(TyperGroup):
    """A group whose commands end with `Interrupted`: what Typer itself makes of Ctrl-C depends on its version."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


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
    """Run a command line and end the process: what is expected to go wrong becomes one message and status 1.

    Ctrl-C becomes one line and status 130.
    """
    try:
        app()
    except (Failure, ClientError, FootageError, OSError) as error:
        messages.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
    except Interrupted as interrupted:
        # Requests under way are still waited for; whoever presses again wants out, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        messages.print("; ".join(filter(None, ("Interrupted", str(interrupted)))), soft_wrap=True, markup=False)
        sys.exit(130)

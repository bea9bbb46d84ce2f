"""The command `not3d`.

Exit status: 0 done, 1 failed with one message on standard error, 2 wrong usage, 130 interrupted. Results go to standard
output, progress and messages to standard error.
"""

import importlib.util
import io
import signal
import sys
from pathlib import Path
from typing import NoReturn

_HOME = Path(__file__).resolve().parents[1]
"""The folder that holds the packages of this project."""


def main() -> None:
    """Run the command line and end the process."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may have characters that a terminal has not
            sys.stdout.reconfigure(errors="backslashreplace")
        _refuse_shadowed_packages()
        # These imports take a moment. They are in here so that Ctrl-C prints no traceback meanwhile.
        from model.errors import Not3dError
        from not3d.client import ClientError
        from not3d.commands import Interrupted, print_error, print_message
        from not3d.commands.app import app

        try:
            app()
        except (Not3dError, ClientError, OSError) as error:
            print_error(str(error))
            sys.exit(1)
        except Interrupted as interrupted:
            # Requests in progress are still waited for. A second Ctrl-C ends the process at once.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            print_message("; ".join(filter(None, ("Interrupted", str(interrupted)))))
            _exit_interrupted()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        _exit_interrupted()


def _exit_interrupted() -> NoReturn:
    """End the process with status 130.

    If Ctrl-C came while Python ran code from a string, as it does to make a dataclass, `python -m` remembers that and
    ends the process as if killed by the signal, although the exception was handled. It forgets it with the next such
    code (`run_eval_code_obj` in CPython's pythonrun.c).
    """
    exec("")  # noqa: S102 - nothing from outside
    sys.exit(130)


def _refuse_shadowed_packages() -> None:
    """End the process if a file of the user, such as `model.py` in the working directory, hides one of our packages."""
    for name in ("model", "service", "training"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            sys.exit(f"not3d: its package `{name}` is missing; install not3d again")
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), "")).resolve()
        if found != _HOME / name / "__init__.py":
            sys.exit(
                f"not3d: {found} hides not3d's own package `{name}`; rename it, or run `not3d` from another folder "
                "and without it on PYTHONPATH"
            )

"""The command ``not3d``.

Exit status: 0 done, 1 failed with one message on standard error, 2 wrong usage, 130 interrupted. Results go to standard
output, progress and messages to standard error.
"""

import sys


def main() -> None:
    """Run the command line; ends the process."""
    try:
        # Not at the top: these imports take a moment, in which Ctrl-C shall not print a traceback either.
        from not3d.commands import run_app
        from not3d.commands.app import app

        run_app(app)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        sys.exit(130)

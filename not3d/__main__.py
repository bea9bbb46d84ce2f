"""Runs the command `not3d` for `python -m not3d`."""

from not3d.cli import main

main()

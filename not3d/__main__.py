"""Lets ``python -m not3d`` stand for the ``not3d`` command."""

from not3d.cli import main

main()

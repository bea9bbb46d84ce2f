"""Prints what pyproject.toml asks for together with some extras: `python requirements.py EXTRA...`.

The image installs these before the project itself, so that a change of code does not repeat the download of its
dependencies. pip has no option for it.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements: list[str] = list(project["dependencies"])
for extra in sys.argv[1:]:
    requirements += project["optional-dependencies"][extra]
sys.stdout.write("\n".join(requirements) + "\n")

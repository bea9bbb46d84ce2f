"""Recipes in bundles for tests."""

import json
from pathlib import Path

from model.bundle import SPEC_FILE


def set_recipe(bundle: Path, **values: object) -> None:
    """Replace the recipe of the bundle in this folder."""
    path = bundle / SPEC_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": values}))

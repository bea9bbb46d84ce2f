"""`python -m service.openapi` writes the committed copy of the OpenAPI document, `docs/openapi.json`."""

import json
from pathlib import Path
from typing import Final

from service.app import create_app
from service.settings import Settings

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "openapi.json"
"""The committed copy, in a checkout."""


def render() -> str:
    """The document as it is committed. It depends on no setting."""
    return json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")

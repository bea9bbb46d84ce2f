"""Write the OpenAPI document to `docs/openapi.json`: `python -m service.openapi`."""

import json
from pathlib import Path
from typing import Final

from service.app import create_app
from service.settings import Settings

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "openapi.json"
"""The committed copy in a checkout."""


def render() -> str:
    """Return the text of the document. It does not depend on settings."""
    return json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")

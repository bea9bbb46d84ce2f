"""The command line and the Python client of not3d."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from not3d.client import Client, ClientError, ProblemError, UnreachableError
    from not3d.client.responses import (
        Calibration,
        Embedded,
        Erased,
        Hit,
        Info,
        Page,
        Record,
        RejectedFrame,
        SearchResult,
        Threshold,
    )

__all__ = [
    "Calibration",
    "Client",
    "ClientError",
    "Embedded",
    "Erased",
    "Hit",
    "Info",
    "Page",
    "ProblemError",
    "Record",
    "RejectedFrame",
    "SearchResult",
    "Threshold",
    "UnreachableError",
]

if not TYPE_CHECKING:  # because of this function, a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a name of the client on first use, so that the command line starts quickly."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        in_client = name == "Client" or name.endswith("Error")
        return getattr(import_module("not3d.client" if in_client else "not3d.client.responses"), name)

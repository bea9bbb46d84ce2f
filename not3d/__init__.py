"""The front door of not3d: the command line and the Python client."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from not3d.client import Client, ClientError, ProblemError, UnreachableError
    from not3d.client.responses import Embedded, Erased, Hit, Info, Page, Record, RejectedFrame, SearchResult

__all__ = [
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
    "UnreachableError",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of this package

    def __getattr__(name: str) -> object:
        """Import a name of the client on its first use: the command line starts here, and Ctrl-C must find it ready."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        in_client = name == "Client" or name.endswith("Error")
        return getattr(import_module("not3d.client" if in_client else "not3d.client.responses"), name)

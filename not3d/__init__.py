"""The front door of not3d: the command line and the Python client."""

from not3d.answers import Embedded, Erased, Hit, Info, Page, Record, RejectedFrame, SearchResult
from not3d.client import Client, ClientError, ProblemError, UnreachableError

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

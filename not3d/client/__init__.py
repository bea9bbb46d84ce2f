"""The Python client of the service."""

from not3d.client.client import Box, Client, Frame
from not3d.client.responses import ClientError, ProblemError, UnreachableError

__all__ = ["Box", "Client", "ClientError", "Frame", "ProblemError", "UnreachableError"]

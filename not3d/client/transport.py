"""How the client checks certificates, and what an answer that refuses means."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from not3d.client.responses import ClientError, ProblemError

_KINDS = "urn:not3d:problem:"
"""How the type of a problem of the service begins."""


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return how certificates are checked. httpx alone would trust its own list, which has no company's authority."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # also `ssl.SSLError`, for a file without a certificate
        reason = error.strerror or error
        raise ClientError(f"{ca_file} is not a file of certificates in PEM format: {reason}") from error


def problem_of(response: httpx.Response) -> ProblemError:
    """Return the error of an answer that is no success: of the service, or of a proxy in front of it."""
    after = response.headers.get("retry-after", "")
    retry_after = float(after) if after.isdecimal() else None
    document = _read_problem(response)
    kind = str(document.get("type", ""))
    if kind.startswith(_KINDS):
        return ProblemError(
            response.status_code,
            str(document.get("title", "")),
            str(document.get("detail", "")),
            document.get("errors") or (),
            retry_after,
            kind.removeprefix(_KINDS),
        )
    # A proxy answered instead of the service.
    return ProblemError(
        response.status_code,
        response.reason_phrase or "Error",
        response.text[:200].strip(),
        retry_after=retry_after,
    )


def _read_problem(response: httpx.Response) -> Mapping[str, Any]:
    """Return a problem document (RFC 9457); empty if the answer is none."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        document = response.json()
    except ValueError:  # it was cut off, for example
        return {}
    return document if isinstance(document, dict) else {}


def without_login(url: str) -> str:
    """Return a URL without user and password, for messages."""
    scheme, slashes, rest = url.partition("//")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}" if slashes else url.rpartition("@")[2]

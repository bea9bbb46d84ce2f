"""Optional API keys: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

import hashlib
import hmac

from fastapi import Request

from service.http.problems import Problem

ANONYMOUS = "anonymous"
"""The caller's name if no keys are set."""
FINGERPRINT_DIGITS = 12


def check_key(given: str, keys: tuple[str, ...]) -> bool:
    """Return whether `given` is one of `keys`, in a time that does not depend on how much of it is right."""
    encoded = given.encode()
    matches = [hmac.compare_digest(encoded, key.encode()) for key in keys]
    return any(matches)


async def require_key(request: Request) -> None:
    """Refuse a request without a valid key if keys are set.

    Raises:
        Problem: 401 without a key, 403 with a wrong one.
    """
    keys = _keys(request)
    if not keys:
        return
    given = _given(request)
    if not given:
        header = {"WWW-Authenticate": "Bearer"}
        raise Problem("key-missing", "send the header Authorization: Bearer KEY or X-API-Key: KEY", headers=header)
    if not check_key(given, keys):
        raise Problem("key-refused", "the API key is not one of this service's keys")


def name_caller(request: Request) -> str:
    """Return the caller's name for the audit log: the fingerprint of the key that passed `require_key`.

    It is the start of the key's `sha256sum`: it tells keys apart and does not reveal them.
    """
    if not _keys(request):
        return ANONYMOUS
    return f"key:{hashlib.sha256(_given(request).encode()).hexdigest()[:FINGERPRINT_DIGITS]}"


def _keys(request: Request) -> tuple[str, ...]:
    keys: tuple[str, ...] = request.app.state.lifecycle.settings.keys
    return keys


def _given(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key") or (credentials.strip() if scheme.lower() == "bearer" else "")

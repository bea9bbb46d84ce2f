"""Optional API keys: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

import hashlib
import hmac

from fastapi import Request

from service.http.problems import Problem

ANONYMOUS = "anonymous"
"""Who asks a service that has no keys."""
FINGERPRINT_DIGITS = 12


def check_key(given: str, keys: tuple[str, ...]) -> bool:
    """Whether `given` is one of `keys`; the time taken does not tell how much of it is right."""
    encoded = given.encode()
    matches = [hmac.compare_digest(encoded, key.encode()) for key in keys]
    return any(matches)


async def require_key(request: Request) -> None:
    """Refuse a request without a valid key, where keys are set.

    Raises:
        Problem: 401 without a key, 403 with another one.
    """
    keys = _keys(request)
    if not keys:
        return
    given = _given(request)
    if not given:
        header = {"WWW-Authenticate": "Bearer"}
        raise Problem("key-missing", "send Authorization: Bearer KEY, or X-API-Key: KEY", headers=header)
    if not check_key(given, keys):
        raise Problem("key-refused", "the key is not one of this service's")


def name_caller(request: Request) -> str:
    """Who asks, for the audit log: the fingerprint of the key of a request that has passed `require_key`.

    It tells keys apart and is found from a key by `sha256sum`; the key is not found from it.
    """
    if not _keys(request):
        return ANONYMOUS
    return f"key:{hashlib.sha256(_given(request).encode()).hexdigest()[:FINGERPRINT_DIGITS]}"


def _keys(request: Request) -> tuple[str, ...]:
    keys: tuple[str, ...] = request.app.state.service.settings.keys
    return keys


def _given(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return request.headers.get("x-api-key") or (credentials.strip() if scheme.lower() == "bearer" else "")

"""Optional API keys: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

import hmac

from fastapi import Request

from service.problems import Problem

__all__ = ["check_key", "require_key"]


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
    keys: tuple[str, ...] = request.app.state.service.settings.keys
    if not keys:
        return
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    given = request.headers.get("x-api-key") or (credentials.strip() if scheme.lower() == "bearer" else "")
    if not given:
        header = {"WWW-Authenticate": "Bearer"}
        raise Problem("key-missing", "send Authorization: Bearer KEY, or X-API-Key: KEY", headers=header)
    if not check_key(given, keys):
        raise Problem("key-refused", "the key is not one of this service's")

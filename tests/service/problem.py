"""The check that every error of the service passes."""

from typing import Any

import httpx


def check_problem(
    response: httpx.Response, status: int, kind: str, *, field: str | None = None, frame: int | None = None
) -> dict[str, Any]:
    """Assert that `response` is a problem document of this kind that names the field or frame; return the document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:not3d:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert field in [fault.get("field") for fault in document["errors"]], document
    if frame is not None:
        assert frame in [fault.get("frame") for fault in document["errors"]], document
    return document

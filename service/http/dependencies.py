"""What routes ask of FastAPI: the service once it is ready, its lifecycle, and a request without query parameters."""

from typing import Annotated

from fastapi import Depends, Request

from service.http.problems import Fault, Problem
from service.lifecycle import Lifecycle, Service, ServiceState

STARTING_RETRY_SECONDS = 2


async def get_lifecycle(request: Request) -> Lifecycle:
    """Return the lifecycle of the application that answers this request."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


CurrentLifecycle = Annotated[Lifecycle, Depends(get_lifecycle)]


async def require_working_gallery(lifecycle: CurrentLifecycle) -> None:
    """Check, without waiting, that the gallery does not need a restart of the process.

    Raises:
        Problem: 503 if it does. The process ends then, and what supervises it starts it again.
        GalleryBroken: the same, found only now.
    """
    if lifecycle.state is ServiceState.BROKEN:
        raise Problem("gallery-unavailable", lifecycle.reason or "")
    if lifecycle.service:
        lifecycle.service.gallery.check()


async def require_ready(lifecycle: CurrentLifecycle) -> Service:
    """Return the service.

    Raises:
        Problem: 503 with `Retry-After` and `pending` until it is ready; 503 if its gallery is broken.
        GalleryBroken: the gallery is broken, found only now.
    """
    await require_working_gallery(lifecycle)
    if service := lifecycle.service:
        return service
    reason = lifecycle.reason or ("is starting" if lifecycle.state is ServiceState.STARTING else "is stopping")
    detail = f"the service {reason}"
    raise Problem("not-ready", detail, retry_after=STARTING_RETRY_SECONDS, pending=lifecycle.pending)


Ready = Annotated[Service, Depends(require_ready)]


async def _refuse_query(request: Request) -> None:
    if names := list(request.query_params):
        faults = [Fault(field=name[:100], reason="unknown query parameter") for name in names[:10]]
        raise Problem("malformed", f"{faults[0].field}: {faults[0].reason}", errors=faults)


NO_QUERY = [Depends(_refuse_query)]
"""For calls without query parameters: any that a client sends is refused."""

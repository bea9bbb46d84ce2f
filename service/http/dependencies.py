"""What routes ask of FastAPI: the service once it is ready, its lifecycle, and a request without query parameters."""

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from service.gallery.visible import VisibleGallery
from service.http.access import CurrentCaller
from service.http.problems import MAX_UNKNOWN, Fault, Problem, no_model
from service.keys import Keys
from service.lifecycle import Lifecycle, Service, ServiceState

if TYPE_CHECKING:
    from service.loaded_model import LoadedModel

STARTING_RETRY_SECONDS = 2
LASTING_STALL = 5


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


def require_model(service: Service) -> "LoadedModel":
    """Return the model of the service.

    Raises:
        Problem: 409 if it is a service of vectors only.
    """
    if service.model is None:
        raise no_model("frames")
    return service.model


async def get_gallery(request: Request, service: Ready, caller: CurrentCaller) -> VisibleGallery:
    """Return the gallery as the caller sees it."""
    keys: Keys = request.app.state.keys
    return VisibleGallery(service.gallery, caller, service.removals, service.cases, keys.limited_cameras)


CallersGallery = Annotated[VisibleGallery, Depends(get_gallery)]


async def require_progress(lifecycle: CurrentLifecycle) -> None:
    """Check that requests with footage are answered.

    Raises:
        Problem: 503 with `Retry-After` if such requests wait and none of their work is done.
    """
    if lifecycle.state is ServiceState.STALLED:
        raise Problem("not-ready", f"the service {lifecycle.reason}", retry_after=STARTING_RETRY_SECONDS)


async def require_no_lasting_stall(lifecycle: CurrentLifecycle) -> None:
    """Check that a restart is not the only hope, for an orchestrator that restarts the process.

    Raises:
        Problem: 503 if requests wait and none of their work was done for `LASTING_STALL` times the limit of readiness.
    """
    model = lifecycle.service.model if lifecycle.service else None
    if model and lifecycle.state is ServiceState.STALLED:
        limit = LASTING_STALL * lifecycle.settings.stall_seconds
        if stall := model.embedder.find_stall(limit):
            raise Problem("not-ready", f"the service does not embed: {stall}; restart it")


async def require_storage(lifecycle: CurrentLifecycle) -> None:
    """Check that the gallery can be changed.

    Raises:
        Problem: 503 if its data directory is missing, is another one, is full, or cannot be written.
    """
    if lifecycle.storage_fault is not None:
        raise Problem("gallery-unavailable", lifecycle.storage_fault, retry_after=STARTING_RETRY_SECONDS)


async def _refuse_query(request: Request) -> None:
    if names := list(request.query_params):
        faults = [Fault(field=name, reason="unknown query parameter") for name in names[:MAX_UNKNOWN]]
        raise Problem("malformed", f"{faults[0].field}: {faults[0].reason}", errors=faults)


NO_QUERY = [Depends(_refuse_query)]
"""For calls without query parameters: any that a client sends is refused."""

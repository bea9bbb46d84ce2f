"""Errors as problem documents (RFC 9457) that name the field or the frame at fault."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from service.embedding.tracklet import FootageError
from service.gallery.records import (
    DiskFull,
    DuplicateId,
    GalleryError,
    GalleryUnavailable,
    InvalidArgument,
    OtherCount,
    StorageLost,
)
from service.gallery.visible import CameraRefused

log = logging.getLogger("not3d.service")

GALLERY_RETRY_SECONDS: Final = 2
MEDIA_TYPE: Final = "application/problem+json"
MAX_FAULTS: Final = 2000
INLINE_FAULTS: Final = 32
"""Answers with at most so many faults are written in the event loop, because starting a thread takes longer."""
MAX_SHOWN_PATH: Final = 200
"""Characters of a path, or of a text of the framework, that an answer repeats."""
MAX_SCHEMA_FAULTS: Final = 200
"""Faults of a body that are listed; pydantic creates an object for each, and a body can have a million."""

MAX_NAME: Final = 100
"""Maximum characters of the name of a field in an answer. The last ones are left out, and `...` says so."""
MAX_REASON: Final = 300
MAX_DETAIL: Final = 600
MAX_UNKNOWN: Final = 3
"""Unknown fields that are listed, because their names are the client's own."""

_REASONS: Final[dict[str, str]] = {
    "extra_forbidden": "unknown field",
    "missing": "is missing",
    "list_type": "should be an array",
    "tuple_type": "should be an array",
    "dict_type": "should be an object",
    "model_type": "should be an object",
}
"""Our texts for errors that pydantic describes in terms of Python."""
_PYTHON: Final = re.compile("^Value error, |^(List|Tuple|Dictionary) (?=should)| after validation")

KINDS: Final[dict[str, tuple[int, str]]] = {
    "malformed": (400, "The request is malformed"),
    "key-missing": (401, "An API key is required"),
    "key-refused": (403, "The API key is not valid"),
    "scope-missing": (403, "The API key does not allow this"),
    "camera-refused": (403, "The API key is limited to other cameras"),
    "host-refused": (403, "The host name is not one of this service"),
    "origin-refused": (403, "The request comes from another web site"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "The method is not allowed for this path"),
    "too-slow": (408, "The request did not arrive in time"),
    "duplicate-id": (409, "The id is enrolled already"),
    "other-embedding-space": (409, "The embedding belongs to another embedding space"),
    "case-closed": (409, "The case is closed"),
    "other-count": (409, "Another number of records passes the filter"),
    "without-time": (409, "The record has no time"),
    "no-model": (409, "The service has no model"),
    "not-calibrated": (409, "No probability can be given"),
    "precondition-failed": (412, "Another state is stored than the request expects"),
    "too-large": (413, "The request exceeds a limit"),
    "target-too-long": (414, "The path with its query is too long"),
    "unsupported-content": (415, "The type of the content is not supported"),
    "unusable-frames": (422, "Too few frames are usable"),
    "unusable-examples": (422, "The examples cannot be combined"),
    "over-rate": (429, "The API key is over its rate"),
    "too-many-wrong-keys": (429, "Too many wrong API keys"),
    "head-too-large": (431, "The head of the request exceeds a limit"),
    "internal": (500, "The service failed"),
    "busy": (503, "The service is at its limit"),
    "not-ready": (503, "The service is not ready"),
    "gallery-unavailable": (503, "The gallery is not available"),
    "timed-out": (504, "The request took too long"),
    "disk-full": (507, "The disk is full"),
}
"""Status and title of each kind of problem. The kind is the last part of the document's `type` and never changes."""
_FOOTAGE_KINDS: Final[dict[str, str]] = {
    "malformed": "malformed",
    "too_large": "too-large",
    "unsupported": "unsupported-content",
    "unusable": "unusable-frames",
}


def clip(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters: an answer must not repeat what was sent at any length."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class Fault(BaseModel):
    """What is wrong with one field (`boxes[3]`) or one frame (0-based index). Long texts are clipped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: Annotated[str | None, BeforeValidator(lambda name: name and clip(name, MAX_NAME))] = None
    frame: Annotated[int | None, Field(ge=0)] = None
    reason: Annotated[str, BeforeValidator(lambda reason: clip(reason, MAX_REASON))]


class ProblemDocument(BaseModel):
    """RFC 9457. `errors` has each field or frame at fault; `pending` has what is not loaded yet during startup."""

    type: str = Field(examples=["urn:not3d:problem:malformed"])
    title: str
    status: int
    detail: str
    errors: list[Fault] | None = None
    pending: list[str] | None = None
    request_id: str | None = None


class Problem(Exception):
    """An error that is answered with a problem document.

    Args:
        kind: a key of `KINDS`.
        detail: what is wrong and what to do; clipped to `MAX_DETAIL` characters.
        errors: each field or frame at fault.
        headers: of the answer.
        retry_after: seconds after which the client may send the request again.
        pending: what is not loaded yet during startup.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: int | None = None,
        pending: Sequence[str] | None = None,
    ) -> None:
        detail = clip(detail, MAX_DETAIL)
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = KINDS[kind]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {}) | ({} if retry_after is None else {"Retry-After": str(retry_after)})
        self.pending = pending

    @classmethod
    def of_field(cls, field: str, reason: str, kind: str = "malformed") -> "Problem":
        """Return the problem of one field."""
        return cls(kind, f"{clip(field, MAX_NAME)}: {reason}", errors=[Fault(field=field, reason=reason)])

    @classmethod
    def of_frame(cls, frame: int, reason: str, kind: str) -> "Problem":
        """Return the problem of one frame of the tracklet, by its 0-based index."""
        return cls(kind, f"frame {frame}: {reason}", errors=[Fault(frame=frame, reason=reason)])

    def answer(self, request: Request) -> JSONResponse:
        """Return the HTTP response."""
        document = ProblemDocument(
            type=f"urn:not3d:problem:{self.kind}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=list(self.errors[:MAX_FAULTS]) or None,
            pending=None if self.pending is None else list(self.pending),
            request_id=request.scope.get("state", {}).get("request_id"),
        )
        body = document.model_dump(exclude_none=True)
        return JSONResponse(body, self.status, self.headers, media_type=MEDIA_TYPE)


def no_model(field: str) -> Problem:
    """Return the problem of footage that a service of vectors only cannot embed."""
    reason = (
        "this service stores and searches vectors of another system (NOT3D_VECTORS_ONLY) and has no model to embed "
        "pictures or videos: send an embedding (PUT /gallery/{id} or POST /search with `embedding`), or the id of an "
        "enrolled record"
    )
    return Problem.of_field(field, reason, "no-model")


def field_name(location: Sequence[str | int]) -> str:
    """Return the name of a field from pydantic's location: `("boxes", 3, 1)` is `boxes[3][1]`."""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{clip(part, MAX_NAME)}" if name else clip(part, MAX_NAME)
        if len(name) > MAX_NAME:
            break
    return clip(name, MAX_NAME)


def faults_of(errors: Sequence[Any], skip: int = 0, elsewhere: Mapping[str, str] | None = None) -> list[Fault]:
    """Return pydantic's errors as faults.

    Args:
        errors: what pydantic's `errors()` returns.
        skip: number of parts to remove at the start of each location, such as "query" or "path".
        elsewhere: reasons for unknown fields that belong in another place.
    """
    faults = []
    unknown = 0
    for error in errors:
        if error["type"] == "extra_forbidden":
            unknown += 1
            if unknown > MAX_UNKNOWN:
                continue
        field = field_name(error["loc"][skip:]) or "body"
        reason = _REASONS.get(error["type"]) or _PYTHON.sub("", error["msg"])
        if error["type"] == "extra_forbidden" and elsewhere:
            reason = elsewhere.get(field, reason)
        faults.append(Fault(field=field, reason=reason))
    if unknown > MAX_UNKNOWN:
        faults.append(Fault(field="body", reason=f"has {unknown - MAX_UNKNOWN} more unknown fields"))
    return faults


def malformed(error: ValidationError, elsewhere: Mapping[str, str]) -> Problem:
    """Return the problem of a body that does not fit its schema; `elsewhere` as for `faults_of`."""
    if error.error_count() > MAX_SCHEMA_FAULTS:
        return _malformed([Fault(field="body", reason=f"has {error.error_count()} errors, too many to list")])
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return _malformed(faults_of(errors, elsewhere=elsewhere))


def _malformed(faults: Sequence[Fault]) -> Problem:
    shown = "; ".join(f"{fault.field}: {fault.reason}" for fault in faults[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return Problem("malformed", shown + more, errors=faults)


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` and of its framework a problem document; `RequestLog` handles unexpected errors."""
    handlers: dict[type[Exception], Any] = {
        Problem: _on_problem,
        FootageError: _on_footage,
        GalleryError: _on_gallery,
        RequestValidationError: _on_validation,
        HTTPException: _on_http,
        ClientDisconnect: _on_disconnect,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


async def _on_problem(request: Request, error: Problem) -> Response:
    return error.answer(request)


async def _on_footage(request: Request, error: FootageError) -> Response:
    def answer() -> Response:
        faults = [Fault(**fault._asdict()) for fault in error.faults[:MAX_FAULTS]]
        return Problem(_FOOTAGE_KINDS[error.kind], str(error), errors=faults).answer(request)

    # Requests whose frames are decoded in turn often end together, each with a fault for each of its frames.
    if error.count <= INLINE_FAULTS:
        return answer()
    return await to_thread.run_sync(answer, limiter=request.app.state.admission.large_json)


async def _on_gallery(request: Request, error: GalleryError) -> Response:
    match error:
        case DuplicateId():
            reason = f"{error.id} is enrolled already; PUT /gallery/{error.id} replaces the record"
            problem = Problem.of_field("id", reason, "duplicate-id")
        case OtherCount():
            problem = Problem.of_field("expected", f"{error}: make a dry run again", "other-count")
        case CameraRefused():
            problem = Problem("camera-refused", str(error), errors=[Fault(field=error.field, reason=str(error))])
        case InvalidArgument():
            problem = Problem("malformed", str(error), errors=[Fault(field=error.argument, reason=str(error))])
        case DiskFull():
            problem = Problem("disk-full", str(error))
        case GalleryUnavailable():
            problem = Problem("gallery-unavailable", str(error), retry_after=GALLERY_RETRY_SECONDS)
        case StorageLost():  # the service's life cycle logs it once
            problem = Problem("gallery-unavailable", str(error))
        case _:  # a disk that cannot be written, for example: no time is known at which it works again
            log.error("gallery failed", extra={"facts": {"reason": str(error)}}, exc_info=error.__cause__)
            problem = Problem("gallery-unavailable", str(error))
    return problem.answer(request)


async def _on_validation(request: Request, error: RequestValidationError) -> Response:
    return _malformed(faults_of(error.errors(), skip=1)).answer(request)


async def _on_http(request: Request, error: HTTPException) -> Response:
    path = request.scope["path"][:MAX_SHOWN_PATH]
    match error.status_code:
        case 404:
            problem = Problem("not-found", f"nothing is at {path}; /openapi.json lists the calls")
        case 405:
            # The framework names the methods of one route only, and a path can have several.
            allowed = ", ".join(_methods_of(request))
            detail = f"{request.scope['method'][:20]} is not allowed for {path}; allowed: {allowed}"
            problem = Problem("method-not-allowed", detail, headers={"Allow": allowed})
        case _:
            problem = Problem("malformed", str(error.detail)[:MAX_SHOWN_PATH], headers=error.headers)
    return problem.answer(request)


def _methods_of(request: Request) -> list[str]:
    """Return all methods of the path of a request."""
    routes = request.app.routes
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT")}
    found = [name for name, scope in scopes.items() if any(each.matches(scope)[0] is Match.FULL for each in routes)]
    return sorted([*found, "HEAD"] if "GET" in found else found)


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # The client is gone, so this answer is only logged; proxies log 499 for it as well.
    return Response(status_code=499)

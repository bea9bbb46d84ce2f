"""Read requests with a tracklet, sent as a form or as JSON, into a validated body and footage."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any, ParamSpec, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from model.bundle import Bundle
from service.embedding.footage import Footage
from service.http.admission import Admission
from service.http.fields import Body
from service.http.problems import Problem, malformed
from service.http.schemas import FootageBody, TrackletBody
from service.http.uploads import FormReader, Upload, content_type, read_body
from service.lifecycle import Service
from service.settings import JSON_WEIGHT, Settings

FootageT = TypeVar("FootageT", bound=FootageBody)
BodyT = TypeVar("BodyT", bound=Body)
T = TypeVar("T")
P = ParamSpec("P")

MAX_SMALL_BODY = 1024 * 1024
"""Maximum bytes of a JSON body without footage. A larger body is assumed to have footage."""
MAX_INLINE = 4096
"""Input with fewer bytes is processed in the event loop, because starting a thread takes longer."""
MAX_JSON_VALUES = 500_000
"""Maximum number of values in one body. A parsed value needs many times the memory of its text."""


@asynccontextmanager
async def read(
    request: Request, schema: type[FootageT], service: Service
) -> AsyncIterator[tuple[FootageT, Footage | None]]:
    """Read a body with a tracklet, multipart or JSON with base64 frames, and take a slot when it is complete.

    Yields:
        The validated body without its frames, and the footage if the body has any.

    Raises:
        Problem: 400 naming the field, 413, 415 for another content type, 503 if all slots are taken.
    """
    settings, metrics = service.settings, service.metrics
    with _admission(request).enter() as slot:
        kind, boundary = content_type(request)
        if kind == "multipart/form-data" and boundary:
            names = (schema.model_fields.keys() - schema.NOT_IN_FORMS) | schema.ELSEWHERE.keys()
            with closing(FormReader(names, settings, metrics)) as reader:
                upload = await reader.read(request, boundary, slot)
                slot.take()
                body = await _run(sum(map(len, upload.fields.values())), _validate_form, upload, schema)
                yield body, _footage_of_form(upload, body, settings)
        elif kind == "application/json":
            with metrics.stage("read"):
                data = await read_body(request, settings, slot, JSON_WEIGHT)
            if len(data) > MAX_SMALL_BODY:  # a smaller one, such as a search by id, may have no footage
                slot.take()
            with metrics.stage("parse"):
                body = await _run(len(data), _validate_json, data, schema)
                del data
                if body.frames is not None and not slot.taken:
                    slot.take()
                footage = await _run(MAX_INLINE if body.frames else 0, _footage_of_json, body, settings)
            body = body.model_copy(update={"frames": None})  # frees the memory of the base64 text
            yield body, footage
        else:
            wanted = "send multipart/form-data (with a boundary) or application/json"
            raise Problem("unsupported-content", f"{kind or 'no content type'}: {wanted}")


async def read_json(request: Request, schema: type[BodyT], service: Service) -> BodyT:
    """Read a small JSON body without footage.

    Raises:
        Problem: 400 naming the field, 413, 415 for another content type.
    """
    kind, _ = content_type(request)
    if kind != "application/json":
        raise Problem("unsupported-content", f"{kind or 'no content type'}: send application/json")
    limit = min(MAX_SMALL_BODY, service.settings.max_request_bytes)
    settings = service.settings.model_copy(update={"max_request_bytes": limit})
    with _admission(request).enter() as slot:
        data = await read_body(request, settings, slot)
        with service.metrics.stage("parse"):
            return await _run(len(data), _validate_json, data, schema)


def check_embedding(values: list[float], space: str | None, bundle: Bundle) -> NDArray[np.float32]:
    """Return an embedding that a client sent as float32 `[D]` of unit length.

    Raises:
        Problem: 409 for another embedding space, 400 for another length, NaN, infinities or a zero vector.
    """
    if space is not None and space != bundle.embedding_space:
        reason = f"{space} is not this service's space, {bundle.embedding_space}: embed the footage with this model"
        raise Problem.of_field("embedding_space", reason, "other-embedding-space")
    dimension = bundle.spec.dimension
    if len(values) != dimension:
        raise Problem.of_field("embedding", f"must have {dimension} components (got {len(values)})")
    vector = np.asarray(values, dtype=np.float64)
    if not np.isfinite(vector).all():
        raise Problem.of_field("embedding", "a component is NaN or infinite")
    largest = np.abs(vector).max()
    if largest == 0:
        raise Problem.of_field("embedding", "all components are zero")
    vector /= largest  # first: the squares of very large or very small components do not fit into a float
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _admission(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


async def _run(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that processes `size` bytes; in a thread if they are at least `MAX_INLINE`."""
    return function(*args, **kwargs) if size < MAX_INLINE else await asyncio.to_thread(function, *args, **kwargs)


def _validate_json(data: bytes | bytearray, schema: type[BodyT]) -> BodyT:
    if not data.strip():
        raise Problem("malformed", "the body is empty")
    # base64 text has none of these characters
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_JSON_VALUES:
        raise Problem.of_field("body", f"has more than {MAX_JSON_VALUES} values", "too-large")
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise malformed(error, schema.ELSEWHERE) from None


def _validate_form(upload: Upload, schema: type[FootageT]) -> FootageT:
    values: dict[str, Any] = dict(upload.fields)
    for name in schema.FORM_JSON & values.keys():
        try:
            values[name] = from_json(values[name])
        except ValueError as error:
            raise Problem.of_field(name, f"not JSON: {error}") from None
    # Convert to JSON, so that the same rules validate a form and a JSON body. NaN is kept, and refused there.
    return _validate_json(to_json(values, inf_nan_mode="constants"), schema)


def _footage_of_form(upload: Upload, body: FootageBody, settings: Settings) -> Footage | None:
    _check_metadata(body, settings)
    if not upload.frames and not upload.video:
        _refuse_boxes_without_footage(body)
        return None
    return Footage(upload.frames, upload.video, body.boxes)


def _footage_of_json(body: FootageBody, settings: Settings) -> Footage | None:
    _check_metadata(body, settings)
    if body.frames is None:
        _refuse_boxes_without_footage(body)
        return None
    if not body.frames:
        raise Problem.of_field("frames", "is empty")
    limit = settings.max_frames
    if len(body.frames) > limit:
        raise Problem.of_field("frames", f"must have at most {limit} frames (got {len(body.frames)})", "too-large")
    frames = []
    for index, text in enumerate(body.frames):
        try:
            frames.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Problem.of_field(f"frames[{index}]", f"not base64: {error}") from None
    return Footage(frames, None, body.boxes)


def _check_metadata(body: FootageBody, settings: Settings) -> None:
    if not isinstance(body, TrackletBody):
        return
    size = len(json.dumps(body.metadata).encode())
    if size > settings.max_metadata_bytes:
        reason = f"must have at most {settings.max_metadata_bytes} bytes as JSON (got {size})"
        raise Problem.of_field("metadata", reason, "too-large")


def _refuse_boxes_without_footage(body: FootageBody) -> None:
    if body.boxes is not None:
        raise Problem.of_field("boxes", "is allowed only together with frames or a video")

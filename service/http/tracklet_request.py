"""Read requests with a tracklet, sent as a form or as JSON, into a validated body and footage."""

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
from anyio import to_thread
from fastapi import Request
from numpy.typing import NDArray
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from model.space import EmbeddingSpace
from service.embedding.tracklet import Footage
from service.http.admission import Admission
from service.http.fields import Body
from service.http.json_body import SplitBody, decode_base64, split_frames
from service.http.json_keys import find_duplicate_key
from service.http.problems import MAX_NAME, Problem, clip, malformed, no_model
from service.http.schemas import EraseBody, FootageBody, PatchBody, SearchBody, TrackletBody
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
MIN_LARGE = 64 * 1024
"""Input with at least so many bytes is processed one after the other."""
MAX_JSON_VALUES = 100_000
"""Maximum number of values in one body, without frames. A parsed value needs many times the memory of its text."""
MAX_JSON_NAMES = 40_000
"""Maximum number of names of fields in one body. The validator creates an object for each unknown one."""


@asynccontextmanager
async def read(
    request: Request, schema: type[FootageT], service: Service
) -> AsyncIterator[tuple[FootageT, Footage | None]]:
    """Read a body with a tracklet, multipart or JSON with base64 frames, and take a slot when it is complete.

    Yields:
        The validated body without its frames, and the footage if the body has any.

    Raises:
        Problem: 400 naming the field, 409 for footage without a model, 413, 415 for another content type, 503 if all
            slots are taken.
    """
    settings, metrics, embeds = service.settings, service.metrics, service.model is not None
    admission = get_admission(request)
    with admission.enter() as slot:
        kind, boundary = content_type(request)
        if kind == "multipart/form-data" and boundary:
            names = (schema.model_fields.keys() - schema.NOT_IN_FORMS) | schema.ELSEWHERE.keys()
            with closing(FormReader(names, settings, metrics, footage=embeds)) as reader:
                upload = await reader.read(request, boundary, slot)
                slot.take()
                size = sum(map(len, upload.fields.values()))
                body = await _run(admission, size, _validate_form, upload, schema, settings)
                yield body, _footage_of_form(upload, body)
        elif kind == "application/json":
            with metrics.stage("read"):
                data = await read_body(request, settings, slot, JSON_WEIGHT)
            if len(data) > MAX_SMALL_BODY:  # a smaller one, such as a search by id, may have no footage
                slot.take()
            with metrics.stage("parse"):
                body, split = await _run(admission, len(data), _validate_body, data, schema, settings)
                if body.frames is not None and not slot.taken:
                    slot.take()
                if body.frames is not None and not embeds:
                    raise no_model("frames")
                size = len(data) if body.frames else 0
                footage = await _run(admission, size, _footage_of_json, body, split, settings)
                del data, split
            body = body.model_copy(update={"frames": None})  # frees the memory of the base64 text
            yield body, footage
        else:
            wanted = "send multipart/form-data (with a boundary) or application/json"
            raise _unsupported(kind, wanted)


async def read_json(request: Request, schema: type[BodyT], service: Service) -> BodyT:
    """Read a small JSON body without footage.

    Raises:
        Problem: 400 naming the field, 413, 415 for another content type.
    """
    kind, _ = content_type(request)
    if kind != "application/json":
        raise _unsupported(kind, "send application/json")
    limit = min(MAX_SMALL_BODY, service.settings.max_request_bytes)
    settings = service.settings.model_copy(update={"max_request_bytes": limit})
    admission = get_admission(request)
    with admission.enter() as slot:
        data = await read_body(request, settings, slot)
        with service.metrics.stage("parse"):
            return await _run(admission, len(data), _validate_json, bytes(data), schema, settings)


def check_embedding(
    values: list[float], given: str | None, space: EmbeddingSpace, field: str = "embedding"
) -> NDArray[np.float32]:
    """Return an embedding that a client sent as float32 `[D]` of unit length.

    Args:
        values: of the embedding.
        given: the embedding space that the client names, if any.
        space: that of the service.
        field: name of the embedding in the body.

    Raises:
        Problem: 409 for another embedding space or length, 400 for NaN, infinities or a zero vector.
    """
    if given is not None and given != space.name:
        reason = f"{given} is not this service's space, {space.name}: send vectors of its model ({space.model})"
        raise Problem.of_field("embedding_space", reason, "other-embedding-space")
    if len(values) != space.dimension:
        reason = f"must have {space.dimension} components, as all of the space {space.name} (got {len(values)})"
        raise Problem.of_field(field, reason, "other-embedding-space")
    vector = np.asarray(values, dtype=np.float64)
    if not np.isfinite(vector).all():
        raise Problem.of_field(field, "a component is NaN or infinite")
    largest = np.abs(vector).max()
    if largest == 0:
        raise Problem.of_field(field, "all components are zero")
    vector /= largest  # first: the squares of very large or very small components do not fit into a float
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def get_admission(request: Request) -> Admission:
    """Return the limits of the application that answers this request."""
    admission: Admission = request.app.state.admission
    return admission


async def _run(admission: Admission, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that processes `size` bytes; in a thread if they are at least `MAX_INLINE`.

    Large input is processed one after the other: it is work of the interpreter, which runs one thread at a time.
    """
    if size < MAX_INLINE:
        return function(*args, **kwargs)
    limiter = admission.large_json if size >= MIN_LARGE else None
    return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=limiter)


def _validate_body(data: bytearray, schema: type[FootageT], settings: Settings) -> tuple[FootageT, SplitBody | None]:
    """Return the validated body, and the split one if the texts of the frames are not in it."""
    if len(data) < MIN_LARGE:
        return _validate_json(bytes(data), schema, settings), None
    split = split_frames(data, schema.model_fields.keys(), schema.ELSEWHERE, settings.max_metadata_bytes)
    body = _validate_json(split.fields, schema, settings)
    if not split.count:
        return body, None
    if body.frames is None or len(body.frames) != split.count or any(body.frames):
        raise Problem.of_field("frames", "duplicate field")
    return body, split


def _validate_json(data: bytes, schema: type[BodyT], settings: Settings) -> BodyT:
    if not data.strip():
        raise Problem("malformed", "the body is empty")
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_JSON_VALUES:
        raise Problem.of_field("body", f"has more than {MAX_JSON_VALUES} values", "too-large")
    if data.count(b":") > MAX_JSON_NAMES:
        raise Problem.of_field("body", f"has more than {MAX_JSON_NAMES} names and values", "too-large")
    try:
        body = schema.model_validate_json(data)
    except ValidationError as error:
        raise malformed(error, schema.ELSEWHERE) from None
    _refuse_duplicate_keys("body", data)
    _check_metadata(body, settings)
    return body


def _validate_form(upload: Upload, schema: type[FootageT], settings: Settings) -> FootageT:
    values: dict[str, Any] = dict(upload.fields)
    for name in schema.FORM_JSON & values.keys():
        try:
            values[name] = from_json(values[name])
        except ValueError as error:
            raise Problem.of_field(name, f"not JSON: {error}") from None
        _refuse_duplicate_keys(name, upload.fields[name].encode())
    # Convert to JSON, so that the same rules validate a form and a JSON body. NaN is kept, and refused there.
    return _validate_json(to_json(values, inf_nan_mode="constants"), schema, settings)


def _refuse_duplicate_keys(field: str, data: bytes) -> None:
    key = find_duplicate_key(data)
    if key is not None:
        raise Problem.of_field(field, f"has the key {key[:100]!r} twice in one object: send it once")


def _footage_of_form(upload: Upload, body: FootageBody) -> Footage | None:
    if not upload.frames and not upload.video:
        _refuse_boxes_without_footage(body)
        return None
    if upload.video:
        return Footage([], upload.video.path, body.boxes, keep=upload.video)
    return Footage(upload.frames, None, body.boxes)


def _footage_of_json(body: FootageBody, split: SplitBody | None, settings: Settings) -> Footage | None:
    if body.frames is None:
        _refuse_boxes_without_footage(body)
        return None
    if not body.frames:
        raise Problem.of_field("frames", "is empty")
    limit = settings.max_frames
    if len(body.frames) > limit and body.max_clips is None:
        reason = f"must have at most {limit} frames (got {len(body.frames)}); `max_clips` chooses fewer"
        raise Problem.of_field("frames", reason, "too-large")
    frames = []
    encoded: Iterable[str | memoryview] = split.frames() if split else body.frames
    for index, text in enumerate(encoded):
        try:
            frames.append(decode_base64(text))
        except ValueError as error:
            raise Problem.of_field(f"frames[{index}]", f"not base64: {error}") from None
    return Footage(frames, None, body.boxes)


def _check_metadata(body: Body, settings: Settings) -> None:
    match body:
        case TrackletBody() | PatchBody():
            name, metadata = "metadata", body.metadata
        case SearchBody() | EraseBody():  # records have no larger metadata
            name, metadata = "filter.metadata", body.filter.metadata
        case _:
            return
    size = len(json.dumps(metadata).encode())
    if size > settings.max_metadata_bytes:
        reason = f"must have at most {settings.max_metadata_bytes} bytes as JSON (got {size})"
        raise Problem.of_field(name, reason, "too-large")


def _unsupported(kind: str, wanted: str) -> Problem:
    return Problem("unsupported-content", f"{clip(kind, MAX_NAME) or 'no content type'}: {wanted}")


def _refuse_boxes_without_footage(body: FootageBody) -> None:
    if body.boxes is not None:
        raise Problem.of_field("boxes", "is allowed only together with frames or a video")

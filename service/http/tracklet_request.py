"""From a request to its validated body and its footage, whichever of the two forms it came in."""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ParamSpec, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from service.embedding.footage import Footage
from service.http.fields import Body
from service.http.problems import Problem, malformed
from service.http.schemas import FootageBody, TrackletBody
from service.http.uploads import FormReader, Upload, content_type, read_body, read_form
from service.settings import JSON_WEIGHT, Settings
from service.state import State
from service.telemetry.request_cost import current_cost

FootageT = TypeVar("FootageT", bound=FootageBody)
BodyT = TypeVar("BodyT", bound=Body)
T = TypeVar("T")
P = ParamSpec("P")

MAX_SMALL_BODY = 1024 * 1024
MAX_INLINE = 4096
"""Bytes that are read where they are, in less time than a thread takes to begin."""
MAX_JSON_VALUES = 500_000
"""Of one body. Parsed, the smallest value takes many times its bytes; base64 text has none of the signs."""


@asynccontextmanager
async def receive(
    request: Request, schema: type[FootageT], state: State
) -> AsyncIterator[tuple[FootageT, Footage | None]]:
    """Read a body with a tracklet: multipart, or JSON with base64 frames. Once it is there, it takes a place.

    Yields the validated body, without its frames, and the footage if there was any.

    Raises:
        Problem: 400 naming the field, 413, 415 for another content type, 503 when every place is taken.
    """
    settings = state.settings
    with state.admission.enter() as place:
        kind, boundary = content_type(request)
        if kind == "multipart/form-data" and boundary:
            names = (schema.model_fields.keys() - schema.NOT_IN_FORMS) | schema.ELSEWHERE.keys()
            with read_form(names, settings) as reader:
                with _reading(reader, state):
                    upload = await reader.read(request, boundary, place)
                place.begin()
                body = await _run(sum(map(len, upload.fields.values())), _validate_form, upload, schema)
                yield body, _footage_of_form(upload, body, settings)
        elif kind == "application/json":
            with state.metrics.stage("read"):
                data = await read_body(request, settings, place, JSON_WEIGHT)
            if len(data) > MAX_SMALL_BODY:  # smaller ones, such as a search by id, wait for no footage
                place.begin()
            with state.metrics.stage("parse"):
                body = await _run(len(data), _validate_json, data, schema)
                del data
                if body.frames is not None and not place.begun:
                    place.begin()
                footage = await _run(MAX_INLINE if body.frames else 0, _footage_of_json, body, settings)
            body = body.model_copy(update={"frames": None})  # the base64 text need not stay in memory
            yield body, footage
        else:
            wanted = "send multipart/form-data (with its boundary) or application/json"
            raise Problem("unsupported-content", f"{kind or 'no content type'}: {wanted}")


@contextmanager
def _reading(reader: FormReader, state: State) -> Iterator[None]:
    """Time how long a form is on its way, and apart from that what its parser takes, also of one that is refused."""
    start = time.perf_counter()
    try:
        yield
    finally:
        cost = current_cost.get()
        state.metrics.observe_stage("read", time.perf_counter() - start - reader.parsing, cost)
        state.metrics.observe_stage("parse", reader.parsing, cost)


async def read_json(request: Request, schema: type[BodyT], state: State) -> BodyT:
    """Read a small JSON body that carries no footage.

    Raises:
        Problem: 400 naming the field, 413, 415 for another content type.
    """
    kind, _ = content_type(request)
    if kind != "application/json":
        raise Problem("unsupported-content", f"{kind or 'no content type'}: send application/json")
    limits = state.settings.model_copy(
        update={"max_request_bytes": min(MAX_SMALL_BODY, state.settings.max_request_bytes)}
    )
    with state.admission.enter() as place:
        data = await read_body(request, limits, place)
        with state.metrics.stage("parse"):
            return await _run(len(data), _validate_json, data, schema)


async def _run(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` on `size` bytes; in a thread unless that would take longer than the work."""
    return function(*args, **kwargs) if size < MAX_INLINE else await asyncio.to_thread(function, *args, **kwargs)


def _validate_json(data: bytes | bytearray, schema: type[BodyT]) -> BodyT:
    if not data.strip():
        raise Problem("malformed", "the body is empty")
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_JSON_VALUES:
        raise Problem.of_field("body", f"more than {MAX_JSON_VALUES} values", "too-large")
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
    # As JSON again, so that a form and a JSON body are judged by one rule; NaN stays NaN, to be refused by it.
    return _validate_json(to_json(values, inf_nan_mode="constants"), schema)


def _footage_of_form(upload: Upload, body: FootageBody, settings: Settings) -> Footage | None:
    _check_metadata(body, settings)
    if not upload.frames and not upload.video:
        _refuse_lone_boxes(body)
        return None
    return Footage(upload.frames, upload.video, body.boxes)


def _footage_of_json(body: FootageBody, settings: Settings) -> Footage | None:
    _check_metadata(body, settings)
    if body.frames is None:
        _refuse_lone_boxes(body)
        return None
    if not body.frames:
        raise Problem.of_field("frames", "there is none")
    limit = settings.max_frames
    if len(body.frames) > limit:
        raise Problem.of_field("frames", f"{len(body.frames)} frames, at most {limit} are allowed", "too-large")
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
        raise Problem.of_field(
            "metadata", f"{size} bytes, at most {settings.max_metadata_bytes} are allowed", "too-large"
        )


def _refuse_lone_boxes(body: FootageBody) -> None:
    if body.boxes is not None:
        raise Problem.of_field("boxes", "there are no frames and no video that they could be cut from")

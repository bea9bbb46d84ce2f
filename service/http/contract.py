"""What FastAPI cannot know for the OpenAPI document, because routes read bodies from the stream themselves."""

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.http.alert_schemas import AlertAnswer, AlertVerdictBody, WatchlistBody
from service.http.case_schemas import CaseBody, CasePatchBody, VerdictBody
from service.http.problems import MEDIA_TYPE, ProblemDocument
from service.http.schemas import EmbedBody, EraseBody, FootageBody, PatchBody, PutBody, SearchBody, SessionBody

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "Error: a problem document (RFC 9457) that names each field or frame at fault",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}},
    }
}
"""The answer to any call that fails."""
_FORM: Final = "multipart/form-data"
_OF_FOOTAGE: Final = ("frames", "boxes", "max_clips")


def describe(app: FastAPI, *, vectors_only: bool) -> None:
    """Add the schemas of bodies and problem documents to the OpenAPI document of an application.

    The document of a service of vectors only has no `POST /embed` and no forms, which only footage needs.
    """
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = generate()
            models = [(schema, "validation") for schema in SCHEMAS]
            _, definitions = models_json_schema(
                [*models, (ProblemDocument, "serialization")],  # type: ignore[list-item]
                ref_template="#/components/schemas/{model}",
            )
            made["components"]["schemas"] |= definitions["$defs"]
            if vectors_only:
                _remove_footage(made)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # as the framework documents it


def _remove_footage(document: dict[str, Any]) -> None:
    del document["paths"]["/embed"]
    for calls in document["paths"].values():
        for call in calls.values():
            call.get("requestBody", {}).get("content", {}).pop(_FORM, None)
    schemas = document["components"]["schemas"]
    del schemas["EmbedBody"]
    for name in ("PutBody", "SearchBody"):
        for field in _OF_FOOTAGE:
            schemas[name]["properties"].pop(field, None)


SCHEMAS: tuple[type[BaseModel], ...] = (
    *(EmbedBody, PutBody, PatchBody, SearchBody, EraseBody),
    *(CaseBody, CasePatchBody, VerdictBody, SessionBody),
    *(WatchlistBody, AlertVerdictBody, AlertAnswer),
)
"""Request bodies whose schemas are components of the document."""


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a call with a JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(schema)}}}}


def tracklet_body(schema: type[FootageBody]) -> dict[str, Any]:
    """Return the `openapi_extra` of a call that takes a tracklet, as a form or as JSON."""
    binary = {"type": "string", "format": "binary"}
    properties: dict[str, Any] = {
        "frames": {
            "type": "array",
            "items": binary,
            "description": "JPEG, PNG, WebP or BMP files in time order; not with `video`",
        },
        "video": binary | {"description": "MP4, QuickTime, Matroska, AVI or MPEG transport stream"},
    }
    for name in schema.model_fields:
        if name not in schema.NOT_IN_FORMS:
            text = (
                "JSON, as in the JSON body" if name in schema.FORM_JSON else "Text, as in the JSON body without quotes"
            )
            properties[name] = {"type": "string", "description": text}
    form = {"type": "object", "properties": properties, "additionalProperties": False}
    content = {_FORM: {"schema": form}, "application/json": {"schema": _reference(schema)}}
    return {"requestBody": {"required": True, "content": content}}


def _reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}

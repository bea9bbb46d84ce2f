"""`not3d serve`: its options come from the settings, so this module needs the packages of the service."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.commands import results
from service.settings import SERVE_OPTIONS, Settings, variable_name

_TYPES: dict[str, type] = {"integer": int, "number": float, "string": str, "path": Path, "boolean": bool}


def make_serve() -> Any:
    """Return the function of the command, with an option for each of `SERVE_OPTIONS`."""
    schema = Settings.model_json_schema()["properties"]
    options = {name: _option(variable_name(name), schema[name]) for name in SERVE_OPTIONS}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    signature = inspect.signature(_serve)
    _serve.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, signature.parameters["settings"]]
    )
    _serve.__annotations__ |= options
    return _serve


def _serve(
    *,
    settings: Annotated[
        bool, typer.Option("--settings", help="List every setting with its environment variable, and exit.")
    ] = False,
    **given: Any,
) -> None:
    """Start the HTTP service.

    Every setting is an environment variable as well, and an option overrides it.
    [cyan]not3d serve --settings[/] lists them.

    On SIGTERM the service first finishes the requests that it has accepted.
    """
    if settings:
        results.print(_settings_table())
        return
    chosen = _validate({name: value for name, value in given.items() if value is not None})
    with extra("cpu"):
        from service import server
    server.serve(chosen)


def _option(variable: str, schema: dict[str, Any]) -> Any:
    """Return the annotation of one option. Without the option the value is `None`, so the variable decides."""
    kind = next((each for each in schema.get("anyOf", ()) if each["type"] != "null"), schema)
    if "enum" in kind:
        value: Any = Literal[tuple(kind["enum"])]
    else:
        value = _TYPES[kind.get("format", kind["type"])]
    text = schema["description"]
    if schema.get("default") is not None and "Default:" not in text:
        text += f". Default: {schema['default']}"
    head, default, rest = text.partition("Default:")
    shown = f"{head}[dim]{default}{rest}[/]" if default else text
    option = typer.Option(envvar=variable, help=shown, min=kind.get("minimum"), max=kind.get("maximum"))
    return Annotated[value | None, option]


def _validate(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = [
            f"{_origin(fault['loc'], given)}{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise typer.BadParameter("; ".join(faults), param_hint="settings") from error


def _origin(location: tuple[int | str, ...], given: dict[str, Any]) -> str:
    """Return the option or the variable that an invalid setting came from, with a colon; "" for several settings."""
    if not location:
        return ""
    name = str(location[0])
    return f"--{name.replace('_', '-')}: " if name in given else f"{variable_name(name)}: "


def _settings_table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variable", no_wrap=True, min_width=max(map(len, Settings.model_fields)) + len(variable_name("")))
    table.add_column("default", overflow="fold")
    table.add_column("meaning")
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        if "Default:" in (field.description or ""):
            default = ""
        table.add_row(Text(variable_name(name)), Text(default), Text(field.description or ""))
    return table

"""`not3d serve`."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from model.errors import extra
from not3d.commands import results

if TYPE_CHECKING:
    from service.settings import Settings

_TYPES: dict[str, type] = {"integer": int, "string": str, "path": Path}


def serve(ctx: typer.Context) -> None:
    """Start the HTTP service."""
    # The options come from the settings, which need packages of an extra. So they are made when the command runs.
    with extra("cpu"):
        from service.settings import Settings
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})(_make_command(Settings))
    command = typer.main.get_command(app)
    with command.make_context(ctx.info_name, ctx.args, parent=ctx.parent) as inner:
        command.invoke(inner)


_HELP = """Start the HTTP service.

Every setting is an environment variable as well, and an option overrides it.
[cyan]not3d serve --settings[/] lists them.

On SIGTERM the service first finishes the requests that it has accepted.
"""


def _make_command(settings: "type[Settings]") -> Any:
    """Return the function behind the command, with an option for each setting of `SERVE_OPTIONS`."""
    from service.settings import SERVE_OPTIONS

    def run(**given: Any) -> None:
        if given.pop("list_settings"):
            results.print(_settings_table(settings))
            return
        chosen = _validate(settings, {name: value for name, value in given.items() if value is not None})
        with extra("cpu"):
            from service import server
        server.serve(chosen)

    schema = settings.model_json_schema()["properties"]
    run.__annotations__ = {name: _option(name, schema[name]) for name in SERVE_OPTIONS}
    listed = typer.Option("--settings", help="List every setting with its environment variable, and exit.")
    run.__annotations__["list_settings"] = Annotated[bool, listed]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in run.__annotations__.items()
    ]
    parameters[-1] = parameters[-1].replace(default=False)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _option(name: str, schema: dict[str, Any]) -> Any:
    """Return the annotation of one option. A setting that is not given stays `None`, so the variable decides."""
    kind = next((each for each in schema.get("anyOf", ()) if each["type"] != "null"), schema)
    if "enum" in kind:
        value: Any = Literal[tuple(kind["enum"])]
    else:
        value = _TYPES[kind.get("format", kind["type"])]
    default = "the bundle in the package" if name == "bundle" else schema.get("default")
    shown = "" if default is None else f" [dim]Default: {default}[/]"
    option = typer.Option(
        envvar=f"NOT3D_{name.upper()}",
        help=f"{schema['description']}.{shown}",
        min=kind.get("minimum"),
        max=kind.get("maximum"),
    )
    return Annotated[value | None, option]


def _validate(settings: "type[Settings]", given: dict[str, Any]) -> "Settings":
    try:
        return settings(**given)
    except ValidationError as error:
        faults = [
            f"{_origin(fault['loc'], given)}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise typer.BadParameter("; ".join(faults), param_hint="settings") from error


def _origin(location: tuple[int | str, ...], given: dict[str, Any]) -> str:
    """Return the option or the variable that an invalid setting came from."""
    if not location:
        return "settings"
    name = str(location[0])
    return f"--{name.replace('_', '-')}" if name in given else f"NOT3D_{name.upper()}"


def _settings_table(settings: "type[Settings]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variable", no_wrap=True, min_width=max(map(len, settings.model_fields)) + len("NOT3D_"))
    table.add_column("default", overflow="fold")
    table.add_column("meaning")
    for name, field in settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        if name == "bundle":
            default = "the package's own"
        table.add_row(Text(f"NOT3D_{name.upper()}"), Text(default), Text(field.description or ""))
    return table

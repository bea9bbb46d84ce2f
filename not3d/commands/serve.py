"""``not3d serve``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from not3d.commands import load, results


class Device(StrEnum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class EngineName(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class LogLevel(StrEnum):
    """The least severe entries that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    *,
    bundle: Annotated[
        Path | None,
        typer.Option(
            envvar="NOT3D_BUNDLE", help="Folder of the model bundle. [dim]Default: the one in the package.[/]"
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="NOT3D_DATA_DIR", help="Folder of the gallery. [dim]Default: data[/]")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(envvar="NOT3D_HOST", help="Address to listen at; 0.0.0.0 for all. [dim]Default: 127.0.0.1[/]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(envvar="NOT3D_PORT", min=0, max=65535, help="Port. [dim]Default: 8000[/]")
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            envvar="NOT3D_DEVICE",
            help="auto takes the GPU where one works; cuda without one is an error. [dim]Default: auto[/]",
        ),
    ] = None,
    engine: Annotated[
        EngineName | None,
        typer.Option(envvar="NOT3D_ENGINE", help="auto measures which is fastest here. [dim]Default: auto[/]"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(envvar="NOT3D_THREADS", min=1, help="CPU threads. [dim]Default: all that may be used[/]"),
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(envvar="NOT3D_LOG_LEVEL", help="[dim]Default: info[/]")] = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="List every setting with its environment variable, and exit.")
    ] = False,
) -> None:
    """Start the HTTP service.

    Every setting is an environment variable as well, which an option
    overrules; [cyan]not3d serve --settings[/] lists them.

    On SIGTERM the requests that were accepted are finished first.
    """
    module = load("service.settings", "cpu")
    if settings:
        results.print(_settings_table(module.Settings))
        return
    given = {
        "bundle": bundle,
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "device": device,
        "engine": engine,
        "threads": threads,
        "log_level": log_level,
    }
    chosen = _validated(module.Settings, {name: value for name, value in given.items() if value is not None})
    load("service.server", "cpu").serve(chosen)


def _validated(settings: Any, given: dict[str, Any]) -> Any:
    try:
        return settings(**given)
    except ValidationError as error:
        faults = [
            f"{_origin(fault['loc'], given)}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise typer.BadParameter("; ".join(faults), param_hint="settings") from error


def _origin(location: tuple[int | str, ...], given: dict[str, Any]) -> str:
    """The option or the variable that a fault of the settings came from."""
    if not location:
        return "settings"
    name = str(location[0])
    return f"--{name.replace('_', '-')}" if name in given else f"NOT3D_{name.upper()}"


def _settings_table(settings: Any) -> Table:
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

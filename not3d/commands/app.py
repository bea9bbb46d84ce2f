"""All commands of `not3d` in one Typer application."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from model.errors import extra
from not3d.commands import Interruptible, results
from not3d.commands.audit import app as audit_log
from not3d.commands.bridge_sources import app as bridge
from not3d.commands.calibrate import calibrate
from not3d.commands.case import app as case
from not3d.commands.datasets import app as datasets
from not3d.commands.enroll import enroll
from not3d.commands.gallery import app as archive
from not3d.commands.import_model import import_model
from not3d.commands.keys import app as keys
from not3d.commands.quantize import quantize
from not3d.commands.records import cameras, delete, erase, list_records
from not3d.commands.reproduce import reproduce
from not3d.commands.search import info, search
from not3d.commands.track import track
from not3d.commands.training import adapt_teacher, evaluate, export, train
from not3d.commands.tune import tune
from not3d.commands.vectors import vectors
from not3d.commands.watchlist import alerts
from not3d.commands.watchlist import app as watchlist
from not3d.demo import demo
from not3d.demo_site import demo_site

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="not3d",
    cls=Interruptible,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=HELP_OPTIONS,
)


@app.command(
    rich_help_panel="Search",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(ctx: typer.Context) -> None:
    """Start the HTTP service."""
    # The options come from the settings, whose packages are optional and slow to import. So the real command is made
    # only now, and takes all arguments.
    with extra("cpu"):
        from not3d.commands.serve import make_serve
    inner = typer.Typer(add_completion=False, rich_markup_mode="rich")
    inner.command(context_settings=HELP_OPTIONS)(make_serve())
    command = typer.main.get_command(inner)
    with command.make_context(ctx.info_name, ctx.args, parent=ctx.parent) as inner_ctx:
        command.invoke(inner_ctx)


app.command(rich_help_panel="Search")(enroll)
app.command(rich_help_panel="Search")(vectors)
app.command(rich_help_panel="Search")(search)
app.command(rich_help_panel="Search")(track)
app.command(rich_help_panel="Search")(info)
app.command("list", rich_help_panel="Search")(list_records)
app.command(rich_help_panel="Search")(cameras)
app.command(rich_help_panel="Search")(delete)
app.command(rich_help_panel="Search")(erase)
app.add_typer(bridge, name="bridge", rich_help_panel="Search")
app.add_typer(case, name="case", rich_help_panel="Search")
app.add_typer(watchlist, name="watchlist", rich_help_panel="Search")
app.command(rich_help_panel="Search")(alerts)
app.command(rich_help_panel="Search")(demo)
app.command("demo-site", rich_help_panel="Search")(demo_site)
app.add_typer(archive, name="gallery", rich_help_panel="Search")
app.add_typer(keys, name="keys", rich_help_panel="Search")
app.add_typer(audit_log, name="audit", rich_help_panel="Search")
app.command(rich_help_panel="Models")(train)
app.command(rich_help_panel="Models")(adapt_teacher)
app.command(rich_help_panel="Models")(evaluate)
app.command(rich_help_panel="Models")(export)
app.command(rich_help_panel="Models")(calibrate)
app.command("import", rich_help_panel="Models")(import_model)
app.command(rich_help_panel="Models")(quantize)
app.command(rich_help_panel="Models")(reproduce)
app.command(rich_help_panel="Models")(tune)
app.add_typer(datasets, name="datasets", rich_help_panel="Models")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        results.print(f"not3d {version('not3d')}", highlight=False)
    except PackageNotFoundError:
        results.print("not3d, not installed", highlight=False)
    raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Video person re-identification search: tracklets in, ranked gallery ids out."""

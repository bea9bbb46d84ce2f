"""`not3d bridge`: enrol what other systems track.

Each option is also an environment variable; `not3d.commands.bridge_options` has those that the commands share.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Column, Table

from model.errors import extra
from not3d.commands import Failure, results
from not3d.commands.bridge_options import (
    ClientId,
    LogLevel,
    Margin,
    MaxWaiting,
    Metrics,
    MqttCaFile,
    MqttPassword,
    MqttPasswordFile,
    MqttUrl,
    MqttUser,
    ResultFlags,
    StateFile,
    Workers,
    make_broker,
    published,
    read_secret,
    start_bridge,
    variable,
    with_results,
)
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Url

if TYPE_CHECKING:
    from not3d.bridges.sink import Sink
    from not3d.bridges.state import State
    from not3d.bridges.telemetry import Telemetry

app = typer.Typer(
    help="Enrol what other systems track: Frigate, cameras, pipelines, or any tracker by MQTT.", no_args_is_help=True
)

WriteBack = Literal["never", "confirmed"]


@app.command()
@with_results
def frigate(
    *,
    mqtt: MqttUrl,
    frigate_url: Annotated[
        str,
        typer.Option(
            "--frigate",
            envvar=variable("FRIGATE"),
            metavar="URL",
            help="Frigate: http://host:5000, or https://host:8971 with --frigate-user.",
        ),
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    frigate_user: Annotated[
        str | None,
        typer.Option(envvar=variable("FRIGATE_USER"), metavar="NAME", help="User of Frigate, for port 8971."),
    ] = None,
    frigate_password: Annotated[
        str | None,
        typer.Option(envvar=variable("FRIGATE_PASSWORD"), metavar="TEXT", help="Password of that user."),
    ] = None,
    frigate_password_file: Annotated[
        Path | None,
        typer.Option(envvar=variable("FRIGATE_PASSWORD_FILE"), metavar="FILE", help="File that holds the password."),
    ] = None,
    frigate_ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar=variable("FRIGATE_CA_FILE"),
            metavar="FILE",
            help="Certificate of Frigate, in PEM format; needed for one that Frigate made itself.",
        ),
    ] = None,
    mqtt_user: MqttUser = None,
    mqtt_password: MqttPassword = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_ca_file: MqttCaFile = None,
    client_id: ClientId = None,
    frigate_prefix: Annotated[
        str,
        typer.Option(envvar=variable("FRIGATE_PREFIX"), metavar="TOPIC", help="Frigate's mqtt.topic_prefix."),
    ] = "frigate",
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            envvar=variable("LABELS"),
            metavar="LABEL",
            help="Label of objects that are people; repeat it for others. [dim]Default: person.[/]",
        ),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            envvar=variable("CAMERAS"),
            metavar="NAME",
            help="Only this camera; repeat it for others. [dim]Default: all.[/]",
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1, max=64, envvar=variable("FRAMES"), metavar="N", help="Largest number of pictures of a tracklet."
        ),
    ] = 8,
    settle_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=variable("SETTLE_SECONDS"),
            metavar="SECONDS",
            help="Time from the end of an event until its recording is read.",
        ),
    ] = 60.0,
    open_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=variable("OPEN_SECONDS"),
            metavar="SECONDS",
            help="An event that lasts longer is enrolled before its end.",
        ),
    ] = 60.0,
    give_up_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=variable("GIVE_UP_SECONDS"),
            metavar="SECONDS",
            help="How long to ask again for a recording that is missing.",
        ),
    ] = 120.0,
    backfill_hours: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=variable("BACKFILL_HOURS"),
            metavar="HOURS",
            help="How far back the bridge looks after it was away.",
        ),
    ] = 24.0,
    live_pictures: Annotated[
        bool,
        typer.Option(
            envvar=variable("LIVE_PICTURES"),
            help="Also fetch the pictures that Frigate shows live, for events without a recording.",
        ),
    ] = True,
    margin: Margin = 0.0,
    write_back: Annotated[
        WriteBack,
        typer.Option(
            envvar=variable("WRITE_BACK"),
            help="confirmed: name an event in Frigate after the watchlist, when an operator has confirmed the alert. "
            "Frigate requires an admin for this.",
        ),
    ] = "never",
    state_file: StateFile = None,
    metrics: Metrics = None,
    workers: Workers = 2,
    max_waiting: MaxWaiting = 2000,
    log_level: LogLevel = "info",
    shown: ResultFlags,
) -> None:
    """Enrol the people that a Frigate tracks, until Ctrl-C.

    Example: [bold]not3d bridge frigate --mqtt mqtt://nvr:1883 --frigate http://nvr:5000[/]
    """
    with extra("bridge"):
        from not3d.bridges.frigate.api import Frigate
        from not3d.bridges.frigate.source import FrigateOptions, FrigateSource
        from not3d.bridges.frigate.write_back import write_back_confirmed
        from not3d.bridges.mqtt import Mqtt
    broker = make_broker("frigate", mqtt, mqtt_user, mqtt_password, mqtt_password_file, mqtt_ca_file, client_id)
    secret = read_secret(frigate_password, frigate_password_file, "--frigate-password")
    options = FrigateOptions(
        topic_prefix=frigate_prefix,
        labels=tuple(label or ["person"]),
        cameras=tuple(camera or ()),
        frames=frames,
        settle_seconds=settle_seconds,
        open_seconds=open_seconds,
        give_up_seconds=give_up_seconds,
        backfill_hours=backfill_hours,
        live_pictures=live_pictures,
        margin=margin,
    )

    found = shown.options("frigate")

    async def run(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        connection = Mqtt(broker, telemetry, status_topic=found.topics.status)
        async with Frigate(frigate_url, user=frigate_user, password=secret, ca_file=frigate_ca_file) as api:
            confirm = write_back_confirmed(api, telemetry) if write_back == "confirmed" else None
            service = (url, api_key, ca_file)
            async with published(connection, found, service, state, sink, telemetry, confirm) as results_of_it:
                add_cameras = results_of_it.add_cameras
                await FrigateSource(connection, api, state, sink, telemetry, options, add_cameras).run()

    start_bridge(
        "frigate",
        run,
        url=url,
        api_key=api_key,
        ca_file=ca_file,
        state_file=state_file,
        metrics=metrics,
        workers=workers,
        max_waiting=max_waiting,
        log_level=log_level,
    )


@app.command("mqtt")
@with_results
def tracks(
    *,
    mqtt: MqttUrl,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    topic: Annotated[
        str, typer.Option(envvar=variable("TOPIC"), metavar="TOPIC", help="Where tracks come; may have wildcards.")
    ] = "not3d/tracks/#",
    frames_dir: Annotated[
        Path | None,
        typer.Option(
            "--frames-dir",
            envvar=variable("FRAMES_DIR"),
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of the files that messages name; nothing outside it is read. [dim]Default: messages bring "
            "their crops, and those that name files are refused.[/]",
        ),
    ] = None,
    mqtt_user: MqttUser = None,
    mqtt_password: MqttPassword = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_ca_file: MqttCaFile = None,
    client_id: ClientId = None,
    margin: Margin = 0.0,
    state_file: StateFile = None,
    metrics: Metrics = None,
    workers: Workers = 2,
    max_waiting: MaxWaiting = 2000,
    log_level: LogLevel = "info",
    shown: ResultFlags,
) -> None:
    """Enrol the tracks that any tracker publishes by MQTT, until Ctrl-C.

    docs/integrate/mqtt.md describes the message, with examples.

    Example: [bold]not3d bridge mqtt --mqtt mqtt://broker:1883 --topic 'not3d/tracks/#'[/]
    """
    with extra("bridge"):
        from not3d.bridges.mqtt import Mqtt
        from not3d.bridges.tracks import TracksOptions, TracksSource
    broker = make_broker("mqtt", mqtt, mqtt_user, mqtt_password, mqtt_password_file, mqtt_ca_file, client_id)
    options = TracksOptions(topic, frames_dir, margin)
    found = shown.options("mqtt")

    async def run(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        connection = Mqtt(broker, telemetry, status_topic=found.topics.status)
        async with published(connection, found, (url, api_key, ca_file), state, sink, telemetry):
            await TracksSource(connection, state, sink, telemetry, options).run()

    start_bridge(
        "mqtt",
        run,
        url=url,
        api_key=api_key,
        ca_file=ca_file,
        state_file=state_file,
        metrics=metrics,
        workers=workers,
        max_waiting=max_waiting,
        log_level=log_level,
    )


@app.command()
def dropped(
    state_file: Annotated[
        Path, typer.Argument(envvar=variable("STATE"), metavar="FILE", help="The state of a bridge that is stopped.")
    ],
    *,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of tracks.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the tracks that a bridge did not enrol, and why, the latest first.

    While a bridge runs, its log and metrics say the same.
    """
    from not3d.bridges.state import State

    if not state_file.exists():
        raise Failure(f"{state_file} does not exist: give the --state file of a bridge")
    with State(state_file) as state:
        letters = state.dead_letters(limit)
    if as_json:
        results.print_json(
            data=[
                {"id": each.id, "reason": each.reason, "detail": each.detail, "time": each.time.isoformat()}
                for each in letters
            ]
        )
        return
    columns = [Column(name, overflow="fold") for name in ("time", "id", "reason", "detail")]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in letters:
        table.add_row(f"{each.time:%Y-%m-%d %H:%M:%S}", *map(escape, (each.id, each.reason, each.detail)))
    results.print(table)

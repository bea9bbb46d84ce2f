"""`not3d bridge axis`, `onvif` and `deepstream`: cameras and pipelines that track by themselves."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import extra
from not3d.commands import Failure
from not3d.commands.bridge import app
from not3d.commands.bridge_options import (
    ClientId,
    LogLevel,
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
    start_bridge,
    variable,
    with_results,
)
from not3d.commands.search import DEFAULT_URL, ApiKey, CaFile, Url

__all__ = ["app"]

if TYPE_CHECKING:
    import aiomqtt

    from not3d.bridges.grouped import GroupedOptions
    from not3d.bridges.sink import Sink
    from not3d.bridges.state import State
    from not3d.bridges.telemetry import Telemetry

Silence = Annotated[
    float,
    typer.Option(
        min=0.5,
        max=3600,
        envvar=variable("SILENCE"),
        metavar="SECONDS",
        help="A track ends if it is not seen for so long, by the times in the messages or by the clock.",
    ),
]
Longest = Annotated[
    float,
    typer.Option(
        min=1,
        max=86_400,
        envvar=variable("LONGEST"),
        metavar="SECONDS",
        help="A longer track becomes several tracklets.",
    ),
]
Crops = Annotated[
    int, typer.Option(min=1, max=64, envvar=variable("CROPS"), help="Largest number of crops of a tracklet.")
]
Footage = Annotated[
    Path | None,
    typer.Option(
        envvar=variable("FOOTAGE"),
        metavar="FOLDER",
        help="Recordings that boxes without a picture are cut out of: CAMERA/TIME.mp4, such as "
        "gate/2026-05-04T09-30-00Z.mp4, or one such file. [dim]Default: such tracks are dropped.[/]",
    ),
]
FootageWait = Annotated[
    float,
    typer.Option(
        min=0,
        envvar=variable("FOOTAGE_WAIT"),
        metavar="SECONDS",
        help="For how long after the end of a track its recording may be missing.",
    ),
]
FootageOffset = Annotated[
    float,
    typer.Option(
        min=-1e9,
        max=1e9,
        envvar=variable("FOOTAGE_OFFSET"),
        metavar="SECONDS",
        help="Added to the times of boxes before their frames are looked for, if clocks differ.",
    ),
]


def camera_of(topic: str, pattern: str, name: str) -> str:
    """Return the camera of a message: what stands for the first `+` of the subscribed topic, otherwise the name."""
    levels, wanted = topic.split("/"), pattern.split("/")
    return levels[wanted.index("+")] if "+" in wanted else name


def _grouped_options(
    crops: int, space: str | None, footage: Path | None, wait: float, offset: float
) -> "GroupedOptions":
    from not3d.bridges.grouped import GroupedOptions
    from not3d.bridges.recordings import Recordings

    recordings = Recordings(footage, offset) if footage else None
    return GroupedOptions(crops=crops, embedding_space=space, recordings=recordings, footage_wait=wait)


async def _run_together(*tasks: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)


@app.command()
@with_results
def axis(
    *,
    mqtt: MqttUrl,
    topic: Annotated[
        str,
        typer.Option(
            envvar=variable("TOPIC"),
            metavar="TOPIC",
            help="The topics that the cameras publish to. The first + stands for the name of a camera.",
        ),
    ] = "axis/+/#",
    camera: Annotated[
        str,
        typer.Option(envvar=variable("CAMERA"), metavar="NAME", help="Name of the camera if --topic has no +."),
    ] = "axis",
    settle_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=variable("SETTLE_SECONDS"),
            metavar="SECONDS",
            help="How long a track waits for others that the camera links to it.",
        ),
    ] = 10.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    mqtt_user: MqttUser = None,
    mqtt_password: MqttPassword = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_ca_file: MqttCaFile = None,
    client_id: ClientId = None,
    state_file: StateFile = None,
    metrics: Metrics = None,
    workers: Workers = 2,
    max_waiting: MaxWaiting = 2000,
    log_level: LogLevel = "info",
    shown: ResultFlags,
) -> None:
    """Enrol the people that Axis cameras track: one picture of each track.

    Example: [bold]not3d bridge axis --mqtt mqtt://broker:1883 --topic 'axis/+/#'[/]
    """
    with extra("bridge"):
        from not3d.bridges.axis_source import AxisSource
        from not3d.bridges.mqtt import Mqtt
    broker = make_broker("axis", mqtt, mqtt_user, mqtt_password, mqtt_password_file, mqtt_ca_file, client_id)
    found = shown.options("axis")

    async def run(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        connection = Mqtt(broker, telemetry, status_topic=found.topics.status)
        source = AxisSource(state, sink, telemetry, settle=settle_seconds)

        async def on_message(message: "aiomqtt.Message") -> None:
            await sink.has_room()
            source.handle(payload_of(message), camera_of(message.topic.value, topic, camera))

        connection.subscribe(topic, on_message)
        async with published(connection, found, (url, api_key, ca_file), state, sink, telemetry):
            await _run_together(connection.run(), source.run())

    start_bridge(
        "axis",
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


def payload_of(message: "aiomqtt.Message") -> bytes:
    """Return the bytes of a message."""
    return bytes(message.payload) if isinstance(message.payload, bytes | bytearray) else str(message.payload).encode()


@app.command()
@with_results
def onvif(
    *,
    mqtt: MqttUrl,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            "--topic",
            envvar=variable("TOPIC"),
            metavar="TOPIC",
            help="The topics of the cameras; repeat it for others. [dim]Default: +/onvif-mj/VideoAnalytics/#[/]",
        ),
    ] = None,
    least_likelihood: Annotated[
        float,
        typer.Option(
            min=0, max=1, envvar=variable("LEAST_LIKELIHOOD"), help="People that a camera is less sure of are left out."
        ),
    ] = 0.0,
    silence: Silence = 5.0,
    longest: Longest = 60.0,
    crops: Crops = 8,
    footage: Footage = None,
    footage_wait: FootageWait = 60.0,
    footage_offset: FootageOffset = 0.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    mqtt_user: MqttUser = None,
    mqtt_password: MqttPassword = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_ca_file: MqttCaFile = None,
    client_id: ClientId = None,
    state_file: StateFile = None,
    metrics: Metrics = None,
    workers: Workers = 2,
    max_waiting: MaxWaiting = 2000,
    log_level: LogLevel = "info",
    shown: ResultFlags,
) -> None:
    """Enrol the people in ONVIF metadata, as JSON over MQTT: pictures in it, or boxes and recordings.

    Example: [bold]not3d bridge onvif --mqtt mqtt://broker:1883 --footage /recordings[/]
    """
    with extra("bridge"):
        from not3d.bridges.grouped import GroupedSource
        from not3d.bridges.mqtt import Mqtt
        from not3d.bridges.observations import TrackGrouper
        from not3d.bridges.onvif import OnvifReader
    broker = make_broker("onvif", mqtt, mqtt_user, mqtt_password, mqtt_password_file, mqtt_ca_file, client_id)
    found = shown.options("onvif")
    options = _grouped_options(crops, None, footage, footage_wait, footage_offset)

    async def run(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        connection = Mqtt(broker, telemetry, status_topic=found.topics.status)
        grouper = TrackGrouper(silence=silence, longest=longest, keep=crops)
        source = GroupedSource(grouper, state, sink, telemetry, options)
        reader = OnvifReader(source, telemetry, least_likelihood)

        async def on_message(message: "aiomqtt.Message") -> None:
            await sink.has_room()
            reader.handle(payload_of(message), message.topic.value)

        for each in topic or ["+/onvif-mj/VideoAnalytics/#"]:
            connection.subscribe(each, on_message)
        async with published(connection, found, (url, api_key, ca_file), state, sink, telemetry):
            await _run_together(connection.run(), source.run())

    start_bridge(
        "onvif",
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


def _parse_size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        size = int(width), int(height)
    except ValueError:
        raise typer.BadParameter(f"write WIDTHxHEIGHT, such as 1920x1080 (got {text})") from None
    if min(size) < 1:
        raise typer.BadParameter(f"width and height must be at least 1 (got {text})")
    return size


@app.command()
@with_results
def deepstream(
    *,
    redis: Annotated[
        str | None,
        typer.Option(
            envvar=variable("REDIS"), metavar="URL", help="Redis with the stream: redis://[user:password@]host:6379/0."
        ),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            envvar=variable("KAFKA"),
            metavar="HOST:PORT",
            help="Kafka instead of Redis; several servers separated by commas. [dim]Never run with a real Kafka.[/]",
        ),
    ] = None,
    topic: Annotated[
        str,
        typer.Option(envvar=variable("TOPIC"), metavar="NAME", help="The stream of Redis or the topic of Kafka."),
    ] = "metadata",
    group: Annotated[str, typer.Option(envvar=variable("GROUP"), metavar="NAME", help="The consumer group.")] = "not3d",
    space: Annotated[
        str | None,
        typer.Option(
            envvar=variable("SPACE"),
            metavar="NAME",
            help="Enrol the vectors in the messages; the embedding space of the service (not3d serve --vectors-only).",
        ),
    ] = None,
    frame_size: Annotated[
        str,
        typer.Option(
            envvar=variable("FRAME_SIZE"),
            metavar="WIDTHxHEIGHT",
            help="What the boxes are for: width and height of nvstreammux.",
        ),
    ] = "1920x1080",
    silence: Silence = 5.0,
    longest: Longest = 60.0,
    crops: Crops = 8,
    footage: Footage = None,
    footage_wait: FootageWait = 60.0,
    footage_offset: FootageOffset = 0.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    ca_file: CaFile = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            envvar=variable("MQTT"),
            metavar="URL",
            help="Publish matches and alerts to this broker: mqtt://host:1883, or mqtts://host:8883 with TLS. "
            "[dim]Default: they are not published.[/]",
        ),
    ] = None,
    mqtt_user: MqttUser = None,
    mqtt_password: MqttPassword = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_ca_file: MqttCaFile = None,
    client_id: ClientId = None,
    state_file: StateFile = None,
    metrics: Metrics = None,
    workers: Workers = 2,
    max_waiting: MaxWaiting = 2000,
    log_level: LogLevel = "info",
    shown: ResultFlags,
) -> None:
    """Enrol the people that NVIDIA DeepStream tracks: vectors in its messages, or boxes and recordings.

    Example: [bold]not3d bridge deepstream --redis redis://localhost:6379/0 --topic metadata --space my-reid[/]
    """
    if (redis is None) == (kafka is None):
        raise typer.BadParameter("give either --redis or --kafka")
    if space is None and footage is None:
        raise Failure(
            "nothing could be enrolled: --space enrols the vectors in the messages, --footage cuts boxes out of "
            "recordings; give one of them"
        )
    size = _parse_size(frame_size)
    with extra("bridge" if kafka is None else "kafka"):
        from not3d.bridges.deepstream import DeepStreamReader
        from not3d.bridges.deepstream_redis import RedisStream, check_url
        from not3d.bridges.grouped import GroupedSource
        from not3d.bridges.observations import TrackGrouper

        if mqtt is not None:
            from not3d.bridges.mqtt import Mqtt
        if kafka is not None:
            from not3d.bridges.deepstream_kafka import KafkaTopic
    if redis is not None:
        check_url(redis)
    options = _grouped_options(crops, space, footage, footage_wait, footage_offset)

    broker = None
    if mqtt is not None:
        broker = make_broker("deepstream", mqtt, mqtt_user, mqtt_password, mqtt_password_file, mqtt_ca_file, client_id)
    found = shown.options("deepstream")

    async def read(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        grouper = TrackGrouper(silence=silence, longest=longest, keep=crops)
        if redis is not None:
            stream = RedisStream(redis, topic, telemetry, group=group)
            source = GroupedSource(grouper, state, sink, telemetry, options, stream.release)
            reader = DeepStreamReader(source, telemetry, size)
            await _run_together(stream.run(reader.handle, source, sink), source.run())
        elif kafka is not None:
            consumer = KafkaTopic(kafka, topic, telemetry, group=group)
            source = GroupedSource(grouper, state, sink, telemetry, options, consumer.release)
            reader = DeepStreamReader(source, telemetry, size)
            await _run_together(consumer.run(reader.handle, source, sink), source.run())

    async def run(state: "State", sink: "Sink", telemetry: "Telemetry") -> None:
        if broker is None:
            await read(state, sink, telemetry)
            return
        connection = Mqtt(broker, telemetry, status_topic=found.topics.status, is_source=False)
        async with published(connection, found, (url, api_key, ca_file), state, sink, telemetry):
            await _run_together(connection.run(), read(state, sink, telemetry))

    start_bridge(
        "deepstream",
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

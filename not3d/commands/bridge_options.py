"""Options that the commands of `not3d bridge` share, and how a bridge is run.

Each option is also an environment variable, `NOT3D_BRIDGE_...`, or for the service `NOT3D_URL`, `NOT3D_API_KEY` and
`NOT3D_CA_FILE` as in the other commands.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from not3d.client import Client
from not3d.commands import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from not3d.bridges.mqtt import Broker, Mqtt
    from not3d.bridges.results import OnConfirmed, ResultOptions, Results
    from not3d.bridges.sink import Sink
    from not3d.bridges.state import State
    from not3d.bridges.telemetry import Telemetry

TIMEOUT = 30.0
"""Seconds that one step of a call to the service may take; a stop waits for it."""


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return f"NOT3D_BRIDGE_{name}"


MqttUrl = Annotated[
    str,
    typer.Option(
        "--mqtt",
        envvar=variable("MQTT"),
        metavar="URL",
        help="The broker: mqtt://host:1883, or mqtts://host:8883 with TLS.",
    ),
]
MqttUser = Annotated[str | None, typer.Option(envvar=variable("MQTT_USER"), metavar="NAME", help="User of the broker.")]
MqttPassword = Annotated[
    str | None,
    typer.Option(
        envvar=variable("MQTT_PASSWORD"),
        metavar="TEXT",
        show_envvar=True,
        help="Password of the user. Others can read a command line: better set the variable, or use "
        "--mqtt-password-file.",
    ),
]
MqttPasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar=variable("MQTT_PASSWORD_FILE"), metavar="FILE", help="File that holds the password of the user."
    ),
]
MqttCaFile = Annotated[
    Path | None,
    typer.Option(
        envvar=variable("MQTT_CA_FILE"),
        metavar="FILE",
        help="Certificate of the authority that signed the broker's certificate, in PEM format. "
        "[dim]Default: the authorities that the system trusts.[/]",
    ),
]
ClientId = Annotated[
    str | None,
    typer.Option(
        "--client-id",
        envvar=variable("CLIENT_ID"),
        metavar="NAME",
        help="Names the session that the broker keeps while the bridge is away; two bridges need two names. "
        "[dim]Default: not3d- and the name of the command.[/]",
    ),
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar=variable("STATE"),
        metavar="FILE",
        help="Where the bridge keeps what is in progress, what waits for the service (with pictures) and what was "
        "dropped. [dim]Default: bridge-NAME.sqlite in the working directory.[/]",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar=variable("METRICS"),
        metavar="HOST:PORT",
        help="Answer GET /metrics for Prometheus at this address. [dim]Default: no metrics.[/]",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers", min=1, max=32, envvar=variable("WORKERS"), help="Number of tracklets sent at the same time."
    ),
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        "--max-waiting",
        min=1,
        envvar=variable("MAX_WAITING"),
        metavar="N",
        help="Largest number of tracklets on disk that wait for the service.",
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", envvar=variable("LOG_LEVEL"), help="Log entries of this level and above."),
]
Matches = Annotated[
    bool,
    typer.Option(envvar=variable("MATCHES"), help="Search with each new record, and publish where else it was seen."),
]
TopK = Annotated[
    int, typer.Option("--top-k", min=1, envvar=variable("TOP_K"), metavar="N", help="Largest number of results.")
]
MinScore = Annotated[
    float | None,
    typer.Option(
        min=-1, max=1, envvar=variable("MIN_SCORE"), metavar="SCORE", help="Leave out results below this score."
    ),
]
MinProbability = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        envvar=variable("MIN_PROBABILITY"),
        metavar="SHARE",
        help="Leave out results below this probability; the service needs a calibration.",
    ),
]
SameCamera = Annotated[
    bool, typer.Option(envvar=variable("SAME_CAMERA"), help="Results of the record's own camera count too.")
]
Alerts = Annotated[
    bool, typer.Option(envvar=variable("ALERTS"), help="Publish the alerts of the service's watchlists.")
]
Presence = Annotated[
    float,
    typer.Option(
        min=1,
        envvar=variable("PRESENCE_SECONDS"),
        metavar="SECONDS",
        help="After this time without an alert, a watchlist's sensor says nobody.",
    ),
]
HomeAssistant = Annotated[
    bool, typer.Option(envvar=variable("HOME_ASSISTANT"), help="Announce entities to Home Assistant.")
]
DiscoveryPrefix = Annotated[
    str,
    typer.Option(envvar=variable("DISCOVERY_PREFIX"), metavar="TOPIC", help="Home Assistant's discovery prefix."),
]
TopicPrefix = Annotated[
    str, typer.Option(envvar=variable("TOPIC_PREFIX"), metavar="TOPIC", help="First part of the bridge's own topics.")
]
Margin = Annotated[
    float,
    typer.Option(
        "--margin",
        min=-0.4,
        max=1.0,
        envvar=variable("MARGIN"),
        metavar="SHARE",
        help="Share of a box's width and height that is added on each side before it is cut.",
    ),
]


@dataclass(frozen=True)
class ResultFlags:
    """The options about matches, alerts and Home Assistant: the same for each source with a broker."""

    matches: Matches = True
    top_k: TopK = 5
    min_score: MinScore = None
    min_probability: MinProbability = None
    same_camera: SameCamera = False
    alerts: Alerts = True
    presence_seconds: Presence = 300.0
    home_assistant: HomeAssistant = True
    discovery_prefix: DiscoveryPrefix = "homeassistant"
    topic_prefix: TopicPrefix = "not3d"

    def options(self, source: str) -> "ResultOptions":
        """Return what is published for a source.

        Raises:
            BadParameter: nothing can be published to topics with such a prefix.
        """
        for option, prefix in (
            ("--topic-prefix", self.topic_prefix),
            ("--discovery-prefix", self.discovery_prefix),
        ):
            if not prefix or set(prefix) & set("+#"):
                raise typer.BadParameter(f"{option} must be a topic without + and # (got {prefix!r})")
        from not3d.bridges.home_assistant import Topics
        from not3d.bridges.results import ResultOptions

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        topics = Topics(given.pop("topic_prefix"), source, given.pop("discovery_prefix"))
        return ResultOptions(topics, **given)


def with_results(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `ResultFlags`; it gets them as the argument `shown`."""

    @wraps(command)
    def run(**given: Any) -> None:
        shown = ResultFlags(**{field.name: given.pop(field.name) for field in fields(ResultFlags)})
        command(**given, shown=shown)

    signature = inspect.signature(command)
    hints = get_type_hints(ResultFlags, include_extras=True)
    added = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(ResultFlags)
    ]
    own = [parameter for name, parameter in signature.parameters.items() if name != "shown"]
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
    return run


@asynccontextmanager
async def published(
    connection: "Mqtt",
    shown: "ResultOptions",
    service: tuple[str, str | None, Path | None],
    state: "State",
    sink: "Sink",
    telemetry: "Telemetry",
    on_confirmed: "OnConfirmed | None" = None,
) -> "AsyncIterator[Results]":
    """Publish matches and alerts while the block runs.

    Args:
        connection: to the broker; make it with `shown.topics.status`.
        shown: what is published.
        service: its address, key and certificate's authority.
        state: of the bridge.
        sink: of the bridge.
        telemetry: of the bridge.
        on_confirmed: gets each alert that an operator confirms, once.
    """
    from not3d.bridges.results import Results, open_stream

    async with open_stream(*service) as http, asyncio.TaskGroup() as tasks:
        found = Results(connection, sink, http, state, telemetry, shown, on_confirmed)
        following = tasks.create_task(found.run())
        try:
            yield found
        finally:
            following.cancel()


def make_broker(
    name: str,
    url: str,
    user: str | None,
    password: str | None,
    password_file: Path | None,
    ca_file: Path | None,
    client_id: str | None,
) -> "Broker":
    """Return the broker of these options, for the command `name`.

    Raises:
        Not3dError: an option is wrong.
    """
    from not3d.bridges.mqtt import Broker

    secret = read_secret(password, password_file, "--mqtt-password")
    return Broker.parse(url, username=user, password=secret, ca_file=ca_file, client_id=client_id or f"not3d-{name}")


def read_secret(value: str | None, file: Path | None, option: str) -> str | None:
    """Return a secret that is given as a value or in a file.

    Raises:
        Failure: both are given, or the file is empty.
        OSError: the file cannot be read.
    """
    if file is None:
        return value
    if value is not None:
        raise Failure(f"{option} and {option}-file are both set; leave one out")
    secret = file.read_text().strip()
    if not secret:
        raise Failure(f"{file} is empty; write the password into it")
    return secret


def start_bridge(
    name: str,
    run: "Callable[[State, Sink, Telemetry], Awaitable[None]]",
    *,
    url: str,
    api_key: str | None,
    ca_file: Path | None,
    state_file: Path | None,
    metrics: str | None,
    workers: int,
    max_waiting: int,
    log_level: str,
) -> None:
    """Run a source until SIGTERM or Ctrl-C.

    Args:
        name: of the command.
        run: the source; it gets state, sink and telemetry, and listens until it is cancelled.
        url: of the service.
        api_key: of the service.
        ca_file: of the service's certificate.
        state_file: of the bridge; `None` for one in the working directory.
        metrics: `host:port`, or `None`.
        workers: number of tracklets sent at the same time.
        max_waiting: largest number of tracklets that wait.
        log_level: from "debug" to "error".
    """
    from not3d.bridges.runner import run_bridge
    from not3d.bridges.telemetry import Telemetry, check_address
    from service.telemetry.logs import configure_logs

    if metrics is not None:
        check_address(metrics)
    configure_logs(log_level)
    telemetry = Telemetry(name)
    run_bridge(
        lambda state, sink: run(state, sink, telemetry),
        telemetry=telemetry,
        client=Client(url, api_key, timeout=TIMEOUT, attempts=1, ca_file=ca_file, operator=f"bridge {name}"),
        state_file=state_file or Path(f"bridge-{name}.sqlite"),
        metrics=metrics,
        workers=workers,
        max_waiting=max_waiting,
    )

"""`not3d keys`: API keys with scopes, cameras, an end and a rate."""

import getpass
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.markup import escape
from rich.table import Table

from model.errors import extra
from not3d.commands import Failure, print_message, print_result, results
from service.keys import FILE_NAME, Key, KeyFile, KeyFileError, Secret, changed_file, digest_of, new_secret, read_file

app = typer.Typer(help="Make, list, rotate and revoke API keys of a service.", no_args_is_help=True)

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="NOT3D_DATA_DIR", metavar="DIR", help="Data directory of the service.")
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        envvar="NOT3D_KEYS_FILE",
        metavar="FILE",
        help=f"The file of keys, if replicas share one. [dim]Default: {FILE_NAME} in --data-dir.[/]",
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the key; the audit log has it.")]
DEFAULT_DATA_DIR = Path("data")


@app.command()
def create(
    name: Name,
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="search, enroll, vectors, erase, audit, metrics or admin (all of them). Give it once for each scope.",
        ),
    ],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            "--camera",
            metavar="ID",
            help="The key sees, enrols and finds only records of this camera. Give it once for each camera. "
            "[dim]Default: all records.[/]",
        ),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            metavar="TIME",
            help="When the key ends, in UTC or with an offset. [dim]Default: never.[/]",
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/UNIT", help="Most requests in a second, minute, hour or day: 100/minute.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    file: File = None,
) -> None:
    """Make a key and print its secret, once.

    Only a hash of the secret is kept. A running service reads the keys again
    at once. The first key ends access without a key.

    Example: [bold]not3d keys create desk --scope search --camera gate-3[/]
    """
    path = file or data_dir / FILE_NAME
    secret = new_secret()
    now = datetime.now(UTC)
    ends = expires if expires is None or expires.tzinfo else expires.replace(tzinfo=UTC)
    if ends is not None and ends <= now:
        raise Failure(f"--expires {ends:%Y-%m-%d %H:%M} is in the past")
    with changed_file(path) as contents:
        if any(key.name == name for key in contents[0].keys):
            raise KeyFileError(f"there is a key {name} already: not3d keys rotate {name} gives it a new secret")
        key = _make_key(
            name=name,
            scopes=tuple(dict.fromkeys(scope)),
            cameras=tuple(dict.fromkeys(camera)) if camera else None,
            rate=rate,
            expires_at=ends,
            secrets=(Secret(sha256=digest_of(secret), created_at=now),),
        )
        contents[0] = contents[0].replace(key)
        _record(data_dir, {"action": "create"} | _facts(key))
    print_result(secret)
    print_message(f"Keep the secret: it is not shown again. The key is in {path}.")


@app.command("list")
def show(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON, without hashes.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    file: File = None,
) -> None:
    """List the keys; neither secrets nor their hashes are shown."""
    path = file or data_dir / FILE_NAME
    keys = read_file(path).keys if path.exists() else ()
    if as_json:
        plain = [key.model_dump(mode="json", exclude={"secrets": {"__all__": {"sha256"}}}) for key in keys]
        results.print_json(data=plain)
        return
    table = Table("name", "scopes", "cameras", "rate", "expires", "secrets", box=box.SIMPLE_HEAD, pad_edge=False)
    now = datetime.now(UTC)
    for key in keys:
        ends = "" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
        if key.expires_at and key.expires_at <= now:
            ends += " (over)"
        cameras = "all" if key.cameras is None else ", ".join(key.cameras)
        valid = sum(secret.expires_at is None or secret.expires_at > now for secret in key.secrets)
        cells = (key.name, ", ".join(key.scopes), cameras, key.rate or "", ends, str(valid))
        table.add_row(*map(escape, cells))
    results.print(table)


@app.command()
def revoke(name: Name, *, data_dir: DataDir = DEFAULT_DATA_DIR, file: File = None) -> None:
    """End a key with all its secrets and sessions, at once.

    The service goes on to require a key, even if none is left.
    """
    path = file or data_dir / FILE_NAME
    with changed_file(path) as contents:
        contents[0] = contents[0].without(name)
        _record(data_dir, {"action": "revoke", "name": name})
    print_result(f"{name} is revoked")


@app.command()
def rotate(
    name: Name,
    *,
    overlap: Annotated[
        float, typer.Option(min=0, max=24 * 90, metavar="HOURS", help="Hours for which the old secret works too.")
    ] = 24.0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    file: File = None,
) -> None:
    """Give a key a new secret and print it, once; the old one ends after the overlap.

    Example: [bold]not3d keys rotate desk --overlap 48[/]
    """
    path = file or data_dir / FILE_NAME
    secret = new_secret()
    now = datetime.now(UTC)
    ends = now + timedelta(hours=overlap)
    with changed_file(path) as contents:
        key = contents[0].find(name)
        old = [
            each.model_copy(update={"expires_at": min(each.expires_at or ends, ends)})
            for each in key.secrets
            if overlap > 0 and (each.expires_at is None or each.expires_at > now)
        ]
        fresh = Secret(sha256=digest_of(secret), created_at=now)
        contents[0] = KeyFile.model_validate(
            contents[0].replace(key.model_copy(update={"secrets": (*old[-7:], fresh)})).model_dump()
        )
        _record(data_dir, {"action": "rotate", "name": name, "overlap_hours": overlap})
    print_result(secret)
    print_message("Keep the secret: it is not shown again.")


def _make_key(**values: Any) -> Key:
    try:
        return Key(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = f"--{str(first['loc'][0]).removesuffix('s')}: " if first["loc"] else ""
        raise Failure(f"{place}{first['msg'].removeprefix('Value error, ')}") from error


def _facts(key: Key) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"secrets"}, exclude_none=True)


def _record(data_dir: Path, details: dict[str, Any]) -> None:
    """Write a change of a key to the audit log of the data directory; not if there is no such directory."""
    if not data_dir.is_dir():
        return
    with extra("cpu"):
        from service.audit.database import connect
        from service.audit.entries import NewEntry, append_now
    with closing(connect(data_dir)) as connection:
        append_now(connection, NewEntry("key", f"account:{getpass.getuser()}", details))

"""The setting NOT3D_GALLERY: the embedded gallery, or the address of a Milvus server."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

EMBEDDED = "embedded"
_SCHEMES = {"milvus": "http", "milvus+tls": "https"}
_PORT = 19530


@dataclass(frozen=True, slots=True)
class MilvusAddress:
    """A Milvus server, or for tests a folder of Milvus Lite.

    `uri` is what the client library connects to. Neither `str()` nor `repr()` contains the password.
    """

    uri: str
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""

    def __str__(self) -> str:
        host = self.uri.partition("://")[2] or self.uri
        return f"{host}/{self.database}" if self.database else host


def parse_gallery(text: str) -> MilvusAddress | None:
    """Parse `milvus://[user:password@]host[:port][/database]`. Return `None` for `embedded`.

    `milvus+tls://` is the same over TLS. Special characters in user and password are percent-encoded.

    Raises:
        ValueError: the text is neither. The message repeats no part of it, since it may contain a password.
    """
    if text == EMBEDDED:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port or _PORT
    except ValueError:
        raise ValueError("the address has no valid port") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"must be `{EMBEDDED}`, or an address that begins with milvus:// or milvus+tls://")
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the address must have the form milvus://[user:password@]host[:port][/database]")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.username is not None and not (parts.username and parts.password):
        raise ValueError("the user or the password is empty: give both or neither (the variable with it may be unset)")
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.replace("_", "").isalnum()):
        raise ValueError("the name of a database may have only ASCII letters, digits and _")
    return MilvusAddress(
        f"{_SCHEMES[parts.scheme]}://{host}:{port}",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        database,
    )

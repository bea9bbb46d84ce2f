"""Where the gallery is kept, as the setting NOT3D_GALLERY says it: here, or on a Milvus server."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

EMBEDDED = "embedded"
_SCHEMES = {"milvus": "http", "milvus+tls": "https"}
_PORT = 19530


@dataclass(frozen=True, slots=True)
class MilvusAddress:
    """A Milvus server, or for tests and trials a folder of Milvus Lite.

    `uri` is what its client connects to. `str()` is for people and logs: the password is not in it, nor in `repr()`.
    """

    uri: str
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""

    def __str__(self) -> str:
        place = self.uri.partition("://")[2] or self.uri
        return f"{place}/{self.database}" if self.database else place


def parse_gallery(text: str) -> MilvusAddress | None:
    """The server that `milvus://[user:password@]host[:port][/database]` names; `None` for `embedded`.

    `milvus+tls://` is the same over TLS. In user and password, special characters are percent-encoded.

    Raises:
        ValueError: anything else. The message repeats no part of the text, which may hold a password.
    """
    if text == EMBEDDED:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port or _PORT
    except ValueError:
        raise ValueError("the address has no valid port") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"neither {EMBEDDED} nor an address that begins with milvus:// or milvus+tls://")
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the address is not of the form milvus://[user:password@]host[:port][/database]")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    database = parts.path.strip("/")
    if database and not (database.isascii() and database.replace("_", "").isalnum()):
        raise ValueError("a database's name has letters, digits and _ only")
    return MilvusAddress(
        f"{_SCHEMES[parts.scheme]}://{host}:{port}",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        database,
    )

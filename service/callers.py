"""Who makes a request, and what they may do: scopes, and for some callers a list of cameras."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["search", "enroll", "vectors", "erase", "audit", "metrics", "admin"]
"""What a key allows.

- `search`: search, and read records and thumbnails, without vectors.
- `enroll`: embed, enrol, replace and change records.
- `vectors`: read vectors, in addition to the scope of the call.
- `erase`: delete and erase records.
- `audit`: read the audit log.
- `metrics`: read the metrics.
- `admin`: all of these, and the cases and watchlists of others.
"""
SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))
ANONYMOUS_NAME: Final = "anonymous"
"""The caller's name if no keys are set."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        name: of the key or the proxy's user, for the audit log.
        scopes: what the caller may do.
        cameras: the caller sees, enrols and finds only records of these cameras; `None` for all records.
        operator: the person at the keyboard as the client names them (`X-Operator`). Nothing proves it.
    """

    name: str
    scopes: frozenset[Scope] = SCOPES
    cameras: frozenset[str] | None = None
    operator: str | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether the caller has a scope."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, camera_id: str | None) -> bool:
        """Return whether the caller may know of records of this camera. `None` is the camera of records without one."""
        return self.cameras is None or camera_id in self.cameras


ANONYMOUS: Final = Caller(ANONYMOUS_NAME)
"""The caller if no keys are set: everything is allowed."""

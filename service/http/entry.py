"""What holds for every request before it is routed: proxies, HEAD, and protection from web pages of others."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service import callers
from service.http.access import given_key
from service.http.problems import Problem
from service.keys import Keys
from service.settings import Settings, parse_prefix, variable_name

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
"""Probes, which load balancers send with any `Host`; the answers say nothing that a web page may not know."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
USER_PATTERN: Final = r"[!-~]([ -~]{0,198}[!-~])?"
PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".home.arpa", ".svc")
"""Ends of names that the public DNS never answers (RFC 6761, 6762, 8375; `internal`: ICANN; `svc`: Kubernetes)."""


@dataclass(frozen=True, slots=True)
class ProxyUser:
    """A user that signed in at a trusted proxy, and the scopes of their groups."""

    name: str
    scopes: frozenset[callers.Scope]


class Entry:
    """ASGI middleware. It sets the path prefix, answers HEAD with the head of GET, and refuses foreign web pages.

    A browser sends requests to `127.0.0.1` and into a private network for any web page, and adds the cookie of a
    session. A page of another site does not know a key. So for requests without a key in a header

    - `Host` must be a name that an attacker cannot point to this service, if no key is required or a proxy names the
      user. If the name of a page of `evil.example` resolves to the service's address after the page is loaded, the
      browser lets the page read every answer;
    - a request that can change something must not come from a page of another origin.

    It also notes the user that a trusted proxy names, before the address of the proxy is replaced by that of its
    client.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._forwarded = ProxyHeadersMiddleware(self._answer, settings.trusted_proxies)  # type: ignore[arg-type]
        self._own_names = frozenset({socket.gethostname().lower(), *settings.hosts})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            Problem: 403 for a foreign host or origin; what the connection found before the request was complete.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if refusal := scope.get("state", {}).get("refusal"):
            raise refusal
        headers = Headers(scope=scope)
        path = scope["path"]
        if prefix := self._prefix(scope, headers):
            scope["root_path"] = prefix
            if path == prefix or path.startswith(prefix + "/"):
                path = path[len(prefix) :]
                if not path:  # the page, without the slash at the end
                    scope["path"] = prefix + "/"
            else:
                scope["path"] = prefix + path
                scope["raw_path"] = prefix.encode() + scope.get("raw_path", b"")
        if path not in OPEN_PATHS:
            user = self._find_user(scope, headers)
            if user is not None:
                scope.setdefault("state", {})["proxy_user"] = user
            if user is not None or not self._keys.required:
                self._check_host(headers)
            if scope["method"] not in SAFE_METHODS and self._is_signed_in_by_browser(path, headers, user):
                self._check_origin(headers)
        await self._forwarded(scope, receive, send)  # type: ignore[arg-type]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope.setdefault("state", {})["head"] = True  # a stream must not begin
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_head)
        finally:
            scope["route"] = as_get.get("route")  # for the log

    def _prefix(self, scope: Scope, headers: Headers) -> str:
        client = scope.get("client")
        given = headers.getlist("x-forwarded-prefix")
        if given and client and self._settings.is_trusted_proxy(client[0]):
            try:
                return parse_prefix(given[0])
            except ValueError:
                pass  # a proxy may pass on what its client sent
        return self._settings.root_path

    def _is_signed_in_by_browser(self, path: str, headers: Headers, user: ProxyUser | None) -> bool:
        """Return whether a browser may have added what lets this request pass, for whatever page sent it."""
        if not self._keys.required:
            return True
        return not given_key(headers) and (user is not None or path == "/session" or "cookie" in headers)

    def _find_user(self, scope: Scope, headers: Headers) -> ProxyUser | None:
        name = self._settings.trusted_user_header
        client = scope.get("client")
        if name is None or not client or not self._settings.is_trusted_proxy(client[0]):
            return None
        given = headers.getlist(name)
        if not given:
            return None
        if len(given) > 1 or not re.fullmatch(USER_PATTERN, given[0]):
            raise Problem("malformed", f"{name}: must name one user, in at most 200 printable ASCII characters")
        by_group = self._settings.group_scopes
        listed = headers.getlist(self._settings.trusted_groups_header)
        if len(listed) > 1:  # the first may be what the client sent
            raise Problem(
                "malformed", f"{self._settings.trusted_groups_header}: must be sent once, groups separated by commas"
            )
        groups = [group.strip() for group in ",".join(listed).split(",")]
        scopes = frozenset[callers.Scope]().union(*(by_group.get(group, ()) for group in groups))
        return ProxyUser(given[0], scopes if by_group else frozenset({"search"}))

    def _check_host(self, headers: Headers) -> None:
        given = headers.get("host")
        if given is None or "*" in self._settings.hosts:  # browsers always send one
            return
        if not self._is_own(_host_name(given)):
            setting = variable_name("allowed_hosts")
            detail = f"{given[:100]} is not known as a name of this service; add it to {setting}, or set API keys"
            raise Problem("host-refused", detail)

    def _is_own(self, name: str | None) -> bool:
        if not name:
            return False
        if _is_address(name) or "." not in name or name.endswith(PRIVATE_SUFFIXES) or name in self._own_names:
            return True
        return any(name.endswith(host[1:]) for host in self._own_names if host.startswith("*."))

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in {"same-origin", "none"} or (site is None and origin is None):
            return
        authority = (origin or "").partition("://")[2].lower()
        if site is None and authority and authority == headers.get("host", "").lower():
            return  # a browser that does not send Sec-Fetch-Site over plain HTTP
        name = _host_name(authority)
        if name and (name in self._settings.hosts or "*" in self._settings.hosts):
            return
        setting = variable_name("allowed_hosts")
        detail = f"requests from pages of {(origin or 'another site')[:100]} are refused"
        raise Problem("origin-refused", f"{detail}; set API keys, or add the host of the page to {setting}")


def _host_name(authority: str) -> str | None:
    """Return the name or address in `name:port`, in lower case; `None` if it is malformed."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{0,5})?", authority.strip())
    return match[1].strip("[]").lower().rstrip(".") if match else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

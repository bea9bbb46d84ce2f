"""Webhooks: the file that names them, the hosts they may have, and their signatures (Standard Webhooks)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from model.errors import Not3dError
from model.files import read_at_most

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - it is public
_SECRET_BYTES: Final = range(24, 65)
_MAX_FILE: Final = 4 * 2**20
_NAT64: Final = ip_network("64:ff9b::/96")

Address: TypeAlias = IPv4Address | IPv6Address


class WebhookError(Not3dError):
    """The file of the webhooks, or the allowed hosts, cannot be used. The message ends with the cure."""


class Webhook(BaseModel):
    """One target of alerts.

    Attributes:
        name: in logs and metrics.
        url: where alerts are sent.
        secret: signs them.
        former_secret: signs them too, while the target changes to a new secret.
        watchlists: only alerts of these; `None` for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    url: Annotated[str, Field(max_length=2000)]
    secret: SecretStr
    former_secret: SecretStr | None = None
    watchlists: tuple[str, ...] | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL as error:
            raise ValueError(f"is not a URL: {error}") from None
        if url.scheme not in {"https", "http"} or not url.host or url.userinfo or url.fragment:
            raise ValueError("must be https://HOST/PATH, without user, password and fragment")
        return value

    @field_validator("secret", "former_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        try:
            size = len(base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if not text.startswith(SECRET_PREFIX) or size not in _SECRET_BYTES:
            raise ValueError(
                f"must be {SECRET_PREFIX} and {_SECRET_BYTES.start} to {_SECRET_BYTES.stop - 1} bytes in base64: "
                f'echo "{SECRET_PREFIX}$(openssl rand -base64 32)" makes one'
            )
        return value

    def sign(self, id: str, timestamp: int, body: bytes) -> str:
        """Return the value of the header `webhook-signature`, with one signature for each secret."""
        secrets = [secret.get_secret_value() for secret in (self.secret, self.former_secret) if secret is not None]
        keys = [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
        return " ".join(sign(key, id, timestamp, body) for key in keys)


class _WebhookFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    webhooks: Annotated[tuple[Webhook, ...], Field(max_length=100)]

    @field_validator("webhooks")
    @classmethod
    def _check_names(cls, value: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        if len({each.name for each in value}) < len(value):
            raise ValueError("two webhooks have the same name: give each its own")
        return value


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts to which webhooks may be sent.

    Attributes:
        names: in lower case; `*.example.org` stands for all names below.
        networks: addresses that may be connected to although they are not public.
    """

    names: tuple[str, ...]
    networks: tuple[IPv4Network | IPv6Network, ...]

    @classmethod
    def parse(cls, text: str) -> "AllowedHosts":
        """Return what a setting names, separated by commas."""
        names, networks = [], []
        for part in filter(None, (part.strip().lower().rstrip(".") for part in text.split(","))):
            try:
                networks.append(ip_network(part, strict=False))
            except ValueError:
                names.append(part)
        return cls(tuple(names), tuple(networks))

    def has_name(self, host: str) -> bool:
        """Return whether a name or an address in a URL is allowed; what a name resolves to is another question."""
        host = host.lower().rstrip(".")
        try:
            return self.is_named(ip_address(host))
        except ValueError:
            return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self.names)

    def is_named(self, address: Address) -> bool:
        """Return whether the network of an address is named."""
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network for network in self.networks)

    def may_connect(self, address: Address) -> bool:
        """Return whether an address may be connected to: it is public, or its network is named."""
        if self.is_named(address):
            return True
        return all(each.is_global and not each.is_multicast for each in _meanings(address))


def load_webhooks(path: Path, hosts: AllowedHosts) -> tuple[Webhook, ...]:
    """Read the file of the webhooks.

    Raises:
        WebhookError: it cannot be read, is invalid, or names a host that is not allowed.
    """
    try:
        content = read_at_most(path, _MAX_FILE)
        if content is None:
            raise WebhookError(f"NOT3D_WEBHOOKS: {path} has more than {_MAX_FILE} bytes, the maximum of webhooks")
        webhooks = _WebhookFile.model_validate_json(content).webhooks
    except OSError as error:
        raise WebhookError(f"NOT3D_WEBHOOKS: {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise WebhookError(f"NOT3D_WEBHOOKS: {path}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    for webhook in webhooks:
        host = httpx.URL(webhook.url).host
        if not hosts.has_name(host):
            raise WebhookError(
                f"NOT3D_WEBHOOKS: the host {host} of the webhook {webhook.name} is not allowed: add it to "
                "NOT3D_WEBHOOK_HOSTS"
            )
    return webhooks


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a message, version 1: HMAC-SHA256 of `id.timestamp.body`."""
    digest = hmac.new(key, b"%s.%d.%s" % (id.encode(), timestamp, body), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('ascii')}"


def _meanings(address: Address) -> Sequence[Address]:
    """Return an address, and the IPv4 address that it leads to if it is an IPv6 address of a translator."""
    if isinstance(address, IPv4Address):
        return [address]
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None and address.ipv4_mapped is not None:
        return [inner]  # the same address in another notation
    return [address] if inner is None else [address, inner]

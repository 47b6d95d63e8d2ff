"""Which hosts may be asked, over which scheme, at which addresses, and with whose login."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from enum import StrEnum
from urllib.parse import urlsplit

from mbuild.core.errors import ForbiddenHostError, UnreachableError, UsageError
from mbuild.core.names import DEFAULT_HOST
from mbuild.core.values import NamedTuple
from mbuild.registry.reference import HUB_HOSTS, is_host


class Nearness(StrEnum):
    """How far away an address is; what is near is not for strangers to point at."""

    LOOPBACK = "loopback"
    LINK = "link-local"
    PRIVATE = "private"
    PUBLIC = "public"


PORTS = {"http": 80, "https": 443}
"""The schemes of registries, each with its usual port."""

EVERYWHERE = frozenset(Nearness)
PUBLIC = frozenset({Nearness.PUBLIC})

PUBLIC_HOSTS = frozenset({DEFAULT_HOST}) | HUB_HOSTS
"""The registries that a server asks for anybody who may ask the server."""


def nearness(address: str) -> Nearness:
    """How far away an IP address is; what is not for all of the internet is near.

    An IPv4 address that is written as IPv6 (``::ffff:127.0.0.1``) counts as itself.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    if found.is_loopback or found.is_unspecified:
        return Nearness.LOOPBACK
    if found.is_link_local:
        return Nearness.LINK
    return Nearness.PUBLIC if found.is_global and not found.is_multicast else Nearness.PRIVATE


def nearness_of_host(host: str, port: int) -> Nearness:
    """That of the nearest of a host's addresses; raises :class:`UnreachableError`."""
    found = {nearness(address) for address in addresses(host, port)}
    return next(near for near in Nearness if near in found)


def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host; raises :class:`UnreachableError` for a name that has none."""
    try:
        rows = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host's name"
        raise UnreachableError(
            f"the host {host} was not found: {reason}",
            hint="check the spelling and the network",
        ) from None
    return [str(row[4][0]) for row in rows]


def origin(url: str) -> tuple[str, str, int | None]:
    """An address's scheme, host and port: who may be sent what another address is sent."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), port or PORTS.get(parts.scheme)


class Access(NamedTuple):
    """What may be asked, for whoever asks.

    ``hosts`` are the registries that may be asked at all, None for any: on a command line the
    user names each himself. ``named`` are those that may be anywhere, this machine included,
    and that see stored logins; None for any. ``plain`` are asked over http, the others over
    https. Hosts are in lower case, with their port if they have one.
    """

    hosts: frozenset[str] | None = None
    named: frozenset[str] | None = None
    plain: frozenset[str] = frozenset()

    @classmethod
    def of_operator(cls, registries: Iterable[str]) -> Access:
        """What a server may ask: the public registries, and those that its operator names.

        Each is ``[http[s]://]HOST[:PORT]``; raises :class:`UsageError` for anything else.
        """
        named, plain = set(), set()
        for text in registries:
            scheme, found, rest = text.strip().rpartition("://")
            host = rest.rstrip("/").lower()
            wrong = "/" in host or (found and scheme not in ("http", "https"))
            if wrong or not is_host(host):
                raise UsageError(
                    f"{text!r} is not a registry", hint="write HOST:PORT, or http://HOST:PORT"
                )
            named.add(host)
            if scheme == "http":
                plain.add(host)
        return cls(PUBLIC_HOSTS | named, frozenset(named), frozenset(plain))

    def check(self, host: str) -> None:
        """Raise :class:`ForbiddenHostError` for a registry that nobody allowed."""
        if self.hosts is not None and host not in self.hosts:
            raise ForbiddenHostError(
                f"this server may not contact the registry {host}",
                hint=f"its operator can allow that: mbuild serve --registry {host}",
            )

    def over_http(self, host: str) -> str:
        """What has a registry asked over http: a user's flag, or an operator's."""
        return "--insecure" if self.named is None else f"mbuild serve --registry http://{host}"

    def is_named(self, host: str) -> bool:
        """Whether whoever is responsible named the host himself."""
        return self.named is None or host in self.named

    def reach(self, host: str) -> frozenset[Nearness]:
        """Where a registry's addresses may be."""
        return EVERYWHERE if self.is_named(host) else PUBLIC

    def reach_from(self, registry: str, near: Nearness, host: str) -> frozenset[Nearness]:
        """Where a host may be to which a registry leads, which itself is ``near``.

        To the internet always, to this machine or this network only if the registry is
        there itself; for requests over HTTP only if the operator named that host, too.
        """
        if host == registry:
            return self.reach(host)
        if self.named is not None:
            return EVERYWHERE if host in self.named else PUBLIC
        return PUBLIC if near is Nearness.LINK else PUBLIC | {near}

"""Proxies: which one the environment puts before a host, and how far what it reads then goes."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from mbuild.core.errors import UnreachableError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.access import PORTS, Nearness, addresses, nearness, nearness_of_host

SYSTEM = "the system's settings"
"""Who names a proxy on a desktop that no variable does."""


class Proxy(NamedTuple):
    """A proxy: its address, which may have a login in it, and the variable that names it."""

    url: str
    source: str

    @property
    def place(self) -> str:
        """``HOST:PORT``, without the login."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or PORTS[parts.scheme]}"


def proxy_of(scheme: str, host: str, port: int = 0) -> Proxy | None:
    """The proxy that ``HTTPS_PROXY`` and the like name for a host, None where there is none.

    For this machine's own names there is none, as for Docker: elsewhere they are another
    machine's, and a login that is sent to them without TLS would leave this one. ``port`` is by
    default the scheme's. Raises :class:`UnreachableError` for one that cannot be used.
    """
    if _is_own(host):
        return None
    found = urllib.request.getproxies().get(scheme, "")
    if not found.strip() or _is_left_out(host, port or PORTS.get(scheme, 0)):
        return None
    source = _source(scheme, found)
    return Proxy(_address(found.strip(), source), source)


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def nearness_behind(scheme: str, host: str) -> Nearness:
    """How far away ``HOST[:PORT]`` is; what only its proxy can look up is on the internet.

    Raises :class:`UnreachableError` for a name without an address where there is no proxy.
    """
    parts = urlsplit(f"//{host}")
    name, port = parts.hostname or "", parts.port or PORTS.get(scheme, 0)
    try:
        return nearness_of_host(name, port)
    except UnreachableError:
        if proxy_of(scheme, name, port):
            return Nearness.PUBLIC
        raise


def is_here(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine, and nothing else, by this machine's own lookup.

    A name of ``/etc/hosts`` is, and so is the machine's own. What leads to 0.0.0.0 is not: so
    some name servers answer for what they refuse, and a proxy has another.
    """
    parts = urlsplit(f"//{host}")
    try:
        found = addresses(parts.hostname or "", parts.port or PORTS["https"])
    except UnreachableError:
        return False
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def read_from(scheme: str, host: str, near: Nearness) -> Nearness:
    """From how far away requests are read: by a ``near`` ``HOST[:PORT]``, or by its proxy."""
    parts = urlsplit(f"//{host}")
    proxy = proxy_of(scheme, parts.hostname or "", parts.port or 0)
    if proxy is None:
        return near
    try:
        far = nearness_of_host(urlsplit(proxy.url).hostname or "", PORTS["http"])
    except UnreachableError:
        far = Nearness.PUBLIC
    return far if far is Nearness.PUBLIC else near


def _is_own(host: str) -> bool:
    """Whether a host is this machine by its name, or by its address."""
    if host.lower() == "localhost":
        return True
    return is_address(host) and nearness(host) is Nearness.LOOPBACK


def _is_left_out(host: str, port: int) -> bool:
    """Whether ``NO_PROXY`` names a host, alone or with its port, as Go and curl read it."""
    written = [host, f"[{host}]"] if ":" in host else [host]
    names = [*written, *(f"{name}:{port}" for name in written)]
    if any(urllib.request.proxy_bypass(name) for name in names):
        return True
    entries = urllib.request.getproxies().get("no", "").split(",")
    return any(_names(entry.strip(), host, names) for entry in entries)


def _names(entry: str, host: str, names: Sequence[str]) -> bool:
    """Whether an entry of ``NO_PROXY`` that Python's library does not know names a host.

    These are ``*`` among others, ``*.internal`` and networks, as ``10.0.0.0/8``, which names the
    hosts that are written as addresses of it.
    """
    if entry == "*" or entry.startswith("*."):
        return any(name.lower().endswith(entry[1:].lower()) for name in names)
    if "/" not in entry or not is_address(host):
        return False
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return ipaddress.ip_address(host.partition("%")[0]) in network


def _source(scheme: str, value: str) -> str:
    """The variable that has a value; of two the one in lower case, which counts."""
    name = f"{scheme}_proxy"
    fits = (key for key, found in os.environ.items() if key.lower() == name and found == value)
    return max(fits, default=SYSTEM)  # letters in lower case are behind the others


def _address(text: str, source: str) -> str:
    """A proxy's address, with http:// where it has no scheme, as for curl.

    What is wrong is not shown: a password may be in it.
    """
    url = text if "://" in text else f"http://{text}"
    scheme = url.partition("://")[0].lower()
    if scheme not in PORTS:
        raise UnreachableError(
            f"{source} names a proxy of the kind {scheme[:20]!r}, which mbuild cannot use",
            hint=f"it can use those with http:// and https://: change {source}, or unset it",
            again=False,
        )
    try:
        parts = urlsplit(url)
        # An @ behind the host is one of a password with a slash in it: the host is another.
        whole = url.count("@") == parts.netloc.count("@")
        usable = bool(parts.hostname) and parts.port != 0 and whole
    except ValueError:
        usable = False
    if not usable:
        raise UnreachableError(
            f"{source} is not the address of a proxy",
            hint="write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT; in a password / is %2F",
            again=False,
        )
    return f"{parts.scheme}://{parts.netloc}"

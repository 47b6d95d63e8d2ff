"""HTTP by urllib3: requests to any host, each over connections that are kept and can be cut."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from mbuild import __version__
from mbuild.core.errors import RegistryError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.access import EVERYWHERE, PORTS, Nearness
from mbuild.registry.client.proxies import Proxy, is_address, proxy_of
from mbuild.registry.client.watched import (
    CONNECT_SECONDS,
    STALL_SECONDS,
    Connections,
    check,
    watched,
)
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse

USER_AGENT = f"mbuild/{__version__}"
_BLOCK = 256 << 10  # bytes that are sent at once
_NOT_UNDERSTOOD = 400
_WANTS_LOGIN = 407
_KEPT = 8  # connections to one host


class _Behind(NamedTuple):
    """The connections to a host, and the proxy that they go through."""

    pool: urllib3.HTTPConnectionPool
    proxy: Proxy | None


class Web:
    """Requests to any host, safe for many threads; one object for one transfer.

    Redirects are not followed and nothing is repeated here: who asks knows what that means.
    """

    def __init__(self, cancel: Cancel, over_http: str = "--insecure") -> None:
        """``over_http`` is what has a registry asked over http, for the error's hint."""
        self._cancel = cancel
        self._over_http = over_http
        self.here: set[str] = set()
        """Names that this machine's own lookup puts on it: they are asked without a proxy."""
        self._pools: dict[tuple[Any, ...], _Behind] = {}
        self._lock = threading.Lock()
        self._connections = Connections()

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        reach: frozenset[Nearness] = EVERYWHERE,
    ) -> BaseHTTPResponse:
        """Send a request; the answer's body is still to be read.

        ``reach``: where the host's addresses may be. Raises :class:`ForbiddenHostError`, and
        :class:`UnreachableError` when no answer comes.
        """
        self._cancel.check()
        proxy = None
        try:
            pool, proxy = self._pool(url, reach)
            through = proxy is not None and urlsplit(url).scheme == "http"
            answer = pool.urlopen(
                method,
                url if through else _target(url),
                body=body,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._cancel.check()
            from mbuild.registry.client.failures import explained

            raise explained(error, url, self._over_http, proxy) from None
        if answer.status == _WANTS_LOGIN and proxy is not None and through:
            from mbuild.registry.client.failures import wants_login

            answer.close()
            raise wants_login(proxy)
        if answer.status == _NOT_UNDERSTOOD and proxy is None and reach == EVERYWHERE:
            self._check_plain(answer, url)
        return answer

    def _check_plain(self, answer: BaseHTTPResponse, url: str) -> None:
        """Raise :class:`RegistryError` where http was spoken to a host that speaks https.

        Such a host says so in a page, in words of its own.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS["http"]
        if parts.scheme == "http" and speaks_tls(host, port):
            answer.close()
            raise RegistryError(
                f"{parts.netloc.rpartition('@')[2]} speaks https, and was asked over http",
                hint=f"leave out what asks for http: {self._over_http}, or http:// before the host",
            )

    @staticmethod
    def has_proxy(scheme: str, host: str, port: int = 0) -> bool:
        """Whether the environment puts a proxy before a host, at the scheme's port by default.

        Raises :class:`UnreachableError` for one that cannot be used.
        """
        return proxy_of(scheme, host, port) is not None

    def interrupt(self) -> None:
        """Cut every connection, so that whoever waits for one hears of the end at once."""
        self._cancel.cancel()
        self._connections.cut()

    def close(self) -> None:
        """Close what is kept open."""
        for pool, _ in self._pools.values():
            pool.close()
        self._connections.close()

    def _pool(self, url: str, reach: frozenset[Nearness]) -> _Behind:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
        if not host or port is None:
            raise RegistryError(f"{url[:200]!r} is not a web address")
        key = (parts.scheme, host, port, reach)
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._made(parts.scheme, host, port, reach)
            return self._pools[key]

    def _made(self, scheme: str, host: str, port: int, reach: frozenset[Nearness]) -> _Behind:
        """A new pool: through the proxy that the environment names, or directly."""
        limits = urllib3.Timeout(connect=CONNECT_SECONDS, read=STALL_SECONDS)
        common: dict[str, Any] = {"timeout": limits, "maxsize": _KEPT, "blocksize": _BLOCK}
        pool: urllib3.HTTPConnectionPool
        proxy = None if host in self.here else proxy_of(scheme, host, port)
        if proxy is not None:
            if reach != EVERYWHERE and is_address(host):
                check(host, host, reach)  # names are the proxy's to look up
            pool = _through(proxy, common).connection_from_host(host, port, scheme)
            reach = EVERYWHERE  # whoever named the proxy may have it anywhere
        elif scheme == "https":
            pool = urllib3.HTTPSConnectionPool(host, port, **common)
        else:
            pool = urllib3.HTTPConnectionPool(host, port, **common)
        secure = isinstance(pool, urllib3.HTTPSConnectionPool)
        kind = HTTPSConnection if secure else HTTPConnection
        pool.ConnectionCls = watched(kind, reach, self._connections)
        return _Behind(pool, proxy)


_TLS_RECORDS = (b"\x15", b"\x16")
"""How an answer to TLS's first message begins: an alert, or the handshake (RFC 8446, 5.1)."""


def speaks_tls(host: str, port: int) -> bool:
    """Whether a host answers in TLS; False where nothing answers.

    Nothing is sent that the host may not see, so its certificate does not matter yet, and
    those of the system need not be read, which takes longer than the question.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        hello = context.wrap_bio(incoming, outgoing, server_hostname=host)
        with suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        with socket.create_connection((host, port), CONNECT_SECONDS) as sock:
            sock.sendall(outgoing.read())
            return sock.recv(1) in _TLS_RECORDS
    except (OSError, ValueError):  # what is no host's name in TLS has no TLS
        return False


def _through(proxy: Proxy, common: dict[str, Any]) -> urllib3.ProxyManager:
    """The pools behind a proxy, which may want a login of its own."""
    parts = urlsplit(proxy.url)
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=login)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(address, proxy_headers=headers, **common)


def _target(url: str) -> str:
    """A URL's path and query, exactly as they are written: a signed one allows no change."""
    _, _, rest = url.partition("://")
    cut = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    target = rest[cut:].partition("#")[0]
    return target if target.startswith("/") else f"/{target}"

"""HTTP by urllib3: connections that are kept, checked for where they lead, and can be cut off."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from mbuild import __version__
from mbuild.core.errors import ForbiddenHostError, RegistryError, UnreachableError
from mbuild.registry.client.access import (
    EVERYWHERE,
    Nearness,
    addresses,
    nearness,
    nearness_of_host,
)
from mbuild.registry.client.filling import CAN_FILL, FillingSocket
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""A peer that sends nothing for so long is given up, and asked again."""

USER_AGENT = f"mbuild/{__version__}"
PORTS = {"http": 80, "https": 443}
_BLOCK = 256 << 10  # bytes that are sent at once
_NEAR_BUFFER = 128 << 10
"""Bytes that the kernel keeps for a connection within this machine until they are read.

By itself it makes that megabytes, which is of use for distances only: here it makes nothing faster,
and all of it is lost by whoever is killed.
"""

_MOST_INTERIM = 16  # answers of the kind 100 Continue before the answer
_SWITCHING = 101
_NOT_UNDERSTOOD = 400
_KEPT = 8  # connections to one host


class Web:
    """Requests to any host, safe for many threads; one object for one transfer.

    Redirects are not followed and nothing is repeated here: who asks knows what that means.
    """

    def __init__(self, cancel: Cancel, over_http: str = "--insecure") -> None:
        """``over_http`` is what has a registry asked over http, for the error's hint."""
        self._cancel = cancel
        self._over_http = over_http
        self._pools: dict[tuple[Any, ...], urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

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
        try:
            pool = self._pool(url, reach)
            through = pool.proxy is not None and pool.scheme == "http"
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
            raise explained(error, url, self._over_http) from None
        if answer.status == _NOT_UNDERSTOOD and pool.proxy is None and reach == EVERYWHERE:
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
    def has_proxy(scheme: str, host: str) -> bool:
        """Whether the environment puts a proxy before a host."""
        return bool(_proxy(scheme, host))

    def interrupt(self) -> None:
        """Cut every connection, so that whoever waits for one hears of the end at once."""
        self._cancel.cancel()
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close what is kept open."""
        for pool in self._pools.values():
            pool.close()
        for sock in self._sockets:  # whose answers nobody read to the end
            with suppress(OSError):  # it may be closed; close() alone waits for those readers
                socket.close(sock.detach())

    def _pool(self, url: str, reach: frozenset[Nearness]) -> urllib3.HTTPConnectionPool:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
        if not host or port is None:
            raise RegistryError(f"{url[:200]!r} is not a web address")
        key = (parts.scheme, host, port, reach)
        with self._lock:
            if key not in self._pools:
                self._pools[key] = self._made(parts.scheme, host, port, reach)
            return self._pools[key]

    def _made(
        self, scheme: str, host: str, port: int, reach: frozenset[Nearness]
    ) -> urllib3.HTTPConnectionPool:
        """A new pool: through the proxy that the environment names, or directly."""
        limits = urllib3.Timeout(connect=CONNECT_SECONDS, read=STALL_SECONDS)
        common: dict[str, Any] = {"timeout": limits, "maxsize": _KEPT, "blocksize": _BLOCK}
        if proxy := _proxy(scheme, host):
            if reach != EVERYWHERE and _is_address(host):
                _check(host, host, reach)  # names are the proxy's to look up
            return _through(proxy, common).connection_from_host(host, port, scheme)
        if scheme == "https":
            secure = urllib3.HTTPSConnectionPool(host, port, **common)
            secure.ConnectionCls = _watched(HTTPSConnection, reach, self._sockets)
            return secure
        pool = urllib3.HTTPConnectionPool(host, port, **common)
        pool.ConnectionCls = _watched(HTTPConnection, reach, self._sockets)
        return pool


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


def _proxy(scheme: str, host: str) -> str:
    """The proxy that ``HTTPS_PROXY`` and the like name for a host, "" for none.

    For this machine's own names there is none, as for Docker: elsewhere they are another
    machine's, and a login that is sent to them without TLS would leave this one.
    """
    if _is_own(host):
        return ""
    proxy = urllib.request.getproxies().get(scheme, "")
    return "" if urllib.request.proxy_bypass(host) else proxy


def read_from(scheme: str, host: str, near: Nearness) -> Nearness:
    """From how far away a request is read: by a ``near`` host, or by the proxy before it."""
    proxy = _proxy(scheme, host)
    if not proxy:
        return near
    found = urlsplit(proxy if "://" in proxy else f"http://{proxy}").hostname or ""
    try:
        far = nearness_of_host(found, PORTS["http"])
    except UnreachableError:
        far = Nearness.PUBLIC
    return far if far is Nearness.PUBLIC else near


def _is_own(host: str) -> bool:
    """Whether a host is this machine by its name, or by its address."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and nearness(host) is Nearness.LOOPBACK


def _through(proxy: str, common: dict[str, Any]) -> urllib3.ProxyManager:
    """The pools behind a proxy, which may want a login of its own."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=login)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(address, proxy_headers=headers, **common)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _target(url: str) -> str:
    """A URL's path and query, exactly as they are written: a signed one allows no change."""
    _, _, rest = url.partition("://")
    cut = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    target = rest[cut:].partition("#")[0]
    return target if target.startswith("/") else f"/{target}"


class _Answer(http.client.HTTPResponse):
    """An answer behind any number of interim ones, within reason (RFC 9110, 15.2).

    The standard library takes 103 for the answer itself, and 100 for ever.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM):
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= found[1] < 200 or found[1] == _SWITCHING:
                return found
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("interim answers without an end")


def _watched(
    kind: type[HTTPConnection],
    reach: frozenset[Nearness],
    sockets: set[socket.socket],
) -> Any:
    """A class of connections that are noted, and go only where they may.

    The addresses are looked at before anything is sent to them, and the one that was
    connected to once more: a name may lead elsewhere when it is asked for again.
    """

    class Watched(kind):  # type: ignore[misc,valid-type]
        response_class = _Answer

        def connect(self) -> None:
            """Connect, unless that leads where it must not."""
            if reach != EVERYWHERE:
                for address in addresses(self.host, self.port):
                    _check(self.host, address, reach)
            super().connect()
            sock: socket.socket = self.sock  # type: ignore[has-type]
            address = sock.getpeername()[0]
            if reach != EVERYWHERE:
                _check(self.host, address, reach)
            if nearness(address) is Nearness.LOOPBACK:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEAR_BUFFER)
            if CAN_FILL and type(sock) is socket.socket:
                sock = self.sock = FillingSocket.of(sock, STALL_SECONDS)
            sockets.add(sock)

    return Watched


def _check(host: str, address: str, reach: frozenset[Nearness]) -> None:
    near = nearness(address)
    if near not in reach:
        raise ForbiddenHostError(
            f"the host {host} has a {near} address, and was not named",
            hint="only a registry that you name may be on this machine or in this network",
        )


def explained(error: Exception, url: str, over_http: str) -> RegistryError:
    """What to say of a request that no answer came to."""
    if isinstance(error, RegistryError):
        return error
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(
            f"{where} has a certificate that is not trusted: {cause.verify_message}",
            hint="add its certificate authority to the system's, or set SSL_CERT_FILE to it",
        )
    if isinstance(cause, ssl.SSLError) and parts.scheme == "https":
        return UnreachableError(
            f"{where} does not speak https",
            hint=f"if the registry only has http: {over_http}",
            again=cause.reason != "WRONG_VERSION_NUMBER",  # what answered in another protocol
        )
    return UnreachableError(
        f"{where} does not answer: {_reason(cause)}",
        hint="check the host and its port, the network, and whether the server there runs",
    )


def _innermost(error: BaseException) -> BaseException:
    """The first cause of an error that urllib3 has wrapped."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__
        if not isinstance(inner, BaseException):
            return seen
        seen = inner


def _reason(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
        return f"nothing came for {STALL_SECONDS:.0f} seconds"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return "the connection was cut"

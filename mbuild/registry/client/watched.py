"""Connections that are noted, so that they can be cut, and that lead only where they may."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from mbuild.core.errors import ForbiddenHostError
from mbuild.core.patterns import regex
from mbuild.registry.client.access import EVERYWHERE, Nearness, addresses, nearness
from mbuild.registry.client.filling import CAN_FILL, FillingSocket

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""A peer that sends nothing for so long is given up, and asked again."""

_NEAR_BUFFER = 128 << 10
"""Bytes that the kernel keeps for a connection within this machine until they are read.

By itself it makes that megabytes, which is of use for distances only: here it makes nothing faster,
and all of it is lost by whoever is killed.
"""

_MOST_INTERIM = 16  # answers of the kind 100 Continue before the answer
_SWITCHING = 101

_REFUSED = regex(r"Tunnel connection failed: (\d{3})")
"""How the standard library says that a proxy refuses CONNECT: it has no error of its own for it."""


class NoProxyError(OSError):
    """A proxy was not reached: not its address, or not over TLS."""


class TunnelError(OSError):
    """A proxy was reached, and did not connect to the host: ``status`` is its answer's, or 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"no tunnel: status {status}")
        self.status = status


class Connections:
    """The open connections of one transfer: all can be cut at once, from any thread."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._lock = threading.RLock()  # a Ctrl-C may come while it is held
        self._cut = False

    def add(self, sock: socket.socket) -> None:
        """Note one; where all were cut before, it is cut, too."""
        with self._lock:
            self._sockets.add(sock)
            if self._cut:
                _shut(sock)

    def remove(self, sock: socket.socket) -> None:
        """Forget one."""
        with self._lock:
            self._sockets.discard(sock)

    def cut(self) -> None:
        """Cut every connection, and those that are still to come."""
        with self._lock:
            self._cut = True
            for sock in self._sockets:
                _shut(sock)

    def close(self) -> None:
        """Close those whose answers nobody read to the end."""
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):  # it may be closed; close() alone waits for those readers
                    socket.close(sock.detach())


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


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


def watched(
    kind: type[HTTPConnection], reach: frozenset[Nearness], connections: Connections
) -> Any:
    """A class of connections that are noted, and go only where they may.

    The addresses are looked at before anything is sent to them, and the one that was
    connected to once more: a name may lead elsewhere when it is asked for again.
    """

    class Watched(kind):  # type: ignore[misc,valid-type]
        response_class = _Answer
        _handle: socket.socket | None = None

        def connect(self) -> None:
            """Connect, unless that leads where it must not."""
            if reach != EVERYWHERE:
                for address in addresses(self.host, self.port):
                    check(self.host, address, reach)
            try:
                super().connect()
                self._note()
            finally:
                if self._handle is not None:
                    connections.remove(self._handle)
                    self._handle.close()
                    self._handle = None

        def _new_conn(self) -> socket.socket:
            sock: socket.socket
            with self._proxys_fault():
                sock = super()._new_conn()
            if issubclass(kind, HTTPSConnection):
                # What a tunnel and TLS begin with can take long, and another object has the
                # socket then. A second handle cuts the connection whoever has it.
                self._handle = sock.dup()
                connections.add(self._handle)
            return sock

        @contextmanager
        def _proxys_fault(self) -> Iterator[None]:
            """What fails for a ``with`` block is the proxy's fault, where there is one."""
            try:
                yield
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if self.proxy is None:
                    raise
                raise NoProxyError from error

        def _connect_tls_proxy(self, *arguments: Any) -> Any:
            with self._proxys_fault():
                return super()._connect_tls_proxy(*arguments)

        def _tunnel(self) -> None:
            try:
                super()._tunnel()
            except (OSError, http.client.HTTPException) as error:
                self.close()  # urllib3 takes one that is open for one to the host
                said = _REFUSED.search(str(error))
                raise TunnelError(int(said[1]) if said else 0) from error

        def _note(self) -> None:
            whole: Any = self.sock  # type: ignore[has-type]
            sock: Any = getattr(whole, "socket", whole)  # that below TLS within TLS
            address = sock.getpeername()[0]
            if reach != EVERYWHERE:
                check(self.host, address, reach)
            if nearness(address) is Nearness.LOOPBACK:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEAR_BUFFER)
            if CAN_FILL and type(sock) is socket.socket:
                sock = self.sock = FillingSocket.of(sock, STALL_SECONDS)
            connections.add(sock)

    return Watched


def check(host: str, address: str, reach: frozenset[Nearness]) -> None:
    """Raise :class:`ForbiddenHostError` for an address of a host that is not in reach."""
    near = nearness(address)
    if near not in reach:
        raise ForbiddenHostError(
            f"the host {host} has a {near} address, and was not named",
            hint="only a registry that you name may be on this machine or in this network",
        )

"""A proxy before a registry that counts what each request carried, and what of it was received.

A byte that a program has sent may still lie with the kernel, on either side, when its reader is
killed. So three counts differ: what the proxy sent, what reached the reader's machine (the
kernel's ``tcpi_bytes_acked``), and what the reader has noted.
"""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from http_in_thread import answering

from mbuild.core.digest import Digest
from mbuild.registry.transfer.journal import JOURNAL, Span, merged
from mbuild.registry.transfer.partial import PREFIX

_PIECE = 64 << 10
_BYTES_ACKED = 120
"""Where ``tcpi_bytes_acked`` lies in Linux's ``struct tcp_info`` (include/uapi/linux/tcp.h)."""

_ESTABLISHED = 1
"""``tcpi_state`` of a connection that neither side has closed (include/net/tcp_states.h)."""

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass
class Carried:
    """A body on its way to the client, or from it.

    ``start`` is where it begins in the blob, ``sent`` the bytes that left the proxy for the
    client, ``received`` those of them that the client's machine has; ``taken`` those of a
    request's body.
    """

    path: str
    start: int
    sent: int = 0
    received: int = 0
    taken: int = 0


class CountingProxy:
    """The counts; ``rate`` is bytes a second for each connection, 0 for as many as there are."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.rate = 0.0
        self.bodies: list[Carried] = []
        self.lock = threading.Lock()
        self.open = 0

    def carried(self, path: str, start: int) -> Carried:
        """A new body."""
        found = Carried(path, start)
        with self.lock:
            self.bodies.append(found)
        return found

    def blobs(self, digest: str = "") -> list[Carried]:
        """The bodies of blobs, or of one blob, that went to the client."""
        with self.lock:
            return [b for b in self.bodies if f"/blobs/{digest}" in b.path and b.sent]

    @property
    def sent(self) -> int:
        """Bytes of blobs that were sent to the client."""
        return sum(body.sent for body in self.blobs())

    @property
    def taken(self) -> int:
        """Bytes that came from the client."""
        with self.lock:
            return sum(body.taken for body in self.bodies)

    def forget(self) -> None:
        """Count from here."""
        with self.lock:
            self.bodies.clear()

    def settle(self) -> None:
        """Wait until no request is under way: the counts are final then."""
        end = time.monotonic() + 30
        while self.open:
            assert time.monotonic() < end, "the proxy still carries something"
            time.sleep(0.01)

    def pause(self, size: int) -> None:
        """Wait as long as so many bytes take at the rate."""
        if self.rate:
            time.sleep(size / self.rate)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: CountingProxy

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""

    def forward(self) -> None:
        """Hand the request on, and what comes back."""
        with self.proxy.lock:
            self.proxy.open += 1
        try:
            self.carry()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # one side has gone
        finally:
            with self.proxy.lock:
                self.proxy.open -= 1

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = forward

    def carry(self) -> None:
        """One request, on a connection of its own to the registry."""
        found = _RANGE.fullmatch(self.headers.get("range", ""))
        body = self.proxy.carried(self.path, int(found[1]) if found else 0)
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_accept_encoding=True, skip_host=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders()
            left = int(self.headers.get("content-length") or 0)
            while left:
                piece = self.rfile.read1(min(left, _PIECE))  # type: ignore[attr-defined]
                if not piece:
                    raise ConnectionError("the client has gone")
                body.taken += len(piece)
                left -= len(piece)
                upstream.send(piece)
                self.proxy.pause(len(piece))
            self.answer(upstream.getresponse(), body)
        finally:
            upstream.close()

    def answer(self, answer: http.client.HTTPResponse, body: Carried) -> None:
        """What the registry says, counted as it goes."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        before = _acked(self.connection)
        try:
            while piece := answer.read(_PIECE):
                self.connection.sendall(piece)
                body.sent += len(piece)
                self.proxy.pause(len(piece))
        finally:
            # What was not acknowledged when the body began was of the header.
            while (
                state := _acked(self.connection)
            ).open and state.count < before.count + body.sent:
                time.sleep(0.0005)  # the rest is on its way, or the reader dies before it has it
            body.received = min(body.sent, max(0, state.count - before.count))


class _Acked(NamedTuple):
    """Bytes that the other side's machine has received over a connection; whether more may come."""

    count: int
    open: bool


def _acked(sock: socket.socket) -> _Acked:
    """How far a connection is, broken or not."""
    with suppress(OSError):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return _Acked(struct.unpack_from("Q", info, _BYTES_ACKED)[0], info[0] == _ESTABLISHED)
    return _Acked(0, open=False)


def noted(store: Path, digest: Digest) -> list[Span]:
    """What the journal of a partial blob has."""
    path = store / ".mbuild" / "partial" / f"{PREFIX}{digest.hex}{JOURNAL}"
    try:
        lines = path.read_text().split("\n")[1:-1]
    except OSError:
        return []
    return merged([(int(start), int(end)) for start, end in map(str.split, lines)])


def lost_of(body: Carried, spans: list[Span]) -> int:
    """Bytes of a body that this machine received and that nobody has noted."""
    start, end = body.start, body.start + body.received
    return end - start - sum(max(0, min(end, last) - max(start, first)) for first, last in spans)


@contextmanager
def counting_proxy(upstream: str) -> Iterator[tuple[CountingProxy, str]]:
    """A proxy before ``HOST:PORT`` for a ``with`` block, and its own ``127.0.0.1:PORT``."""
    proxy = CountingProxy(upstream)
    with answering(type("Bound", (_Handler,), {"proxy": proxy})) as host:
        yield proxy, host

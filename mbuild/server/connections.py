"""Connections: deadlines for silent clients, and a limit of how many there are at once.

uvicorn ends a connection that is idle between two requests, but waits for ever for a request
that never begins, never ends or whose answer nobody reads. Each of these holds a descriptor,
and a process without descriptors can neither accept a connection nor open a file.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import time
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From the first byte of a request, or from connecting, to the end of its header."""

IDLE_SECONDS = 60.0
"""How long a body may pause, and how long an answer may lie unread."""

LOOK_SECONDS = 2.0
"""How often a connection is looked at; the deadlines are as exact as this."""

MAX_CONNECTIONS = 4096
WANTED_FILES = 65536
"""Descriptors beyond this are of no use: see :data:`MAX_CONNECTIONS`."""

BACKLOG = 512
"""Connections that the system accepts ahead, and asyncio then takes in one go."""

_FEW_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SAY_SECONDS = 60.0


class Connection(H11Protocol):
    """One client's connection."""

    limit = MAX_CONNECTIONS
    """Connections at once; beyond it the one that has been idle for longest is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a header, if there is room for one more."""
        super().connection_made(transport)
        self._moved = self.loop.time()
        self._between = False  # whether the client may be silent: it has had an answer
        self._unsent = 0
        self._looking = self.loop.call_later(LOOK_SECONDS, self._look)
        if len(self.connections) > self.limit and not self._make_room():
            self._refuse(503, "Service Unavailable", "too many connections", "Retry-After: 5\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """No more deadlines."""
        self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A header has its time from its first byte on, a body from its last one."""
        if self._between or self.conn.their_state is not h11.IDLE:
            self._moved = self.loop.time()
            self._between = False
        super().data_received(data)

    def on_response_complete(self) -> None:
        """What follows is another request, which may already have begun."""
        self._moved = self.loop.time()
        self._between = not self.conn.trailing_data[0]
        super().on_response_complete()

    @property
    def idle_since(self) -> float | None:
        """When the client last did something; None while a request or its answer is under way."""
        is_idle = self.conn.their_state is h11.IDLE and not self.transport.get_write_buffer_size()
        return self._moved if is_idle and not self.transport.is_closing() else None

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest; whether there is another one."""
        others = [c for c in self.connections if c is not self and isinstance(c, Connection)]
        idle = [(since, c) for c in others if (since := c.idle_since) is not None]
        if not idle:
            return False
        _, longest = min(idle, key=lambda pair: pair[0])
        longest.transport.abort()
        return True

    def _look(self) -> None:
        """End the connection when its time is over."""
        self._looking = self.loop.call_later(LOOK_SECONDS, self._look)
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._moved, self._unsent = now, unsent
        state = self.conn.their_state
        if unsent:
            if now - self._moved > IDLE_SECONDS:
                self.transport.abort()
        elif state is h11.IDLE and not self._between:
            if now - self._moved > HEADER_SECONDS:
                self._refuse(408, "Request Timeout", "the request took too long to arrive")
        elif state is h11.SEND_BODY:
            if self.flow.read_paused or self.cycle.waiting_for_100_continue:
                self._moved = now  # the client waits for this server
            elif now - self._moved > IDLE_SECONDS:
                self._refuse(408, "Request Timeout", "the request's body stopped arriving")

    def _refuse(self, status: int, reason: str, text: str, headers: str = "") -> None:
        """Answer unless an answer has begun, and close."""
        begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if not begun and not (self.cycle and self.cycle.response_started):
            body = f'{{"error":"{text}"}}'
            self.transport.write(
                f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n{body}".encode()
            )
        self.transport.close()


def raise_file_limit() -> int:
    """Let the process open as many files as it may; how many connections that allows.

    Half of the descriptors stay for the files of uploads and builds, and for connections that
    the event loop accepts in one go before any of them is counted.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS takes less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(16, min(MAX_CONNECTIONS, soft // 2 - 100))


class AcceptErrors:
    """The event loop's handler of errors: too few descriptors are one line a minute."""

    def __init__(self) -> None:
        self._said = -_SAY_SECONDS

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take one error; asyncio itself waits a second before it accepts again."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _FEW_FILES:
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now - self._said >= _SAY_SECONDS:
            self._said = now
            sys.stderr.write(f"warning: cannot accept connections: {error.strerror}\n")

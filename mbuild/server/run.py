"""Listening, serving and ending: the process around the application."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from mbuild.core.errors import ServingError
from mbuild.server.app import make_app
from mbuild.server.connections import BACKLOG, AcceptErrors, Connection, raise_file_limit
from mbuild.server.service import Service

GRACE_SECONDS = 2
"""How long answers under way may take to end after a signal."""

STOP_SECONDS = 2.0
"""How long builds may then take to stop. What is unfinished is removed by the next run."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises :class:`ServingError` with one clear line."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        # asyncio sends an answer's body at once only on sockets that say they are TCP: others keep
        # it back until the client has acknowledged the head, which takes it 40 ms.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ServingError(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ServingError(
                f"{host}:{port} is in use",
                hint="is Ollama or another mbuild serve running? choose another --port",
            ) from None
        raise ServingError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    sock.set_inheritable(True)
    return sock


def url_of(sock: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _JsonLines(logging.Handler):
    """What uvicorn itself has to say, as of a request that is none: one object a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        facts = {"time": when, "error": record.getMessage()}
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(json.dumps(facts) + "\n")


def _log_as(form: str) -> None:
    """Have uvicorn's own lines in the form of those of requests (``--log``), or none of them."""
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = [_JsonLines()] if form == "json" else []
    logger.setLevel(logging.CRITICAL if form == "off" else logging.WARNING)


def configuration(service: Service) -> uvicorn.Config:
    """How uvicorn serves a service."""
    _log_as(service.log)
    return uvicorn.Config(
        make_app(service),
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )


def serve(service: Service, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` is called once requests are answered.

    Ends the process itself when some work does not stop in time.
    """
    Connection.limit = raise_file_limit()
    config = configuration(service)
    asyncio.run(_Server(config, service, ready).serve(sockets=[sock]))
    if not _all_ended(service):
        sys.stderr.flush()
        os._exit(0)


def _all_ended(service: Service) -> bool:
    """Whether builds and other work in threads ended in time; Python would wait for ever."""
    end = time.monotonic() + STOP_SECONDS
    ended = service.jobs.wait(STOP_SECONDS)
    ended &= service.transfers.wait(max(0.0, end - time.monotonic()))
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    for thread in others:
        if not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
    return ended and not any(t.is_alive() and not t.daemon for t in others)


class _Server(uvicorn.Server):
    """uvicorn's server; a signal also stops the builds, and is not raised again at the end."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        asyncio.get_running_loop().set_exception_handler(AcceptErrors())
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the builds, whose clients are told, then end as uvicorn does."""
        self._service.board.close()
        self._service.jobs.cancel_all()
        self._service.transfers.cancel_all()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while serving."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self.handle_exit) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

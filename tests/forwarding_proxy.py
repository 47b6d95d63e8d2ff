"""A proxy in a thread as those of networks are: it forwards http, connects for https, may refuse.

Names of hosts are looked up in a table only: what a test asks for is on this machine.
"""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from http_in_thread import answering
from programs import need
from stand_in import Handler, StandIn

_PIECE = 64 << 10


class ForwardingProxy:
    """What the proxy does and was asked.

    ``places`` are the hosts that it knows, each with where it really is. ``status`` is answered in
    the place of a host, -1 cuts the connection. ``hold`` is called before each answer.
    """

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self.status = 0
        self.asked: list[tuple[str, str, str]] = []

    def hold(self) -> None:
        """Wait as long as the test wants."""


class _Proxying(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ForwardingProxy

    def log_message(self, *arguments: object) -> None:
        """Nothing."""

    def refused(self) -> bool:
        """Note the request; whether it was answered here."""
        login = self.headers.get("proxy-authorization", "")
        self.proxy.asked.append((self.command, self.path, login))
        self.proxy.hold()
        self.close_connection = True
        if self.proxy.status > 0:
            self.send_response(self.proxy.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return bool(self.proxy.status)

    def upstream(self, host: str) -> socket.socket:
        """A connection to a host that the table has."""
        place, _, port = self.proxy.places[host].rpartition(":")
        return socket.create_connection((place, int(port)), 60)

    def do_CONNECT(self) -> None:
        """Carry bytes both ways."""
        if self.refused():
            return
        with self.upstream(self.path) as upstream:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            back = threading.Thread(target=_carry, args=(upstream, self.connection), daemon=True)
            back.start()
            _carry(self.connection, upstream)
            back.join()

    def forward(self) -> None:
        """Hand on one request for a whole address, and what comes back."""
        if self.refused():
            return
        parts = urlsplit(self.path)
        target = parts._replace(scheme="", netloc="").geturl()
        headers = [
            f"{name}: {value}"
            for name, value in self.headers.items()
            if name.lower() not in ("connection", "proxy-authorization")
        ]
        head = [f"{self.command} {target} HTTP/1.1", *headers, "Connection: close", "", ""]
        with self.upstream(parts.netloc) as upstream:
            upstream.sendall("\r\n".join(head).encode())
            upstream.sendall(self.rfile.read(int(self.headers.get("content-length") or 0)))
            _carry(upstream, self.connection)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = forward


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one connection to another, until one of them ends."""
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def forwarding_proxy(
    certificate: Certificate | None = None,
) -> Iterator[tuple[ForwardingProxy, str]]:
    """A proxy for a ``with`` block, and its own ``127.0.0.1:PORT``; with TLS if it may."""
    proxy = ForwardingProxy()
    members = {"proxy": proxy, **(certificate.members(_Proxying) if certificate else {})}
    with answering(type("Bound", (_Proxying,), members)) as host:
        yield proxy, host


class Certificate:
    """A certificate that its own key has signed, for the names that it is made for."""

    def __init__(self, folder: Path, *names: str) -> None:
        need("openssl")
        self.key, self.file = folder / "key.pem", folder / "certificate.pem"
        alternatives = ",".join(names)
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-addext", f"subjectAltName={alternatives}"),
                *("-keyout", self.key, "-out", self.file),
            ],
            check=True,
            capture_output=True,
        )

    def members(self, kind: type[http.server.BaseHTTPRequestHandler]) -> dict[str, object]:
        """What makes a handler of requests over TCP one of requests over TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)

        def setup(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.request = context.wrap_socket(handler.request, server_side=True)
            kind.setup(handler)

        def finish(handler: http.server.BaseHTTPRequestHandler) -> None:
            kind.finish(handler)
            handler.connection.close()  # the server has the one without TLS only

        return {"setup": setup, "finish": finish}


@contextmanager
def secure_registry(certificate: Certificate) -> Iterator[tuple[StandIn, str]]:
    """A registry over https for a ``with`` block, and its ``127.0.0.1:PORT``."""
    registry = StandIn()
    members = {"registry": registry, **certificate.members(Handler)}
    with answering(type("Bound", (Handler,), members)) as host:
        yield registry, host

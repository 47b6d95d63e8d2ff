"""Forwarding: one request to another server, its answer streamed back as it comes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import h11
from starlette.responses import Response

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple
from mbuild.server.errors import UpstreamError
from mbuild.server.stream import disconnected

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

CONNECT_SECONDS = 10.0
_READ = 64 << 10

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding upgrade content-length host expect".split()
)
"""Headers that belong to one connection (RFC 9110, 7.6.1), or that are made anew."""


class Upstream(NamedTuple):
    """The server that runs models; ``path`` comes before the paths of requests."""

    host: str
    port: int
    tls: bool
    path: str
    drops_authorization: bool

    @classmethod
    def parse(cls, url: str, *, drops_authorization: bool) -> Upstream:
        """Read a URL; raises :class:`UsageError`.

        ``drops_authorization``: requests carry this server's token, which is
        not for the upstream.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (ValueError, KeyError):
            raise UsageError(f"--upstream {url!r} is not an http URL") from None
        if not parts.hostname:
            raise UsageError(f"--upstream {url!r} names no host")
        if "://" not in url and parts.port is None:
            raise UsageError(
                f"--upstream {url!r} is not an http URL",
                hint=f"write it whole: http://{url}:11434 is an Ollama there",
            )
        tls = parts.scheme == "https"
        return cls(parts.hostname, port, tls, parts.path.rstrip("/"), drops_authorization)

    async def forward(self, request: Request, body: bytes) -> Response:
        """Send the request on; raises :class:`UpstreamError` when there is no answer."""
        context = ssl.create_default_context() if self.tls else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                streams = await asyncio.open_connection(self.host, self.port, ssl=context)
        except (OSError, TimeoutError):
            raise self._failed("cannot be reached") from None
        exchange = UpstreamExchange(*streams)
        try:
            await exchange.send(self._request(request, len(body)), body)
            return _Relay(exchange, await exchange.head())
        except (OSError, h11.ProtocolError, EOFError):
            exchange.close()
            raise self._failed("gave no answer") from None
        except BaseException:
            exchange.close()
            raise

    def _failed(self, what: str) -> UpstreamError:
        return UpstreamError(f"the upstream {self.host}:{self.port} {what}", hint="is it running?")

    def _request(self, request: Request, length: int) -> h11.Request:
        dropped = {b"origin", *([b"authorization"] if self.drops_authorization else [])}
        headers = [(k, v) for k, v in _end_to_end(request.headers.raw) if k not in dropped]
        headers += [
            (b"host", f"{self.host}:{self.port}".encode()),
            (b"connection", b"close"),
            (b"content-length", str(length).encode()),
        ]
        query = f"?{request.url.query}" if request.url.query else ""
        target = f"{self.path}{request.url.path}{query}".encode()
        return h11.Request(method=request.method.encode(), target=target, headers=headers)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in headers if key.lower() not in _HOP_BY_HOP]


class UpstreamExchange:
    """One request and its answer over a connection of its own, to whatever server it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = h11.Connection(h11.CLIENT)

    async def send(self, head: h11.Request, body: bytes) -> None:
        """Send a request with its body."""
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(self._connection.send(event) or b"")
        await self._writer.drain()

    async def next(self) -> Any:
        """The next event of the answer; raises :class:`EOFError` when it breaks off."""
        while True:
            try:
                event = self._connection.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._connection.receive_data(await self._reader.read(_READ))
            except h11.RemoteProtocolError:
                raise EOFError("the answer broke off") from None

    async def head(self) -> h11.Response:
        """The head of the answer; raises :class:`EOFError` where none comes."""
        while not isinstance(event := await self.next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise EOFError("no answer came")
        return event

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class _Relay(Response):
    """The upstream's answer, piece by piece."""

    def __init__(self, exchange: UpstreamExchange, head: h11.Response) -> None:
        super().__init__(status_code=head.status_code)
        self.raw_headers = _end_to_end(head.headers)
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until either side ends."""
        relaying = asyncio.ensure_future(self._relay(send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({relaying, gone}, return_when=asyncio.FIRST_COMPLETED)
            if relaying.done():
                relaying.result()
        finally:
            relaying.cancel()
            gone.cancel()
            await asyncio.gather(relaying, gone, return_exceptions=True)
            self._exchange.close()

    async def _relay(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        while isinstance(event := await self._exchange.next(), h11.Data):
            body = bytes(event.data)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

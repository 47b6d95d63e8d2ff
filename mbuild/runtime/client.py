"""Asking an engine: llama-server's HTTP over a Unix socket, answers whole or as they come.

An answer is read here and not by h11: a token comes in an event of its own, and taking one apart
there costs a small model's engine a twentieth of its time. The engine is a process of ours, whose
answers have one of three forms (RFC 9112, section 6.3): in chunks, of a length, or to the end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

_READ = 64 << 10  # bytes that come ahead of who takes them
_decoded = json.JSONDecoder().decode
_CHUNKED = -1
_TO_THE_END = -2


class EngineAnswer:
    """The head of an answer, and its body to come. :meth:`close` tells the engine to stop."""

    def __init__(self, exchange: Exchange, status: int) -> None:
        self.status = status
        self._exchange = exchange

    async def json(self) -> Any:
        """The whole body as JSON; None for anything else."""
        pieces = []
        try:
            while data := await self._exchange.piece():
                pieces.append(data)
        finally:
            self.close()
        try:
            return json.loads(b"".join(pieces))
        except ValueError:
            return None

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream (``data: {...}`` lines) until ``[DONE]`` or its end."""
        rest = b""
        try:
            while data := await self._exchange.piece():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    name, _, text = line.partition(b":")
                    if name == b"data":
                        if text.strip() == b"[DONE]":
                            return
                        yield _decoded(text.decode())
                    elif name == b"error":
                        yield {"error": _decoded(text.decode())}
        finally:
            self.close()

    def close(self) -> None:
        """End the exchange; an engine that is still answering stops within a token."""
        self._exchange.close()


class Exchange(asyncio.Protocol):
    """One request and its answer over a connection of its own."""

    def __init__(self) -> None:
        self._came = b""  # and was not taken yet
        self._ended = False
        self._left = _TO_THE_END  # bytes of the body to come, or in which form it comes
        self._waiting: asyncio.Future[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The engine is there."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep what came; who takes it later than it comes lets the engine wait."""
        self._came += data
        if len(self._came) > _READ:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes."""
        self.eof_received()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _more(self) -> None:
        """Wait for more to come; raises :class:`EOFError` when nothing does."""
        if self._ended:
            raise EOFError("the answer broke off")
        self._transport.resume_reading()
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._transport.write(request)

    async def status(self) -> int:
        """Read the head of the answer; raises :class:`EOFError` where none comes."""
        try:
            status = 100
            while 100 <= status < 200:  # such a head says that another one follows
                status = int((await self._line()).split(b" ", 2)[1])
                await self._headers()
        except (ValueError, IndexError):
            raise EOFError("no answer came") from None
        return status

    async def _headers(self) -> None:
        while line := await self._line():
            name, _, value = line.partition(b":")
            match name.strip().lower(), value.strip().lower():
                case b"transfer-encoding", b"chunked":
                    self._left = _CHUNKED
                case b"content-length", length if self._left != _CHUNKED:
                    self._left = int(length)

    async def _line(self) -> bytes:
        while b"\r\n" not in self._came:
            await self._more()
        line, _, self._came = self._came.partition(b"\r\n")
        return line

    async def piece(self) -> bytes:
        """The next piece of the body, nothing at its end; raises :class:`EOFError` when it
        breaks off."""
        while (data := self._taken()) is None:
            await self._more()
        return data

    def _taken(self) -> bytes | None:
        """The next piece out of what came, nothing at the end; None until more has come."""
        if self._left == _CHUNKED:
            return self._taken_chunk()
        if self._left and not self._came:
            return b"" if self._ended and self._left == _TO_THE_END else None
        most = len(self._came) if self._left == _TO_THE_END else self._left
        data, self._came = self._came[:most], self._came[most:]
        if self._left != _TO_THE_END:
            self._left -= len(data)
        return data

    def _taken_chunk(self) -> bytes | None:
        head = self._came.find(b"\r\n")
        if head < 0:
            return None
        try:
            begin = head + 2
            end = begin + int(self._came[:head].partition(b";")[0], 16)
        except ValueError:
            raise EOFError("the answer broke off") from None
        if len(self._came) < end + 2:
            return None
        data, self._came = self._came[begin:end], self._came[end + 2 :]
        return data

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class Client:
    """Requests to one engine."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    async def post(self, path: str, body: object) -> EngineAnswer:
        """Send JSON; raises :class:`OSError` or :class:`EOFError` when nobody answers."""
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_unix_connection(Exchange, str(self._path))
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n"
        )
        try:
            exchange.send(head.encode() + data)
            return EngineAnswer(exchange, await exchange.status())
        except BaseException:
            exchange.close()
            raise

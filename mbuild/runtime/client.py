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

_READ = 64 << 10
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
                    if text.strip() == b"[DONE]":
                        return
                    if name == b"data":
                        yield json.loads(text)
                    elif name == b"error":
                        yield {"error": json.loads(text)}
        finally:
            self.close()

    def close(self) -> None:
        """End the exchange; an engine that is still answering stops within a token."""
        self._exchange.close()


class Exchange:
    """One request and its answer over a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left = _TO_THE_END  # bytes of the body to come, or in which form it comes

    async def send(self, head: str, body: bytes) -> None:
        """Send a request with its body."""
        self._writer.write(head.encode() + body)
        await self._writer.drain()

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
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def piece(self) -> bytes:
        """The next piece of the body, nothing at its end; raises :class:`EOFError` when it
        breaks off."""
        if self._left == _CHUNKED:
            try:
                size = int((await self._line()).partition(b";")[0], 16)
            except ValueError:
                raise EOFError("the answer broke off") from None
            return (await self._reader.readexactly(size + 2))[:-2]
        if self._left == _TO_THE_END:
            return await self._reader.read(_READ)
        if not self._left:
            return b""
        data = await self._reader.read(min(self._left, _READ))
        if not data:
            raise EOFError("the answer broke off")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class Client:
    """Requests to one engine."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    async def post(self, path: str, body: object) -> EngineAnswer:
        """Send JSON; raises :class:`OSError` or :class:`EOFError` when nobody answers."""
        exchange = Exchange(*await asyncio.open_unix_connection(str(self._path)))
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n"
        )
        try:
            await exchange.send(head, data)
            return EngineAnswer(exchange, await exchange.status())
        except BaseException:
            exchange.close()
            raise

"""Asking an engine: llama-server's HTTP over a Unix socket, answers whole or as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11

_READ = 64 << 10


class EngineAnswer:
    """The head of an answer, and its body to come. :meth:`close` tells the engine to stop."""

    def __init__(self, exchange: Exchange, status: int) -> None:
        self.status = status
        self._exchange = exchange

    async def json(self) -> Any:
        """The whole body as JSON; None for anything else."""
        pieces = []
        try:
            while isinstance(event := await self._exchange.next(), h11.Data):
                pieces.append(bytes(event.data))
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
            while isinstance(event := await self._exchange.next(), h11.Data):
                *lines, rest = (rest + bytes(event.data)).split(b"\n")
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


class Client:
    """Requests to one engine."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    async def post(self, path: str, body: object) -> EngineAnswer:
        """Send JSON; raises :class:`OSError` or :class:`EOFError` when nobody answers."""
        streams = await asyncio.open_unix_connection(str(self._path))
        exchange = Exchange(*streams)
        data = json.dumps(body).encode()
        headers = [
            ("Host", "localhost"),
            ("Authorization", f"Bearer {self._key}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Connection", "close"),
        ]
        try:
            await exchange.send(h11.Request(method="POST", target=path, headers=headers), data)
            return EngineAnswer(exchange, (await exchange.head()).status_code)
        except BaseException:
            exchange.close()
            raise

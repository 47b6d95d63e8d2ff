"""Answers that are sent as they are made, and stop being made when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple
from mbuild.server.stream import Line, disconnected, encode

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from mbuild.server.service import Service

ResultT = TypeVar("ResultT")


class LineForm(NamedTuple):
    """How lines are written: the media type, one line, an error, what follows the last."""

    media_type: str
    encode: Callable[[Line], bytes]
    error: Callable[[str], Line]
    end: bytes = b""


STREAM_TYPE = "application/x-ndjson"

LINES = LineForm(STREAM_TYPE, encode, lambda text: {"error": text})
"""A line of JSON each, as Ollama's API has them."""


async def until_gone(work: Awaitable[ResultT], request: Request) -> ResultT:
    """The work's result; it is cancelled when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancel(task, gone)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, MbuildError, StopAsyncIteration):
            await task


class LineStream(Response):
    """A response that sends each line when it comes, in one piece."""

    def __init__(
        self,
        service: Service,
        first: Line,
        rest: AsyncGenerator[Line, None],
        form: LineForm = LINES,
    ) -> None:
        super().__init__(media_type=form.media_type)
        del self.headers["content-length"]
        self._service = service
        self._form = form
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the build ends or the client goes away."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        sending = asyncio.ensure_future(self._send(start, send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _cancel(sending, gone)
            await self._rest.aclose()

    async def _send(self, start: dict[str, Any], send: Send) -> None:
        await send(start)
        line: Line | None = self._first
        while line is not None:
            await send(
                {"type": "http.response.body", "body": self._form.encode(line), "more_body": True}
            )
            try:
                line = await anext(self._rest, None)
            except Exception as error:
                line = self._form.error(self._service.error_text(error))
                await send(
                    {
                        "type": "http.response.body",
                        "body": self._form.encode(line),
                        "more_body": True,
                    }
                )
                line = None
        await send({"type": "http.response.body", "body": self._form.end, "more_body": False})

"""The handler of ``/api/create`` by itself: a request's messages in, an answer's messages out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from stores import copy_tiny_store

from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.server.building import create
from mbuild.server.jobs import Jobs
from mbuild.server.security import AccessPolicy
from mbuild.server.service import Service
from mbuild.server.streaming import STREAM_TYPE, LineStream

Message = MutableMapping[str, Any]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """What handlers work with, over a store that holds the model ``tiny``."""
    return Service(copy_tiny_store(tmp_path / "store"), AccessPolicy())


class Client:
    """A client that sends one body, reads what comes, and leaves when it is told to."""

    def __init__(self, **fields: Any) -> None:
        self.gone = asyncio.Event()
        self.sent: list[Message] = []
        self._body: bytes | None = json.dumps(fields).encode()

    async def receive(self) -> Message:
        """The body, and after it nothing until the client leaves."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        self.sent.append(message)

    @property
    def request(self) -> Request:
        """The request as a handler gets it."""
        scope = {"type": "http", "method": "POST", "path": "/api/create", "headers": []}
        return Request(scope, self.receive)

    async def take(self, response: Response) -> None:
        """Read the answer."""
        await response({"type": "http"}, self.receive, self.send)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines that came, each of which came in one piece."""
        pieces = [m["body"] for m in self.sent if m["type"] == "http.response.body" and m["body"]]
        assert all(piece.endswith(b"\n") and piece.count(b"\n") == 1 for piece in pieces)
        return [json.loads(piece) for piece in pieces]


def asked(service: Service, **fields: Any) -> tuple[Client, Response]:
    """Ask, and read the whole answer."""

    async def ask() -> tuple[Client, Response]:
        client = Client(**fields)
        response = await create(service, client.request)
        await client.take(response)
        return client, response

    return asyncio.run(ask())


def names(service: Service) -> set[str]:
    """The models of the store."""
    return {str(name) for name in service.store().manifests.names()}


def test_a_build_is_a_stream_of_lines(service: Service) -> None:
    """Each is sent when it comes, without a length; the last one says success."""
    client, response = asked(service, model="mario", system="hi", **{"from": "tiny"})
    assert isinstance(response, LineStream)
    start, *parts = client.sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, STREAM_TYPE.encode())
    assert b"content-length" not in headers
    assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
    assert client.lines[-1] == {"status": "success"}
    assert {"status": "writing manifest"} in client.lines
    assert "mario:latest" in names(service)


def test_without_a_stream_the_last_line_is_the_answer(service: Service) -> None:
    """One JSON value with its length."""
    client, _ = asked(service, model="mario", stream=False, **{"from": "tiny"})
    start, body = client.sent
    assert start["status"] == 200
    assert json.loads(body["body"]) == {"status": "success"}
    assert int(dict(start["headers"])[b"content-length"]) == len(body["body"])
    assert "mario:latest" in names(service)


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_first_line_is_raised(service: Service, stream: bool) -> None:
    """So that it has a status of its own, whether a stream was asked for or not."""
    with pytest.raises(UsageError, match="neither 'from' or 'files'"):
        asked(service, model="mario", stream=stream)
    with pytest.raises(NameNotFoundError, match="model 'absent' not found"):
        asked(service, model="mario", stream=stream, **{"from": "absent"})
    assert names(service) == {"tiny:latest"}


def test_an_error_after_it_is_the_last_line(service: Service) -> None:
    """The status was sent by then."""

    async def lines() -> Any:
        yield {"status": "two"}
        raise NameNotFoundError("gone")

    async def ask() -> Client:
        client = Client()
        await client.receive()
        await client.take(LineStream(service, {"status": "one"}, lines()))
        return client

    client = asyncio.run(ask())
    assert client.lines == [{"status": "one"}, {"status": "two"}, {"error": "gone"}]
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_a_client_that_leaves_gets_no_more(service: Service) -> None:
    """Its lines are closed, which is how a build learns that nobody waits."""
    closed = asyncio.Event()

    async def ask() -> Client:
        client = Client()
        await client.receive()

        async def lines() -> Any:
            try:
                client.gone.set()
                await asyncio.sleep(60)
                yield {"status": "never"}
            finally:
                closed.set()

        await asyncio.wait_for(client.take(LineStream(service, {"status": "one"}, lines())), 10)
        return client

    assert asyncio.run(ask()).lines == [{"status": "one"}]
    assert closed.is_set()


def test_a_client_that_leaves_without_reading_is_let_go(service: Service) -> None:
    """The line before is still on its way: the next ones are closed all the same, at once."""

    class Slow(Client):
        async def send(self, message: Message) -> None:
            if message["type"] == "http.response.body":
                self.gone.set()
                await asyncio.sleep(60)

    async def ask() -> bool:
        client, closed = Slow(), asyncio.Event()
        await client.receive()

        async def lines() -> Any:
            try:
                yield {"status": "one"}
                yield {"status": "two"}
            finally:
                closed.set()

        rest = lines()
        first = await anext(rest)
        await asyncio.wait_for(client.take(LineStream(service, first, rest)), 10)
        return closed.is_set()

    assert asyncio.run(ask())


def test_a_client_that_left_before_the_answer_is_told_nothing(service: Service) -> None:
    """While all builds wait for others no line comes: the wait ends with the client."""

    async def ask() -> None:
        service.jobs = Jobs(0)  # none starts
        client = Client(model="mario", stream=False, **{"from": "tiny"})
        asking = asyncio.ensure_future(create(service, client.request))
        await asyncio.sleep(0.1)
        assert not asking.done()
        client.gone.set()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(asking, 10)

    asyncio.run(ask())
    assert names(service) == {"tiny:latest"}

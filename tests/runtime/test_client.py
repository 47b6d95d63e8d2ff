"""Answers of an engine, in each form that HTTP has for them, whole and cut short."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mbuild.runtime.client import Client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = b'data: {"content": "a"}\n\ndata: {"content": "\xc3\xa9"}\n\ndata: [DONE]\n\n'


def _chunked(data: bytes, size: int) -> bytes:
    """A body in chunks of so many bytes, with an extension that nobody needs."""
    parts = [data[n : n + size] for n in range(0, len(data), size)]
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _ask(folder: Path, answer: bytes, read: str, pause: bool = False) -> Any:
    """What a client has of an answer; ``pause``: its bytes come one by one."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b'{"x": 1}'))
        for n in range(0, len(answer), 1 if pause else len(answer) or 1):
            writer.write(answer[n : n + (1 if pause else len(answer))])
            await writer.drain()
        writer.close()

    async def scenario() -> Any:
        server = await asyncio.start_unix_server(serve, str(folder / "s"))
        async with server:
            found = await Client(folder / "s", "key").post("/completion", {"x": 1})
            if read == "json":
                return found.status, await found.json()
            return [event async for event in found.events()]

    result = asyncio.run(scenario())
    assert asked[0].startswith(b"POST /completion HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer key\r\n" in asked[0]
    return result


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("pause", [False, True])
def test_events_come_however_they_are_cut(tmp_path: Path, size: int, pause: bool) -> None:
    """Chunks end anywhere, also within a character, and bytes come one by one."""
    events = _ask(tmp_path, _chunked(EVENTS, size), "events", pause)
    assert [event["content"] for event in events] == ["a", "é"]


def test_a_body_has_a_length_or_an_end(tmp_path: Path) -> None:
    """JSON by its length, after a head that only says that one follows; or up to the end."""
    for more in (b"Content-Length: 8\r\n\r\n", b"\r\n"):
        data = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + more + b'{"y": 2}'
        assert _ask(tmp_path, data, "json") == (200, {"y": 2})
    refused = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!"
    assert _ask(tmp_path, refused, "json") == (400, None)
    assert _ask(tmp_path, HEAD + b"\r\n" + b'error: {"code": 5}\n', "events") == [
        {"error": {"code": 5}}
    ]


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", HEAD, _chunked(EVENTS, 5)[:-30],
     HEAD + b"Content-Length: 9\r\n\r\nx", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
)  # fmt: skip
def test_what_breaks_off_is_an_error(tmp_path: Path, answer: bytes) -> None:
    """Before the head, within it, and within the body of either form."""
    with pytest.raises(EOFError):
        _ask(tmp_path, answer, "events" if b"chunked" in answer else "json")

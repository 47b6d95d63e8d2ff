"""One line for each request: as text, as JSON, or none."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from mbuild.language.printable import visible

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_LONGEST = 300  # characters of a path and of an error


class RequestLog:
    """Writes the line when a request is over, to standard error.

    Headers, bodies and queries are not written: tokens can be in them.
    """

    def __init__(self, app: ASGIApp, form: str) -> None:
        self._app = app
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and write its line, however it ends."""
        if scope["type"] != "http" or self._form == "off":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        began = time.monotonic()
        try:
            await self._app(scope, receive, answer.send)
        finally:
            self._write(_facts(scope, answer, time.monotonic() - began))

    def _write(self, facts: dict[str, Any]) -> None:
        if self._form == "json":
            line = json.dumps(facts)
        else:
            error = facts.pop("error", "")
            values = [str(value) for value in facts.values()]
            line = " ".join([*values[:-2], f"{values[-2]}ms", values[-1]])
            line += f": {error}" if error else ""
        sys.stderr.write(line + "\n")


class _Answer:
    """What is sent to one client: its status, its bytes, and the words of an error."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499  # a client that left before an answer
        self.size = 0
        self.error = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.size += len(body)
            if not self.error and body.startswith(b'{"error":'):  # an answer's or a stream's last
                self.error = _error_of(body)
        await self._send(message)


def _error_of(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
    except ValueError:
        return ""
    return str(error.get("message", "") if isinstance(error, dict) else error)


def _facts(scope: Scope, answer: _Answer, seconds: float) -> dict[str, Any]:
    client = scope.get("client")
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "method": _plain(scope["method"]),
        "path": _plain(_path(scope)),
        "status": answer.status,
        "bytes": answer.size,
        "milliseconds": round(seconds * 1000),
        "client": client[0] if client else "-",
    }
    return {**facts, "error": _plain(answer.error)} if answer.error else facts


def _path(scope: Scope) -> str:
    """The path as it was sent, without its query and a user's name and password."""
    raw = str(scope.get("raw_path", b"").decode("ascii", "replace"))
    scheme, found, rest = raw.partition("://")
    if not found:
        return raw
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _plain(text: str) -> str:
    """A stranger's text in one line that does nothing to a terminal."""
    return visible(text[:_LONGEST]).replace("\n", " ")

"""One request to run a model in another API's form: read, run as any other, written back."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.core.values import replace
from mbuild.runtime.asked import Ask, Finished, Piece
from mbuild.server import shapes
from mbuild.server.inference import collect, runner_of
from mbuild.server.requests import parse_json, parse_name, read_body
from mbuild.server.stream import Line
from mbuild.server.streaming import LineForm, LineStream, until_gone

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.runtime.runnable import Runnable
    from mbuild.runtime.runner import Runner
    from mbuild.server.service import Service


class AnswerForm(Protocol):
    """Writes the pieces of one answer; ``form`` is how its events go over the wire."""

    @property
    def form(self) -> LineForm:
        """How a stream of them is written."""

    def chunks(self, piece: Piece | Finished) -> list[Line]:
        """The events of a piece."""

    def whole(self, pieces: list[Piece], finished: Finished) -> Line:
        """The whole answer."""


Read = Callable[[Mapping[str, Any]], tuple[Ask, AnswerForm]]
"""Reads a request's fields; raises :class:`UsageError`."""


async def answer(
    service: Service, request: Request, body: shapes.Body, read: Read, *, may_think: bool = False
) -> Response:
    """Answer a request, whole or as a stream.

    ``may_think``: a request to think is a wish, which a model that cannot does not refuse.
    """
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(body, parse_json(data))
    runner = runner_of(service)
    model = await model_of(runner, fields)
    ask, answers = read(fields)
    if not ask.turns:
        raise UsageError("messages is required")
    if may_think and ask.think and "thinking" not in model.capabilities:
        ask = replace(ask, think=None)
    pieces = runner.answer(model, ask)
    if not fields.get("stream"):
        found, finished = await until_gone(collect(pieces), request)
        return JSONResponse(answers.whole(found, finished))
    lines = _lines(pieces, answers)
    try:
        first = await until_gone(anext(lines), request)
        return LineStream(service, first, lines, answers.form)
    except BaseException:
        await lines.aclose()
        raise


async def model_of(runner: Runner, fields: Mapping[str, Any]) -> Runnable:
    """The model that a request names; raises :class:`NameNotFoundError`, :class:`UsageError`."""
    text = str(fields.get("model") or "")
    name = parse_name(text, "model is required" if not text else "invalid model name")
    try:
        return await to_thread.run_sync(runner.model, name)
    except NameNotFoundError:
        raise NameNotFoundError(f"model '{text}' not found") from None


async def _lines(
    pieces: AsyncGenerator[Piece | Finished], answers: AnswerForm
) -> AsyncGenerator[Line, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            for line in answers.chunks(piece):
                yield line


# What the forms have in common.


def named_event(line: Line) -> bytes:
    """A server-sent event that is called by its type."""
    data = json.dumps(line, ensure_ascii=False)
    return f"event: {line['type']}\ndata: {data}\n\n".encode()


def string(value: Any, where: str) -> str:
    """A text, "" for null; raises :class:`UsageError` for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{where} must be a string")
    return value


def parts_of(value: Any, where: str, kind: str) -> list[Mapping[str, Any]]:
    """The parts of a content, which may be one text of that ``kind``; raises UsageError."""
    if isinstance(value, str):
        return [{"type": kind, "text": value}]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise UsageError(f"{where} must be a string or a list of objects")
    return value


def arguments_of(text: str) -> Mapping[str, Any]:
    """The arguments of a tool call from JSON; raises :class:`UsageError`."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        raise UsageError("the arguments of a tool call are not JSON") from None
    if not isinstance(found, dict | None):
        raise UsageError("the arguments of a tool call are not an object")
    return found or {}


def image_of(url: Any) -> bytes:
    """The bytes of a data URL; this server fetches nothing for a request."""
    head, found, data = str(url or "").partition(";base64,")
    if not found or not head.startswith("data:"):
        raise UsageError("images must be data URLs with base64")
    return decoded(data)


def decoded(data: Any) -> bytes:
    """The bytes of an image from base64; raises :class:`UsageError`."""
    try:
        return base64.b64decode(string(data, "the data of an image"), validate=True)
    except ValueError:
        raise UsageError("illegal base64 data in an image") from None


def function(tool: Mapping[str, Any], schema: str) -> Mapping[str, Any]:
    """A tool as Ollama has it, from one whose name and ``schema`` stand at its top."""
    name = string(tool.get("name"), "the name of a tool")
    if not name:
        raise UsageError("a tool has no name")
    found = {"name": name, "description": string(tool.get("description"), "a description")}
    parameters = tool.get(schema)
    if parameters is not None and not isinstance(parameters, dict):
        raise UsageError(f"{schema} of the tool {name!r:.64} must be an object")
    return {"type": "function", "function": {**found, "parameters": parameters or {}}}

"""Endpoints that run models: forwarded to an upstream, or refused with a way to go."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.core.errors import NameNotFoundError
from mbuild.models import library
from mbuild.server import models, shapes
from mbuild.server.errors import UnsupportedHereError
from mbuild.server.models import JSON_TYPE
from mbuild.server.requests import model_name, parse_json, parse_name, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.core.names import ModelName
    from mbuild.server.service import Service
    from mbuild.server.shapes import Body

_ZERO = re.compile(r"[-+]?0*(\.0*)?(ns|us|ms|s|m|h)?")


async def forward(service: Service, request: Request) -> Response:
    """Ask the upstream; without one 501 and how to have one."""
    if service.upstream is None:
        raise UnsupportedHereError(
            "this server builds models and does not run them",
            hint="start it with --upstream URL of an Ollama or llama-server on the same store",
        )
    return await service.upstream.forward(request, await read_body(request))


async def generate(service: Service, request: Request) -> Response:
    """Forwarded; a request that only unloads a model is answered here."""
    return await _run(service, request, shapes.GENERATE, "prompt", {"response": ""})


async def chat(service: Service, request: Request) -> Response:
    """Forwarded; a request that only unloads a model is answered here."""
    empty = {"message": {"role": "assistant", "content": ""}}
    return await _run(service, request, shapes.CHAT, "messages", empty)


async def _run(
    service: Service, request: Request, body: Body, prompt: str, empty: dict[str, Any]
) -> Response:
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(body, parse_json(data))
    if fields.get(prompt) or not _is_zero(fields.get("keep_alive")):
        return await forward(service, request)
    text = model_name(fields)
    name = parse_name(text, "model is required" if not text else "invalid model name")
    await to_thread.run_sync(_find, service, name)
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    answer = {"model": text, "created_at": now, **empty, "done": True, "done_reason": "unload"}
    return JSONResponse(answer, media_type=JSON_TYPE)


def _find(service: Service, name: ModelName) -> None:
    try:
        library.find(service.store(), name)
    except NameNotFoundError as error:
        raise NameNotFoundError(error.message) from None


def _is_zero(keep_alive: Any) -> bool:
    """Whether a keep-alive (seconds, or Go's text of a duration) asks to unload."""
    if isinstance(keep_alive, str):
        return bool(keep_alive) and _ZERO.fullmatch(keep_alive) is not None
    return isinstance(keep_alive, (int, float)) and keep_alive == 0


async def ps(service: Service, request: Request) -> Response:
    """The running models: the upstream's, else none."""
    if service.upstream is not None:
        return await forward(service, request)
    return await models.ps(service, request)

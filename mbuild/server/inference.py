"""Endpoints that run models: here by an engine, or forwarded to an upstream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.models import library
from mbuild.runtime.asked import Ask, EndReason, Finished, Piece
from mbuild.runtime.failure import EXTRA
from mbuild.runtime.pool import seconds_of
from mbuild.server import shapes
from mbuild.server.errors import UnsupportedHereError
from mbuild.server.models import JSON_TYPE
from mbuild.server.ollama import (
    OllamaLines,
    now,
    read_chat,
    read_generate,
    statistics,
)
from mbuild.server.requests import model_name, parse_json, parse_name, read_body
from mbuild.server.stream import Line
from mbuild.server.streaming import LineStream, until_gone

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.core.names import ModelName
    from mbuild.runtime.runnable import Runnable
    from mbuild.runtime.runner import Runner
    from mbuild.server.service import Service
    from mbuild.server.shapes import Body

_UNLOADED = Finished(EndReason.UNLOAD)


def runner_of(service: Service) -> Runner:
    """What runs models here; raises :class:`UnsupportedHereError` where nothing does."""
    if service.runner is None:
        raise UnsupportedHereError(
            "this server builds models and does not run them",
            hint=f"install the engine with {EXTRA}, or start the server with --llama-server PATH,"
            " or with --upstream URL of an Ollama or llama-server on the same store",
        )
    return service.runner


async def generate(service: Service, request: Request) -> Response:
    """Complete a prompt; with an empty one load the model, or unload it."""
    return await _run(service, request, shapes.GENERATE)


async def chat(service: Service, request: Request) -> Response:
    """Answer a conversation; with none load the model, or unload it."""
    return await _run(service, request, shapes.CHAT)


async def _run(service: Service, request: Request, body: Body) -> Response:
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(body, parse_json(data))
    complete = body is shapes.GENERATE
    text = model_name(fields)
    if complete and not text:
        raise NameNotFoundError("model '' not found")
    name = parse_name(text, "model is required" if not text else "invalid model name")
    lines = OllamaLines(text, complete=complete)
    ask = read_generate(fields) if complete else read_chat(fields)
    empty = not (fields.get("prompt") or fields.get("images")) if complete else not ask.turns
    if empty and not ask.suffix:
        return await _load(service, name, text, ask, lines)
    runner = runner_of(service)
    model = await _model(service, runner, name, f"model '{text}' not found")
    if fields.get("_debug_render_only"):
        return await _rendered(runner, model, ask, text)
    return await _answer(service, request, runner.answer(model, ask), lines, fields.get("stream"))


async def _model(service: Service, runner: Runner, name: ModelName, absent: str) -> Runnable:
    try:
        return await to_thread.run_sync(runner.model, name)
    except NameNotFoundError:
        raise NameNotFoundError(absent) from None


async def _load(
    service: Service, name: ModelName, text: str, ask: Ask, lines: OllamaLines
) -> Response:
    """A request without a prompt: to load the model, or with ``keep_alive`` 0 to unload it."""
    if ask.keep_alive == 0:
        await _unload(service, name, text)
        return JSONResponse(lines.of(_UNLOADED), media_type=JSON_TYPE)
    runner = runner_of(service)
    model = await _model(service, runner, name, f"model '{text}' not found")
    return JSONResponse(lines.of(await runner.load(model, ask)), media_type=JSON_TYPE)


async def _unload(service: Service, name: ModelName, text: str) -> None:
    """End the engines of a model, also of one that was removed since it was loaded."""
    runner = service.runner
    try:
        stored = await to_thread.run_sync(library.find, service.store(), name)
        if runner is not None:
            await runner.unload(await to_thread.run_sync(runner.model, stored.name))
    except NameNotFoundError:
        if runner is None or not await runner.pool.unload(str(name)):
            raise NameNotFoundError(f"model '{text}' not found") from None


async def _rendered(runner: Runner, model: Runnable, ask: Ask, text: str) -> Response:
    """The prompt that a request would become, instead of an answer."""
    prompt = await runner.prompt(model, ask)
    info = {"rendered_template": prompt.text, "image_count": len(prompt.images)}
    answer = {"model": text, "created_at": now(), "_debug_info": info}
    return JSONResponse(answer, media_type=JSON_TYPE)


async def _answer(
    service: Service,
    request: Request,
    pieces: AsyncGenerator[Piece | Finished],
    lines: OllamaLines,
    stream: object,
) -> Response:
    """Lines as they come, or with ``stream: false`` one at the end."""
    if stream is False:
        found, finished = await until_gone(collect(pieces), request)
        return JSONResponse(lines.whole(found, finished), media_type=JSON_TYPE)
    made = _lines(pieces, lines)
    try:
        return LineStream(service, await until_gone(anext(made), request), made)
    except BaseException:
        await made.aclose()
        raise


async def collect(pieces: AsyncGenerator[Piece | Finished]) -> tuple[list[Piece], Finished]:
    """All pieces of an answer, and its end."""
    found: list[Piece] = []
    finished = Finished(EndReason.STOP)
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Finished):
                finished = piece
            else:
                found.append(piece)
    return found, finished


async def _lines(
    pieces: AsyncGenerator[Piece | Finished], lines: OllamaLines
) -> AsyncGenerator[Line, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            yield lines.of(piece)


async def embed(service: Service, request: Request) -> Response:
    """A vector for each text."""
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(shapes.EMBED, parse_json(data))
    text = model_name(fields)
    runner = runner_of(service)
    if not text:
        raise NameNotFoundError("model '' not found")
    absent = f'model "{text}" not found, try pulling it first'
    model = await _model(service, runner, parse_name(text), absent)
    given = fields.get("input", [])
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or any(not isinstance(item, str) for item in texts):
        raise UsageError("invalid input type")
    texts = [] if given == "" else texts
    vectors, finished = await until_gone(
        runner.embed(
            model,
            texts,
            fields.get("options") or {},
            _keep_alive(fields),
            truncate=fields.get("truncate", True),
        ),
        request,
    )
    vectors = [cut(vector, fields.get("dimensions", 0)) for vector in vectors]
    answer = {"model": text, "embeddings": vectors, **statistics(finished)}
    return JSONResponse(answer, media_type=JSON_TYPE)


async def embeddings(service: Service, request: Request) -> Response:
    """One vector for one text, as older clients ask for it."""
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(shapes.EMBEDDINGS, parse_json(data))
    text = model_name(fields)
    runner = runner_of(service)
    name = parse_name(text, "model is required" if not text else "invalid model name")
    model = await _model(service, runner, name, f"model '{text}' not found")
    prompt = fields.get("prompt", "")
    texts = [prompt] if prompt else []
    vectors, _ = await until_gone(
        runner.embed(model, texts, fields.get("options") or {}, _keep_alive(fields)), request
    )
    return JSONResponse({"embedding": vectors[0] if vectors else []}, media_type=JSON_TYPE)


def _keep_alive(fields: dict[str, Any]) -> float | None:
    value = fields.get("keep_alive")
    return None if value is None else seconds_of(value)


def cut(vector: list[float], dimensions: int) -> list[float]:
    """The first values of a vector, again of length 1."""
    if not 0 < dimensions < len(vector):
        return vector
    kept = vector[:dimensions]
    length = sum(value * value for value in kept) ** 0.5
    return [value / length for value in kept] if length else kept


async def ps(service: Service, request: Request) -> Response:
    """The loaded models: this server's, or the upstream's."""
    if service.upstream is not None:
        return await service.upstream.forward(request, await read_body(request))
    rows = []
    for row in service.runner.pool.list() if service.runner is not None else ():
        model = row.model  # as it was loaded: it may have been removed or built anew
        expires = datetime.fromtimestamp(row.expires, UTC).isoformat().replace("+00:00", "Z")
        rows.append(
            {
                "name": model.name,
                "model": model.name,
                "size": row.size,
                "digest": model.id.hex if model.id else "",
                "details": model.details,
                "expires_at": expires,
                "size_vram": 0,
                "context_length": row.spec.num_ctx,
            }
        )
    return JSONResponse({"models": rows}, media_type=JSON_TYPE)

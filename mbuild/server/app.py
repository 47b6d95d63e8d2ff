"""The application: the way of every request, from the checks at the door to its answer."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route, Router

from mbuild.core.errors import MbuildError
from mbuild.server import gate, messages
from mbuild.server.blobs import sweep
from mbuild.server.distribution import HEADERS as REGISTRY_HEADERS
from mbuild.server.errors import status_of
from mbuild.server.locking import PATIENCE_SECONDS
from mbuild.server.models import JSON_TYPE
from mbuild.server.requestlog import RequestLog
from mbuild.server.routes import ROUTES
from mbuild.server.security import origin_headers
from mbuild.server.service import Endpoint, Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


SWEEP_SECONDS = 900.0
"""How often uploads that nothing uses are looked for."""

RETRY_SECONDS = "10"
"""What a client is told to wait before it tries again."""

_LINGER_BYTES = 64 << 20
_LINGER_SECONDS = 2.0


def make_app(service: Service) -> ASGIApp:
    """The ASGI application of a service."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        sweeper = asyncio.ensure_future(_sweep(service))
        try:
            yield
        finally:
            service.board.close()
            service.jobs.cancel_all()
            service.transfers.cancel_all()
            service.pushes.expire(idle=0.0)
            if service.runner is not None:
                await service.runner.pool.close()
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper

    # Starlette's application would put two layers around each message that is sent, for errors
    # that every endpoint here answers itself.
    app = Router(_routes(service), redirect_slashes=False, lifespan=lifespan)
    return RequestLog(Door(service, app), service.log)


async def _sweep(service: Service) -> None:
    while True:
        service.pushes.expire()
        with suppress(MbuildError):
            await service.locking.run(sweep, service.store(PATIENCE_SECONDS))
        await asyncio.sleep(SWEEP_SECONDS)


def _routes(service: Service) -> list[BaseRoute]:
    """One route for each path, which picks the handler by the method."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for row in ROUTES:
        by_path.setdefault(row.path, {}).update(dict.fromkeys(row.methods, row))
    known = [Route(path, _Dispatch(service, rows)) for path, rows in by_path.items()]
    return [*known, Route("/{path:path}", _NotFound(by_path))]


class _Dispatch:
    """Answers one path: an ASGI application, so that Starlette leaves the methods to it."""

    def __init__(self, service: Service, rows: Mapping[str, Endpoint]) -> None:
        self._service = service
        self._rows = rows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response: Response
        row = self._rows.get(request.method)
        if row is None:
            response = self._not_allowed()
        else:
            response = await self._answer(row, request)
        await response(scope, receive, send)

    def _not_allowed(self) -> Response:
        """An answer to another method, in the words of whoever asks there."""
        path, text = next(iter(self._rows.values())).path, "method not allowed"
        response: Response = PlainTextResponse(f"405 {text}", 405)
        if path.startswith("/v2/"):
            response = error_response(path, 405, text, "UNSUPPORTED")
        response.headers["Allow"] = ", ".join(sorted(self._rows))
        return response

    async def _answer(self, row: Endpoint, request: Request) -> Response:
        try:
            if row.path.startswith("/v2/"):
                if row.path != gate.TOKEN_PATH:
                    gate.check(self._service, request)
            elif not row.is_open(self._service, request):
                self._service.policy.check_token(_authorization(row.path, request.headers))
            return await row.handler(self._service, request)
        except ClientDisconnect:
            return Response(status_code=499)
        except MbuildError as error:
            status = status_of(error)
            code = getattr(error, "code", "")
            response = error_response(row.path, status, self._service.error_text(error), code)
            if status == 503:
                response.headers["Retry-After"] = RETRY_SECONDS
            if isinstance(error, gate.NoTokenError):
                response.headers["WWW-Authenticate"] = error.challenge
            return response
        except Exception as error:
            return error_response(row.path, 500, self._service.error_text(error))


def _authorization(path: str, headers: Mapping[str, str]) -> str:
    """What a request says of who sends it: Anthropic's clients have a header of their own."""
    said = headers.get("authorization", "")
    key = headers.get("x-api-key", "") if path == messages.PATH and not said else ""
    return f"Bearer {key}" if key else said


def error_response(path: str, status: int, text: str, code: str = "") -> Response:
    """An error as Ollama's clients read it, below ``/v1`` as OpenAI's do, below ``/v2`` as OCI's.

    At Anthropic's path it is Anthropic's.

    ``code`` is the OCI's word for it.
    """
    if path.startswith("/v2/"):
        codes = {401: "UNAUTHORIZED", 403: "DENIED"}
        row = {"code": code or codes.get(status, "UNKNOWN"), "message": text}
        return JSONResponse({"errors": [row]}, status, headers=REGISTRY_HEADERS)
    if not path.startswith("/v1/"):
        return JSONResponse({"error": text}, status, media_type=JSON_TYPE)
    if path == messages.PATH:
        return JSONResponse(messages.refusal(status, text), status)
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    error = {"message": text, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status)


class _NotFound:
    """What no route answers: paths with doubled slashes or dots lead to the plain path."""

    def __init__(self, paths: Mapping[str, object]) -> None:
        self._routes = [Route(path, _NotFound._nothing) for path in paths]

    @staticmethod
    async def _nothing(request: Request) -> Response:
        return Response()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path", b"").decode("ascii", "replace") or scope["path"]
        clean = posixpath.normpath("/" + raw.lstrip("/"))
        response: Response = PlainTextResponse("404 page not found", 404)
        if clean != raw and self._leads(scope, clean, raw):
            response = RedirectResponse(clean, 307)
            response.headers["content-length"] = "0"
        await response(scope, receive, send)

    def _leads(self, scope: Scope, clean: str, raw: str) -> bool:
        """Whether the clean path has a route; one with dots in it is only made clean."""
        there = {**scope, "path": clean}
        return "/../" in raw or any(r.matches(there)[0] is not Match.NONE for r in self._routes)


class Door:
    """What every request passes: Host and Origin, before anything of it is read.

    Also reads the rest of what a refused client is still sending, for a
    moment, so that it finds the answer instead of a broken connection.
    """

    def __init__(self, service: Service, app: ASGIApp) -> None:
        self._policy = service.policy
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _origin_form(scope)
        request = Request(scope)
        body = _Body(request, receive)
        outgoing = _Outgoing(send, body, origin_headers(request.headers.get("origin", "")))
        refusal = self._policy.refuse(request)
        if refusal is None:
            await self._app(scope, body.receive, outgoing.send)
        elif refusal.status_code == 403:
            self._policy.log_refusal(request)
            await refusal(scope, body.receive, _Outgoing(send, body, {}).send)
        else:
            await refusal(scope, receive, send)


def _origin_form(scope: Scope) -> Scope:
    """A request whose target is a whole URL, as one for its path on its host (RFC 9112, 3.2.2)."""
    scheme, found, rest = scope.get("raw_path", b"").partition(b"://")
    authority, _, path = rest.partition(b"/")
    is_url = found and scheme.lower() in (b"http", b"https")
    if not is_url or not authority or b"@" in authority:
        return scope
    headers = [(key, value) for key, value in scope["headers"] if key != b"host"]
    return {
        **scope,
        "raw_path": b"/" + path,
        "path": "/" + unquote(path.decode("ascii")),
        "headers": [*headers, (b"host", authority)],
    }


class _Body:
    """The request's body as it is read; knows whether the client has more to send."""

    def __init__(self, request: Request, receive: Receive) -> None:
        headers = request.headers
        length = headers.get("content-length", "0")
        self._receive = receive
        self.pending = length != "0" or "transfer-encoding" in headers
        self._waits = "expect" in headers  # it sends nothing until it is told to

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            self.pending = False
        return message

    async def drop(self) -> None:
        """Read and forget a little of what still comes."""
        if self._waits:
            return
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self.pending and dropped < _LINGER_BYTES:
                    dropped += len((await self.receive()).get("body", b""))


class _Outgoing:
    """The response as it is sent; its end waits while the client is still sending."""

    def __init__(self, send: Send, body: _Body, headers: Mapping[str, str]) -> None:
        self._send = send
        self._body = body
        self._headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), *self._headers]
            if self._body.pending:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self._body.pending and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._body.drop()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

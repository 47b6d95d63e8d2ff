"""Who may ask ``/v2/``: the challenge, the place that gives tokens, and what a request needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from mbuild.server.errors import UnauthorizedError
from mbuild.server.requests import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service

TOKEN_PATH = "/v2/token"
_READING = ("GET", "HEAD")
_MAX_FORM = 64 << 10
_MAX_SCOPES = 100


class NoTokenError(UnauthorizedError):
    """A request to ``/v2/`` needs a token; ``challenge`` says where there is one."""

    def __init__(self, challenge: str) -> None:
        super().__init__("authentication required")
        self.challenge = challenge


def check(service: Service, request: Request) -> None:
    """Raise :class:`NoTokenError` for a request that may not be answered.

    The server's token counts as it is, too, as Bearer or as the password of Basic.
    """
    policy, tokens = service.policy, service.tokens
    if not policy.token:
        return
    path, query = request.url.path, request.query_params
    signature = query.get("signature", "") if request.method in _READING else ""
    if signature and tokens.is_signed(path, query.get("expires", ""), signature):
        return
    needed = _scope(request)
    authorization = request.headers.get("authorization", "")
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer" and tokens.allows(given.strip(), needed):
        return
    try:
        policy.check_token(authorization)
    except UnauthorizedError:
        raise NoTokenError(_challenge(request, needed)) from None


def _scope(request: Request) -> str:
    """What a token has to allow; "" where any will do."""
    name = request.path_params.get("name")
    if name is None:
        return ""
    return f"repository:{name}:{'pull' if request.method in _READING else 'push'}"


def _challenge(request: Request, needed: str) -> str:
    scope = needed.replace(":push", ":pull,push")
    parts = {
        "realm": f"{_origin(request)}{TOKEN_PATH}",
        "service": _host(request),
        **({"scope": scope} if scope else {}),
    }
    return "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts.items())


def _origin(request: Request) -> str:
    """Where the client sees us: Ollama takes a token only from the host that it asked.

    A proxy that ends TLS before us says so. Whoever sends that himself leads only himself astray.
    """
    said = request.headers.get("x-forwarded-proto", "").lower()
    scheme = "https" if said == "https" else request.url.scheme
    return f"{scheme}://{_host(request)}"


def _host(request: Request) -> str:
    """What the client called us; nothing that would end the quotes around it."""
    return re.sub(r"[^A-Za-z0-9.:\[\]_-]", "", request.headers.get("host", ""))


async def token(service: Service, request: Request) -> Response:
    """Give a token to who logs in: Basic, the OAuth2 form, or a signature with Ollama's key."""
    scopes = request.query_params.getlist("scope")
    authorization = request.headers.get("authorization", "")
    try:
        if request.method == "POST":
            form = parse_qs((await read_body(request, _MAX_FORM)).decode("latin-1"))
            scopes = form.get("scope", [])
            given = form.get("password" if "password" in form else "refresh_token", [""])[-1]
            service.policy.check_token(f"Bearer {given}")
        elif authorization.startswith("AAAA"):  # the public key's own beginning
            query = request.query_params
            url = f"{_origin(request)}{request.url.path}?{request.url.query}"
            nonce, stamp = query.get("nonce", ""), query.get("ts", "")
            service.tokens.check_signature(authorization, url, nonce, stamp)
        else:
            service.policy.check_token(authorization)
    except UnauthorizedError as error:
        raise BadLoginError(error.message) from None
    wanted = [scope for text in scopes for scope in text.split()]
    answer = service.tokens.give(wanted[:_MAX_SCOPES])
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


class BadLoginError(NoTokenError):
    """A login for a token that is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__('Basic realm="mbuild"')
        self.message = message

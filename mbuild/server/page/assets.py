"""The page's own files: which requests want the page, and how its files are sent.

No file has a script or a style in the page's text, none is made from a request, and none holds
anything of the store: so they need no token. What is in the store the scripts ask for, with it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from mbuild.core.values import NamedTuple
from mbuild.view.picture.style import STYLE

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service

FOLDER = Path(__file__).parent / "assets"
START = "index.html"
GRAPH_STYLE = "graph.css"
"""The style of the graphs, which :mod:`mbuild.view.picture.style` has."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only the page's own files run, and no text can be made markup (Trusted Types)."""

GUARDS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of the page and its files beside the policy."""

_JAVA = "text/html, image/gif, image/jpeg, *"
"""How ``Accept`` begins where Java's own HttpURLConnection asks, whatever the program wants."""


class Asset(NamedTuple):
    """A file: its bytes, its media type, and its tag, which is the digest of the bytes."""

    data: bytes
    type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Every file by its name."""
    found = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.is_file()}
    found[GRAPH_STYLE] = STYLE.encode()
    return {
        name: Asset(data, TYPES[Path(name).suffix], f'"{hashlib.sha256(data).hexdigest()[:32]}"')
        for name, data in found.items()
    }


def wants_page(accept: str) -> bool:
    """Whether an ``Accept`` header is a browser's that opens a page: it names ``text/html``.

    Clients of Ollama name JSON, ``*/*`` or nothing.
    """
    if accept.startswith(_JAVA):
        return False
    for part in accept.lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        refused = any(text.replace(" ", "").rstrip("0.") == "q=" for text in parameters)
        if kind == "text/html" and not refused:
            return True
    return False


def start(request: Request) -> Response:
    """The page."""
    response = _sent(assets()[START], request)
    response.headers["Vary"] = "Accept"
    return response


async def asset(service: Service, request: Request) -> Response:
    """One of the page's files, by its name."""
    found = assets().get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("404 page not found", 404)
    return _sent(found, request)


def _sent(found: Asset, request: Request) -> Response:
    """A file, or only that the browser has it: what it keeps it asks for again by its digest."""
    headers = {
        "ETag": found.tag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        **GUARDS,
    }
    given = request.headers.get("if-none-match", "")
    if found.tag in (tag.strip().removeprefix("W/") for tag in given.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.type, headers=headers)

"""Who may ask: the Host and Origin of a request, the token, and where the server listens."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.server.errors import UnauthorizedError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434
HOST_VARIABLE = "OLLAMA_HOST"
ORIGINS_VARIABLE = "OLLAMA_ORIGINS"
TOKEN_VARIABLE = "MBUILD_TOKEN"

_SCHEME_PORTS = {"http": 80, "https": 443}

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
"""Names that no public name server answers for, so that no stranger can rebind them.

Of ``.local`` anybody in the same network can claim a name (multicast DNS); it is taken
all the same, as by Ollama, because machines without another name are reached by it.
"""

DEFAULT_ORIGINS = (
    *(
        f"{scheme}://{host}{port}"
        for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
        for scheme in ("http", "https")
        for port in ("", ":*")
    ),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)
"""Origins of pages that may ask, as Ollama has them."""

_ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,"
    "x-stainless-arch,x-stainless-async,x-stainless-custom-poll-interval,"
    "x-stainless-helper-method,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)
_LOGGED = 100  # different refusals in the log: strangers choose the names
_LOGGED_LENGTH = 200
_NO_ORIGIN = regex(r"[/@\\?#\s]")
"""What no browser sends after an origin's scheme (RFC 6454, 6.2): users, paths, queries."""

_PORT = regex(r"^(?!https?://)|^https?://(\[[^\]]*\]|[^:\[\]]*)(:[0-9]{1,5})?$", re.I)
"""A port is a number; other schemes (``app://``) have what their programs like."""

_PREFLIGHT_SECONDS = "43200"


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may ask: names of this server, origins of pages, and the token if there is one.

    ``bound`` is the address that the server listens on, ``logged`` the refusals that
    were written to the log.
    """

    bound: str = DEFAULT_HOST
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = DEFAULT_ORIGINS
    token: str = field(default="", repr=False)
    logged: set[str] = field(default_factory=set, repr=False, compare=False)

    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this machine; a name that a stranger chose does not.

        Without this any web page could reach the server by pointing its own
        name at 127.0.0.1 (CVE-2024-28224).
        """
        host = host_of(header)
        if host in ("", "localhost", self.bound.lower(), *self.hosts):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host.endswith(_LOCAL_SUFFIXES) or host == socket.gethostname().lower()
        return address.is_loopback or address.is_private or address.is_unspecified

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may ask; requests that no page makes have none."""
        if not origin or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower()):
            return True
        if _NO_ORIGIN.search(origin.partition("://")[2]) or not _PORT.search(origin):
            return False
        return any(fnmatchcase(origin.lower(), _pattern(allowed)) for allowed in self.origins)

    def check_token(self, authorization: str) -> None:
        """Raise :class:`UnauthorizedError` unless the header carries the token.

        Clients of registries know a user and a password: there the token is the password, and
        the user is anybody.
        """
        if not self.token:
            return
        scheme, _, given = authorization.partition(" ")
        given, scheme = given.strip(), scheme.lower()
        if scheme == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except ValueError:
                given = ""
        right = hmac.compare_digest(given.encode(), self.token.encode())
        if scheme not in ("bearer", "basic") or not right:
            raise UnauthorizedError("unauthorized", hint="send Authorization: Bearer TOKEN")

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request that must not be served: 403 without a body, or a preflight.

        A request that gives its length twice, by Content-Length and by chunks,
        ends its connection: where it ends is where another reader may see a
        second request begin (RFC 9112, 6.1).
        """
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            return JSONResponse(
                {"error": "Content-Length and Transfer-Encoding cannot be combined"},
                status_code=400,
                headers={"Connection": "close"},
            )
        if request.headers.get("expect", "100-continue").lower() != "100-continue":
            text = "the only expectation that can be met is 100-continue"
            return JSONResponse({"error": text}, status_code=417, headers={"Connection": "close"})
        host = request.headers.get("host", "")
        origin = request.headers.get("origin", "")
        if not self.allows_host(host) or not self.allows_origin(origin, host):
            return Response(status_code=403)
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return Response(status_code=204, headers=_preflight(origin))
        return None

    def log_refusal(self, request: Request) -> None:
        """Write to the log which Host or Origin was refused and what allows it, each once."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
        if not self.allows_host(host):
            name = ascii(host_of(host)[:_LOGGED_LENGTH])[1:-1]
            line = f"refused a request for the host {name}: to allow it, --allow-host {name}"
        else:
            name = ascii(origin[:_LOGGED_LENGTH])[1:-1]
            line = f"refused a page of {name}: to allow it, {ORIGINS_VARIABLE}={name}"
        if line not in self.logged and len(self.logged) < _LOGGED:
            self.logged.add(line)
            sys.stderr.write(f"{line}\n")


def _pattern(origin: str) -> str:
    """An origin as a pattern in which only ``*`` is special."""
    return re.sub(r"([\[\]?])", r"[\1]", origin.strip().lower())


def origin_headers(origin: str) -> Mapping[str, str]:
    """What lets the page of an allowed origin read the answer; never ``*``."""
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if origin else {}


def _preflight(origin: str) -> Mapping[str, str]:
    return {
        **origin_headers(origin),
        "Access-Control-Allow-Methods": _ALLOWED_METHODS,
        "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
    }


def host_of(header: str) -> str:
    """The host of a Host header, in lower case, without port and brackets."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    if header.count(":") > 1:
        return header
    return header.partition(":")[0].removesuffix(".")


def parse_host(text: str) -> tuple[str, int]:
    """``OLLAMA_HOST`` as Ollama reads it: ``[scheme://]host[:port][/path]``.

    Raises :class:`UsageError` for a port that is none.
    """
    host, port = _parts_of(text)
    return host or DEFAULT_HOST, DEFAULT_PORT if port is None else port


def _parts_of(text: str) -> tuple[str, int | None]:
    """The host, "" for none, and the port that it says itself or by its scheme."""
    text = text.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    default = _SCHEME_PORTS.get(scheme.lower()) if separator else None
    rest = (rest if separator else text).partition("/")[0]
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") > 1:
        host, port = rest, ""
    else:
        host, _, port = rest.partition(":")
    return host, parse_port(port) if port else default


def address_of(variable: str, host: str | None, port: int | None) -> tuple[str, int]:
    """Where to listen: as ``OLLAMA_HOST`` says, which ``host`` overrules, and ``port`` both.

    The host is written as the variable is, so it may have a port, too. Raises
    :class:`UsageError` for a port that is none.
    """
    found_host, found_port = parse_host(variable)
    asked_host, asked_port = _parts_of(host or "")
    if port is not None:
        asked_port = parse_port(str(port))
    return asked_host or found_host, found_port if asked_port is None else asked_port


def parse_port(text: str) -> int:
    """A port number; 0 means any free one. Raises :class:`UsageError`."""
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise UsageError(f"{text!r} is not a port", hint="a port is a number up to 65535")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def keys_of(file: Path | None, token: str) -> tuple[bytes, ...]:
    """Ollama's public keys in a file; raises :class:`UsageError` also where nothing is closed."""
    if file is None:
        return ()
    if not token:
        raise UsageError(
            "--ollama-keys needs a token: without one everybody may pull",
            hint=f"set --token or {TOKEN_VARIABLE}",
        )
    from mbuild.server.tokens import read_keys

    return read_keys(file)


def make_policy(host: str, token: str, allowed: Iterable[str], *, insecure: bool) -> AccessPolicy:
    """The policy of a server on that address; raises :class:`UsageError` for an open one."""
    if not is_loopback(host) and not token and not insecure:
        raise UsageError(
            f"{host} can be reached from other machines, and there is no token",
            hint=f"set --token or {TOKEN_VARIABLE}, or say --insecure-no-auth",
        )
    if not token.isascii() or not token.isprintable():
        raise UsageError(
            "the token has characters that an HTTP header cannot carry",
            hint="use ASCII letters, digits and punctuation",
        )
    origins = [o.strip() for o in os.environ.get(ORIGINS_VARIABLE, "").split(",") if o.strip()]
    hosts = tuple(host_of(name) for name in allowed)
    return AccessPolicy(host, hosts, (*origins, *DEFAULT_ORIGINS), token)

"""What registries answer: bodies within limits, and errors as people can read them."""

from __future__ import annotations

import email.utils
import http.client
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import urllib3

from mbuild.core.errors import (
    AbsentError,
    DeniedError,
    RegistryError,
    UnreachableError,
)
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_MAX_ERROR = 64 << 10
_NOBODY = ""
"""Whoever answers, where no error that names them is shown."""

_SHOWN = 300  # characters of what a registry says
_LONGEST_WAIT = 120.0

_RATE_LIMIT = regex(r";\s*r=0\s*;\s*t=(\d+)")

AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may go well."""


DAMAGED_THERE = (
    "the blob in the registry is damaged, and a push does not replace it there: remove it in the"
    " registry first, then push it again"
)
"""The hint where a blob of a registry is not what it is called."""


def read_limited(answer: BaseHTTPResponse, limit: int, host: str) -> bytes:
    """A small body; raises :class:`RegistryError` for one that is longer than ``limit`` bytes.

    The bytes are as they were sent: a compressed body is not unpacked, for nobody asked for
    one. Raises :class:`UnreachableError` for a body that is cut. ``host`` is who answers, as
    errors name it.
    """
    try:
        check_plain(answer, host)
        pieces, size = [], 0
        while piece := answer.read(64 << 10):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise RegistryError(f"{host} sent an answer of more than {limit} bytes")
        answer.release_conn()
        return b"".join(pieces)
    except (urllib3.exceptions.HTTPError, OSError):
        raise UnreachableError(f"the answer of {host} was cut off") from None
    finally:
        answer.close()


def check_plain(answer: BaseHTTPResponse, host: str) -> None:
    """Raise :class:`RegistryError` for a compressed body: nobody asked for one."""
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        answer.close()
        raise RegistryError(f"{host} sent a compressed answer that was not asked for")


def read_into(answer: BaseHTTPResponse, room: memoryview, host: str) -> int:
    """Fill room with what comes of a body, as it was sent; less only at its end.

    Raises :class:`UnreachableError` where it is cut. urllib3 makes an object of every piece;
    the standard library's answer below it, which keeps the account, takes it into place.
    """
    source = getattr(answer, "_fp", answer)
    try:
        return int(source.readinto(room))
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
        raise lost(host) from None


def lost(host: str) -> UnreachableError:
    """The error for an answer of a host that ended too soon."""
    return UnreachableError(f"the connection to {host} was lost")


def drained(answer: BaseHTTPResponse) -> None:
    """Read what is left of a short body, so that the connection can be used again."""
    with suppress(RegistryError):
        read_limited(answer, _MAX_ERROR, _NOBODY)


def is_json(answer: BaseHTTPResponse) -> bool:
    """Whether a short body is a JSON object."""
    try:
        return isinstance(json.loads(read_limited(answer, _MAX_ERROR, _NOBODY)), dict)
    except (RegistryError, ValueError, RecursionError):
        return False


def refusal(answer: BaseHTTPResponse, what: str, host: str) -> RegistryError:
    """The error for an answer that is none to ``what`` was asked for."""
    said = _said(answer)
    status = answer.status
    text = f"{what}: {said}" if said else f"{what}: status {status}"
    if status == 401:
        return DeniedError(f"{text}; it requires a login", hint=f"mbuild login {host}")
    if status == 403:
        hint = f"the stored login has no access, or there is none: mbuild login {host}"
        return DeniedError(text, hint=hint)
    if status == 404:
        return AbsentError(text)
    return RegistryError(text)


def later(answer: BaseHTTPResponse, what: str, host: str) -> UnreachableError:
    """The error for an answer after which the same may go well, with how long to wait."""
    wait = wait_of(answer)
    error = refusal(answer, what, host)
    return UnreachableError(error.message, wait=wait)


def _said(answer: BaseHTTPResponse) -> str:
    """What the registry says is wrong, in one line without what a terminal would obey."""
    try:
        value = json.loads(read_limited(answer, _MAX_ERROR, _NOBODY))
        rows = value["errors"]
        texts = [str(row.get("message") or row.get("code") or "") for row in rows]
    except (RegistryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    text = "; ".join(text for text in texts if text)
    return "".join(c if c.isprintable() else " " for c in text)[:_SHOWN].strip()


def wait_of(answer: BaseHTTPResponse) -> float:
    """Seconds that an answer asks to wait, 0 where it does not.

    ``Retry-After`` is a number or a date; the Hub says ``RateLimit: "api";r=0;t=55``.
    """
    text = answer.headers.get("retry-after", "").strip()
    if not text and (limit := _RATE_LIMIT.search(answer.headers.get("ratelimit", ""))):
        text = limit[1]
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_WAIT)
    with suppress(ValueError, TypeError, IndexError):
        when = email.utils.parsedate_to_datetime(text).timestamp()
        return min(max(0.0, when - time.time()), _LONGEST_WAIT)
    return 0.0

"""Reading requests: JSON bodies within limits, and their errors as Go words them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from anyio import to_thread

from mbuild.core.errors import MbuildError, UsageError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.patterns import regex
from mbuild.registry.stored import local_name
from mbuild.server.shapes import Body, check

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BODY = 64 << 20
"""Bytes of a JSON body."""

MAX_VALUES = 2_000_000
"""Commas and brackets in a JSON body: each is a value, which takes far more than its bytes."""

_MANY = 1 << 20  # a shorter body cannot hold enough values to matter
_SURROGATE = regex("[\ud800-\udfff]")
_BLANK = " \t\r\n"


class TooLargeError(MbuildError):
    """A body beyond the limits."""


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body; raises :class:`TooLargeError` before it takes more than the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(f"the request's body is larger than {limit >> 20} MiB")
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise TooLargeError(f"the request's body is larger than {limit >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


async def read_json(request: Request, body: Body) -> dict[str, Any]:
    """The body's fields, checked; the content type does not matter (curl sends a form's)."""
    data = await read_body(request)
    if len(data) < _MANY:
        return check(body, parse_json(data))
    return await to_thread.run_sync(lambda: check(body, parse_json(data)))


def parse_json(data: bytes) -> Any:
    """The first JSON value of a body, as Go's decoder takes it: what follows is ignored.

    Bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD.
    """
    if len(data) > _MANY and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise TooLargeError(f"the request's body holds more than {MAX_VALUES} values")
    text = data.decode("utf-8", "replace").lstrip(_BLANK)
    if not text:
        raise UsageError("missing request body")
    try:
        value, _ = _DECODER.raw_decode(text)
        return _whole(value) if "\\u" in text else value
    except json.JSONDecodeError as error:
        raise UsageError(_syntax(error, text)) from None
    except RecursionError:
        raise UsageError("json: exceeded max depth") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UsageError(f"json: {str(error).partition(';')[0]}") from None


def _constant(name: str) -> NoReturn:
    raise UsageError(f"invalid character {name[0]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(parse_constant=_constant)


def _syntax(error: json.JSONDecodeError, text: str) -> str:
    if error.pos >= len(text.rstrip(_BLANK)) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {text[error.pos]!r} in JSON: {error.msg.lower()}"


def _whole(value: Any) -> Any:
    """The value without halves of surrogate pairs, which no file can hold."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def model_name(fields: dict[str, Any]) -> str:
    """``model``, or ``name`` as older clients spell it; empty where neither is given."""
    return str(fields.get("model") or fields.get("name") or "")


def parse_name(text: str, message: str = "invalid model name") -> ModelName:
    """A model's name; raises :class:`UsageError` with the message for anything else."""
    try:
        return local_name(text)
    except InvalidNameError:
        raise UsageError(message) from None

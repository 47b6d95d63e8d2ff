"""Errors as the API answers them: one table of statuses, one form of text."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION
from mbuild.core.digest import DigestError
from mbuild.core.errors import (
    BusyError,
    CancelledError,
    ForbiddenHostError,
    MbuildError,
    ModelfileError,
    NameNotFoundError,
    SourceError,
    StoreError,
    UsageError,
)
from mbuild.core.names import InvalidNameError
from mbuild.core.patterns import regex
from mbuild.quant.choose.options import OPTIONS
from mbuild.runtime.failure import (
    CannotError,
    EngineError,
    NoEngineError,
    QueueFullError,
    RequestError,
)
from mbuild.server.requests import TooLargeError

if TYPE_CHECKING:
    from pathlib import Path


class UnsupportedHereError(MbuildError):
    """Something that Ollama's API has and this server does not do."""


class UnauthorizedError(MbuildError):
    """The token is missing or wrong."""


class UpstreamError(MbuildError):
    """The server that requests are forwarded to cannot be reached."""


class RegistryAnswerError(MbuildError):
    """What a request to ``/v2/`` names is not here; ``code`` is the OCI's word for that."""

    code = "UNKNOWN"


class NoManifestError(RegistryAnswerError):
    """No model has that tag or digest."""

    code = "MANIFEST_UNKNOWN"


class NoBlobError(RegistryAnswerError):
    """No model of the repository needs such a blob."""

    code = "BLOB_UNKNOWN"


class NoRepositoryError(RegistryAnswerError):
    """No model has that name."""

    code = "NAME_UNKNOWN"


class ReadOnlyError(RegistryAnswerError):
    """A push to a server that only lets pull."""

    code = "UNSUPPORTED"


class NoUploadError(RegistryAnswerError):
    """No upload of that name is unfinished."""

    code = "BLOB_UPLOAD_UNKNOWN"


class BadDigestError(RegistryAnswerError):
    """A digest that is none, or not that of the bytes."""

    code = "DIGEST_INVALID"


class BadRangeError(RegistryAnswerError):
    """A part of an upload that begins where the upload is not."""

    code = "RANGE_INVALID"


class BadManifestError(RegistryAnswerError):
    """A manifest that the store cannot hold."""

    code = "MANIFEST_INVALID"


class NoRoomError(MbuildError):
    """The disk has less room than a request announces to send."""


STATUS: dict[type[MbuildError], int] = {
    TooLargeError: 413,
    UnauthorizedError: 401,
    ReadOnlyError: 405,
    BadDigestError: 400,
    BadManifestError: 400,
    BadRangeError: 416,
    RegistryAnswerError: 404,
    ForbiddenHostError: 403,
    NameNotFoundError: 404,
    UnsupportedHereError: 501,
    NoEngineError: 501,
    QueueFullError: 503,
    RequestError: 400,
    CannotError: 400,
    EngineError: 500,
    UpstreamError: 502,
    CancelledError: 503,
    BusyError: 503,
    NoRoomError: 507,
    UsageError: 400,
    ModelfileError: 400,
    SourceError: 400,
    DigestError: 400,
    InvalidNameError: 400,
    StoreError: 500,
    MbuildError: 500,
}
"""The status of each kind of error; the first that fits counts."""


MAX_PROBLEMS = 20
"""Problems that one answer names."""


def status_of(error: MbuildError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


_TABLES = (OPTIONS, SPLITTING, CONVERSION, HALVES)
_FIELDS = {
    "--quantize": "quantize",
    "--draft-quantize": "draft_quantize",
    **{row.flag: row.name for table in _TABLES for row in table.values()},
}
"""The fields of a request that stand for options of the command line."""

_FLAG = regex(
    r"(?<![\w-])(?<!mlx_lm.fuse )(?<!mlx_lm.convert )(--[a-z][a-z0-9-]*)"
    r"( (?:TYPE|FILE|SIZE|NAME|N|REGEX=TYPE)\b)?"
)


def in_fields(text: str) -> str:
    """A sentence that names options, in a request's words: ``'imatrix'`` for ``--imatrix FILE``.

    An option that no request has is named with its command.
    """

    def said(found: re.Match[str]) -> str:
        flag, value = found[1], found[2] or ""
        if flag in _FIELDS:
            return f"'{_FIELDS[flag]}'"
        return f"mbuild build {flag}{value}" if flag in _OF_BUILDS else found[0]

    return _FLAG.sub(said, text)


_OF_BUILDS = ("--outtype", "--pre")


def text_of(error: MbuildError) -> str:
    """What the ``error`` key says: the message, and the remedy where there is one."""
    return in_fields(_text_of(error))


def _text_of(error: MbuildError) -> str:
    if isinstance(error, ModelfileError):
        texts = [
            f"{problem.message} ({problem.suggestion})" if problem.suggestion else problem.message
            for problem in error.problems[:MAX_PROBLEMS]
        ]
        more = len(error.problems) - MAX_PROBLEMS
        return "; ".join([*texts, f"and {more} more problems"] if more > 0 else texts)
    return f"{error.message} ({error.hint})" if error.hint else error.message


class Scrubber:
    """Takes the machine's paths out of texts that leave it."""

    def __init__(self, root: Path) -> None:
        spellings = {str(root.absolute()), os.path.realpath(root)}
        home = os.path.expanduser("~")
        names = [(spelling, "<store>") for spelling in spellings]
        if len(home) > 1:
            names.append((home, "<home>"))
        self._names = sorted(names, key=lambda pair: -len(pair[0]))

    def __call__(self, text: str) -> str:
        """The text with the store's folder and the user's home replaced."""
        for path, word in self._names:
            if len(path) > 1:
                text = text.replace(path, word)
        return text

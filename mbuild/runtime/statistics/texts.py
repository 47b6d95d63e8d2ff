"""Texts that models are measured on and importances are computed on."""

from __future__ import annotations

import codecs

from mbuild.core.errors import SourceError

MAX_TEXT = 256 << 20
"""Bytes of the longest text."""

_PIECE = 1 << 20  # bytes that are decoded at once
_GGUF = b"GGUF"


def too_long(name: str) -> SourceError:
    """The error about a text of more than :data:`MAX_TEXT` bytes."""
    return SourceError(f"{name} is longer than {MAX_TEXT >> 20} MiB", hint="give a part of it")


def check_text(name: str, data: bytes) -> None:
    """Raise :class:`SourceError` for what is no text in UTF-8.

    The engine would take the bytes of a binary file for words and compute something, or end
    without a reason that a person could use.
    """
    if data.startswith(_GGUF):
        raise SourceError(
            f"{name} is a GGUF file, not a text",
            hint="name a text; a build takes a finished importance matrix by --imatrix FILE",
        )
    zero = data.find(0)
    if zero >= 0:
        raise SourceError(
            f"{name} is not a text: its byte {zero:,} is zero",
            hint="iconv -f utf-16 -t utf-8 FILE converts a text in UTF-16",
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, start + _PIECE >= len(data))
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{name} is not UTF-8 at byte {start - held + error.start:,}",
                hint="iconv -f latin1 -t utf-8 FILE converts it, or iconv -c -t utf-8 FILE leaves"
                " out what is wrong",
            ) from None

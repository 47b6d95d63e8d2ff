"""Digests: parsed once at the edge, never bare strings inside."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from mbuild.core.errors import MbuildError

BLAKE3 = "blake3"

_HEX = frozenset("0123456789abcdef")


class DigestError(MbuildError):
    """A text that is not a sha256 digest."""


def hashing(algorithm: str) -> Any:
    """An object that is fed with ``update()`` and asked for the ``hexdigest()``."""
    if algorithm == BLAKE3:
        from blake3 import blake3

        return blake3()
    return hashlib.new(algorithm)


class Digest(NamedTuple):
    """The SHA-256 of some bytes, or the BLAKE3 of a file that is only read.

    ``hex`` is 64 lower-case hexadecimal digits. Written ``sha256:<hex>`` in
    JSON and on screens, ``sha256-<hex>`` as a file name (Ollama's layout).
    """

    hex: str
    algorithm: str = "sha256"

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Read either spelling of a SHA-256; raises :class:`DigestError` for anything else.

        Upper-case hexadecimal is refused: two spellings of one digest would be
        two files.
        """
        if isinstance(text, str) and len(text) == 71 and text[:7] in ("sha256:", "sha256-"):
            digits = text[7:]
            if _HEX.issuperset(digits):
                return cls(digits)
        raise DigestError("invalid digest format")

    @classmethod
    def parse_any(cls, text: str) -> Digest:
        """Read what ``str()`` gave of a digest of either kind; raises :class:`DigestError`."""
        if text.startswith(f"{BLAKE3}:"):
            return cls.parse(text.replace(BLAKE3, "sha256", 1))._replace(algorithm=BLAKE3)
        return cls.parse(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of bytes that are in memory."""
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def filename(self) -> str:
        """The name of the blob's file under ``blobs/``."""
        return f"{self.algorithm}-{self.hex}"

    @property
    def short(self) -> str:
        """The first 12 digits, as ``ollama list`` and ``docker images`` show ids."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

"""Digests: parsed once at the edge, never bare strings inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import MbuildError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from hashlib import sha256 as sha256

    from typing_extensions import Buffer
else:
    # For texts. Python's own, as its module random has it: loading OpenSSL, which hashes
    # files several times faster, takes 2 ms.
    try:
        from _sha2 import sha256
    except ImportError:  # before 3.12
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

SHA256, BLAKE3 = "sha256", "blake3"

_HEX = frozenset("0123456789abcdef")
_LONG = 1 << 18
"""Bytes that take Python's own SHA-256 longer than OpenSSL takes to be loaded and hash them."""


class DigestError(MbuildError):
    """A text that is not a sha256 digest."""


def hashing(algorithm: str) -> Any:
    """An object that is fed with ``update()`` and asked for the ``hexdigest()``."""
    if algorithm == BLAKE3:
        from blake3 import blake3

        return blake3()
    import hashlib

    return hashlib.new(algorithm)


class Digest(NamedTuple):
    """The SHA-256 of some bytes, which names them in the store, or their BLAKE3, for keys.

    ``hex`` is 64 lower-case hexadecimal digits. Written ``sha256:<hex>`` in
    JSON and on screens, ``sha256-<hex>`` as a file name (Ollama's layout).
    """

    hex: str
    algorithm: str = SHA256

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Read either spelling of a SHA-256; raises :class:`DigestError` for anything else.

        Upper-case hexadecimal is refused: two spellings of one digest would be
        two files.
        """
        if isinstance(text, str) and text[:7] in ("sha256:", "sha256-"):
            return cls._of_digits(text[7:], SHA256)
        raise DigestError("invalid digest format")

    @classmethod
    def parse_any(cls, text: str) -> Digest:
        """Read what ``str()`` gave of a digest of either kind; raises :class:`DigestError`."""
        algorithm, colon, digits = text.partition(":")
        if colon and algorithm == BLAKE3:
            return cls._of_digits(digits, BLAKE3)
        return cls.parse(text)

    @classmethod
    def _of_digits(cls, digits: str, algorithm: str) -> Digest:
        if len(digits) == 64 and _HEX.issuperset(digits):
            return cls(digits, algorithm)
        raise DigestError("invalid digest format")

    @classmethod
    def of(cls, data: Buffer, algorithm: str = SHA256) -> Digest:
        """The digest of bytes that are in memory."""
        if algorithm == SHA256 and len(data) < _LONG:  # type: ignore[arg-type]
            return cls(sha256(data).hexdigest())
        state = hashing(algorithm)
        state.update(data)
        return cls(state.hexdigest(), algorithm)

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


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no escapes that depend on anything."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

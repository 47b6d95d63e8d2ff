"""What the objects of a shared cache are called, whatever storage they lie on."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import SHA256, Digest, DigestError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.store.records import RecordKind

RECORD, BLOB, LEASE = "record", "blob", "lease"

SERVED = f"{RECORD}/ac"
"""Where a server with bazel-remote's layout keeps what lies below its ``/ac``."""

_DIGITS = regex("[0-9a-f]{64}")
_TABLE = regex(r"[a-z0-9]+(?:[-.][a-z0-9]+)*")


def digits_of(key: str) -> str:
    """64 hexadecimal digits for any key: most keys are digests, and stay as they are."""
    return key if _DIGITS.fullmatch(key) else sha256(key.encode()).hexdigest()


def record_name(kind: RecordKind[Any], key: str) -> str:
    """The object that holds a record."""
    return f"{RECORD}/{kind.table}/{digits_of(key)}"


def blob_name(digest: Digest) -> str:
    """The object whose bytes have a SHA-256; of a piece, where the storage takes it, a BLAKE3."""
    return f"{BLOB}/{digest.filename}"


def lease_name(key: str) -> str:
    """The object that says who is making something."""
    return f"{LEASE}/{digits_of(key)}"


def served_name(name: str) -> str:
    """What ``mbuild serve --cache`` keeps an object as: all but blobs under their names' SHA-256.

    A name that is one of those already stays as it is.
    """
    if digest_of(name) is not None or name.startswith(f"{SERVED}/"):
        return name
    return f"{SERVED}/{sha256(name.encode()).hexdigest()}"


def is_name(name: str) -> bool:
    """Whether an object of that name is one of a shared cache's."""
    space, _, rest = name.partition("/")
    if space == BLOB:
        return content_of(rest) is not None
    if space == LEASE:
        return bool(_DIGITS.fullmatch(rest))
    table, _, digits = rest.partition("/")
    return space == RECORD and bool(_TABLE.fullmatch(table) and _DIGITS.fullmatch(digits))


def digest_of(name: str) -> Digest | None:
    """The SHA-256 in a blob's name; None for any other name."""
    space, _, rest = name.partition("/")
    digest = content_of(rest) if space == BLOB else None
    return digest if digest is not None and digest.algorithm == SHA256 else None


def content_of(filename: str) -> Digest | None:
    """The digest that a blob's file is called by, or a piece's; None for any other name."""
    algorithm, _, digits = filename.partition("-")
    try:
        digest = Digest.parse_any(f"{algorithm}:{digits}")
    except DigestError:
        return None
    return digest if filename == digest.filename else None

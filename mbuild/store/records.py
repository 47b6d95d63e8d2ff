"""Every kind of record that the cache holds, one row each: its key, its value, who may have it.

A record is a pure function of its key unless its row says ``shared=False``: what is true of
one store only, or what somebody wrote, never leaves the store. A value that cannot be
read counts as missing, so a new format needs no more than a new version in its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from mbuild.core.digest import BLAKE3, Digest, DigestError
from mbuild.core.values import NamedTuple

ValueT = TypeVar("ValueT")


class RecordKind(NamedTuple, Generic[ValueT]):
    """A kind of record.

    ``key`` and ``holds`` say in words what its records are found by and what they are.
    ``version`` counts up when ``encode`` gives another text; ``shared`` tells whether a
    cache that several machines use may hold them.
    """

    name: str
    version: int
    key: str
    holds: str
    shared: bool
    encode: Callable[[ValueT], str]
    decode: Callable[[str], ValueT]

    @property
    def table(self) -> str:
        """What a cache files these records under: the name, from the second version on with it."""
        return self.name if self.version == 1 else f"{self.name}.{self.version}"

    def read(self, text: str | None) -> ValueT | None:
        """The value that a text stands for; None for no text, and for one of another form."""
        if text is None:
            return None
        try:
            return self.decode(text)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, DigestError):
            return None


_LARGEST_FILE = 1 << 63
_LONGEST = 1e7  # seconds
_MOST_CORES = 1 << 16


class RangePlace(NamedTuple):
    """Where the bytes of a quantized range lie: in which file of the store, and their BLAKE3.

    ``path`` is below the store's root, with ``/``: that of a blob, or of a file that a
    killed build left unfinished. ``offset`` and ``size`` are bytes.
    """

    path: str
    offset: int
    size: int
    digest: Digest

    def encode(self) -> str:
        """The place as its record holds it."""
        return json.dumps([self.path, self.offset, self.size, self.digest.hex])

    @classmethod
    def decode(cls, text: str) -> RangePlace:
        """Read :meth:`encode`'s text; raises ValueError or TypeError for anything else."""
        path, offset, size, digest = json.loads(text)
        if type(path) is not str or type(offset) is not int or type(size) is not int:
            raise ValueError("no place")
        place = cls(path, offset, size, _blake3(digest))
        if not 0 <= place.offset <= place.offset + place.size < _LARGEST_FILE:
            raise ValueError("no range of bytes")
        return place


class Took(NamedTuple):
    """What a step took: seconds, on so many cores."""

    seconds: float
    cores: int

    def encode(self) -> str:
        """As its record holds it."""
        return json.dumps([round(self.seconds, 3), self.cores])

    @classmethod
    def decode(cls, text: str) -> Took:
        """Read :meth:`encode`'s text; raises ValueError or TypeError for anything else."""
        seconds, cores = json.loads(text)
        if type(cores) is not int or type(seconds) not in (int, float):
            raise ValueError("no time")
        if not (0 <= seconds < _LONGEST and 0 < cores <= _MOST_CORES):
            raise ValueError("no time that a step takes")
        return cls(float(seconds), cores)


def _rates(text: str) -> list[list[float]]:
    """Pairs of bytes and seconds."""
    rows = _array(text)
    for row in rows:
        size, seconds = row
        if not (size > 0 and seconds > 0):
            raise ValueError("no rate")
    return rows


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _array(text: str) -> list[Any]:
    value = json.loads(text)
    if not isinstance(value, list):
        raise ValueError("not a JSON array")
    return value


def _blake3(digits: str) -> Digest:
    """A digest of which only the digits are recorded, all of them being BLAKE3."""
    return Digest.parse_any(f"{BLAKE3}:{digits}")


def _commit(text: str) -> str:
    if len(text) != 40 or not set(text) <= set("0123456789abcdef"):
        raise ValueError("not a commit of git")
    return text


def _nothing(text: str) -> bool:
    return True


# The rows.

STEP: RecordKind[str] = RecordKind(
    "step", 1, "a step's key", "its result: layers and facts, as JSON", True, str, str
)
DESCRIPTION: RecordKind[Mapping[str, Any]] = RecordKind(
    "description", 1, "a step's key", "what was hashed for the key", True, _json, _object
)
PLACE: RecordKind[RangePlace] = RecordKind(
    "range",
    1,
    "a quantized range's key, a space and a path",
    "where in that file its bytes lie",
    True,
    RangePlace.encode,
    RangePlace.decode,
)
SOURCE_RANGES: RecordKind[dict[str, Digest]] = RecordKind(
    "source-ranges",
    1,
    "the digest of what an unquantized model is made of",
    "the digests of its tensors' ranges, by the first byte and the tensor's name",
    True,
    lambda digests: _json({name: digest.hex for name, digest in digests.items()}),
    lambda text: {name: _blake3(digits) for name, digits in _object(text).items()},
)
SOURCE_RANGE: RecordKind[Digest] = RecordKind(
    "source-range",
    1,
    "the digest of an origin's fields and of a range of one of its tensors",
    "the digest of that range's bytes",
    True,
    lambda digest: digest.hex,
    _blake3,
)
PART_READ: RecordKind[dict[str, Any]] = RecordKind(
    "part-read",
    1,
    "the digest of names, sizes and options of a source, a space and a part's number",
    "what that part has read of it: what that adds to its files' digests, its ranges' digests",
    True,
    _json,
    _object,
)
RECIPE: RecordKind[list[Any]] = RecordKind(
    "recipe",
    1,
    "the digest of a Modelfile, its name and the program's version",
    "what it asks for, and warnings",
    True,
    _json,
    _array,
)
CHAT_TEMPLATE: RecordKind[list[Any]] = RecordKind(
    "chat-template",
    2,
    "the digest of a chat template, its tokens and the program's version",
    "the Go template that renders the same: name, text and stop texts; of none nothing",
    True,
    _json,
    _array,
)
GGUF_KIND: RecordKind[str] = RecordKind(
    "gguf-kind", 1, "a GGUF file's digest", "model, projector or adapter", True, str, str
)
SHARD: RecordKind[list[int]] = RecordKind(
    "shard",
    1,
    "a GGUF file's digest",
    "which of how many shards it is, from 0; nothing for a whole file",
    True,
    _json,
    _array,
)
MEASURE: RecordKind[dict[str, Any]] = RecordKind(
    "measure",
    1,
    "the digest of models, a text and the engine",
    "what was measured",
    True,
    _json,
    _object,
)
IMATRIX: RecordKind[dict[str, Any]] = RecordKind(
    "imatrix",
    1,
    "the digest of a model, a text and the engine",
    "the digest of the importance matrix, and what is in it",
    True,
    _json,
    _object,
)
TYPE_ERROR: RecordKind[list[Any]] = RecordKind(
    "type-error",
    1,
    "the digest of some rows of a tensor, of their importances, and a type",
    "the squares of the type's errors, and of the values: two sums",
    True,
    _json,
    _array,
)
TOOK: RecordKind[Took] = RecordKind(
    "took", 1, "a step's key", "how long it took whoever made it", True, Took.encode, Took.decode
)
RATES: RecordKind[list[list[float]]] = RecordKind(
    "rates",
    1,
    "a kind of step, and the type that it makes",
    "its last runs on this machine: bytes made, and seconds, those of all cores if it takes all",
    False,
    _json,
    _rates,
)
MODELFILE: RecordKind[bytes] = RecordKind(
    "modelfile",
    1,
    "a Modelfile's digest",
    "its bytes",
    False,
    lambda data: data.decode("latin-1"),
    lambda text: text.encode("latin-1"),
)
POSTED: RecordKind[str] = RecordKind(
    "posted", 1, "the digest of a recipe's JSON", "what a request to the API asked", False, str, str
)
TEXT: RecordKind[str] = RecordKind(
    "text", 1, "the digest of a small JSON file", "its text", False, str, str
)
MANIFEST: RecordKind[bytes] = RecordKind(
    "manifest",
    1,
    "a model's id",
    "the bytes of its manifest, which outlive its name",
    False,
    lambda data: data.decode("utf-8", "replace"),
    str.encode,
)
MADE: RecordKind[bool] = RecordKind(
    "made", 1, "a blob's digest", "that a step made it", False, lambda _: "", _nothing
)
CONTENT: RecordKind[bool] = RecordKind(
    "content",
    1,
    "size and digest of a file",
    "that such a file was read",
    False,
    lambda _: "",
    _nothing,
)
ALIAS: RecordKind[Digest] = RecordKind(
    "alias",
    1,
    "the SHA-256 or the BLAKE3 of a content",
    "its other digest: what one side knows it by leads to what the other does",
    True,
    str,
    Digest.parse_any,
)
HUB_COMMIT: RecordKind[str] = RecordKind(
    "hub-commit",
    1,
    "a repository of the Hub, @ and a branch or a tag",
    "the commit that it was when the Hub was asked last",
    False,
    str,
    _commit,
)
HUB_LISTING: RecordKind[dict[str, Any]] = RecordKind(
    "hub-listing",
    1,
    "a repository of the Hub, @ and a commit",
    "its files: names, sizes and digests",
    False,
    _json,
    _object,
)
GIT_CONTENT: RecordKind[Digest] = RecordKind(
    "git-content",
    1,
    "git's name of a content: the SHA-1 of it and a head",
    "the content's SHA-256",
    True,
    str,
    Digest.parse,
)
MODEL_CARD: RecordKind[Digest] = RecordKind(
    "model-card",
    1,
    "the SHA-256 of a README.md",
    "that of its front matter",
    True,
    str,
    Digest.parse,
)
REMOTE_MODEL: RecordKind[Digest] = RecordKind(
    "remote-model",
    1,
    "a model in a registry, by its tag",
    "the id that it had when the registry was asked last",
    False,
    str,
    Digest.parse,
)
ADOPTED: RecordKind[Digest] = RecordKind(
    "adopted",
    1,
    "the digest of another tool's manifest and the program's version",
    "the id of the model that its files became",
    False,
    str,
    Digest.parse,
)
REPOSITORY: RecordKind[str] = RecordKind(
    "repository", 1, "a registry's host and a digest", "where that blob was last", False, str, str
)
REMOTE_SIZE: RecordKind[int] = RecordKind(
    "remote-size", 1, "a content's SHA-256", "how many bytes it has", True, str, int
)

RECORDS: tuple[RecordKind[Any], ...] = (
    STEP,
    DESCRIPTION,
    PLACE,
    SOURCE_RANGES,
    SOURCE_RANGE,
    PART_READ,
    RECIPE,
    CHAT_TEMPLATE,
    GGUF_KIND,
    SHARD,
    MEASURE,
    IMATRIX,
    TYPE_ERROR,
    TOOK,
    RATES,
    MODELFILE,
    POSTED,
    TEXT,
    MANIFEST,
    MADE,
    CONTENT,
    ALIAS,
    HUB_COMMIT,
    HUB_LISTING,
    GIT_CONTENT,
    MODEL_CARD,
    REMOTE_MODEL,
    ADOPTED,
    REPOSITORY,
    REMOTE_SIZE,
)
"""All of them; ``tests/store/test_records.py`` holds that none is missing."""

"""What parts have read of a source, handed to the build that assembles them.

A part (``--part i/n``) reads its share, so it knows its ranges' digests, and not whose they are:
nobody has read whole files. It says what its share adds to each file's digest, too. Whoever
assembles has read the files for their digests. Where all shares together make up these digests,
the parts have read these very files, and no range has to be read again to be found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbuild.build.sources.spans import SpanPart, Spans, read_missing
from mbuild.build.sources.values import README
from mbuild.build.steps.origins import CheckpointOrigin, GGUFOrigin
from mbuild.build.steps.ranges import RANGE
from mbuild.build.steps.weights import CONVERTER_VERSION
from mbuild.core.digest import BLAKE3, Digest, DigestError, canonical_json
from mbuild.core.values import NamedTuple
from mbuild.quant.compiled.chunks import why_unavailable
from mbuild.store.copying import hash_file
from mbuild.store.records import PART_READ

if TYPE_CHECKING:
    from mbuild.build.steps.origins import Origin
    from mbuild.gguf.files import Seen
    from mbuild.store.copying import OpenFile
    from mbuild.store.shared import SharedCache

LARGE = 32 << 20
"""Bytes of a file of which a part reads its share alone; others it digests as they are."""

_MOST_PARTS = 10_000
_REST = 8  # at most one byte in so many is read here because no part has read it


def key_of(origin: Origin) -> str:
    """What parts of one source have in common, and know without reading it; "" for no such one.

    Names, sizes and options: another source may have the same, so it proves nothing.
    """
    if not isinstance(origin, CheckpointOrigin | GGUFOrigin):
        return ""
    sizes = {name: file.stamp.size for name, file in origin.files.items() if name != README}
    options = origin.options.fields() if isinstance(origin, CheckpointOrigin) else {}
    value = ["part", sizes, dict(options), RANGE, CONVERTER_VERSION]
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Share(NamedTuple):
    """What one of ``parts`` has read: spans of large files, all of small ones, its ranges."""

    parts: int
    spans: Mapping[str, Sequence[SpanPart]]
    files: Mapping[str, Digest]
    ranges: Mapping[str, Digest]

    def to_json(self) -> dict[str, Any]:
        """As its record holds it."""
        spans = {name: [_written(part) for part in parts] for name, parts in self.spans.items()}
        files = {name: digest.hex for name, digest in self.files.items()}
        ranges = {name: digest.hex for name, digest in self.ranges.items()}
        return {"parts": self.parts, "spans": spans, "files": files, "ranges": ranges}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Share:
        """Read :meth:`to_json`'s value; raises ValueError, TypeError or KeyError for no such."""
        return cls(
            int(value["parts"]),
            {name: [_read(row) for row in rows] for name, rows in value["spans"].items()},
            {name: Digest(digits, BLAKE3) for name, digits in value["files"].items()},
            {name: Digest(digits, BLAKE3) for name, digits in value["ranges"].items()},
        )


def _written(part: SpanPart) -> list[Any]:
    nodes = [[level, place, value.tobytes().hex()] for level, place, value in part.nodes]
    return [part.start, part.stop, nodes, [[start, odd.hex()] for start, odd in part.odd]]


def _read(row: Sequence[Any]) -> SpanPart:
    start, stop, nodes, odd = row
    values = tuple(
        (int(level), int(place), np.frombuffer(bytes.fromhex(digits), np.uint8))
        for level, place, digits in nodes
    )
    return SpanPart(
        int(start), int(stop), values, tuple((int(at), bytes.fromhex(data)) for at, data in odd)
    )


class PartReading:
    """Watches what a part reads of an origin's large files; thread-safe."""

    def __init__(self, origin: Origin) -> None:
        files = origin.files if key_of(origin) and why_unavailable() is None else {}
        self._spans = {
            name: Spans(file.stamp.size) for name, file in files.items() if file.stamp.size >= LARGE
        }
        self.seen: dict[str, Seen] = {name: spans.add for name, spans in self._spans.items()}
        self._key = key_of(origin)
        self._small = [name for name in files if name not in self._spans and name != README]

    def tell(
        self,
        shared: SharedCache,
        part: tuple[int, int],
        files: Mapping[str, OpenFile],
        ranges: Mapping[str, Digest],
    ) -> None:
        """Say what was read: by part ``(i, n)``, whose ``files`` are open, of these ``ranges``."""
        if not self._spans:
            return
        number, parts = part
        small = {
            name: hash_file(files[name].fd, files[name].size, _nobody, BLAKE3)
            for name in self._small
        }
        spans = {name: list(each.parts()) for name, each in self._spans.items()}
        shared.put(PART_READ, f"{self._key} {number}", Share(parts, spans, small, ranges).to_json())


def _nobody(done: int, total: int) -> None:
    """Hears of progress."""


def digests_by_parts(
    origin: Origin, shared: SharedCache | None, files: Mapping[str, OpenFile]
) -> dict[str, Digest]:
    """The digests of an origin's ranges that parts found, if they have read these very files.

    ``files`` are the origin's, open, by their paths; their digests are known.
    """
    key = key_of(origin)
    if not key or shared is None or not shared.reads or why_unavailable() is not None:
        return {}
    own = {name: file for name, file in origin.files.items() if name != README}
    try:
        shares = _shares(shared, key)
        if not shares or not all(
            _agrees(shares, name, file.digest, files[str(file.path)]) for name, file in own.items()
        ):
            return {}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, DigestError):
        return {}  # no words of a part
    return {name: digest for share in shares for name, digest in share.ranges.items()}


def _shares(shared: SharedCache, key: str) -> list[Share]:
    """What all parts say; nothing where one has not ended."""
    keys = [f"{key} 1"]
    found = shared.get_many(PART_READ, keys)
    if keys[0] in found:
        parts = min(Share.from_json(found[keys[0]]).parts, _MOST_PARTS)
        keys += [f"{key} {number}" for number in range(2, parts + 1)]
        found = shared.get_many(PART_READ, keys)
    return [Share.from_json(found[each]) for each in keys] if len(found) == len(keys) else []


def _agrees(shares: Sequence[Share], name: str, digest: Digest | None, file: OpenFile) -> bool:
    """Whether what the shares say of a file makes up its digest."""
    if file.size < LARGE:
        return all(share.files[name] == digest for share in shares)
    spans = Spans(file.size)
    for share in shares:
        for part in share.spans[name]:
            spans.absorb(part)
    if sum(stop - start for start, stop in spans.missing()) > file.size // _REST:
        return False
    read_missing({name: (file, spans)}, _nobody)
    return spans.digest() == digest

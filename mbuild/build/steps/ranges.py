"""Ranges of rows: how tensors are cut into them, and where quantized ones are found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mbuild.build.graph import canonical_json
from mbuild.core.digest import BLAKE3, Digest
from mbuild.gguf.model import InPieces, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.quantize import SOURCES, VERSION
from mbuild.store.records import SOURCE_RANGES, RangePlace

if TYPE_CHECKING:
    from mbuild.build.steps.origins import Origin
    from mbuild.quant.choose.imatrix import Imatrix
    from mbuild.store.ports import BuildStore

RANGE = 16 << 20
"""Bytes of a source tensor that are worked on at once: some hundredths of a second's work."""

Array = np.ndarray[Any, np.dtype[Any]]


class Range(NamedTuple):
    """Some rows of a source tensor, the unit of work.

    ``number`` is the tensor's; ``first`` and ``size`` are bytes of the tensor, whole rows
    of it; ``load`` gives them. ``last`` tells that the tensor ends here. Where the tensor is
    several matrices (experts), a range lies within one of them or is some whole ones.
    """

    number: int
    tensor: Tensor
    load: Callable[[], Any]
    first: int
    size: int
    last: bool

    @property
    def rows(self) -> tuple[int, int]:
        """The first row and how many there are."""
        row = row_bytes(self.tensor)
        return self.first // row, self.size // row


def ranges_of(number: int, tensor: Tensor) -> Iterator[Range]:
    """A tensor's ranges in order: of about :data:`RANGE` bytes, as far as it can be cut."""
    pieces = list(_pieces(tensor))
    if not pieces:
        yield Range(number, tensor, tensor.load, 0, tensor.nbytes, last=True)
    for place, (first, piece) in enumerate(pieces, start=1):
        yield Range(number, tensor, piece, first, piece.count, last=place == len(pieces))


def _pieces(tensor: Tensor) -> Iterator[tuple[int, InPieces]]:
    """Loads of a tensor's parts and where they begin: cut at matrices, then at rows."""
    if not isinstance(tensor.load, InPieces) or not tensor.nbytes:
        return
    row = row_bytes(tensor)
    matrix = row * tensor.dims[1] if len(tensor.dims) > 2 else tensor.nbytes
    at = 0
    for whole in tensor.load.pieces(matrix, matrix):
        for piece in whole.pieces(RANGE, row):
            yield at, piece
            at += piece.count


def room_for(part: Range, types: Iterable[GGMLType]) -> int:
    """Bytes that a range takes while it is worked on: its source, and a result of each type."""
    source, (_, rows) = part.tensor.type, part.rows
    changed = {new for new in types if new is not source}
    size = part.size + sum(rows * bytes_of_row(part.tensor, new) for new in changed)
    if changed and source not in SOURCES:
        size += rows * bytes_of_row(part.tensor, GGMLType.F32)
    return size


class MadeRange(NamedTuple):
    """One variant's result of a range; without a key it is the source's bytes as they are."""

    data: Any
    key: str = ""
    digest: Digest | None = None
    found: bool = False


class RangeCache:
    """Remembers quantized ranges by what they were made of, and source ranges' digests.

    Digests of ranges never leave this cache, so they are BLAKE3, which takes a third of
    the time that SHA-256 does. What the file's own digest is made of cannot serve for them:
    in that a byte's place in the file counts.

    A range's key is its source bytes' digest, its types, the importances used
    and the kernels' version. Its bytes lie in blobs or in the unfinished file
    of a build that was killed; they count only if their digest is right.
    Without ``read`` nothing is found, only recorded.
    """

    def __init__(
        self, store: BuildStore, origin: Mapping[str, Any] | None, *, read: bool = True
    ) -> None:
        self._store = store
        self._read = read
        self._digests: dict[str, Digest] = {}
        if read and origin is not None:
            known = store.cache.get(SOURCE_RANGES, _key([origin, RANGE]))
            self._digests = dict(known or {})

    def also_from(self, origin: Origin, names: Collection[str]) -> None:
        """Take the digests of some tensors' ranges that another origin has in common with it."""
        fields = origin.fields()
        if not self._read or fields is None:
            return
        known = self._store.cache.get(SOURCE_RANGES, _key([fields, RANGE]))
        for name, digest in (known or {}).items():
            if name.partition(" ")[2] in names:
                self._digests.setdefault(name, digest)

    def source_digest(self, part: Range, load: Callable[[], Array]) -> Digest:
        """The digest of a range's bytes, remembered or from loading it."""
        name = f"{part.first} {part.tensor.name}"
        known = self._digests.get(name)
        if known is None:
            known = digest_of(load())
            self._digests[name] = known
        return known

    def known_source(self, part: Range) -> Digest | None:
        """The digest of a range's bytes, if it is remembered."""
        return self._digests.get(f"{part.first} {part.tensor.name}")

    def note_source(self, part: Range, digest: Digest) -> None:
        """Remember the digest of a range's bytes, which somebody else has read."""
        self._digests[f"{part.first} {part.tensor.name}"] = digest

    def has_places(self, keys: Collection[str]) -> bool:
        """Whether there is a place on record for each of these ranges; its bytes are not read."""
        return self._read and len(self._store.cache.places(keys)) == len(set(keys))

    def remember_sources(
        self,
        origin: Origin,
        files: Mapping[str, Digest],
        names: Collection[str] | None = None,
    ) -> None:
        """Keep the source ranges' digests under the origin's own description.

        With ``names`` only those of some tensors, beside what is kept there already.
        """
        fields = origin.learned(files).fields()
        if fields is None:
            return
        key, found = _key([fields, RANGE]), self._digests
        if names is not None:
            kept = self._store.cache.get(SOURCE_RANGES, key)
            found = dict(kept or {})
            found |= {n: d for n, d in self._digests.items() if n.partition(" ")[2] in names}
        self._store.cache.put(SOURCE_RANGES, key, found)

    def key(self, source: Digest, part: Range, new: GGMLType, importances: Array | None) -> str:
        """The key of one quantized range."""
        weights = None if importances is None else digest_of(importances).hex
        tensor = part.tensor
        made_of = [source.hex, tensor.type.name, new.name, tensor.dims[0], weights, VERSION]
        return _key({"range": made_of})

    def find(self, key: str) -> MadeRange | None:
        """A quantized range, if its bytes are somewhere in the store and undamaged."""
        places = self._store.cache.places([key]).get(key, []) if self._read else []
        for place in places:
            data = self._store.blobs.read_at(place)
            if data is None:
                self._store.cache.drop_place(key, place)
            elif len(data) == place.size and digest_of(data) == place.digest:
                return MadeRange(data, key, place.digest, found=True)
        return None

    def record(self, key: str, place: RangePlace) -> None:
        """Note a place where a quantized range lies, beside others; written by the next flush."""
        self._store.cache.add_place(key, place)

    def flush(self) -> None:
        """Write what was noted."""
        self._store.cache.flush()


def converted_key(origin: Mapping[str, Any], tensor: str, first: int, size: int) -> str:
    """The key of a range of an origin's tensor as it is, before any quantization.

    ``origin`` are :meth:`Origin.fields`, which hold the digests of all files and every option
    of the conversion; ``first`` and ``size`` are bytes of the tensor. The range's digest is
    recorded under it (:data:`mbuild.store.records.SOURCE_RANGE`), and where a worker
    converted it, so is the place of its bytes.
    """
    return _key({"converted": [origin, tensor, first, size]})


def digest_of(data: Array | bytes) -> Digest:
    """The BLAKE3 of an array's bytes in the order of its elements."""
    flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data)
    return Digest.of(flat.reshape(-1).view(np.uint8).data, BLAKE3)


def _key(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def importances_of(part: Range, imatrix: Imatrix | None) -> Array | None:
    """The importances of a range: of a tensor of several matrices those of its own."""
    every = imatrix.of(part.tensor.name, part.tensor.dims) if imatrix else None
    if every is None or len(part.tensor.dims) < 3:
        return every
    table = every.reshape(-1, part.tensor.dims[0])
    if len(table) == 1:
        return every
    rows = int(np.prod(part.tensor.dims[1:])) // len(table)
    first, count = part.rows
    return table[first // rows : -(-(first + count) // rows)].reshape(-1)


def row_bytes(tensor: Tensor) -> int:
    """Bytes of one row of a tensor as it is stored."""
    return bytes_of_row(tensor, tensor.type)


def bytes_of_row(tensor: Tensor, type_: GGMLType) -> int:
    """Bytes of one row of a tensor in another type."""
    block = BLOCKS[type_]
    return tensor.dims[0] // block.weights * block.size

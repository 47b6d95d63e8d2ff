"""Ranges of rows: how tensors are cut into them, and where quantized ones are found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbuild.core.digest import BLAKE3, Digest, canonical_json
from mbuild.core.values import NamedTuple
from mbuild.gguf.model import InPieces, Tensor, held_for
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.quantize import SOURCES, VERSION
from mbuild.store.records import SOURCE_RANGE, SOURCE_RANGES, RangePlace
from mbuild.work.pace import Pace

if TYPE_CHECKING:
    from mbuild.build.steps.origins import Origin
    from mbuild.quant.choose.imatrix import Imatrix
    from mbuild.store.ports import BuildStore
    from mbuild.store.shared import SharedCache

RANGE = 16 << 20
"""Bytes of a source tensor that are worked on at once: some hundredths of a second's work."""

_PATIENCE, _SELDOM = 16, 8
"""After so many questions in vain only every so many-th range is asked for by itself."""

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
    return cut(number, tensor, RANGE)


def cut(number: int, tensor: Tensor, size: int) -> Iterator[Range]:
    """A tensor's ranges of about so many bytes, as far as it can be cut."""
    pieces = list(_pieces(tensor, size))
    if not pieces:
        yield Range(number, tensor, tensor.load, 0, tensor.nbytes, last=True)
    for place, (first, piece) in enumerate(pieces, start=1):
        yield Range(number, tensor, piece, first, piece.count, last=place == len(pieces))


def _pieces(tensor: Tensor, size: int) -> Iterator[tuple[int, InPieces]]:
    """Loads of a tensor's parts and where they begin: cut at matrices, then at rows."""
    if not isinstance(tensor.load, InPieces) or not tensor.nbytes:
        return
    row = row_bytes(tensor)
    matrix = row * tensor.dims[1] if len(tensor.dims) > 2 else tensor.nbytes
    at = 0
    for whole in tensor.load.pieces(matrix, matrix):
        for piece in whole.pieces(size, row):
            yield at, piece
            at += piece.count


def room_for(part: Range, types: Iterable[GGMLType]) -> int:
    """Bytes that a range takes while it is worked on: its source, and each result in turn."""
    source, (_, rows) = part.tensor.type, part.rows
    changed = [new for new in types if new is not source]
    size = held_for(part.size) + sum(rows * bytes_of_row(part.tensor, new) for new in changed)
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
    What other machines have is asked for together, before the work begins (:meth:`ask`).
    Without ``read`` nothing is found, only recorded.
    """

    def __init__(
        self, store: BuildStore, origin: Mapping[str, Any] | None, *, read: bool = True
    ) -> None:
        self._store = store
        self._read = read
        self._shared = store.shared
        self._far: dict[str, RangePlace] = {}
        self._asked: set[str] = set()
        self._late = self._misses = 0
        self._made = Pace()
        self._new: dict[str, RangePlace] = {}
        self._digests: dict[str, Digest] = {}
        self._origin = origin
        if read and origin is not None:
            self._digests = dict(self._known(origin))

    def _known(self, origin: Mapping[str, Any]) -> Mapping[str, Digest]:
        """The digests of an origin's ranges, as this machine or another one has found them."""
        key = _key([origin, RANGE])
        known = self._store.cache.get(SOURCE_RANGES, key)
        if known is None and self._shared is not None:
            known = self._shared.get_many(SOURCE_RANGES, [key]).get(key)
        return known or {}

    def ask(self, wanted: Sequence[tuple[Range, GGMLType, Imatrix | None]]) -> None:
        """Learn where other machines have what will be needed: ranges, their types, importances."""
        if self._shared is None or not self._read or not self._shared.reads:
            return
        if self._origin is not None:
            names = {
                converted_key(self._origin, part.tensor.name, part.first, part.size): _name(part)
                for part, _, _ in wanted
                if _name(part) not in self._digests
            }
            found = self._shared.get_many(SOURCE_RANGE, list(names)) if names else {}
            self._digests |= {names[key]: digest for key, digest in found.items()}
        keys = {
            self.key(self._digests[_name(part)], part, new, importances_of(part, imatrix))
            for part, new, imatrix in wanted
            if new is not part.tensor.type and _name(part) in self._digests
        }
        self._asked = keys
        here = self._store.cache.places(keys)
        self._far = self._shared.places(keys - here.keys())

    def made(self, size: int, seconds: float) -> None:
        """So many bytes of a result took so long here."""
        self._made.add(size, seconds)

    def also_from(self, origin: Origin, names: Collection[str]) -> None:
        """Take the digests of some tensors' ranges that another origin has in common with it."""
        fields = origin.fields()
        if not self._read or fields is None:
            return
        for name, digest in self._known(fields).items():
            if name.partition(" ")[2] in names:
                self._digests.setdefault(name, digest)

    def source_digest(self, part: Range, load: Callable[[], Array]) -> Digest:
        """The digest of a range's bytes, remembered or from loading it."""
        name = _name(part)
        known = self._digests.get(name)
        if known is None:
            known = digest_of(load())
            self._digests[name] = known
        return known

    def known_source(self, part: Range) -> Digest | None:
        """The digest of a range's bytes, if it is remembered."""
        return self._digests.get(_name(part))

    def note_source(self, part: Range, digest: Digest) -> None:
        """Remember the digest of a range's bytes, which somebody else has read."""
        self._digests[_name(part)] = digest

    @property
    def shared(self) -> SharedCache | None:
        """What is asked beside the store's own records."""
        return self._shared

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """The fields of what ranges are of, if its digests are known."""
        return self._origin

    @property
    def sources(self) -> Mapping[str, Digest]:
        """The digests of source ranges that are known, by the ranges' names."""
        return self._digests

    def learn(self, digests: Mapping[str, Digest]) -> None:
        """Take digests of source ranges that others have found, where none is known."""
        if self._read:
            self._digests = {**digests, **self._digests}

    def has_places(self, keys: Collection[str]) -> bool:
        """Whether there is a place on record for each of these ranges; its bytes are not read."""
        far = {key for key in keys if key not in self._far}
        return self._read and len(self._store.cache.places(far)) == len(far)

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
        if self._shared is not None:
            self._shared.put(SOURCE_RANGES, key, found)

    def key(self, source: Digest, part: Range, new: GGMLType, importances: Array | None) -> str:
        """The key of one quantized range."""
        weights = None if importances is None else digest_of(importances).hex
        tensor = part.tensor
        made_of = [source.hex, tensor.type.name, new.name, tensor.dims[0], weights, VERSION]
        return _key({"range": made_of})

    def find(self, key: str, size: int) -> MadeRange | None:
        """A quantized range of so many bytes, if it is in the store, or comes soon, undamaged."""
        places = self._store.cache.places([key]).get(key, []) if self._read else []
        for place in places:
            data = self._store.blobs.read_at(place)
            if data is None:
                self._store.cache.drop_place(key, place)
            elif len(data) == place.size and digest_of(data) == place.digest:
                return MadeRange(data, key, place.digest, found=True)
        far = self._far.get(key) or self._found_late(key)
        if far is None or far.size != size or self._shared is None:
            return None
        if not self._shared.piece_pays(size, self._made.seconds(size)):
            return None
        data = self._shared.read_piece(far)
        return None if data is None else MadeRange(data, key, far.digest, found=True)

    def find_sent(self, key: str, size: int) -> MadeRange | None:
        """A range that another job has sent meanwhile."""
        far = self._shared.places([key], again=True).get(key) if self._shared else None
        if far is None or far.size != size or self._shared is None:
            return None
        data = self._shared.read_piece(far)
        return None if data is None else MadeRange(data, key, far.digest, found=True)

    def _found_late(self, key: str) -> RangePlace | None:
        """Where other machines have a range whose source nobody knew before it was read.

        That is one question for each range: only now and then while the answers are no.
        """
        shared = self._shared
        if shared is None or not self._read or not shared.reads or key in self._asked:
            return None
        self._late += 1
        if self._misses >= _PATIENCE and self._late % _SELDOM:
            return None
        found = shared.places([key]).get(key)
        self._misses = 0 if found else self._misses + 1
        return found

    def record(self, key: str, place: RangePlace) -> None:
        """Note a place where a quantized range lies, beside others; written by the next flush."""
        self._store.cache.add_place(key, place)
        self._new[key] = place

    def flush(self) -> None:
        """Write what was noted; other machines hear of what lies in finished blobs."""
        self._store.cache.flush()
        new, self._new = self._new, {}
        if self._shared is not None:
            self._shared.put_places(new)


def _name(part: Range) -> str:
    """What a source range is called among those of its origin."""
    return f"{part.first} {part.tensor.name}"


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

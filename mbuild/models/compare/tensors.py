"""Tensors of two files: types, shapes, bytes, and how far their values lie apart.

Values are read and dequantized in pieces of a million, so memory does not
depend on the tensors' sizes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UnsupportedError
from mbuild.core.values import NamedTuple
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mbuild.gguf.reader import TensorInfo
    from mbuild.gguf.weights import GGUFWeights

    Progress = Callable[[int, int], None]
    Tick = Callable[[int], None]

PIECE = 1 << 20
"""Values of a piece: a multiple of every type's block."""

_PLAIN = {
    GGMLType.F64: "<f8",
    GGMLType.F32: "<f4",
    GGMLType.F16: "<f2",
    GGMLType.I8: "i1",
    GGMLType.I16: "<i2",
    GGMLType.I32: "<i4",
    GGMLType.I64: "<i8",
}
"""Types that numpy has itself."""


class TensorFacts(NamedTuple):
    """A tensor on one side: type, shape (fastest first), SHA-256 of its bytes ("" if not read)."""

    type: str
    shape: tuple[int, ...]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {"type": self.type, "shape": list(self.shape), "digest": self.digest}


class TensorDiff(NamedTuple):
    """A tensor that differs; ``old`` or ``new`` is None where the side has none of the name.

    ``error`` is the relative RMS error of the new values, the root of
    sum((new - old)^2) / sum(old^2); None where ``note`` says why there is none.
    """

    name: str
    old: TensorFacts | None
    new: TensorFacts | None
    error: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {
            "name": self.name,
            "old": self.old.to_json() if self.old else None,
            "new": self.new.to_json() if self.new else None,
            "relative_rms_error": self.error,
            "note": self.note,
        }


def compare_tensors(
    old: GGUFWeights,
    new: GGUFWeights,
    *,
    values: bool = True,
    progress: Progress = lambda done, total: None,
) -> list[TensorDiff]:
    """The tensors that differ, in the old file's order, then those that only the new one has.

    Without ``values`` only types and shapes are compared and no data is read.
    ``progress`` gets bytes read and bytes in all, from the calling thread.
    """
    news = {tensor.name: tensor for tensor in new.tensors}
    pairs = [(tensor, news.pop(tensor.name, None)) for tensor in old.tensors]
    sizes = [a.nbytes + (b.nbytes if b else 0) for a, b in pairs]
    total = sum(sizes) + sum(tensor.nbytes for tensor in news.values())

    def look(pair: _Pair, part: Part) -> TensorDiff | None:
        return _compare((old, pair[0]), (new, pair[1]), values, part.add)

    both: list[_Pair] = [*pairs, *((None, tensor) for tensor in news.values())]
    found = spread(look, both, total, progress, name="mbuild-diff")
    return [diff for diff in found if diff is not None]


_Pair = tuple["TensorInfo | None", "TensorInfo | None"]
_Place = tuple["GGUFWeights", "TensorInfo | None"]
_There = tuple["GGUFWeights", "TensorInfo"]


def _compare(a: _Place, b: _Place, values: bool, tick: Tick) -> TensorDiff | None:
    (old_file, first), (new_file, second) = a, b
    if values and first is not None and second is not None and first.dims == second.dims:
        return _read_once((old_file, first), (new_file, second), tick)
    old, new = _facts(*a, values, tick), _facts(*b, values, tick)
    if old == new:
        return None
    note = "other shape" if old is not None and new is not None and old.shape != new.shape else ""
    return TensorDiff((first or second).name, old, new, note=note)  # type: ignore[union-attr]


def _read_once(a: _There, b: _There, tick: Tick) -> TensorDiff | None:
    """The difference of two tensors of one shape, digested and compared piece by piece.

    Values cost more than digests, so they wait for the first byte that differs. What was read
    before it is read again: mostly that is nothing.
    """
    digests = hashlib.sha256(), hashlib.sha256()
    differ = a[1].type is not b[1].type
    error = _ErrorSum(a[1], b[1])
    count = prod(a[1].dims)
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        old, new = _bytes(*a, start, stop), _bytes(*b, start, stop)
        for digest, data in zip(digests, (old, new), strict=True):
            digest.update(data)
            tick(len(data))
        if not differ and old != new:
            differ = True
            for before in range(0, start, PIECE):
                error.add(_bytes(*a, before, before + PIECE), _bytes(*b, before, before + PIECE))
        if differ:
            error.add(old, new)
    if not differ:
        return None
    was, now = (
        TensorFacts(tensor.type.name, tensor.dims, digest.hexdigest())
        for (_, tensor), digest in zip((a, b), digests, strict=True)
    )
    return TensorDiff(a[1].name, was, now, *error.result())


def _facts(
    file: GGUFWeights, tensor: TensorInfo | None, values: bool, tick: Tick
) -> TensorFacts | None:
    if tensor is None:
        return None
    digest = ""
    if values:
        hashed = hashlib.sha256()
        step = 8 << 20
        for at in range(0, tensor.nbytes, step):
            data = file.read(tensor, at, min(step, tensor.nbytes - at))
            hashed.update(data)
            tick(len(data))
        digest = hashed.hexdigest()
    return TensorFacts(tensor.type.name, tensor.dims, digest)


class _ErrorSum:
    """The relative RMS error of a tensor's new values against the old ones, or why there is none.

    Fed with the bytes of one piece after the other.
    """

    def __init__(self, old: TensorInfo, new: TensorInfo) -> None:
        self._types = old.type, new.type
        self._off = self._reference = 0.0
        self._note = ""

    def add(self, old: bytes, new: bytes) -> None:
        """The next piece of both."""
        import numpy as np

        if self._note:
            return
        try:
            a, b = (_values(*each) for each in zip((old, new), self._types, strict=True))
        except UnsupportedError as error:
            self._note = error.message
            return
        with np.errstate(all="ignore"):
            self._off += float(np.sum((b - a) ** 2))
            self._reference += float(np.sum(a * a))

    def result(self) -> tuple[float | None, str]:
        """The error and no note, or None and why."""
        if self._note:
            return None, self._note
        if not math.isfinite(self._off) or not math.isfinite(self._reference):
            return None, "values that are not finite"
        if self._reference == 0:
            return (0.0, "") if self._off == 0 else (None, "the old values are all zero")
        return math.sqrt(self._off / self._reference), ""


def _bytes(file: GGUFWeights, tensor: TensorInfo, start: int, stop: int) -> bytes:
    """Values ``start`` to ``stop`` of a tensor as they lie in its file."""
    block = BLOCKS[tensor.type]
    first = start // block.weights * block.size
    return file.read(tensor, first, (stop - start) // block.weights * block.size)


def _values(piece: bytes, type_: GGMLType) -> NDArray[Any]:
    """A piece's values in the order in which they lie, as float64."""
    import numpy as np

    from mbuild.quant.decode import decoded

    data = np.frombuffer(piece, np.uint8)
    plain = _PLAIN.get(type_)
    if plain is not None:
        return data.view(plain).astype(np.float64)
    return decoded(data, type_).astype(np.float64)


def count_types(tensors: Sequence[TensorInfo]) -> dict[str, int]:
    """How many tensors a file has of each type, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
    return dict(sorted(counts.items(), key=lambda row: (-row[1], row[0])))

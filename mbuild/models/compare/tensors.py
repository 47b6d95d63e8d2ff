"""Tensors of two files: types, shapes, bytes, and how far their values lie apart.

Values are read and dequantized in pieces of a million, so memory does not
depend on the tensors' sizes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UnsupportedError
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


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor on one side: type, shape (fastest first), SHA-256 of its bytes ("" if not read)."""

    type: str
    shape: tuple[int, ...]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {"type": self.type, "shape": list(self.shape), "digest": self.digest}


@dataclass(frozen=True, slots=True)
class TensorDiff:
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


def _compare(a: _Place, b: _Place, values: bool, tick: Tick) -> TensorDiff | None:
    old, new = _facts(*a, values, tick), _facts(*b, values, tick)
    if old == new:
        return None
    (_, first), (_, second) = a, b
    name = (first or second).name  # type: ignore[union-attr]
    if first is None or second is None or old is None or new is None:
        return TensorDiff(name, old, new)
    if old.shape != new.shape:
        return TensorDiff(name, old, new, note="other shape")
    if not values:
        return TensorDiff(name, old, new)
    error, note = _error((a[0], first), (b[0], second))
    return TensorDiff(name, old, new, error, note)


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


def _error(
    a: tuple[GGUFWeights, TensorInfo], b: tuple[GGUFWeights, TensorInfo]
) -> tuple[float | None, str]:
    """The relative RMS error of b against a, or why there is none."""
    import numpy as np

    count = prod(a[1].dims)
    off = reference = 0.0
    try:
        for start in range(0, count, PIECE):
            stop = min(start + PIECE, count)
            old, new = _values(*a, start, stop), _values(*b, start, stop)
            with np.errstate(all="ignore"):
                off += float(np.sum((new - old) ** 2))
                reference += float(np.sum(old * old))
    except UnsupportedError as error:
        return None, error.message
    if not math.isfinite(off) or not math.isfinite(reference):
        return None, "values that are not finite"
    if reference == 0:
        return (0.0, "") if off == 0 else (None, "the old values are all zero")
    return math.sqrt(off / reference), ""


def _values(file: GGUFWeights, tensor: TensorInfo, start: int, stop: int) -> NDArray[Any]:
    """Values ``start`` to ``stop`` of a tensor, in the order in which they lie, as float64."""
    import numpy as np

    from mbuild.quant.decode import decoded

    block = BLOCKS[tensor.type]
    first = start // block.weights * block.size
    size = (stop - start) // block.weights * block.size
    data = np.frombuffer(file.read(tensor, first, size), np.uint8)
    plain = _PLAIN.get(tensor.type)
    if plain is not None:
        return data.view(plain).astype(np.float64)
    return decoded(data, tensor.type).astype(np.float64)


def count_types(tensors: Sequence[TensorInfo]) -> dict[str, int]:
    """How many tensors a file has of each type, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
    return dict(sorted(counts.items(), key=lambda row: (-row[1], row[0])))

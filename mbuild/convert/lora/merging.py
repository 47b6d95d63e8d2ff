"""Adapters folded into weights: W + the sum of weight * scale * B A, rounded once.

All is computed in double precision, where a product of two factors in F32 is exact, and
rounded once to the type that the tensor has. The sum does not depend on the order of the
adapters. It is made by rows, while the tensor is read: a range of it needs no more than a
range, and the two factors.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbuild.convert.read.dtypes import encode, to_f32
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError
from mbuild.core.values import FrozenValue, NamedTuple, replace
from mbuild.gguf.model import InPieces, Model, Tensor
from mbuild.gguf.types import BLOCKS, GGMLType, tensor_nbytes

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
"""Types that a merged tensor keeps; one of any other type becomes F32."""

_BLOCK = 1 << 18  # values that are worked on at once


class LowRank(NamedTuple):
    """A change of a matrix by ``scale`` * left right; of a stack of matrices one for each.

    ``left`` is (rows, rank) and ``right`` (rank, columns), both with the stack's axis before
    them where there is one.
    """

    left: Lazy
    right: Lazy
    scale: float


class WholeWeight(NamedTuple):
    """A tensor that an adapter has whole: with weight 1 it takes the place of the base's."""

    values: Lazy
    weight: float


Delta = LowRank | WholeWeight


class _Recent:
    """The factors that were used last, each loaded once for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._factors: dict[int, tuple[Lazy, LoadedOnce]] = {}

    def values(self, lazy: Lazy) -> Array:
        """All values in F32, loaded now or kept."""

        def load() -> Array:
            return to_f32(lazy.load(), lazy.dtype).reshape(lazy.shape)

        with self._lock:
            _, whole = self._factors.setdefault(id(lazy), (lazy, LoadedOnce(load)))
        return whole()


class MergedRows(FrozenValue):
    """A tensor's ``load``: ``rows`` rows from ``first`` on, with what adapters change in them.

    ``source`` loads the base's rows, of the type ``stored``; the result has the type ``type``.
    ``matrix`` is how many rows each matrix of a stack has.
    """

    name: str
    columns: int
    matrix: int
    source: Callable[[], Any]
    stored: GGMLType
    type: GGMLType
    deltas: tuple[Delta, ...]
    recent: _Recent
    first: int
    rows: int

    @property
    def count(self) -> int:
        """Bytes of the result."""
        return tensor_nbytes(self.type, (self.columns, self.rows))

    def __call__(self) -> Any:
        """The bytes; raises :class:`FormatError` for values that the type cannot hold."""
        data = np.frombuffer(memoryview(self.source()).cast("B"), np.uint8)
        data = data.reshape(self.rows, -1)
        out = np.empty((self.rows, self.count // self.rows), np.uint8)
        step = max(1, _BLOCK // self.columns)
        at = 0
        while at < self.rows:
            inside = (self.first + at) % self.matrix
            stop = min(at + step, self.rows, at + self.matrix - inside)
            if not self._compiled(data[at:stop], self.first + at, out[at:stop]):
                values = _doubles(data[at:stop], self.stored, self.columns)
                made = rounded(self._changed(values, self.first + at), self.type, self.name)
                out[at:stop] = made.view(np.uint8)
            at = stop
        return out.reshape(-1)

    def _compiled(self, data: Array, first: int, out: Array) -> bool:
        """The rows by way of :mod:`mbuild.quant.compiled.merges`; False where it cannot."""
        from mbuild.quant.compiled.merges import merge

        low = [each for each in self.deltas if isinstance(each, LowRank)]
        if len(low) < len(self.deltas):
            return False
        factors = [self._factors(each, first, len(data)) for each in low]
        stored, type_ = self.stored, self.type
        if stored not in FLOATS:
            data, stored = _decoded(data, stored), GGMLType.F32
        if type_ is not GGMLType.Q8_0:
            return merge(data, (stored, type_), factors, out)
        single = np.empty((len(data), self.columns), "<f4")
        good = merge(data, (stored, GGMLType.F32), factors, single)
        if good:
            out[:] = encode(single, DType.F32, type_).view(np.uint8)
        return good

    def _factors(self, delta: LowRank, first: int, count: int) -> tuple[Array, Array, float]:
        """The part of the left factor for some rows of one matrix, the right factor, the scale."""
        number, row = divmod(first, self.matrix)
        left, right = self.recent.values(delta.left), self.recent.values(delta.right)
        if left.ndim == 3:
            left, right = left[number], right[number]
        return left[row : row + count], right, delta.scale

    def pieces(self, size: int, row: int = 1) -> Iterator[MergedRows]:
        """The rows as loads of at most ``size`` bytes, as far as the source can be cut."""
        own = _row_bytes(self.type, self.columns)
        stored = _row_bytes(self.stored, self.columns)
        group = math.lcm(row, own) // own
        if not isinstance(self.source, InPieces) or self.rows % group:
            yield self
            return
        first = self.first
        for piece in self.source.pieces(max(size // own, 1) * stored, group * stored):
            rows = piece.count // stored
            yield MergedRows(
                *(self.name, self.columns, self.matrix, piece, self.stored, self.type),
                *(self.deltas, self.recent, first, rows),
            )
            first += rows

    def _changed(self, values: Array, first: int) -> Array:
        """Rows of one matrix in doubles, with all deltas added."""
        number, row = divmod(first, self.matrix)
        rows = slice(row, row + len(values))
        whole = [each for each in self.deltas if isinstance(each, WholeWeight)]
        if len(whole) == 1 and whole[0].weight == 1:
            parts: list[Array] = []
            values = self._whole(whole[0].values, number, rows)
        else:
            parts = [
                (self._whole(each.values, number, rows) - values) * each.weight for each in whole
            ]
        for each in self.deltas:
            if isinstance(each, LowRank):
                parts.append(self._product(each, first, len(values)))
        return values + _sum(parts) if parts else values

    def _whole(self, lazy: Lazy, number: int, rows: slice) -> Array:
        start = (number * self.matrix + rows.start) * self.columns
        stop = (number * self.matrix + rows.stop) * self.columns
        if lazy.part is not None:
            values = to_f32(lazy.part(start, stop), lazy.dtype)
        else:
            values = self.recent.values(lazy).reshape(-1)[start:stop]
        return values.reshape(-1, self.columns).astype(np.float64)

    def _product(self, delta: LowRank, first: int, count: int) -> Array:
        """left right, row by row and term by term: the same on every machine."""
        left, right, scale = self._factors(delta, first, count)
        total = np.zeros((count, self.columns))
        for term in range(right.shape[0]):
            column = left[:, term, None].astype(np.float64)
            total += column * right[None, term].astype(np.float64)
        return total * scale


def _sum(parts: list[Array]) -> Array:
    """A sum that does not depend on the order: of more than two from the least to the largest."""
    if len(parts) > 2:
        parts = list(np.sort(np.stack(parts), axis=0))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _row_bytes(type_: GGMLType, columns: int) -> int:
    return columns // BLOCKS[type_].weights * BLOCKS[type_].size


def _doubles(data: Array, type_: GGMLType, columns: int) -> Array:
    """Rows of bytes as doubles."""
    if type_ is GGMLType.F32:
        return data.reshape(-1).view("<f4").reshape(-1, columns).astype(np.float64)
    if type_ is GGMLType.F16:
        return data.reshape(-1).view("<f2").reshape(-1, columns).astype(np.float64)
    if type_ is GGMLType.BF16:
        bits = data.reshape(-1).view("<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(-1, columns).astype(np.float64)
    return _decoded(data, type_).astype(np.float64).reshape(-1, columns)


def _decoded(data: Array, type_: GGMLType) -> Array:
    """Rows of blocks as F32."""
    from mbuild.quant.decode import decoded

    return decoded(data.reshape(-1), type_).reshape(len(data), -1)


def rounded(values: Array, type_: GGMLType, name: str) -> Array:
    """Doubles rounded once, to nearest and to even, as the elements of F32, F16 or BF16.

    As Q8_0 they are rounded to F32, and its blocks are made of that.
    Raises :class:`FormatError`, with the tensor's name, for what is not finite then.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if type_ is GGMLType.F16:
            made = values.astype("<f2")
            good = np.isfinite(made)
        else:
            single = values.astype("<f4")
            good = np.isfinite(single)
            made = _bf16(values, single) if type_ is GGMLType.BF16 else single
            if type_ is GGMLType.BF16:
                good &= (made & 0x7F80) != 0x7F80
    if not good.all():
        wrong = float(values.reshape(-1)[int(np.argmin(good.reshape(-1)))])
        wider = type_ is not GGMLType.F32 and math.isfinite(wrong)
        raise FormatError(
            f"{name}: merging gives {wrong:g}, which {type_.name} cannot hold",
            hint="use --outtype f32"
            if wider
            else "the adapter or its base is damaged, or the WEIGHT is too large",
        )
    return encode(single, DType.F32, type_) if type_ is GGMLType.Q8_0 else made


def _bf16(values: Array, single: Array) -> Array:
    """The upper halves, rounded from the doubles: the way over F32 must not round to even first.

    So the F32 is rounded to odd: cut off, with the last bit set where anything was lost.
    """
    bits = single.view(np.uint32)
    back = single.astype(np.float64)
    inexact = back != values
    beyond = np.abs(back) > np.abs(values)
    bits = (bits - beyond.astype(np.uint32)) | inexact.astype(np.uint32)
    upper = (bits >> np.uint32(16)) & np.uint32(1)
    made: Array = ((bits + np.uint32(0x7FFF) + upper) >> np.uint32(16)).astype("<u2")
    return made


def merged_model(model: Model, changes: Sequence[Mapping[str, Delta]]) -> Model:
    """The model with the changes of all adapters in it, each by the tensor's name.

    The output of a model that ties it to its embeddings becomes a tensor of its own where an
    adapter changes it. Raises :class:`FormatError` where an adapter does not fit.
    """
    recent = _Recent()
    names = {tensor.name for tensor in model.tensors}
    every: dict[str, list[Delta]] = {}
    for change in changes:
        for name, delta in change.items():
            every.setdefault(name, []).append(delta)
    tensors = list(model.tensors)
    if "output.weight" in every and "output.weight" not in names:
        tied = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        tensors.append(Tensor("output.weight", tied.dims, tied.type, tied.load))
    made = (_merged(tensor, every.get(tensor.name), recent) for tensor in tensors)
    return Model(model.metadata, tuple(made), () if len(tensors) > len(names) else model.shards)


def _merged(tensor: Tensor, deltas: list[Delta] | None, recent: _Recent) -> Tensor:
    if deltas is None:
        return tensor
    source, stored, type_ = _unrounded(tensor)
    grown = [d for d in deltas if isinstance(d, WholeWeight) and _rows_of(d) > tensor.dims[-1]]
    if grown:
        return _grown(tensor, deltas, type_)
    columns, rows = tensor.dims[0], math.prod(tensor.dims[1:])
    matrix = tensor.dims[1] if len(tensor.dims) > 1 else 1
    load = MergedRows(
        *(tensor.name, columns, matrix, source, stored, type_),
        *(tuple(deltas), recent, 0, rows),
    )
    return Tensor(tensor.name, tensor.dims, type_, load)


def _unrounded(tensor: Tensor) -> tuple[Callable[[], Any], GGMLType, GGMLType]:
    """Where the base's values come from, their type, and the type that they are rounded to.

    What a conversion would round first is taken in F32, so that there is one rounding. A
    tensor that is quantized already becomes F32.
    """
    from mbuild.convert.encoded import Encoded

    load = tensor.load
    if isinstance(load, Encoded) and _NATIVE.get(load.item.dtype) is not tensor.type:
        return replace(load, type=GGMLType.F32), GGMLType.F32, tensor.type
    return load, tensor.type, tensor.type if tensor.type in FLOATS else GGMLType.F32


_NATIVE = {DType.F32: GGMLType.F32, DType.F16: GGMLType.F16, DType.BF16: GGMLType.BF16}


def _rows_of(delta: WholeWeight) -> int:
    shape = delta.values.shape
    return shape[0] if len(shape) == 2 else 0


def _grown(tensor: Tensor, deltas: list[Delta], type_: GGMLType) -> Tensor:
    """A matrix with a row for each token, of a vocabulary that training made larger."""
    from mbuild.convert.encoded import Encoded

    if len(deltas) > 1 or not isinstance(deltas[0], WholeWeight) or deltas[0].weight != 1:
        raise FormatError(
            f"{tensor.name}: an adapter has more rows than the base, so that it cannot be"
            " weighted or added to another one",
            hint="merge it alone and with WEIGHT 1, or resize the base's vocabulary first",
        )
    lazy = deltas[0].values
    dims = (*tensor.dims[:-1], lazy.shape[0])
    return Tensor(tensor.name, dims, type_, Encoded(tensor.name, lazy, type_, 0, lazy.size))

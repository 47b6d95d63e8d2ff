"""A converted tensor as GGUF stores it: its type, and its bytes whole or piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from mbuild.convert.read.dtypes import OutType
from mbuild.convert.read.kept import KeptWeight
from mbuild.convert.read.lazy import Lazy, Packed
from mbuild.convert.read.values import check_mxfp4, encode_checked
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import FrozenValue
from mbuild.gguf.memory import room
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import BLOCKS, GGMLType, tensor_nbytes

MAX_DIMS = 4
_WIDEST = 4  # bytes of the widest element
_SAMPLE = 64
"""Values that are looked at first: one that is not zero tells of all."""

_GGML: dict[OutType, GGMLType] = {
    OutType.F32: GGMLType.F32,
    OutType.F16: GGMLType.F16,
    OutType.BF16: GGMLType.BF16,
    OutType.Q8_0: GGMLType.Q8_0,
    OutType.TQ1_0: GGMLType.TQ1_0,
    OutType.TQ2_0: GGMLType.TQ2_0,
}
_MATRICES = (".weight", ".lora_a", ".lora_b")
_TERNARY = (OutType.TQ1_0, OutType.TQ2_0)
_NEVER_TERNARY = regex(
    r"^(?:token_embd|per_layer_token_embd|output)\.weight$|\.(?:altup_router|laurel_[lr])\.weight$"
)


def tensor_type(
    name: str, shape: tuple[int, ...], outtype: OutType, whole: Collection[str]
) -> GGMLType:
    """What a tensor is stored as: vectors, norms, biases and those of ``whole`` as F32,
    a matrix whose rows are no whole blocks as F16, all others as asked for."""
    if len(shape) <= 1 or name.endswith("_norm.weight") or not name.endswith(_MATRICES):
        return GGMLType.F32
    if name in whole:
        return GGMLType.F32
    type_ = _GGML[outtype]
    if shape[-1] % BLOCKS[type_].weights or (outtype in _TERNARY and _NEVER_TERNARY.search(name)):
        return GGMLType.F16
    return type_


def encoded(
    name: str,
    item: Lazy | Packed,
    outtype: OutType,
    whole: Collection[str],
    wanted: GGMLType | None = None,
) -> Tensor:
    """A tensor of the model under GGUF's name; ``wanted`` is the type of a matrix instead of
    ``outtype``'s. Raises :class:`FormatError` for too many dimensions."""
    dims = tuple(reversed(shape_of(item)))
    if len(dims) > MAX_DIMS:
        raise FormatError(f"tensor {name} has {len(dims)} dimensions, more than {MAX_DIMS}")
    if isinstance(item, Packed):
        stored = Stored(item, 0, item.shape[0]) if item.part else partial(_stored, item)
        return Tensor(name, dims, item.type, stored)
    if isinstance(item, KeptWeight):
        type_ = item.format.type
    elif wanted is not None and len(dims) > 1 and not name.endswith("_norm.weight"):
        type_ = wanted if dims[0] % BLOCKS[wanted].weights == 0 else GGMLType.F16
    else:
        type_ = tensor_type(name, item.shape, outtype, whole)
    return Tensor(name, dims, type_, Encoded(name, item, type_, 0, item.size))


def shape_of(item: Lazy | Packed) -> tuple[int, ...]:
    """A tensor's shape in values, slowest dimension first."""
    unit = item.unit if isinstance(item, Lazy) else 1
    return (*item.shape[:-1], item.shape[-1] * unit) if unit > 1 else item.shape


def _stored(item: Packed, blocks: Any = None) -> Any:
    blocks = item.load() if blocks is None else blocks
    return check_mxfp4(blocks, item.origin) if item.type is GGMLType.MXFP4 else blocks


class Stored(FrozenValue):
    """A ``load`` of blocks that a checkpoint has: some positions of the tensor's first axis."""

    item: Packed
    first: int
    last: int

    @property
    def count(self) -> int:
        """Bytes of the result."""
        return (self.last - self.first) * self._each

    @property
    def _each(self) -> int:
        return tensor_nbytes(self.item.type, tuple(reversed(self.item.shape[1:])) or (1,))

    def __call__(self) -> Any:
        """The bytes, flat; raises :class:`FormatError` for a block that is no number."""
        assert self.item.part is not None
        return _stored(self.item, self.item.part(self.first, self.last))

    def pieces(self, size: int, row: int = 1) -> Iterator[Stored]:
        """Loads of at most ``size`` bytes in whole rows of ``row`` bytes, as far as can be."""
        unit = math.lcm(self._each, row) // self._each
        unit = math.lcm(unit, self.item.grain)
        step = max(size // (unit * self._each), 1) * unit
        for first in range(self.first, self.last, step):
            yield Stored(self.item, first, min(first + step, self.last))


class Encoded(FrozenValue):
    """A tensor's ``load``: values as GGUF's type ``type``, those from ``start`` to ``stop``.

    The places are flat indices of elements (values, or runs of a weight that stays in its
    bits), multiples of a block but for the last. The writer takes a large tensor in pieces, so
    that it is not in memory whole. ``name`` is GGUF's, for messages; ``watch`` is
    shown it, the source's name, the first place and the values that stand from there on.
    """

    name: str
    item: Lazy
    type: GGMLType
    start: int
    stop: int
    watch: Callable[[str, str, int, Any], None] | None = None

    @property
    def count(self) -> int:
        """Bytes of the result."""
        return tensor_nbytes(self.type, ((self.stop - self.start) * self.item.unit,))

    def __call__(self) -> Any:
        """The bytes, as a flat array; raises :class:`FormatError` for what is not finite."""
        item = self.item
        if item.part is not None and not item.parts:
            made = None
            if item.encoded is not None:
                made = item.encoded(self.start, self.stop, self.type)
            if made is not None and (not self._watched or not _all_zeros(made, self.type)):
                return made
            if item.steps is not None and not isinstance(item, KeptWeight):
                return self._in_steps(item.steps(self.start, self.stop))
            return self._encoded(item, item.part(self.start, self.stop), self.start)
        if not item.parts:
            return self._encoded(item, item.load())
        # A stack of experts can be larger than memory is; one at a time needs room for one more.
        out = room(self.count)
        size = out.size // len(item.parts)
        for number, part in enumerate(item.parts):
            out[number * size : (number + 1) * size] = self._encoded(part, part.load())
        return out

    @property
    def _watched(self) -> bool:
        """Whether there is somebody to show values to, and there are any."""
        return self.watch is not None and not isinstance(self.item, KeptWeight)

    def _in_steps(self, steps: Iterator[Any]) -> Any:
        """The bytes, of values that come a few at a time."""
        out, at, start = room(self.count), 0, self.start
        for values in steps:
            made = self._encoded(self.item, values, start)
            out[at : at + made.size] = made
            at, start = at + made.size, start + values.size
        return out

    def _encoded(self, item: Lazy, values: Any, start: int = 0) -> Any:
        if isinstance(item, KeptWeight):
            return item.finished(values)
        if self.watch is not None:
            self.watch(self.name, item.origin, start, values)
        origin = f"{item.origin} ({self.name})"
        return encode_checked(values, item.dtype, self.type, origin, start)

    def pieces(self, size: int, row: int = 1) -> Iterator[Encoded]:
        """The tensor as loads of at most ``size`` bytes, in order, as far as it can be cut.

        They begin and end with rows of ``row`` bytes of the result, or with blocks of 32.
        """
        block = BLOCKS[self.type]
        item = self.item
        values = max(row // block.size * block.weights, block.weights, 32) // item.unit
        width = item.format.nbytes if isinstance(item, KeptWeight) else _WIDEST
        for part in item.parts or (item,):
            first, last = (self.start, self.stop) if part is item else (0, part.size)
            unit = math.lcm(values, part.grain)
            step = max(size // width // unit, 1) * unit
            step = step if part.part is not None else part.size
            for start in range(first, last, step):
                stop = min(start + step, last)
                yield Encoded(self.name, part, self.type, start, stop, self.watch)


def _all_zeros(made: Any, type_: GGMLType) -> bool:
    """Whether every number is zero, with either sign: the first few tell nearly always."""
    bits = made.view(f"<u{BLOCKS[type_].size}")
    some = bits[:_SAMPLE] << 1
    return not some.any() and not (bits << 1).any()

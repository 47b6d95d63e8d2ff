"""A tensor on its way from checkpoint to model: its shape is known, its values are not yet read.

Everything that decides names, shapes and types works on these, so that a whole
conversion is checked before the first weight is read. A transform is a new
:class:`Lazy` around the old one.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.once import Apart
from mbuild.convert.read.runs import MovedBytes, Pieces, SpreadRuns
from mbuild.convert.read.safetensors import BITS, DType
from mbuild.convert.read.turned import in_strips
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import Frozen, NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from mbuild.convert.read.safetensors import StoredTensor
    from mbuild.gguf.types import GGMLType

    Array = np.ndarray[Any, np.dtype[Any]]


CONTRADICTS = "the shape contradicts config.json"


Cut = slice
"""Python's, which a method of :class:`Lazy` is called like."""

_LONG_RUN = 1 << 16
"""Values in a row that are worth a read of their own."""


class ShapeError(FormatError):
    """A tensor has a shape that config.json leaves no place for."""


class Lazy(Frozen):
    """Values of one tensor: type, shape (slowest dimension first) and how to get them.

    ``load()`` gives an array of that shape whose elements are held as
    :mod:`mbuild.convert.read.dtypes` says (BF16 as ``uint16``); it may be a view,
    of any strides, and belongs to the caller. ``origin`` names the source for
    messages. ``parts`` are what was stacked, in order, so that a stack of many
    experts can be converted one by one. ``part(start, stop)``, where there is one, gives
    the values between two flat indices, one-dimensional, so that a tensor need not be in
    memory whole; ``grain`` is how many of them in a row are read together at least.
    ``steps``, of what is computed, gives the same values as ``part`` in several arrays, of as
    many values as stay in the processor's cache; ``encoded`` gives their bytes as a type of
    GGUF's, or None where that is not done in one go.
    """

    dtype: DType
    shape: tuple[int, ...]
    load: Callable[[], Array]
    origin: str
    parts: tuple[Lazy, ...] = ()
    part: Callable[[int, int], Array] | None = None
    grain: int = 1
    steps: Callable[[int, int], Iterator[Array]] | None = None
    encoded: Callable[[int, int, GGMLType], Array | None] | None = None

    @property
    def unit(self) -> int:
        """Values that an element of the last axis stands for."""
        return 1

    @property
    def layout(self) -> object:
        """What an element is, where it is no single value."""
        return None

    def plain(self) -> Lazy:
        """The tensor in single values."""
        return self

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def move(self, shape: Sequence[int], change: Callable[[Array], Array]) -> Lazy:
        """The same values elsewhere: ``change`` moves elements and never computes with them."""
        return Lazy(self.dtype, tuple(shape), lambda: change(self.load()), self.origin)

    def reshape(self, *shape: int) -> Lazy:
        """The same values under another shape; raises :class:`FormatError` if it does not fit."""
        if math.prod(shape) != self.size or min(shape, default=0) < 0:
            raise ShapeError(
                f"{self.origin}: a tensor of shape {list(self.shape)} cannot be reshaped to"
                f" {list(shape)}",
                hint=CONTRADICTS,
            )
        same = self.move(shape, lambda values: values.reshape(shape))
        steps, encoded = self.steps, self.encoded
        return replace(same, part=self.part, grain=self.grain, steps=steps, encoded=encoded)

    def transpose(self, *axes: int) -> Lazy:
        """The axes in another order; raises :class:`FormatError` for another number of axes."""
        self.need_dims(len(axes))
        shape = tuple(self.shape[axis] for axis in axes)
        moved = self.move(shape, lambda values: values.transpose(axes))
        count = len(axes)
        if self.part and axes == (*range(count - 2), count - 1, count - 2):
            strips = in_strips(self.part, self.shape, self.grain)
            if strips is not None:
                return replace(moved, part=strips[0], grain=strips[1])
        return self._one_by_one(moved, lambda values: values.transpose(axes), axes[0] == 0)

    def slice(self, axis: int, start: int, stop: int | None = None, step: int = 1) -> Lazy:
        """Some positions of one axis, by Python's slicing."""
        axis, cut = axis % len(self.shape), Cut(start, stop, step)
        moved, change = self._cut(axis, cut)
        return self._in_runs(moved, axis, cut) or self._one_by_one(moved, change, axis > 0)

    def _cut(self, axis: int, cut: Cut) -> tuple[Lazy, Callable[[Array], Array]]:
        """Some positions of one axis, without parts, and how they are had."""
        index = (Cut(None),) * axis + (cut,)
        shape = list(self.shape)
        shape[axis] = len(range(shape[axis])[cut])

        def change(values: Array) -> Array:
            return values[index]

        return self.move(shape, change), change

    def _in_runs(self, moved: Lazy, axis: int, cut: Cut) -> Lazy | None:
        """What :meth:`_cut` gave, read without what is around it; None for splinters."""
        if self.part is None or axis > 1 or cut.step not in (None, 1):
            return None
        run = math.prod(moved.shape[axis:])
        if axis and (self.grain > 1 or run < _LONG_RUN):
            return None
        first = range(self.shape[axis])[cut].start
        stride, skipped = math.prod(self.shape[axis:]), first * math.prod(moved.shape[axis + 1 :])
        count = moved.size // run if run else 0
        part = SpreadRuns(self.part, run, range(skipped, skipped + count * stride, stride or 1))
        whole = lambda: part(0, moved.size).reshape(moved.shape)  # noqa: E731
        return replace(moved, load=whole, part=part, grain=self.grain)

    def within(self, shape: Sequence[int], change: Callable[[Array], Array]) -> Lazy:
        """As :meth:`move`, where each position of the first axis is changed by itself."""
        return self._one_by_one(self.move(shape, change), change, True)

    def in_order(self, order: Sequence[int], length: int) -> Lazy:
        """Runs of ``length`` positions of the first axis in another order, by their old places."""
        rest, runs = self.shape[1:], len(order)

        def change(values: Array) -> Array:
            return values.reshape(runs, length, *rest)[list(order)].reshape(self.shape)

        moved, run = self.move(self.shape, change), length * math.prod(rest)
        if self.part is None or self.grain > 1 or run < _LONG_RUN:
            return moved
        return replace(moved, part=SpreadRuns(self.part, run, [place * run for place in order]))

    def _one_by_one(self, moved: Lazy, change: Callable[[Array], Array], possible: bool) -> Lazy:
        """``moved``, in parts if each position of the first axis is changed by itself."""
        old, new = math.prod(self.shape[1:]), math.prod(moved.shape[1:])
        cut = self.part
        if cut is None or not possible or not old * new:
            return moved

        def part(start: int, stop: int) -> Array:
            from mbuild.convert.read.dtypes import contiguous

            first, last = start // new, -(-stop // new)
            values = cut(first * old, last * old).reshape(last - first, *self.shape[1:])
            flat = contiguous(change(values)).reshape(-1)
            return flat[start - first * new : stop - first * new]

        together = self.grain // old if self.grain % old == 0 else 1
        grain = new * max(together, 1)
        made, encoded = self.encoded, None
        if made is not None and self.layout is None:
            encoded = MovedBytes(made, self.shape[1:], new, change)
        return replace(moved, part=part, grain=grain, encoded=encoded)

    def split(self, axis: int, sizes: Sequence[int]) -> list[Lazy]:
        """Consecutive parts of one axis; raises :class:`FormatError` unless they fill it."""
        if len(self.shape) < abs(axis) or self.shape[axis] != sum(sizes):
            raise ShapeError(
                f"{self.origin}: shape {list(self.shape)} cannot be split into {list(sizes)}",
                hint=CONTRADICTS,
            )
        ends = list(accumulate(sizes))
        cuts = [Cut(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return self._apart(axis % len(self.shape), cuts)

    def every(self, axis: int, step: int) -> list[Lazy]:
        """Of one axis the positions 0, ``step`` and so on; then those one further; and so on."""
        return self._apart(axis % len(self.shape), [Cut(n, None, step) for n in range(step)])

    def _apart(self, axis: int, cuts: Sequence[Cut]) -> list[Lazy]:
        """Parts of one axis that together are all of it: each byte is read once for all of them."""
        parts = [self._cut(axis, cut) for cut in cuts]
        runs = [self._in_runs(part, axis, cut) for (part, _), cut in zip(parts, cuts, strict=True)]
        direct = [part for part in runs if part is not None]
        if len(direct) == len(parts):
            return direct
        if not self.size or len(parts) == 1:
            return [part for part, _ in parts]
        cut, old, count = self.part, math.prod(self.shape[1:]), self.shape[0] if axis else 1

        def some(first: int, last: int) -> Array:
            if cut is None or count == 1:
                return self.load()
            return cut(first * old, last * old).reshape(last - first, *self.shape[1:])

        count = 1 if cut is None else count
        apart = Apart(some, [change for _, change in parts], count, old)
        return [_one_of(apart, number, part, count) for number, (part, _) in enumerate(parts)]

    def need_dims(self, count: int) -> None:
        """Raise :class:`FormatError` unless there are that many dimensions."""
        if len(self.shape) != count:
            raise FormatError(
                f"{self.origin} has the shape {list(self.shape)}; {count} dimensions are needed"
            )

    def stacked(self, parts: Sequence[Lazy], load: Callable[[], Array]) -> Lazy:
        """Parts like this one, the first of them, under a new first axis."""
        stack = Lazy(self.dtype, (len(parts), *self.shape), load, self.origin, tuple(parts))
        return in_turn(stack, parts)

    def wide(self) -> Lazy:
        """The same values as F32."""
        from mbuild.convert.read.dtypes import to_f32

        def changed(values: Array) -> Array:
            return to_f32(values, self.dtype)

        cut = self.part
        return Lazy(
            DType.F32,
            self.shape,
            lambda: changed(self.load()),
            self.origin,
            part=None if cut is None else lambda start, stop: changed(cut(start, stop)),
            grain=self.grain,
        )

    def compute(self, change: Callable[[Array], Array]) -> Lazy:
        """Arithmetic, element by element, in F16 for F16 and in F32 for everything else."""
        from mbuild.convert.read.dtypes import to_f32

        def changed(values: Array) -> Array:
            return change(values if self.dtype is DType.F16 else to_f32(values, self.dtype))

        cut = self.part
        return Lazy(
            self.dtype if self.dtype is DType.F16 else DType.F32,
            self.shape,
            lambda: changed(self.load()),
            self.origin,
            part=None if cut is None else lambda start, stop: changed(cut(start, stop)),
            grain=self.grain,
        )


def _one_of(apart: Apart, number: int, moved: Lazy, count: int) -> Lazy:
    """One of the tensors that ``apart`` reads together, in ``count`` positions."""
    if not moved.size:
        return moved
    each = moved.size // count

    def part(start: int, stop: int) -> Array:
        block = apart.step * each
        first, last = start // block * apart.step, min(-(-stop // block) * apart.step, count)
        flat = apart.take(number, first, last)
        return flat[start - first * each : stop - first * each]

    return replace(
        moved,
        load=lambda: part(0, moved.size).reshape(moved.shape),
        part=part,
        grain=apart.step * each,
    )


class Packed(NamedTuple):
    """A tensor that is in GGUF's block format already: only bits were moved.

    ``shape`` counts weights, slowest dimension first; ``load()`` gives the
    stored bytes; ``origin`` names the source for messages. ``part(first, last)``, where there is
    one, gives those of some positions of the first axis, of which ``grain`` are read together
    at least.
    """

    type: GGMLType
    shape: tuple[int, ...]
    load: Callable[[], Array]
    origin: str
    part: Callable[[int, int], Array] | None = None
    grain: int = 1


def lazy_of(tensor: StoredTensor) -> Lazy:
    """A tensor of a file; raises :class:`UnsupportedError` for a type without a number format."""
    from mbuild.convert.read.dtypes import NUMPY

    view = NUMPY.get(tensor.dtype)
    if view is None:
        raise UnsupportedError(
            f"{tensor.shard.name}: tensor {tensor.name!r} has the type {tensor.dtype}, "
            "which cannot be converted"
        )
    size = BITS[tensor.dtype] // 8
    return Lazy(
        tensor.dtype,
        tensor.shape,
        lambda: tensor.read().view(view).reshape(tensor.shape),
        f"{tensor.shard.name}: tensor {tensor.name!r}",
        part=lambda start, stop: tensor.read(start * size, stop * size).view(view),
    )


def in_turn(made: Lazy, parts: Sequence[Lazy]) -> Lazy:
    """A tensor that is others one behind the other, with their parts if they all have some."""
    cuts = [each.part for each in parts if each.part is not None]
    grain = math.lcm(*(each.grain for each in parts))
    if len(cuts) < len(parts) or any(each.size % grain for each in parts):
        return made
    pieces = Pieces(tuple(cuts), tuple(each.size for each in parts))
    return replace(made, part=pieces, grain=grain)


def constant(values: Sequence[float], origin: str) -> Lazy:
    """A generated vector of F32."""
    import numpy as np

    return Lazy(DType.F32, (len(values),), lambda: np.array(values, dtype=np.float32), origin)

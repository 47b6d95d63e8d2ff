"""Several tensors as one: under a new axis, or one behind the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import Lazy, in_turn
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = (DType.F16, DType.BF16, DType.F32, DType.F64)


def _alike(parts: Sequence[Lazy]) -> Sequence[Lazy]:
    """The parts as they are, or all as F32 where some have another precision than others."""
    types = {part.dtype for part in parts}
    if len(types) == 1 or not types <= set(_FLOATS):
        return parts
    return [part.wide() for part in parts]


def stack(parts: Sequence[Lazy]) -> Lazy:
    """Tensors of one shape under a new first axis; raises :class:`FormatError` if they differ."""
    from mbuild.gguf.memory import room

    if len({part.layout for part in parts}) > 1:
        parts = [part.plain() for part in parts]
    parts = _alike(parts)
    first = parts[0]
    for part in parts:
        if part.shape != first.shape or part.dtype is not first.dtype:
            raise FormatError(
                f"{part.origin} ({part.dtype} {list(part.shape)}) does not match "
                f"{first.origin} ({first.dtype} {list(first.shape)})"
            )

    def load() -> Array:
        head = parts[0].load()
        out = room(len(parts) * head.nbytes).view(head.dtype).reshape(len(parts), *first.shape)
        out[0] = head
        for index, part in enumerate(parts[1:], start=1):
            out[index] = part.load()
        return out

    return first.stacked(parts, load)


def joined(parts: Sequence[Lazy], axis: int = 0) -> Lazy:
    """Tensors one behind the other on an axis; raises :class:`FormatError` if they do not fit."""
    parts = _alike(parts)
    first = parts[0]
    others = [[n for i, n in enumerate(part.shape) if i != axis] for part in parts]
    for part, other in zip(parts, others, strict=True):
        if len(part.shape) <= axis or other != others[0] or part.dtype is not first.dtype:
            raise FormatError(
                f"{part.origin} ({part.dtype} {list(part.shape)}) cannot be joined with "
                f"{first.origin} ({first.dtype} {list(first.shape)})"
            )

    def load() -> Array:
        import numpy as np

        return np.concatenate([part.load() for part in parts], axis)

    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    made = Lazy(first.dtype, tuple(shape), load, first.origin)
    return made if axis else in_turn(made, parts)

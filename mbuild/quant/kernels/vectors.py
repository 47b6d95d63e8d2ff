"""LLVM code on vectors: filled, shuffled, cut into parts and joined again."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

I32 = ir.IntType(32)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """The scalar in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    return shuffle(builder, builder.insert_element(undefined, scalar, I32(0)), [0] * lanes)


def shuffle(builder: Any, value: Any, order: list[int]) -> Any:
    """The lanes of a vector in this order."""
    index = ir.Constant(ir.VectorType(I32, len(order)), order)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), index)


def split(builder: Any, value: Any, lanes: int) -> list[Any]:
    """The vector in parts of so many lanes, or whole where it has no more."""
    count = value.type.count
    if count <= lanes:
        return [value]
    starts = range(0, count, lanes)
    return [shuffle(builder, value, list(range(start, start + lanes))) for start in starts]


def joined(builder: Any, parts: list[Any]) -> Any:
    """The opposite of :func:`split`."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        index = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(*pair, index) for pair in pairs]
    return parts[0]


def constant(lanes: int, value: int) -> Any:
    """A vector constant that has ``value`` in every lane."""
    return ir.Constant(ir.VectorType(I32, lanes), [value] * lanes)


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

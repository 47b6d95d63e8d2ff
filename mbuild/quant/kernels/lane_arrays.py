"""Arrays that live on a kernel's stack, and other shapes of the same memory, for numba.

A kernel's machine code must do without numba's run-time library, which makes and frees
numpy's arrays: it is loaded into processes that have no numba. So the scratch memory of
a tile, 200 KB at most, is taken from the stack. Numbers of rows have to be known when
the kernel is compiled: variables of the enclosing function, or of the module.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

ALIGNMENT = 64
"""Bytes; a line of the cache and the widest vector register."""


def array_at(context: Any, builder: Any, kind: Any, place: Any, shape: list[Any]) -> Any:
    """numba's value for an array of type ``kind`` at an address; nobody owns its memory."""
    item = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [context.get_constant(types.intp, item)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = make_array(kind)(context, builder)
    populate_array(
        array,
        data=builder.bitcast(place, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=context.get_constant(types.intp, item),
        meminfo=None,
    )
    return array._getvalue()


def _on_stack(dtype: Any, *shape: int) -> tuple[Any, Any]:
    """numba's (result type, code) for an uninitialized array of such a constant shape."""
    kind = types.Array(dtype, len(shape), "C")

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        room = ir.ArrayType(context.get_data_type(dtype), prod(shape))
        with builder.goto_entry_block():
            place = builder.alloca(room)
        place.align = ALIGNMENT
        lengths = [context.get_constant(types.intp, length) for length in shape]
        return array_at(context, builder, kind, place, lengths)

    return kind, build


def _known(function: Callable[..., Any]) -> Any:
    """An intrinsic that is told constants as such; kernels call it without the first argument."""
    return intrinsic(prefer_literal=True)(function)


@_known
def reals(typingctx: Any, w: Any, rows: Any) -> Any:
    """(rows, lanes) of float32."""
    kind, build = _on_stack(types.float32, rows.literal_value, w.lanes)
    return kind(w, rows), build


@_known
def wholes(typingctx: Any, w: Any, rows: Any) -> Any:
    """(rows, lanes) of int32."""
    kind, build = _on_stack(types.int32, rows.literal_value, w.lanes)
    return kind(w, rows), build


@_known
def flat_reals(typingctx: Any, w: Any, count: Any) -> Any:
    """``count`` float32 of every lane, flat."""
    kind, build = _on_stack(types.float32, count.literal_value * w.lanes)
    return kind(w, count), build


@_known
def flat_wholes(typingctx: Any, w: Any, count: Any) -> Any:
    """``count`` int32 of every lane, flat."""
    kind, build = _on_stack(types.int32, count.literal_value * w.lanes)
    return kind(w, count), build


@_known
def flat_longs(typingctx: Any, w: Any, count: Any) -> Any:
    """``count`` int64 of every lane, flat."""
    kind, build = _on_stack(types.int64, count.literal_value * w.lanes)
    return kind(w, count), build


@_known
def octets(typingctx: Any, count: Any) -> Any:
    """``count`` bytes, flat."""
    kind, build = _on_stack(types.uint8, count.literal_value)
    return kind(count), build


@_known
def as_rows(typingctx: Any, flat: Any, length: Any) -> Any:
    """The flat array as rows of ``length`` each, which divides it."""
    kind = types.Array(flat.dtype, 2, "C", readonly=not flat.mutable)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = make_array(flat)(context, builder, args[0])
        row = context.cast(builder, args[1], sig.args[1], types.intp)
        return array_at(context, builder, kind, array.data, [builder.sdiv(array.nitems, row), row])

    return kind(flat, length), build


@_known
def as_bytes(typingctx: Any, flat: Any) -> Any:
    """The bytes of a flat array."""
    kind = types.Array(types.uint8, 1, "C", readonly=not flat.mutable)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = make_array(flat)(context, builder, args[0])
        size = builder.mul(array.nitems, array.itemsize)
        return array_at(context, builder, kind, array.data, [size])

    return kind(flat), build

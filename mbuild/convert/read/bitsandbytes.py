"""Weights that bitsandbytes quantized, in its formulas: nf4 and fp4 by a table, int8 by rows.

Of 4 bits: each byte holds two codes, the first in its upper half; a value is the table's times
its block's largest magnitude (``absmax``). Those may be quantized again, by another table
(``nested_``). Of 8 bits: a row is its integers times its largest magnitude (``SCB``) / 127.
(``bitsandbytes/functional.py``, 0.48: ``QuantState``, ``dequantize_blockwise``,
``int8_vectorwise_dequant``.)
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import DEQUANTIZE
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.packed import misfit, take
from mbuild.convert.read.rowwise import by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_TOOL = "bitsandbytes"
_STATE = ".quant_state.bitsandbytes__"
_KINDS = ("nf4", "fp4")
_BY_127 = 7.874015718698502e-3
"""1 / 127, as the formula has it."""
_STATE_LIMIT = 1 << 16  # bytes


def bitsandbytes(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The tensors with every weight of 4 or 8 bits as float32, in its place.

    Raises :class:`FormatError` for parts that are missing or do not fit.
    """
    result, made = dict(tensors), dict[str, Lazy]()
    for name in tensors:
        if _STATE in name:
            base = name.partition(_STATE)[0]
            made[base] = _four(result, base, name)
        elif name.endswith(".SCB"):
            base = name.removesuffix(".SCB") + ".weight"
            made[base] = _eight(result, base, name)
    return {name: made.get(name, lazy) for name, lazy in tensors.items() if name in result | made}


def _four(tensors: dict[str, Lazy], base: str, name: str) -> Lazy:
    state, where = _settings(take(tensors, name, _TOOL)), name
    codes, absmax, table = (
        take(tensors, base + part, _TOOL) for part in ("", ".absmax", ".quant_map")
    )
    shape, block = _shape(state, where), _size(state, "blocksize", where)
    if shape[-1] % 2 or codes.size * 2 != math.prod(shape) or table.shape != (16,):
        raise misfit(codes, absmax, table)
    if absmax.size != -(-math.prod(shape) // block):
        raise misfit(codes, absmax)
    scales = _magnitudes(tensors, base, absmax, state, where)
    width, values = shape[-1], LoadedOnce(lambda: to_f32(table.load(), table.dtype))
    flat = codes.reshape(codes.size)

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        import numpy as np

        start, stop = first * width // 2, last * width // 2
        raw = flat.part(start, stop) if flat.part else flat.load()[start:stop]
        each = values()
        pairs = np.stack([np.repeat(each, 16), np.tile(each, 16)], axis=1)
        both = pairs.view(np.uint64).reshape(-1)  # both floats of a byte as one number
        begin = first * width // block
        factors = scales(begin, -(-last * width // block))

        def some(low: int, high: int) -> Array:
            codes = raw[low * width // 2 : high * width // 2].view(np.uint8)
            out: Array = both.take(codes).view(np.float32)
            at = (first + low) * width - begin * block
            if at % block == out.size % block == 0:
                blocks = out.reshape(-1, block)
                blocks *= factors[at // block :][: len(blocks), None]
            else:
                own = factors[at // block : -(-(at + out.size) // block)]
                out *= own.repeat(block)[at % block :][: out.size]
            return out.reshape(-1, width)

        return some

    return by_rows(shape, opened, codes.origin)


def _magnitudes(
    tensors: dict[str, Lazy], base: str, absmax: Lazy, state: Mapping[str, Any], where: str
) -> Any:
    """A function that gives the magnitudes of some blocks, float32."""
    if f"{base}.nested_absmax" not in tensors:
        if absmax.dtype is not DType.F32:
            raise misfit(absmax)
        flat = absmax.reshape(absmax.size)
        return lambda at, end: flat.part(at, end) if flat.part else flat.load()[at:end]
    parts = (take(tensors, base + end, _TOOL) for end in (".nested_absmax", ".nested_quant_map"))
    outer, table = parts
    block, offset = _size(state, "nested_blocksize", where), state.get("nested_offset")
    if type(offset) not in (int, float) or table.shape != (256,) or absmax.dtype is not DType.U8:
        raise misfit(absmax, outer, table)
    if outer.size != -(-absmax.size // block):
        raise misfit(absmax, outer)
    inner = absmax.reshape(absmax.size)
    values = LoadedOnce(lambda: to_f32(table.load(), table.dtype))
    largest = LoadedOnce(lambda: to_f32(outer.load(), outer.dtype).reshape(-1))

    def some(at: int, end: int) -> Array:
        import numpy as np

        codes = inner.part(at, end) if inner.part else inner.load()[at:end]
        by = largest()[np.arange(at, end) // block]
        return values()[codes] * by + np.float32(offset)

    return some


def _eight(tensors: dict[str, Lazy], base: str, name: str) -> Lazy:
    weight, rows = take(tensors, base, _TOOL), take(tensors, name, _TOOL)
    layout = tensors.pop(base.removesuffix("weight") + "weight_format", None)
    if layout is not None and int(layout.load().reshape(-1)[0]) != 0:
        raise UnsupportedError(
            f"{layout.origin}: weights of bitsandbytes that are not stored by rows are not"
            " supported",
            hint=DEQUANTIZE,
        )
    if len(weight.shape) != 2 or weight.dtype is not DType.I8 or rows.shape != weight.shape[:1]:
        raise misfit(weight, rows)
    largest = LoadedOnce(lambda: to_f32(rows.load(), rows.dtype))

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        import numpy as np

        stored, by = rows_of(weight, first, last), largest()[first:last, None]

        def some(low: int, high: int) -> Array:
            out: Array = stored[low:high].astype(np.float32)
            out *= by[low:high]
            out *= np.float32(_BY_127)
            return out

        return some

    return by_rows(weight.shape, opened, weight.origin)


def _settings(state: Lazy) -> Mapping[str, Any]:
    """The JSON that a tensor of bytes holds."""
    try:
        if state.dtype is not DType.U8 or state.size > _STATE_LIMIT:
            raise ValueError(f"{state.dtype} of {state.size} values")
        value = json.loads(state.load().tobytes())
        if not isinstance(value, dict) or value.get("quant_type") not in _KINDS:
            raise ValueError(f"quant_type {str(value)[:60]}")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{state.origin} is not the state of a weight of bitsandbytes: {str(error)[:80]}",
            hint="download the checkpoint again, or save it unquantized: model.dequantize() before"
            " saving, or the adapter merged into the original weights",
        ) from None
    return value


def _size(state: Mapping[str, Any], name: str, where: str) -> int:
    value = state.get(name)
    if type(value) is not int or not 0 < value < 1 << 20:
        raise FormatError(f"{where}: {name} is {str(value)[:40]}")
    return value


def _shape(state: Mapping[str, Any], where: str) -> tuple[int, ...]:
    value = state.get("shape")
    listed = value if isinstance(value, list) and 1 <= len(value) <= 4 else [None]
    if not all(type(size) is int and 0 < size < 1 << 32 for size in listed):
        raise FormatError(f"{where}: shape is {str(value)[:60]}")
    return tuple(listed)

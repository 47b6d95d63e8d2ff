"""Quantization of a tensor's rows, byte for byte as llama.cpp's ``ggml_quantize_chunk``.

One function does it, :func:`quantize`; it runs on the compiled engine where numba
can be loaded and on the numpy engine elsewhere, with the same bytes. Neither is
imported before something is quantized. The bytes never depend on the number of
threads, on how the work is cut up, or on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import FormatError, UnsupportedError, UsageError
from mbuild.gguf.memory import room
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.work.spread import run_all

if TYPE_CHECKING:
    from typing_extensions import Buffer

Bytes = NDArray[np.uint8]
Reals = NDArray[np.float32]

VERSION = 2
"""Raised when the bytes of any type change; part of the key of a quantized tensor."""

SOURCES = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
"""The types that can be quantized."""

CHUNK = 1 << 20
"""Values that one task takes at most, give or take a row: some milliseconds of work."""


class Outcome(IntEnum):
    """What an engine found while it made blocks."""

    NOT_FINITE = 0
    """A value is infinite or not a number; what was made is worth nothing."""
    GOOD = 1
    SUSPECT = 2
    """A block's scale is infinite or not a number, or nobody looked."""


class NotFiniteError(FormatError):
    """A tensor holds, or leads to, a number that is infinite or not a number.

    ``index`` is the place in the tensor, counted in values.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message, hint="llama-quantize refuses such a tensor too")
        self.index = index


@cache
def engine() -> Any:
    """The compiled engine, or the numpy engine where numba cannot be loaded."""
    try:
        from mbuild.quant.compiled.engine import CompiledEngine

        return CompiledEngine()
    except Exception:
        # A missing or broken numba or LLVM fails in many ways; all have one remedy.
        return fallback()


@cache
def fallback() -> Any:
    """The numpy engine."""
    from mbuild.quant.arrays.engine import NumpyEngine

    return NumpyEngine()


def engine_name() -> str:
    """``numba`` or ``numpy``: what :func:`quantize` runs on here."""
    return "numpy" if engine() is fallback() else "numba"


def supported(type_: GGMLType, weighted: bool = False) -> bool:
    """Whether values can be turned into this type (with importances, if ``weighted``)."""
    return bool(fallback().supports(type_, weighted))


def unsupported(type_: GGMLType) -> UnsupportedError:
    """The error for a type that is not made, or not without importances."""
    if supported(type_, weighted=True):
        return UnsupportedError(
            f"{type_.name} needs an importance matrix", hint="give one with --imatrix FILE"
        )
    return UnsupportedError(f"cannot quantize to {type_.name}")


def prepare(
    types: Sequence[GGMLType],
    *,
    weighted: bool = False,
    report: Callable[[str], None] | None = None,
) -> None:
    """Compile the kernels of these types, or load them from the cache; before threads start.

    ``report`` is told the name of each type before its turn. Without this call the first
    use compiles. A kernel that does not compile leaves its type to the numpy engine.
    """
    for type_ in types:
        if report is not None:
            report(type_.name)
        _ready(type_, weighted)


@cache
def _ready(type_: GGMLType, weighted: bool) -> Any:
    """The engine that quantizes this type, its kernel compiled."""
    chosen = engine()
    if not chosen.supports(type_, weighted):
        return fallback()
    try:
        chosen.prepare(type_, weighted)
    except Exception:
        return fallback()
    return chosen


def quantize(
    type_: GGMLType,
    source_type: GGMLType,
    data: Buffer | NDArray[Any],
    row_len: int,
    *,
    imatrix: Reals | None = None,
    threads: int = 1,
    first_row: int = 0,
    out: Bytes | None = None,
    using: Any = None,
    check: Callable[[], None] = lambda: None,
) -> Bytes:
    """Rows of values of ``source_type`` as blocks of ``type_``: flat uint8.

    ``data`` holds whole rows of ``row_len`` values, little-endian, F32, F16 or BF16.
    ``imatrix`` are float32 importances, ``row_len`` of them, or as many for each matrix
    of a tensor of several (experts), which then are equally many rows each.
    ``first_row`` says which row of the tensor the first one is, for errors.
    ``out`` is flat uint8 memory for the result, which is made if it is missing;
    ``using`` an engine, by default :func:`engine`'s choice. ``check`` is called before each
    piece of work, in the threads, and stops all of it by raising.

    Raises :class:`NotFiniteError` with the position of a NaN or an infinity, and where
    a block's scale does not fit float16; :class:`UnsupportedError` for other types;
    or one that needs importances and gets none; :class:`FormatError` where sizes do not fit.
    """
    raw = _checked(type_, source_type, data, row_len, imatrix is not None)
    if imatrix is not None and not _takes_importances(type_):
        imatrix = None
    block, item = BLOCKS[type_], BLOCKS[source_type].size
    rows = raw.size // (row_len * item)
    size = rows * row_len // block.weights * block.size
    out = room(size) if out is None else out
    if out.shape != (size,) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(f"{out.size} bytes of memory for {size} bytes of {type_.name}")
    if type_ is source_type:
        out[:] = raw
        return out
    chosen = using or _ready(type_, imatrix is not None)
    weights = _importances(imatrix, row_len, rows)

    begin = first_row * row_len

    def task(span: tuple[int, int]) -> None:
        first, last = span
        check()
        part = raw[first * item : last * item]
        to = out[first // block.weights * block.size : last // block.weights * block.size]
        given = None if weights is None else weights(first, last, part, source_type, type_)
        outcome = chosen.blocks(type_, part, source_type, to, given)
        if outcome is Outcome.NOT_FINITE:
            _refuse(part, source_type, begin + first, row_len)
        elif outcome is Outcome.SUSPECT:
            _validate(type_, to, begin + first)

    total = rows * row_len
    step = _step(row_len, block.weights, imatrix is not None, total // (4 * max(threads, 1)))
    spans = [(at, min(at + step, total)) for at in range(0, total, step)]
    run_all(task, spans, threads, name="mbuild-quantize")
    return out


def _takes_importances(type_: GGMLType) -> bool:
    from mbuild.quant.specs import WEIGHTED

    return type_ in WEIGHTED


def _checked(
    type_: GGMLType, source_type: GGMLType, data: Any, row_len: int, weighted: bool
) -> Bytes:
    """The data as flat bytes, sizes and types found to fit."""
    if source_type not in SOURCES:
        raise UnsupportedError(
            "quantization is only supported for F16, BF16 and F32 models",
            hint=f"{source_type.name} is quantized already; --allow-requantize decodes it first",
        )
    if not supported(type_, weighted):
        raise unsupported(type_)
    if isinstance(data, np.ndarray):
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    else:
        raw = np.frombuffer(data, np.uint8)
    block, row_bytes = BLOCKS[type_].weights, row_len * BLOCKS[source_type].size
    if row_len <= 0 or row_len % block:
        raise FormatError(f"row of {row_len} values is not a multiple of {block} ({type_.name})")
    if raw.size % row_bytes:
        raise FormatError(f"{raw.size} bytes are not whole rows of {row_len} {source_type.name}")
    return raw


def _step(row_len: int, block: int, weighted: bool, share: int) -> int:
    """Values a task takes: whole rows where importances repeat with them, else whole tiles.

    ``share`` values leave every thread several tasks.
    """
    size = min(CHUNK, max(share, CHUNK // 8))
    tile = row_len if weighted else 1024 * max(block, 32)
    return max(1, size // tile) * tile


def widen(raw: Bytes, source_type: GGMLType) -> Reals:
    """The float32 values of bytes of F32, F16 or BF16."""
    if source_type is GGMLType.F32:
        return np.frombuffer(raw, "<f4")
    if source_type is GGMLType.F16:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def _importances(imatrix: Reals | None, row_len: int, rows: int) -> Any:
    """A function that gives a task its importances and its rows' mean squares."""
    if imatrix is None:
        return None
    table: Any = np.ascontiguousarray(imatrix, np.float32).reshape(-1)
    matrices, rest = divmod(table.size, row_len)
    if rest or matrices == 0 or rows % matrices:
        raise UsageError(
            f"importance matrix of {table.size} values does not fit {rows} rows of {row_len}"
        )
    table = table.reshape(matrices, row_len)

    def given(first: int, last: int, part: Bytes, kind: GGMLType, type_: GGMLType) -> Any:
        from mbuild.quant.specs import WEIGHTED

        owner = np.arange(first // row_len, last // row_len) // (rows // matrices)
        weights = table[owner].reshape(-1)
        per_row = row_len // BLOCKS[type_].weights
        means: Any = np.zeros(len(owner), np.float32)
        if not WEIGHTED[type_].mean:
            with np.errstate(all="ignore"):
                values: Any = widen(part, kind).reshape(-1, row_len)
                # accumulate() adds one by one, as the reference does; sum() would not.
                sums = np.add.accumulate(values * values, axis=1, dtype=np.float32)
                means = sums[:, -1] / np.float32(row_len)
        return weights, np.repeat(means, per_row)

    return given


def _refuse(part: Bytes, source_type: GGMLType, first: int, row_len: int) -> None:
    """Raise the error that names the first value of ``part`` that is not finite."""
    values = widen(part, source_type)
    at = int(np.flatnonzero(~np.isfinite(values))[0])
    row, column = divmod(first + at, row_len)
    raise NotFiniteError(f"value {values[at]} in row {row}, column {column}", first + at)


def _validate(type_: GGMLType, blocks: Bytes, first: int) -> None:
    """Raise if a block's scale is infinite or not a number, as llama-quantize does."""
    from mbuild.quant.specs import SCALES

    block = BLOCKS[type_]
    for offset in SCALES.get(type_, ()):
        high = blocks[offset + 1 :: block.size]
        _reject(type_, first, block.weights, (high & 0x7C) == 0x7C)
    if type_ is GGMLType.F16:
        _reject(type_, first, 1, (blocks[1::2] & 0x7C) == 0x7C)
    elif type_ is GGMLType.BF16:
        halves = np.frombuffer(blocks, "<u2")
        _reject(type_, first, 1, (halves & 0x7F80) == 0x7F80)
    elif type_ is GGMLType.IQ1_M:
        # The float16's highest four bits are those of the last word of scales.
        pattern = (blocks[55 :: block.size] & 0xF0) | (blocks[53 :: block.size] >> 4)
        _reject(type_, first, block.weights, (pattern & 0x7C) == 0x7C)
    elif type_ is GGMLType.MXFP4:
        _reject(type_, first, block.weights, blocks[:: block.size] == 0xFF)


def _reject(type_: GGMLType, first: int, weights: int, bad: NDArray[np.bool_]) -> None:
    if bad.any():
        index = first + int(np.flatnonzero(bad)[0]) * weights
        raise NotFiniteError(
            f"values from {index} on are too large or too small for {type_.name}", index
        )

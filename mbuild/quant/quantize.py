"""Quantization of a tensor's rows, byte for byte as llama.cpp's ``ggml_quantize_chunk``.

One function does it, :func:`quantize`; it runs on the compiled engine where that can be
used and on the numpy engine elsewhere, with the same bytes. Neither is
imported before something is quantized. The bytes never depend on the number of
threads, on how the work is cut up, or on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import FormatError, UnsupportedError, UsageError
from mbuild.gguf.memory import room
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.arrays.values import widen
from mbuild.quant.engine import BlocksOutcome, Bytes, Engine, Reals, Unavailable, Weights
from mbuild.quant.table import TYPES, supports, takes_importances, wants_means
from mbuild.work.spread import run_all

if TYPE_CHECKING:
    from typing_extensions import Buffer

VERSION = 2
"""Raised when the bytes of any type change; part of the key of a quantized tensor."""

SOURCES = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
"""The types that can be quantized."""

CHUNK = 1 << 20
"""Values that one task takes at most, give or take a row: some milliseconds of work."""


class NotFiniteError(FormatError):
    """A tensor holds, or leads to, a number that is infinite or not a number.

    ``index`` is the place in the tensor, counted in values.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message, hint="llama-quantize refuses such a tensor too")
        self.index = index


@cache
def engine() -> Engine:
    """The compiled engine, or the numpy engine where that cannot be used."""
    found = _compiled()
    return fallback() if isinstance(found, Unavailable) else found


@cache
def _compiled() -> Engine | Unavailable:
    """The compiled engine, or why it cannot be used."""
    from mbuild.quant.compiled.engine import CompiledEngine

    try:
        return CompiledEngine()
    except Unavailable as reason:
        return reason


@cache
def fallback() -> Engine:
    """The numpy engine."""
    from mbuild.quant.arrays.engine import NumpyEngine

    return NumpyEngine()


def unsupported(type_: GGMLType) -> UnsupportedError:
    """The error for a type that is not made, or not without importances."""
    if supports(type_, weighted=True):
        return UnsupportedError(
            f"{type_.name} needs an importance matrix", hint="give one with --imatrix FILE"
        )
    return UnsupportedError(f"cannot quantize to {type_.name}")


def prepare(
    types: Sequence[GGMLType],
    *,
    weighted: bool = False,
    report: Callable[[str], None] | None = None,
) -> Unavailable | None:
    """Compile the kernels of these types, or load them from the cache; before threads start.

    ``report`` is told the name of each type before its turn. Without this call the first
    use compiles. Returns why types are left to the numpy engine, None if none is.
    """
    reasons = []
    for type_ in types:
        if report is not None:
            report(type_.name)
        reasons.append(_ready(type_, weighted)[1])
    return next((reason for reason in reasons if reason is not None), None)


@cache
def _ready(type_: GGMLType, weighted: bool) -> tuple[Engine, Unavailable | None]:
    """The engine that quantizes this type, its kernel loaded; why it is not the compiled one."""
    found = _compiled()
    if isinstance(found, Unavailable):
        return fallback(), found
    try:
        found.prepare(type_, weighted)
    except Unavailable as reason:
        return fallback(), reason
    return found, None


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
    using: Engine | None = None,
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
    imatrix = imatrix if takes_importances(type_) else None
    block, item = BLOCKS[type_], BLOCKS[source_type].size
    rows = raw.size // (row_len * item)
    out = _memory(out, rows * row_len // block.weights * block.size, type_)
    if type_ is source_type:
        out[:] = raw
        return out
    chosen = using or _ready(type_, imatrix is not None)[0]
    weights, begin = _importances(imatrix, row_len, rows), first_row * row_len

    def task(span: tuple[int, int]) -> None:
        check()
        first, last = span
        part = raw[first * item : last * item]
        to = out[first // block.weights * block.size : last // block.weights * block.size]
        given = None if weights is None else weights(first, last, part, source_type, type_)
        outcome = chosen.blocks(type_, part, source_type, to, given)
        _vet(outcome, (type_, to), (source_type, part), begin + first, row_len)

    spans = _spans(rows * row_len, row_len, block.weights, imatrix is not None, threads)
    run_all(task, spans, threads, name="mbuild-quantize")
    return out


def _memory(out: Bytes | None, size: int, type_: GGMLType) -> Bytes:
    """The memory for a result, new if none was given; :class:`UsageError` if that does not fit."""
    if out is None:
        return room(size)
    if out.shape != (size,) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(f"{out.size} bytes of memory for {size} bytes of {type_.name}")
    return out


def _spans(
    total: int, row_len: int, block: int, weighted: bool, threads: int
) -> list[tuple[int, int]]:
    """The values that each task takes, from the first to one behind the last."""
    step = _step(row_len, block, weighted, total // (4 * max(threads, 1)))
    return [(at, min(at + step, total)) for at in range(0, total, step)]


def _checked(
    type_: GGMLType, source_type: GGMLType, data: Any, row_len: int, weighted: bool
) -> Bytes:
    """The data as flat bytes, sizes and types found to fit."""
    if source_type not in SOURCES:
        raise UnsupportedError(
            "quantization is only supported for F16, BF16 and F32 models",
            hint=f"{source_type.name} is quantized already; --allow-requantize decodes it first",
        )
    if not supports(type_, weighted):
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


def _importances(
    imatrix: Reals | None, row_len: int, rows: int
) -> Callable[[int, int, Bytes, GGMLType, GGMLType], Weights] | None:
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

    def given(first: int, last: int, part: Bytes, kind: GGMLType, type_: GGMLType) -> Weights:
        owner = np.arange(first // row_len, last // row_len) // (rows // matrices)
        weights = table[owner].reshape(-1)
        per_row = row_len // BLOCKS[type_].weights
        means: Any = np.zeros(len(owner), np.float32)
        if wants_means(type_):
            with np.errstate(all="ignore"):
                values: Any = widen(part, kind).reshape(-1, row_len)
                # accumulate() adds one by one, as the reference does; sum() would not.
                sums = np.add.accumulate(values * values, axis=1, dtype=np.float32)
                means = sums[:, -1] / np.float32(row_len)
        return Weights(weights, np.repeat(means, per_row))

    return given


def _vet(
    outcome: BlocksOutcome,
    made: tuple[GGMLType, Bytes],
    source: tuple[GGMLType, Bytes],
    first: int,
    row_len: int,
) -> None:
    """Raise :class:`NotFiniteError` where an engine found something, or nobody looked.

    ``made`` and ``source`` are types with their bytes, ``first`` is the place of the first value.
    """
    if outcome is BlocksOutcome.NOT_FINITE:
        _refuse(source[1], source[0], first, row_len)
    elif outcome is BlocksOutcome.SUSPECT:
        _validate(*made, first)


def _refuse(part: Bytes, source_type: GGMLType, first: int, row_len: int) -> None:
    """Raise the error that names the first value of ``part`` that is not finite."""
    values = widen(part, source_type)
    at = int(np.flatnonzero(~np.isfinite(values))[0])
    row, column = divmod(first + at, row_len)
    raise NotFiniteError(f"value {values[at]} in row {row}, column {column}", first + at)


def _validate(type_: GGMLType, blocks: Bytes, first: int) -> None:
    """Raise if a block's scale is infinite or not a number, as llama-quantize does."""
    block = BLOCKS[type_]
    bad = TYPES[type_].bad(blocks.reshape(-1, block.size))
    if bad.any():
        index = first + int(np.flatnonzero(bad)[0]) * block.weights
        raise NotFiniteError(
            f"values from {index} on are too large or too small for {type_.name}", index
        )

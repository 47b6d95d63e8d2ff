"""Weights packed as small integers: GPTQ's and compressed-tensors', as float32.

The arithmetic is that of llama.cpp's converter: (code - zero point) times scale,
each product rounded once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import contiguous, to_f32
from mbuild.convert.read.integers import as_blocks
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import UNQUANTIZED
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.rowwise import CodedRows, Coding, by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

WORD = 32  # bits

_TOGETHER = 1 << 24
"""Values of a transposed weight that are made at once."""

_BELONGS = "quantization_config may belong to another checkpoint: download or save it again"


def misfit(codes: Lazy, *parts: Lazy) -> FormatError:
    """What to say of parts of a quantized weight whose shapes do not belong together."""
    shapes = " and ".join(str(list(part.shape)) for part in parts)
    return FormatError(
        f"{codes.origin} of {list(codes.shape)} does not fit its parts of {shapes}",
        hint=_BELONGS,
    )


def gptq(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """GPTQ of 2, 4 or 8 bits: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` of each weight.

    Without ``g_idx`` groups lie in their order. The weights come after all other tensors, as in
    llama.cpp. Raises :class:`UnsupportedError` for other bits, :class:`FormatError` for parts
    that are missing or do not fit.
    """
    bits = settings.get("bits")
    if bits not in (2, 4, 8):
        raise UnsupportedError(
            f"config.json: GPTQ of {str(bits)[:20]} bits is not supported, only 2, 4 and 8"
            " bits are",
            hint=UNQUANTIZED,
        )
    plus = 1 if settings.get("checkpoint_format", "gptq") == "gptq" else 0
    result, made = dict(tensors), dict[str, Lazy]()
    for name in tensors:
        if name.endswith(".qweight"):
            base = name.removesuffix("qweight")
            names = (base + part for part in ("qweight", "qzeros", "scales"))
            codes, zeros, scales = (take(result, name, "GPTQ") for name in names)
            groups = result.pop(f"{base}g_idx", None)
            made[base + "weight"] = _gptq(codes, zeros, scales, groups, bits, plus)
    return result | made


def take(tensors: dict[str, Lazy], name: str, tool: str) -> Lazy:
    """Take a part of a quantized weight out; raises :class:`FormatError` where it is missing."""
    if name not in tensors:
        raise FormatError(
            f"tensor {name!r} of a weight that {tool} quantized is missing",
            hint="a shard is missing: download or save the checkpoint again",
        )
    return tensors.pop(name)


def _gptq(
    codes: Lazy, zeros: Lazy, scales: Lazy, groups: Lazy | None, bits: int, plus: int
) -> Lazy:
    each = WORD // bits
    rows, width = codes.shape[0] * each if codes.shape else 0, codes.shape[-1:]
    count = scales.shape[0] if scales.shape else 0
    good = (
        len(codes.shape) == 2
        and codes.dtype is zeros.dtype is DType.I32
        and scales.shape == (count, *width)
        and zeros.shape == (count, -(-width[0] // each))
        and width[0] % each == 0
        and (groups.shape == (rows,) if groups else count > 0 and rows % count == 0)
    )
    if not good:
        of = f" and groups of {list(groups.shape)}" if groups else ""
        raise FormatError(
            f"{codes.origin} of {list(codes.shape)} does not fit its scales of "
            f"{list(scales.shape)}, zeros of {list(zeros.shape)}{of}",
            hint=_BELONGS,
        )

    words, zero_points = LoadedOnce(codes.load), LoadedOnce(zeros.load)
    factors_of = LoadedOnce(scales.load)
    place = None if groups is None else LoadedOnce(partial(_groups, groups, rows, count))
    coding = coding_of(bits, rows, count)

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        import numpy as np

        from mbuild.convert.read.codes import codes_of, unpacked

        index = None if place is None else place()
        points = unpacked(zero_points(), bits)[:, first:last].T + np.float32(plus)
        factors = to_f32(factors_of()[:, first:last], scales.dtype).T
        packed = words()[:, first:last].T  # along the rows that come out

        def some(low: int, high: int) -> Array:
            own, by = points[low:high], factors[low:high]
            return by_groups(codes_of(packed[low:high], bits), own, by, index)

        if coding is None or (index is not None and index.size):
            return some
        in_turn = lambda low, high: contiguous(packed[low:high])  # noqa: E731
        return CodedRows(coding, in_turn, factors, points, rows, some)

    together = max(_TOGETHER // max(rows, 1), 1)
    return by_rows((width[0], rows), opened, codes.origin, together, coding)


def by_groups(codes: Array, points: Array, factors: Array, index: Array | None) -> Array:
    """(code - zero point) times scale of ``codes``, uint8 (rows, width): float32, of that shape.

    ``points`` and ``factors`` are (rows, groups); ``index`` is the group of each place in a row,
    None or nothing where groups lie in their order.
    """
    import numpy as np

    values = codes.astype(np.float32)
    if index is None or not index.size:
        view = values.reshape(*factors.shape, -1)
        view -= points[:, :, None]
        view *= factors[:, :, None]
    else:
        values -= points[:, index]
        values *= factors[:, index]
    return values


def coding_of(bits: int, width: int, groups: int) -> Coding | None:
    """What codes of so many bits are for machine code; None where there is none for them."""
    kind = {4: "u4", 8: "u8"}.get(bits)
    return (
        None
        if kind is None or not groups or width % groups
        else Coding(kind, True, width // groups)
    )


def _groups(groups: Lazy, rows: int, count: int) -> Array:
    """The group of each row; nothing where they lie in their order."""
    import numpy as np

    index = groups.load().astype(np.int64)
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise FormatError(f"{groups.origin} names a group that does not exist", hint=_BELONGS)
    plain = rows % count == 0 and np.array_equal(index, np.arange(rows) // (rows // count))
    return index[:0] if plain else index


PACKER = "compressed-tensors"


def pack_quantized(
    bits: int | None,
    name: str,
    tensors: dict[str, Lazy],
    width: int | None = None,
    *,
    keep: bool = False,
) -> Lazy:
    """One weight of compressed-tensors' ``pack-quantized``: integers of 4 or 8 bits in 32-bit
    words, around the middle or a zero point of each group.

    ``name`` is that of the codes, whose parts are taken out of ``tensors``; ``width`` are the
    values of a row, where its last word is not full. With ``keep`` it stays in its bits where
    ggml has them (:func:`~mbuild.convert.read.integers.as_blocks`). Raises
    :class:`UnsupportedError` for other bits, :class:`FormatError` for parts that are missing or
    do not fit.
    """
    if bits not in (4, 8):
        raise UnsupportedError(
            f"config.json: weights packed with {str(bits)[:20]} bits are not supported",
            hint=UNQUANTIZED,
        )
    base = name.removesuffix("_packed")
    codes, scale = (take(tensors, part, PACKER) for part in (name, f"{base}_scale"))
    zeros, order = (tensors.pop(base + end, None) for end in ("_zero_point", "_g_idx"))
    values = _unpacked(codes, scale, zeros, order, bits, width)
    plain = zeros is None and order is None and width in (None, codes.shape[-1] * WORD // bits)
    return as_blocks(bits, values, codes, scale) if keep and plain else values


def _points(zeros: Lazy, rows: int, groups: int, bits: int) -> Array:
    """Zero points as float32, one a row and group; they are packed down the columns."""
    from mbuild.convert.read.codes import unpacked_down

    return unpacked_down(zeros.load(), bits)[:rows]


def _unpacked(
    codes: Lazy, scale: Lazy, zeros: Lazy | None, order: Lazy | None, bits: int, said: int | None
) -> Lazy:
    each = WORD // bits
    rows, full = (codes.shape[0], codes.shape[1] * each) if len(codes.shape) == 2 else (0, 0)
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    width = full if said is None else said
    good = (
        groups > 0
        and scale.shape[0] == rows
        and codes.dtype is DType.I32
        and full - each < width <= full
        and (width % groups == 0 if order is None else order.shape == (width,))
        and (zeros is None or (zeros.dtype is DType.I32))
        and (zeros is None or zeros.shape == (-(-rows // each), groups))
    )
    if not good:
        raise misfit(codes, scale, *(part for part in (zeros, order) if part is not None))
    middles = None if zeros is None else LoadedOnce(partial(_points, zeros, rows, groups, bits))
    place = None if order is None else LoadedOnce(partial(_groups, order, width, groups))
    plain = order is None and width == full
    coding = coding_of(bits, width, groups) if plain else None

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        import numpy as np

        from mbuild.convert.read.codes import codes_of

        words = rows_of(codes, first, last)
        scales = to_f32(rows_of(scale, first, last), scale.dtype)
        if middles is None:
            points = np.full(scales.shape, 1 << (bits - 1), np.float32)
        else:
            points = middles()[first:last]
        index = None if place is None else place()

        def some(low: int, high: int) -> Array:
            own, by = points[low:high], scales[low:high]
            return by_groups(codes_of(words[low:high], bits)[:, :width], own, by, index)

        if coding is None:
            return some
        return CodedRows(coding, lambda low, high: words[low:high], scales, points, width, some)

    return by_rows((rows, width), opened, codes.origin, coding=coding)

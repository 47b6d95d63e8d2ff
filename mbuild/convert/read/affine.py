"""Weights packed as small integers by AWQ and by MLX, as float32.

Each product is exact: the factors have so few bits that only the last step rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.fp4 import mxfp4, nvfp4
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import MLX, UNQUANTIZED
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.packed import WORD, by_groups, coding_of, misfit, take
from mbuild.convert.read.rowwise import CodedRows, by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The columns of a word's eight codes, those of the lowest bits first (AutoAWQ's ``order_map``)."""

_TOGETHER = 1 << 24  # as of GPTQ


def awq(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """AWQ of 4 bits in the layout of AutoAWQ's GEMM kernels: (code - zero point) times scale.

    The weights come after all other tensors. Raises :class:`UnsupportedError` for other bits and
    layouts, :class:`FormatError` for parts that are missing or do not fit.
    """
    bits, version = settings.get("bits", settings.get("w_bit")), settings.get("version", "gemm")
    if bits != 4 or str(version).lower() != "gemm":
        raise UnsupportedError(
            f"config.json: AWQ of {str(bits)[:20]} bits in the layout {str(version)[:20]!r} is not"
            " supported, only 4 bits in 'gemm' are",
            hint=UNQUANTIZED,
        )
    result, made = dict(tensors), dict[str, Lazy]()
    for name in tensors:
        if name.endswith(".qweight"):
            base = name.removesuffix("qweight")
            found = (take(result, base + part, "AWQ") for part in ("qweight", "qzeros", "scales"))
            made[base + "weight"] = _awq(*found)
    return result | made


def _awq(codes: Lazy, zeros: Lazy, scales: Lazy) -> Lazy:
    rows, words = codes.shape if len(codes.shape) == 2 else (0, 0)
    groups, columns = scales.shape if len(scales.shape) == 2 else (0, 0)
    good = (
        codes.dtype is zeros.dtype is DType.I32
        and columns == words * len(_ORDER)
        and zeros.shape == (groups, words)
        and groups > 0
        and rows % groups == 0
    )
    if not good:
        raise misfit(codes, scales, zeros)

    packed, zero_points, factors_of = (
        LoadedOnce(codes.load),
        LoadedOnce(zeros.load),
        LoadedOnce(scales.load),
    )
    coding = coding_of(8, rows, groups)

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        cut = slice(first // len(_ORDER), -(-last // len(_ORDER)))
        own = slice(first - cut.start * len(_ORDER), last - cut.start * len(_ORDER))
        values = _in_order(packed()[:, cut].T)[own]
        points = _in_order(zero_points()[:, cut].T)[own].astype("<f4")
        factors = to_f32(factors_of()[:, first:last], scales.dtype).T

        def some(low: int, high: int) -> Array:
            return by_groups(values[low:high], points[low:high], factors[low:high], None)

        if coding is None:
            return some
        return CodedRows(coding, lambda low, high: values[low:high], factors, points, rows, some)

    together = max(_TOGETHER // max(rows, 1), 1)
    return by_rows((columns, rows), opened, codes.origin, together, coding)


def _in_order(words: Array) -> Array:
    """The codes of words (columns / 8, n), which hold eight columns each: uint8 (columns, n)."""
    import numpy as np

    words = np.ascontiguousarray(words).view(np.uint32)
    out = np.empty((words.shape[0], len(_ORDER), words.shape[1]), np.uint8)
    for number, column in enumerate(_ORDER):
        out[:, column] = words >> np.uint32(4 * number) & np.uint32(15)
    return out.reshape(-1, words.shape[1])


_BITS = (2, 3, 4, 5, 6, 8)


def mlx(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """MLX's quantization: scale times code plus bias, by groups of a row; and its MXFP4, NVFP4.

    ``settings`` may have an object of its own for a layer. Raises :class:`UnsupportedError` for
    other modes and bits, :class:`FormatError` for parts that are missing or do not fit.
    """
    result, made = dict(tensors), dict[str, Lazy]()
    for name in tensors:
        if not name.endswith(".scales"):
            continue
        base = name.removesuffix(".scales")
        own = settings.get(base)
        said = {**settings, **(own if isinstance(own, dict) else {})}
        mode = said.get("mode", "affine")
        if mode not in ("affine", "mxfp4", "nvfp4"):
            raise UnsupportedError(
                f"{tensors[name].origin}: MLX's quantization is not supported in the mode"
                f" {str(mode)[:20]!r}",
                hint=MLX,
            )
        codes, scales = (take(result, base + part, "MLX") for part in (".weight", ".scales"))
        if mode == "affine":
            biases = take(result, f"{base}.biases", "MLX")
            made[f"{base}.weight"] = _mlx(codes, scales, biases, said.get("group_size"))
        else:
            made[f"{base}.weight"] = _four_bits(str(mode), _as_bytes(codes), scales)
    return {name: made.get(name, lazy) for name, lazy in tensors.items() if name in result | made}


def _four_bits(mode: str, codes: Lazy, scales: Lazy) -> Lazy:
    if mode == "mxfp4":
        return mxfp4(codes, scales)
    return nvfp4(codes, Lazy(DType.F8_E4M3, scales.shape, scales.load, scales.origin,
                             part=scales.part), 1.0, 1.0)  # fmt: skip


def _as_bytes(words: Lazy) -> Lazy:
    """32-bit words as four bytes each."""
    if words.dtype is DType.U8:
        return words
    import numpy as np

    shape = (*words.shape[:-1], 4 * words.shape[-1]) if words.shape else (0,)
    part = words.part
    return Lazy(
        DType.U8,
        shape,
        lambda: words.load().view(np.uint8).reshape(shape),
        words.origin,
        part=part and (lambda start, stop: part(start // 4, -(-stop // 4)).view(np.uint8)),
    )


def _mlx(codes: Lazy, scales: Lazy, biases: Lazy, group: Any) -> Lazy:
    words = codes.shape[-1] if len(codes.shape) >= 2 else 0
    lead, groups = codes.shape[:-1], scales.shape[-1] if len(scales.shape) >= 2 else 0
    width = groups * group if type(group) is int and 0 < group < 1 << 16 else 0
    if (
        not width
        or codes.dtype not in (DType.U32, DType.I32)
        or scales.shape != (*lead, groups)
        or biases.shape != scales.shape
        or words * WORD % width
    ):
        raise misfit(codes, scales, biases)
    bits = words * WORD // width
    if bits not in _BITS:
        raise UnsupportedError(
            f"{codes.origin}: MLX's quantization to {bits} bits is not supported, only to 2, 3, 4,"
            " 5, 6 and 8 bits",
            hint=MLX,
        )

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        from mbuild.convert.read.codes import unpacked

        stored = rows_of(codes, first, last)
        by = to_f32(rows_of(scales, first, last), scales.dtype)
        plus = to_f32(rows_of(biases, first, last), biases.dtype)

        def some(low: int, high: int) -> Array:
            out = unpacked(stored[low:high], bits).reshape(-1, groups, group)
            out *= by[low:high, :, None]
            out += plus[low:high, :, None]
            return out

        return some

    return by_rows((*lead, width), opened, codes.origin)

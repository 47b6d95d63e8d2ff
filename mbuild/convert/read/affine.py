"""Weights packed as small integers by AWQ and by MLX, as float32.

Each product is exact: the factors have so few bits that only the last step rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import MLX, UNQUANTIZED
from mbuild.convert.read.packed import WORD, misfit, take
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The columns of a word's eight codes, those of the lowest bits first (AutoAWQ's ``order_map``)."""


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

    def load() -> Array:
        import numpy as np

        out = _in_order(codes.load())
        index = np.arange(rows) // (rows // groups)
        out -= _in_order(zeros.load())[index]
        out *= to_f32(scales.load(), scales.dtype)[index]
        return out.T

    return Lazy(DType.F32, (columns, rows), load, codes.origin)


def _in_order(words: Array) -> Array:
    """Codes as float32, eight columns of each word."""
    import numpy as np

    shifts = np.arange(0, WORD, 4, dtype=np.uint32)
    nibbles = (words.view(np.uint32)[:, :, None] >> shifts) & np.uint32(15)
    columns = np.empty(nibbles.shape, np.float32)
    columns[:, :, _ORDER] = nibbles
    return columns.reshape(words.shape[0], -1)


def mlx(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """MLX's affine quantization of 2, 4 or 8 bits: scale times code plus bias, by groups of a row.

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
        if said.get("mode", "affine") != "affine":
            raise UnsupportedError(
                f"{tensors[name].origin}: MLX's quantization is not supported in the mode"
                f" {str(said.get('mode'))[:20]!r}",
                hint=MLX,
            )
        codes, scales, biases = (
            take(result, base + part, "MLX") for part in (".weight", ".scales", ".biases")
        )
        made[base + ".weight"] = _mlx(codes, scales, biases, said.get("group_size"))
    return {name: made.get(name, lazy) for name, lazy in tensors.items() if name in result | made}


def _mlx(codes: Lazy, scales: Lazy, biases: Lazy, group: Any) -> Lazy:
    rows, words = codes.shape if len(codes.shape) == 2 else (0, 0)
    groups = scales.shape[1] if len(scales.shape) == 2 else 0
    width = groups * group if type(group) is int and 0 < group < 1 << 16 else 0
    if (
        not width
        or codes.dtype not in (DType.U32, DType.I32)
        or scales.shape != (rows, groups)
        or biases.shape != scales.shape
        or words * WORD % width
    ):
        raise misfit(codes, scales, biases)
    bits = words * WORD // width
    if bits not in (2, 4, 8):
        raise UnsupportedError(
            f"{codes.origin}: MLX's quantization to {bits} bits is not supported, only to 2, 4"
            " and 8 bits",
            hint=MLX,
        )

    def load() -> Array:
        import numpy as np

        shifts = np.arange(0, WORD, bits, dtype=np.uint32)
        values = (codes.load().view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
        out = values.reshape(rows, groups, group).astype(np.float32)
        out *= to_f32(scales.load(), scales.dtype)[:, :, None]
        out += to_f32(biases.load(), biases.dtype)[:, :, None]
        return out.reshape(rows, width)

    return Lazy(DType.F32, (rows, width), load, codes.origin)

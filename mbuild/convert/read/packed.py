"""Weights packed as small integers: GPTQ's and compressed-tensors', as float32.

The arithmetic is that of llama.cpp's converter: (code - zero point) times scale,
each product rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import UNQUANTIZED
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

WORD = 32  # bits


def misfit(codes: Lazy, *parts: Lazy) -> FormatError:
    """What to say of parts of a quantized weight whose shapes do not belong together."""
    shapes = " and ".join(str(list(part.shape)) for part in parts)
    return FormatError(
        f"{codes.origin} of {list(codes.shape)} does not fit its parts of {shapes}",
        hint="quantization_config may belong to another checkpoint: download or save it again",
    )


def gptq(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """GPTQ of 2, 4 or 8 bits: ``qweight``, ``qzeros``, ``scales`` and ``g_idx`` of each weight.

    The weights come after all other tensors, as in llama.cpp. Raises
    :class:`UnsupportedError` for other bits, :class:`FormatError` for parts that
    are missing or do not fit.
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
            names = (base + part for part in ("qweight", "qzeros", "scales", "g_idx"))
            codes, zeros, scales, groups = (take(result, name, "GPTQ") for name in names)
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


def _gptq(codes: Lazy, zeros: Lazy, scales: Lazy, groups: Lazy, bits: int, plus: int) -> Lazy:
    each = WORD // bits
    rows, width = codes.shape[0] * each if codes.shape else 0, codes.shape[-1:]
    count = scales.shape[0] if scales.shape else 0
    good = (
        len(codes.shape) == 2
        and codes.dtype is zeros.dtype is DType.I32
        and scales.shape == (count, *width)
        and zeros.shape == (count, -(-width[0] // each))
        and width[0] % each == 0
        and groups.shape == (rows,)
    )
    if not good:
        raise FormatError(
            f"{codes.origin} of {list(codes.shape)} does not fit its scales of "
            f"{list(scales.shape)}, zeros of {list(zeros.shape)} and groups of "
            f"{list(groups.shape)}",
            hint="quantization_config may belong to another checkpoint: download or save it again",
        )

    def load() -> Array:
        import numpy as np

        index = groups.load().astype(np.int64)
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < count:
            raise FormatError(f"{groups.origin} names a group that does not exist")
        shifts = np.arange(0, WORD, bits, dtype=np.uint32)
        mask = np.uint32((1 << bits) - 1)
        words = zeros.load().view(np.uint32)
        points = ((words[:, :, None] >> shifts) & mask).reshape(scales.shape).astype(np.float32)
        words = codes.load().view(np.uint32)
        values = (words[:, None, :] >> shifts[:, None]) & mask
        out = values.reshape(rows, width[0]).astype(np.float32)
        out -= (points + np.float32(plus))[index]
        out *= to_f32(scales.load(), scales.dtype)[index]
        return out.T

    return Lazy(DType.F32, (width[0], rows), load, codes.origin)


def pack_quantized(weights: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """compressed-tensors' ``pack-quantized``: integers of 4 or 8 bits in 32-bit words, around
    the middle or a zero point of each group.

    ``weights`` is the group's setting. The weights come after all other tensors.
    Raises :class:`UnsupportedError` for other bits and for groups in an order of their own.
    """
    bits = weights.get("num_bits")
    if bits not in (4, 8) or weights.get("type", "int") != "int":
        raise UnsupportedError(
            f"config.json: weights packed with {str(bits)[:20]} bits are not supported",
            hint=UNQUANTIZED,
        )
    result, made = dict(tensors), dict[str, Lazy]()
    for name in tensors:
        if name.endswith(".weight_packed"):
            base = name.removesuffix("_packed")
            if base + "_g_idx" in tensors:
                raise UnsupportedError(
                    f"{tensors[name].origin} has its groups in a custom order, "
                    "which is not supported",
                    hint=UNQUANTIZED,
                )
            result.pop(base + "_shape", None)
            codes, scale = (take(result, n, _PACKER) for n in (name, base + "_scale"))
            made[base] = _unpacked(codes, scale, result.pop(base + "_zero_point", None), bits)
    return result | made


_PACKER = "compressed-tensors"


def _points(zeros: Lazy, rows: int, groups: int, bits: int) -> Array:
    """Zero points as float32, one a row and group; they are packed down the columns."""
    import numpy as np

    shifts = np.arange(0, WORD, bits, dtype=np.uint32)
    words = zeros.load().view(np.uint32)
    codes = (words[:, None, :] >> shifts[:, None]) & np.uint32((1 << bits) - 1)
    return codes.reshape(-1, groups)[:rows].astype(np.float32)[:, :, None]


def _unpacked(codes: Lazy, scale: Lazy, zeros: Lazy | None, bits: int) -> Lazy:
    each = WORD // bits
    rows, width = (codes.shape[0], codes.shape[1] * each) if len(codes.shape) == 2 else (0, 0)
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    if not groups or scale.shape[0] != rows or width % groups or codes.dtype is not DType.I32:
        raise FormatError(
            f"{codes.origin} of {list(codes.shape)} does not fit its scale of {list(scale.shape)}",
            hint="quantization_config may belong to another checkpoint: download or save it again",
        )
    if zeros is not None and (
        zeros.dtype is not DType.I32 or zeros.shape != (-(-rows // each), groups)
    ):
        raise misfit(codes, scale, zeros)

    def load() -> Array:
        import numpy as np

        shifts = np.arange(0, WORD, bits, dtype=np.uint32)
        words = codes.load().view(np.uint32)
        values = ((words[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)).astype(np.float32)
        out = values.reshape(rows, groups, width // groups)
        middle = np.float32(1 << (bits - 1))
        out -= middle if zeros is None else _points(zeros, rows, groups, bits)
        out *= to_f32(scale.load(), scale.dtype)[:, :, None]
        return out.reshape(rows, width)

    return Lazy(DType.F32, (rows, width), load, codes.origin)

"""The readers of quantized checkpoints, by the method that config.json names.

Each takes a weight's parts out of the tensors and puts the weight in. What is known of a weight is
taken from its own parts (their types and shapes), not from a setting for the whole checkpoint,
wherever those can say it: many checkpoints mix formats. Loaded where a checkpoint is quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.affine import awq, mlx
from mbuild.convert.read.bitsandbytes import bitsandbytes
from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.fp4 import mxfp4, nvfp4
from mbuild.convert.read.integers import as_blocks
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import DEQUANTIZE
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.packed import PACKER, WORD, gptq, misfit, pack_quantized, take
from mbuild.convert.read.rowwise import by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.scaled import scaled
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_SCALES = (("_scale_inv", ""), (".weight_scale", ".weight"), (".qscale_weight", ".weight"))
"""Endings of the scales' names, and of the weight's in their place."""

_UNUSED = (
    *("activation_scale", ".qscale_act", ".input_scale", ".input_zero_point"),
    *(".input_global_scale", ".weight_shape", ".input_scale_ub"),
)
"""Endings of what belongs to activations, or says what the weights' shapes say."""


def _fp8(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    return _multiplied(dict(tensors), _block(settings.get("weight_block_size")))


def _modelopt(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    """ModelOpt's FP8, a scale for each tensor, and its NVFP4; mixed as they come."""
    result = dict(tensors)
    for name, scale in tensors.items():
        base = name.removesuffix("_scale")
        weight = tensors.get(base)
        if not name.endswith(".weight_scale") or weight is None or weight.dtype is not DType.U8:
            continue
        if scale.dtype is DType.F8_E4M3:
            stem = base.removesuffix("weight")
            factors = (result.pop(stem + end, None) for end in ("weight_scale_2", "input_scale"))
            result[base] = nvfp4(weight, scale, *(_factor(part) for part in factors))
        elif scale.dtype in (DType.U8, DType.F8_E8M0):
            result[base] = mxfp4(weight, scale)
        else:
            raise misfit(weight, scale)
        del result[name]
    return _multiplied(result, None)


def _factor(part: Lazy | None, *, inverse: bool = False) -> float:
    """The number that a part of a weight holds, 1 where there is none."""
    if part is None:
        return 1.0
    if part.size != 1 or part.dtype not in (DType.F32, DType.BF16, DType.F16):
        raise FormatError(f"{part.origin} of {list(part.shape)} is not one number")
    import numpy as np

    value = to_f32(part.load(), part.dtype).reshape(-1)[0]
    if inverse:
        with np.errstate(all="ignore"):
            value = np.float32(1) / value
    if not np.isfinite(value):
        raise FormatError(f"{part.origin} holds {value}", hint="the file is damaged")
    return float(value)


def compressed(
    settings: Mapping[str, Any], tensors: Mapping[str, Lazy], *, keep: bool
) -> Mapping[str, Lazy]:
    """compressed-tensors: each weight by its parts, the settings only where those are silent."""
    groups = list(_groups(settings))
    bits = {group.get("num_bits") for group in groups}
    said = bits.pop() if len(bits) == 1 else None
    result, made = dict(tensors), dict[str, Lazy]()
    for name, codes in tensors.items():
        if not name.endswith(".weight_packed"):
            continue
        base, scale = name.removesuffix("_packed"), tensors.get(f"{name[:-7]}_scale")
        if codes.dtype is DType.U8:
            made[base] = _four_bits(result, base, codes, scale)
        else:
            width = _width(result.pop(f"{base}_shape", None), codes, said)
            own = said if said is not None else _bits(codes, width)
            made[base] = pack_quantized(own, name, result, width, keep=keep)
    blocks = [group.get("block_structure") for group in groups]
    block = next((_block(each) for each in blocks if each is not None), None)
    rest = _multiplied(result, block, keep=keep)
    return {**rest, **made}


def _four_bits(tensors: dict[str, Lazy], base: str, codes: Lazy, scale: Lazy | None) -> Lazy:
    take(tensors, f"{base}_packed", PACKER)
    scales = take(tensors, f"{base}_scale", PACKER)
    stem = base.removesuffix("weight")
    parts = [tensors.pop(stem + end, None) for end in ("weight_global_scale", "input_global_scale")]
    if scales.dtype is DType.F8_E4M3:
        return nvfp4(codes, scales, *(_factor(part, inverse=True) for part in parts))
    return mxfp4(codes, scales)


def _width(shape: Lazy | None, codes: Lazy, bits: int | None) -> int | None:
    """The values of a row where words alone do not tell: their bits, or that the last is full."""
    if shape is None or shape.size != 2 or (bits == 4 and codes.shape[-1:] > (4,)):
        return None
    return int(shape.load().reshape(-1)[1])


def _bits(codes: Lazy, width: int | None) -> int | None:
    """Bits of a code from the row's words and values."""
    words = codes.shape[-1] if codes.shape else 0
    return next((b for b in (4, 8) if width and words == -(-width * b // WORD)), None)


def _groups(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What compressed-tensors says of the weights of each group; raises
    :class:`UnsupportedError` for a format that is not read."""
    groups = settings.get("config_groups")
    listed = list(groups.values()) if isinstance(groups, dict) else []
    for group in listed:
        weights = group.get("weights") if isinstance(group, dict) else None
        form = (group.get("format") if isinstance(group, dict) else None) or settings.get("format")
        if form not in _FORMATS or not isinstance(weights, dict):
            raise UnsupportedError(
                f"config.json: the format {str(form)[:40]!r} of compressed-tensors is not"
                " supported",
                hint=DEQUANTIZE,
            )
        yield weights
    if not listed:
        raise UnsupportedError(
            "config.json: compressed-tensors without config_groups is not supported",
            hint=DEQUANTIZE,
        )


_FORMATS = (
    *("float-quantized", "int-quantized", "naive-quantized", "pack-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision"),
)


def _multiplied(
    tensors: dict[str, Lazy], block: tuple[int, ...] | None, *, keep: bool = False
) -> Mapping[str, Lazy]:
    result = dict(tensors)
    for name, scale in tensors.items():
        if name.endswith(_UNUSED):
            del result[name]
            continue
        for ending, other in _SCALES:
            if name.endswith(ending):
                weight = name.removesuffix(ending) + other
                if weight not in tensors:
                    raise FormatError(f"{scale.origin} has no weight {weight!r}")
                zeros = result.pop(f"{weight}_zero_point", None)
                own = block if len(scale.shape) >= len(block or ()) and scale.size > 1 else None
                values = scaled(tensors[weight], scale, own, zeros)
                if keep and zeros is None and tensors[weight].dtype is DType.I8:
                    values = as_blocks(8, values, tensors[weight], scale)
                result[weight] = values
                del result[name]
                break
    return result


def _block(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= 2
        or not all(type(size) is int and 0 < size < 1 << 20 for size in value)
    ):
        raise FormatError(f"config.json: weight_block_size is {str(value)[:60]}")
    return tuple(value)


def _bitnet(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    """BitNet's four values a byte, down the first axis: (code - 1) / scale."""
    result = dict(tensors)
    for name, scale in tensors.items():
        weight = tensors.get(name.removesuffix("_scale"))
        if name.endswith(".weight_scale") and weight is not None:
            result[name.removesuffix("_scale")] = _ternary(weight, scale)
            del result[name]
    return result


def _ternary(weight: Lazy, scale: Lazy) -> Lazy:
    if weight.dtype is not DType.U8 or len(weight.shape) != 2 or scale.size != 1:
        raise misfit(weight, scale)
    height, width = weight.shape
    factor = LoadedOnce(lambda: to_f32(scale.load(), scale.dtype).reshape(-1))

    def make(first: int, last: int) -> Array:
        import numpy as np

        out = np.empty((last - first, width), np.float32)
        for quarter in range(first // height, -(-last // height)):
            low = max(first, quarter * height)
            high = min(last, (quarter + 1) * height)
            raw = rows_of(weight, low - quarter * height, high - quarter * height)
            out[low - first : high - first] = raw >> np.uint8(2 * quarter) & np.uint8(3)
        out -= np.float32(1)
        out /= factor()[0]
        return out

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        return lambda low, high: make(first + low, first + high)

    return by_rows((4 * height, width), opened, weight.origin)


READERS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Lazy]], Mapping[str, Lazy]]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "modelopt": _modelopt,
    "gptq": gptq,
    "awq": awq,
    "mlx": mlx,
    "bitnet": _bitnet,
    "bitsandbytes": lambda settings, tensors: bitsandbytes(tensors),
}
"""By the method that config.json names; compressed-tensors' has an option."""

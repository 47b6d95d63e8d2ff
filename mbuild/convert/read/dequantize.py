"""Quantized checkpoints: weights times their scales, as float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.affine import awq, mlx
from mbuild.convert.read.dtypes import PIECE, to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.leftovers import DEQUANTIZE, quantization
from mbuild.convert.read.packed import gptq, pack_quantized
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_SCALES = (("_scale_inv", ""), (".weight_scale", ".weight"), (".qscale_weight", ".weight"))
"""Endings of the scales' names, and of the weight's in their place."""

_UNUSED = ("activation_scale", ".qscale_act")


def dequantize(config: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    """The tensors with every quantized weight multiplied by its scales, and without the scales.

    Raises :class:`UnsupportedError` for formats that are not read, and
    :class:`FormatError` for scales that do not fit their weight.
    """
    method, settings = quantization(config)
    whole = {"gptq": gptq, "awq": awq, "mlx": mlx}
    if method in whole:
        return whole[method](settings, tensors)
    if method == "fp8":
        return _multiplied(tensors, _block(settings.get("weight_block_size")))
    if method == "modelopt":
        return _modelopt(settings, tensors)
    if method != "compressed-tensors":
        return tensors
    weights = _weights(settings)
    if settings.get("format") == "pack-quantized":
        return pack_quantized(weights, tensors)
    return _multiplied(tensors, _block(weights.get("block_structure")))


def _modelopt(settings: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    """ModelOpt's FP8, a scale for each tensor; its NVFP4 is refused."""
    four = next((lazy for lazy in tensors.values() if lazy.dtype is DType.U8), None)
    if four is not None:
        algorithm = str(settings.get("quant_algo"))[:40]
        raise UnsupportedError(
            f"{four.origin}: ModelOpt's {algorithm!r} is not supported, only its FP8 is",
            hint=DEQUANTIZE,
        )
    return _multiplied(tensors, None)


_SCALED = ("float-quantized", "int-quantized", "naive-quantized")


def _weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What compressed-tensors says of its weights; refused unless there is one group of a format
    that is read."""
    format_, groups = settings.get("format"), settings.get("config_groups")
    listed = list(groups.values()) if isinstance(groups, dict) else []
    weights = listed[0].get("weights") if listed and isinstance(listed[0], dict) else None
    known = format_ in (*_SCALED, "pack-quantized")
    if not known or len(listed) != 1 or not isinstance(weights, dict):
        raise UnsupportedError(
            f"config.json: the format {str(format_)[:40]!r} of compressed-tensors with "
            f"{len(listed)} groups is not supported",
            hint=DEQUANTIZE,
        )
    if weights.get("symmetric") is False and format_ != "pack-quantized":
        raise UnsupportedError(
            "config.json: weights of compressed-tensors with zero points are not supported",
            hint=DEQUANTIZE,
        )
    return weights


def _multiplied(tensors: Mapping[str, Lazy], block: tuple[int, ...] | None) -> Mapping[str, Lazy]:
    result = dict(tensors)
    for name, scale in tensors.items():
        if name.endswith(_UNUSED):
            del result[name]
        for ending, other in _SCALES:
            if name.endswith(ending):
                weight = name.removesuffix(ending) + other
                if weight not in tensors:
                    raise FormatError(f"{scale.origin} has no weight {weight!r}")
                result[weight] = _scaled(tensors[weight], scale, block)
                del result[name]
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


def _scaled(weight: Lazy, scale: Lazy, block: tuple[int, ...] | None) -> Lazy:
    _check_fit(weight, scale, block)

    def load() -> Array:
        import numpy as np

        factors = to_f32(scale.load(), scale.dtype)
        values = weight.load()
        if block is None or values.ndim != 2 or len(block) != 2:
            return to_f32(values, weight.dtype) * _spread(factors, block, weight.shape)
        out = np.empty(weight.shape, dtype=np.float32)
        step = max(1, PIECE // 2 // max(weight.shape[1], 1))
        for number, row in enumerate(factors):  # some rows at a time: temporaries stay small
            spread = row.repeat(block[1])[: weight.shape[1]]
            end = min((number + 1) * block[0], weight.shape[0])
            for start in range(number * block[0], end, step):
                rows = slice(start, min(start + step, end))
                np.multiply(to_f32(values[rows], weight.dtype), spread, out=out[rows])
        return out

    return Lazy(DType.F32, weight.shape, load, weight.origin)


def _spread(factors: Array, block: tuple[int, ...] | None, shape: tuple[int, ...]) -> Array:
    """The scales, each as often as its block is long, with an axis for each of the weight's."""
    sizes = block or ()
    for number, size in enumerate(sizes):
        factors = factors.repeat(size, axis=factors.ndim - len(sizes) + number)
    factors = factors[tuple(slice(size) for size in shape[: factors.ndim])]
    return factors.reshape(factors.shape + (1,) * (len(shape) - factors.ndim))


def _check_fit(weight: Lazy, scale: Lazy, block: Sequence[int] | None) -> None:
    sizes = [1] * len(scale.shape)
    if block is not None:
        if len(scale.shape) < len(block):
            raise FormatError(f"{scale.origin} has the shape {list(scale.shape)}")
        sizes[len(sizes) - len(block) :] = block
    fits = len(scale.shape) <= len(weight.shape) and all(
        count == -(-dim // size) or (count == 1 and block is None)
        for count, dim, size in zip(scale.shape, weight.shape, sizes, strict=False)
    )
    if not fits:
        raise FormatError(
            f"{scale.origin} of {list(scale.shape)} does not fit the weight of"
            f" {list(weight.shape)}",
            hint="config.json may say another block size than the weights have,"
            " or a file of another checkpoint lies here",
        )

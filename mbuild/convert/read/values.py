"""Values that no model can use: what a conversion refuses, by the tensor's name.

A NaN or an infinity spreads to every answer of the model, and so does a number
that the type it is stored in cannot hold. llama.cpp's converter writes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import NotFinite, encode
from mbuild.core.errors import FormatError
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.read.safetensors import DType

    Array = np.ndarray[Any, np.dtype[Any]]

_DAMAGED = (
    "the training diverged, or the file is damaged: use an earlier checkpoint, or download or"
    " save this one again"
)
_LARGEST = {
    GGMLType.F16: "65504",
    GGMLType.Q8_0: "8319008",
    GGMLType.TQ1_0: "65504",
    GGMLType.TQ2_0: "65504",
    GGMLType.BF16: "3.39e+38",
    GGMLType.F32: "3.40e+38",
}
_WIDER = {
    GGMLType.F16: "use --outtype bf16 or --outtype f32",
    GGMLType.Q8_0: "use --outtype bf16 or --outtype f32",
    GGMLType.BF16: "use --outtype f32",
}
_MXFP4_BLOCK = 17  # bytes; the first is the scale
_E8M0_NAN = 0xFF


def encode_checked(
    values: Array, dtype: DType, target: GGMLType, origin: str, start: int = 0
) -> Array:
    """:func:`~mbuild.convert.read.dtypes.encode`, where every value has to be a finite number.

    ``values`` stand from the flat place ``start`` on in the tensor that
    ``origin`` names. Raises :class:`FormatError` with the first place and value
    that is not finite, or is not in the type ``target``.
    """
    try:
        return encode(values, dtype, target, finite=True)
    except NotFinite as error:
        raise _refusal(error, target, origin, start) from None


def _refusal(error: NotFinite, target: GGMLType, origin: str, start: int) -> FormatError:
    place = start + error.index
    if not math.isfinite(error.value):
        what = "NaN" if math.isnan(error.value) else f"{error.value:+}".replace("inf", "infinity")
        return FormatError(f"{origin} holds {what} (value {place})", hint=_DAMAGED)
    return FormatError(
        f"{origin} holds {error.value:g} (value {place}), but {target.name} ends at"
        f" {_LARGEST[target]}",
        hint=_WIDER.get(target, _DAMAGED),
    )


def check_mxfp4(blocks: Array, origin: str) -> Array:
    """The blocks (uint8), none of whose scales is NaN; raises :class:`FormatError`."""
    flat = blocks.reshape(-1)
    scales = flat[::_MXFP4_BLOCK]
    if bool((scales == _E8M0_NAN).any()):
        block = int((scales == _E8M0_NAN).argmax())
        raise FormatError(f"{origin} holds NaN (the scale of block {block})", hint=_DAMAGED)
    return blocks

"""What bytes of tensors stand for, of any type that somebody here can read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.errors import UnsupportedError
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.arrays.values import widen
from mbuild.quant.table import TYPES

Reals = NDArray[np.float32]
PLAIN = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def decoded(data: NDArray[np.uint8], type_: GGMLType) -> Reals:
    """The values (float32, flat) that bytes of whole blocks stand for.

    By the type's row where that can, else by the ``gguf`` package. Raises
    :class:`UnsupportedError` for a type whose values nobody here can read.
    """
    if type_ in PLAIN:
        return widen(data, type_)
    blocks, parts = data.reshape(-1, BLOCKS[type_].size), TYPES.get(type_)
    with np.errstate(all="ignore"):
        values: Any = parts.decode(blocks) if parts and parts.decode else _known(blocks, type_)
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def _known(blocks: NDArray[np.uint8], type_: GGMLType) -> Any:
    """What the ``gguf`` package reads."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        return dequantize(blocks, GGMLQuantizationType(int(type_)))
    except (NotImplementedError, ValueError, KeyError):
        raise UnsupportedError(f"the values of {type_.name} cannot be read") from None

"""What bytes of unquantized tensors hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import GGMLType


def widen(raw: NDArray[np.uint8], source_type: GGMLType) -> NDArray[np.float32]:
    """The float32 values of bytes of F32, F16 or BF16."""
    if source_type is GGMLType.F32:
        return np.frombuffer(raw, "<f4")
    if source_type is GGMLType.F16:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)

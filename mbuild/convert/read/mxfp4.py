"""MXFP4 weights: blocks of 32 codes of four bits with a power of two, in ggml's order of bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import Packed
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy

_BLOCK_BYTES = 16


def repacked(blocks: Lazy, scales: Lazy) -> Packed:
    """Blocks of 32 as ggml has them: the scale, then byte j with weights j and j + 16.

    ``blocks`` are bytes of (experts, rows, blocks, 16), of which byte j has weights 2j (low half)
    and 2j + 1; ``scales`` are bytes of (experts, rows, blocks). Raises :class:`FormatError` for
    other shapes or types.
    """
    bytes_ = (DType.U8, DType.I8, DType.F8_E8M0)
    fit = len(blocks.shape) == 4 and blocks.shape[-1] == _BLOCK_BYTES
    if not fit or scales.shape != blocks.shape[:-1] or {blocks.dtype, scales.dtype} - {*bytes_}:
        raise FormatError(
            f"{scales.origin} of {scales.dtype} {list(scales.shape)} has no matching blocks"
        )
    experts, rows, count, _ = blocks.shape

    def load() -> Any:
        import numpy as np

        source = blocks.load().view(np.uint8)
        out = np.empty((experts, rows, count, 17), dtype=np.uint8)
        out[..., 0] = scales.load().view(np.uint8)
        for expert in range(experts):  # one at a time: the temporaries are as large as a tensor
            low, high = source[expert] & 15, source[expert] >> 4
            out[expert, ..., 1::2] = low[..., :8] | (low[..., 8:] << 4)
            out[expert, ..., 2::2] = high[..., :8] | (high[..., 8:] << 4)
        return out.reshape(-1)

    return Packed(GGMLType.MXFP4, (experts, rows, count * 32), load, blocks.origin)

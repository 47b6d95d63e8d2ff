"""MXFP4 weights: blocks of 32 codes of four bits with a power of two, in ggml's order of bits."""

from __future__ import annotations

import math
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
    grain = math.lcm(*(-(-each.grain * experts // max(each.size, 1)) for each in (blocks, scales)))

    def some(first: int, last: int) -> Any:
        import numpy as np

        source = _some(blocks, first, last)
        out = np.empty((last - first, rows, count, 17), dtype=np.uint8)
        out[..., 0] = _some(scales, first, last)
        for expert in range(last - first):  # one at a time: the temporaries are as large as it
            low, high = source[expert] & 15, source[expert] >> 4
            out[expert, ..., 1::2] = low[..., :8] | (low[..., 8:] << 4)
            out[expert, ..., 2::2] = high[..., :8] | (high[..., 8:] << 4)
        return out.reshape(-1)

    shape = (experts, rows, count * 32)
    return Packed(GGMLType.MXFP4, shape, lambda: some(0, experts), blocks.origin, some, grain)


def _some(lazy: Lazy, first: int, last: int) -> Any:
    """The bytes of some experts, (experts, rows, ...)."""
    import numpy as np

    each = math.prod(lazy.shape[1:])
    if lazy.part is None:
        return lazy.load().view(np.uint8)[first:last]
    return lazy.part(first * each, last * each).view(np.uint8).reshape(-1, *lazy.shape[1:])

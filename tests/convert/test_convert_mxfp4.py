"""MXFP4 in the checkpoint's order of bits and in ggml's."""

from __future__ import annotations

import numpy as np
import pytest

from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.mxfp4 import repacked
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError


def lazy(values: np.ndarray, dtype: DType) -> Lazy:
    return Lazy(dtype, values.shape, lambda: values, "x")


def test_codes_move_and_none_changes() -> None:
    """Byte j of a block has codes 2j and 2j + 1 in a checkpoint, j and j + 16 in ggml."""
    codes = np.arange(32, dtype=np.uint8) % 16
    blocks = (codes[::2] | codes[1::2] << 4).reshape(1, 1, 1, 16)
    scales = np.array([[[130]]], np.uint8)
    packed = repacked(lazy(blocks, DType.I8), lazy(scales, DType.F8_E8M0))
    stored = packed.load()
    assert packed.shape == (1, 1, 32)
    assert stored[0] == 130
    assert [*(stored[1:] & 15), *(stored[1:] >> 4)] == codes.tolist()


def test_scales_that_do_not_fit_are_refused() -> None:
    """Each block of 32 has one."""
    blocks, scales = np.zeros((1, 2, 3, 16), np.uint8), np.zeros((1, 2, 4), np.uint8)
    with pytest.raises(FormatError, match="no matching blocks"):
        repacked(lazy(blocks, DType.U8), lazy(scales, DType.U8))

"""Values that no model can use are refused wherever they come from, by the tensor's name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mbuild.convert.read.dtypes import NUMPY, PIECE, encode
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.values import check_mxfp4, encode_checked
from mbuild.core.errors import FormatError
from mbuild.gguf.types import GGMLType

TARGETS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q8_0)
FLOATS = (DType.F32, DType.F16, DType.BF16, DType.F64)


def _stored(values: Any, dtype: DType) -> Any:
    """Values as a checkpoint holds them; BF16 as bits."""
    with np.errstate(all="ignore"):
        if dtype is DType.BF16:
            return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return np.asarray(values, np.float64).astype(NUMPY[dtype])


def _refused(values: Any, dtype: DType, target: GGMLType) -> FormatError:
    with pytest.raises(FormatError) as caught:
        encode_checked(values, dtype, target, "a.safetensors: tensor 'x'", 1000)
    return caught.value


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("bad", "said"), [(math.nan, "NaN"), (math.inf, "+infinity"), (-math.inf, "-infinity")]
)
@pytest.mark.parametrize("place", [0, 77, PIECE + 31])
def test_what_is_no_number_is_refused_by_its_place(
    target: GGMLType, dtype: DType, bad: float, said: str, place: int
) -> None:
    """Every pair of types finds NaN and both infinities, in the first piece and in a later one."""
    values = np.linspace(-1, 1, PIECE + 64)
    values[place] = bad
    error = _refused(_stored(values, dtype), dtype, target)
    assert error.message == f"a.safetensors: tensor 'x' holds {said} (value {1000 + place})"
    assert "earlier checkpoint" in str(error.hint)


@pytest.mark.parametrize(
    ("dtype", "target", "fits", "beyond", "remedy"),
    [
        (DType.BF16, GGMLType.F16, 65280.0, 65536.0, "--outtype bf16"),
        (DType.F32, GGMLType.F16, 65519.0, 65520.0, "--outtype bf16"),
        (DType.F32, GGMLType.F16, -65519.0, -65520.0, "--outtype bf16"),
        (DType.F64, GGMLType.F16, 65519.0, 1e300, "--outtype bf16"),
        (DType.F32, GGMLType.Q8_0, 8.3e6, 8.4e6, "--outtype bf16"),
        (DType.F32, GGMLType.BF16, 3.38e38, 3.4e38, "--outtype f32"),
        (DType.F64, GGMLType.F32, 3.4e38, 1e39, "earlier checkpoint"),
    ],
)
def test_what_a_type_cannot_hold_is_refused_with_another_type(
    dtype: DType, target: GGMLType, fits: float, beyond: float, remedy: str
) -> None:
    """The largest value that rounds into the type passes, the next one names what to use."""
    values = np.zeros(64)
    values[40] = fits
    stored = _stored(values, dtype)
    same = encode(stored.copy(), dtype, target)
    assert np.array_equal(encode_checked(stored.copy(), dtype, target, "x"), same)
    values[40] = beyond
    error = _refused(_stored(values, dtype), dtype, target)
    assert "(value 1040)" in error.message and target.name in error.message
    assert f"{_seen(beyond, dtype):g}" in error.message
    assert remedy in str(error.hint)


def _seen(value: float, dtype: DType) -> float:
    return float(np.float32(value)) if dtype is DType.F32 else value


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [*FLOATS, DType.F8_E4M3, DType.F8_E5M2, DType.I8])
def test_a_check_changes_no_bytes(target: GGMLType, dtype: DType) -> None:
    """Finite values of every size give the same bytes with and without the check."""
    random = np.random.default_rng(5)
    if dtype in (DType.F8_E4M3, DType.F8_E5M2, DType.I8):
        values = random.integers(0, 0x78, 4096, np.uint8).view(NUMPY[dtype])
    else:
        spread = random.standard_normal(PIECE + 4096) * np.exp2(random.integers(-30, 10, 1))
        values = _stored(spread, dtype)
    plain = encode(values.copy(), dtype, target)
    assert np.array_equal(encode(values.copy(), dtype, target, finite=True), plain)


def test_eight_bit_floats_that_are_no_numbers_are_found() -> None:
    """E4M3's one NaN and E5M2's infinity, with either sign."""
    for code, dtype, said in [
        (0x7F, DType.F8_E4M3, "NaN"),
        (0xFF, DType.F8_E4M3, "NaN"),
        (0xFC, DType.F8_E5M2, "-infinity"),
    ]:
        values = np.zeros(32, np.uint8)
        values[3] = code
        assert f"holds {said} (value 1003)" in _refused(values, dtype, GGMLType.BF16).message


def test_a_scale_of_mxfp4_that_is_no_number_is_found() -> None:
    """255 is the NaN of a block's scale; 254 is a number."""
    blocks = np.zeros((4, 17), np.uint8)
    blocks[:, 0] = 254
    blocks[:, 5] = 255
    assert check_mxfp4(blocks, "x") is blocks
    blocks[2, 0] = 255
    with pytest.raises(FormatError, match=r"x holds NaN \(the scale of block 2\)"):
        check_mxfp4(blocks, "x")

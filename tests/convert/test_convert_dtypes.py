"""Conversions between element types give the bits that numpy, torch and ggml give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mbuild.convert.read.dtypes import NUMPY, PIECE, contiguous, encode, to_f32
from mbuild.convert.read.rounding import f32_to_bf16, f32_to_f16, f32_to_q8_0
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError
from mbuild.gguf.types import GGMLType

EVERY_BF16 = np.arange(1 << 16, dtype=np.uint16)


def floats(seed: int, count: int = 1 << 18) -> np.ndarray:
    """Random bit patterns in the range where halves are interesting, and special values."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0x32000000, 0x47900000, count, dtype=np.uint32)
    bits[::3] &= np.uint32(0xFFFFF000)  # ties
    bits[::2] |= np.uint32(0x80000000)
    special = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 1, 0x477FF000]
    bits[: len(special)] = special
    return bits.view(np.float32)


def test_every_bf16_becomes_the_right_half() -> None:
    """All 65,536 values, NaN and subnormal halves among them, equal numpy's cast."""
    with np.errstate(all="ignore"):
        expected = to_f32(EVERY_BF16, DType.BF16).astype(np.float16).view(np.uint16)
    got = encode(EVERY_BF16, DType.BF16, GGMLType.F16).view(np.uint16)
    assert np.array_equal(got, expected)


def test_bf16_is_copied_with_quiet_nans() -> None:
    """A BF16 checkpoint is a plain copy but for signalling NaNs, as a way through F32 does it."""
    got = encode(EVERY_BF16.copy(), DType.BF16, GGMLType.BF16).view(np.uint16)
    nan = (EVERY_BF16 & 0x7FFF) > 0x7F80
    assert np.array_equal(got[~nan], EVERY_BF16[~nan])
    assert np.array_equal(got[nan], EVERY_BF16[nan] | 0x40)
    assert np.array_equal(got, f32_to_bf16(to_f32(EVERY_BF16, DType.BF16)))


def test_bf16_widens_exactly() -> None:
    """BF16 to F32 puts sixteen zero bits behind."""
    got = encode(EVERY_BF16, DType.BF16, GGMLType.F32).view(np.uint32)
    assert np.array_equal(got, EVERY_BF16.astype(np.uint32) << 16)


@pytest.mark.parametrize("seed", range(4))
def test_f32_rounds_to_halves_as_numpy_does(seed: int) -> None:
    """Nearest even, subnormal halves, overflow to infinity and NaN payloads included."""
    values = floats(seed)
    with np.errstate(all="ignore"):
        assert np.array_equal(f32_to_f16(values), values.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("target", "convert"), [(GGMLType.BF16, f32_to_bf16), (GGMLType.Q8_0, f32_to_q8_0)]
)
def test_bf16_and_q8_0_equal_the_gguf_package(seed: int, target: GGMLType, convert) -> None:
    """Bit for bit what ``gguf.quants`` makes, on values from subnormal to infinite."""
    import gguf

    usual = np.random.default_rng(seed).normal(0, 0.02, 1 << 16).astype(np.float32)
    values = np.concatenate([floats(seed), usual])
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(
            values.reshape(-1, 64), gguf.GGMLQuantizationType(int(target))
        )
    assert np.array_equal(convert(values).view(np.uint8).reshape(-1), expected.reshape(-1))


def test_rounding_halfway_goes_away_from_zero_in_q8_0() -> None:
    """127 and halves around it: ggml's roundf, not nearest even; just below a half stays zero."""
    block = np.zeros(32, dtype=np.float32)
    block[:6] = [127, 0.5, -0.5, 1.5, 2.5, np.nextafter(np.float32(0.5), np.float32(0))]
    assert f32_to_q8_0(block)[0, 2:8].view(np.int8).tolist() == [127, 1, -1, 2, 3, 0]


@pytest.mark.parametrize("source", [DType.BF16, DType.F16, DType.F32])
@pytest.mark.parametrize("target", [GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q8_0])
def test_pieces_and_strides_do_not_show(source: DType, target: GGMLType) -> None:
    """A tensor of many pieces and a transposed view give what their contiguous parts give."""
    count = 2 * PIECE + 96
    raw = np.random.default_rng(1).integers(0, 0x3F00, count, dtype=np.uint16)
    values = raw.astype(np.float32) if source is DType.F32 else raw.view(NUMPY[source])
    whole = encode(values, source, target)
    parts = [encode(values[i : i + 4096], source, target) for i in range(0, count, 4096)]
    assert np.array_equal(whole, np.concatenate(parts))
    square = values[: 64 * 64].reshape(64, 64)
    assert np.array_equal(
        encode(square.T, source, target),
        encode(np.ascontiguousarray(square.T), source, target),
    )


@pytest.mark.parametrize(
    ("dtype", "code", "value"),
    [
        (DType.F8_E4M3, 0x38, 1.0),
        (DType.F8_E4M3, 0x7E, 448.0),
        (DType.F8_E4M3, 0x01, 2.0**-9),
        (DType.F8_E4M3, 0xB8, -1.0),
        (DType.F8_E4M3, 0x08, 2.0**-6),
        (DType.F8_E5M2, 0x3C, 1.0),
        (DType.F8_E5M2, 0x7B, 57344.0),
        (DType.F8_E5M2, 0x7C, np.inf),
        (DType.F8_E8M0, 127, 1.0),
        (DType.F8_E8M0, 0, 2.0**-127),
        (DType.I64, -3, -3.0),
        (DType.BOOL, 1, 1.0),
    ],
)
def test_other_types_become_the_numbers_they_mean(dtype: DType, code: int, value: float) -> None:
    """The published 8-bit formats (OCP), and integers."""
    stored = np.array([code]).astype(NUMPY[dtype])
    assert to_f32(stored, dtype).tolist() == [value]
    assert to_f32(stored, dtype).dtype == np.float32


def test_nan_codes_of_eight_bit_floats() -> None:
    """E4M3 has one NaN for each sign and no infinity; E8M0 one."""
    every = np.arange(256, dtype=np.uint8)
    assert np.flatnonzero(np.isnan(to_f32(every, DType.F8_E4M3))).tolist() == [0x7F, 0xFF]
    assert np.flatnonzero(np.isnan(to_f32(every, DType.F8_E8M0))).tolist() == [255]


def test_types_without_numbers_are_refused() -> None:
    """Complex and 4-bit tensors cannot be converted."""
    with pytest.raises(UnsupportedError, match="C64"):
        to_f32(np.zeros(1, np.complex64), DType.C64)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<f4"])
@pytest.mark.parametrize("shape", [(4099, 17), (300, 5000), (2, 3, 130, 700), (1, 70000)])
def test_a_transposed_matrix_comes_in_the_order_of_its_indices(
    dtype: str, shape: tuple[int, ...]
) -> None:
    """Strip by strip where it is large, also where no strip ends at its edge."""
    count = math.prod(shape)
    stored = np.arange(count, dtype=np.uint32).astype(dtype).reshape(shape)
    turned = stored.swapaxes(-1, -2)
    made = contiguous(turned)
    assert made.flags.c_contiguous
    assert np.array_equal(made, turned)

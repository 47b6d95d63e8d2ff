"""Weights packed as integers, against the formats' definitions written out one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbuild.convert.read.dequantize import dequantize
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.packed import gptq, pack_quantized
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError, UnsupportedError

RANDOM = np.random.default_rng(11)


def _lazy(values: Any, dtype: DType, name: str = "x") -> Lazy:
    return Lazy(dtype, values.shape, values.copy, name)


def _words(shape: tuple[int, ...]) -> Any:
    return RANDOM.integers(-(1 << 31), 1 << 31, shape, np.int64).astype(np.int32)


def _code(words: Any, bits: int, row: int, column: int, axis: int) -> int:
    """One code, by arithmetic on whole numbers."""
    at = [row, column]
    at[axis], place = divmod(at[axis], 32 // bits)
    return (int(words[tuple(at)]) % (1 << 32)) // (1 << bits * place) % (1 << bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("form", "plus"), [({}, 1), ({"checkpoint_format": "gptq_v2"}, 0)])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq_is_codes_less_zeros_times_scales(
    bits: int, form: dict[str, str], plus: int, ordered: bool
) -> None:
    """Rows of codes go by their group, in act-order too, and the result is transposed."""
    rows, width, groups, each = 64, 32, 4, 32 // bits
    codes, zeros = _words((rows // each, width)), _words((groups, width // each))
    scales = RANDOM.standard_normal((groups, width)).astype(np.float16)
    index = np.arange(rows, dtype=np.int32) // (rows // groups)
    if not ordered:
        index = RANDOM.permutation(index)
    stored = {
        "a.qweight": _lazy(codes, DType.I32),
        "a.qzeros": _lazy(zeros, DType.I32),
        "a.scales": _lazy(scales, DType.F16),
        "a.g_idx": _lazy(index, DType.I32),
        "b.weight": _lazy(np.ones(3, np.float32), DType.F32),
    }
    settings = {"quant_method": "gptq", "bits": bits, **form}
    made = dequantize({"quantization_config": settings}, stored)
    assert list(made) == ["b.weight", "a.weight"]
    values = made["a.weight"].load()
    assert values.shape == made["a.weight"].shape == (width, rows)
    for row in range(rows):
        group = index[row]
        for column in range(width):
            zero = _code(zeros, bits, group, column, 1) + plus
            level = np.float32(_code(codes, bits, row, column, 0) - zero)
            assert values[column, row] == level * np.float32(scales[group, column])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 2])
def test_packed_integers_have_their_middle_as_zero(bits: int, groups: int) -> None:
    """compressed-tensors' symmetric codes, with a scale for each group or row."""
    rows, width = 6, 64
    codes = _words((rows, width * bits // 32))
    scales = RANDOM.standard_normal((rows, groups)).astype(np.float32)
    stored = {
        "a.weight_packed": _lazy(codes, DType.I32),
        "a.weight_scale": _lazy(scales, DType.F32),
        "a.weight_shape": _lazy(np.array([rows, width]), DType.I64),
    }
    made = dequantize(_compressed("pack-quantized", num_bits=bits, type="int"), stored)
    assert list(made) == ["a.weight"]
    values = made["a.weight"].load()
    for row in range(rows):
        for column in range(width):
            level = np.float32(_code(codes, bits, row, column, 1) - (1 << bits - 1))
            assert values[row, column] == level * scales[row, column // (width // groups)]


def _compressed(form: str, **weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}
    return {"quantization_config": settings}


@pytest.mark.parametrize("shape", [(6, 1), (1,), (1, 1)])
def test_integers_times_their_rows_or_tensors_scale(shape: tuple[int, ...]) -> None:
    """``int-quantized``: a scale for each row, or one for all."""
    values = RANDOM.integers(-128, 128, (6, 8), np.int64).astype(np.int8)
    scales = RANDOM.standard_normal(shape).astype(np.float32)
    stored = {
        "a.weight": _lazy(values, DType.I8),
        "a.weight_scale": _lazy(scales, DType.F32),
    }
    made = dequantize(_compressed("int-quantized", strategy="channel"), stored)
    want = values.astype(np.float32) * scales
    assert np.array_equal(made["a.weight"].load(), want)


def test_what_is_not_read_is_refused_with_a_remedy() -> None:
    """Three bits, two groups, another format, zero points: named, and told what to do."""
    for config, said in [
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits"),
        (_compressed("nvfp4-pack-quantized"), "nvfp4"),
        (_compressed("int-quantized", symmetric=False), "zero points"),
        (_compressed("pack-quantized", num_bits=3), "3 bits"),
    ]:
        with pytest.raises(UnsupportedError, match=said) as caught:
            dequantize(config, {})
        assert "dequantize" in str(caught.value.hint)


def test_parts_of_gptq_that_are_missing_or_do_not_fit_are_named() -> None:
    """A missing part, and a group that is not there."""
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    codes = _lazy(_words((8, 8)), DType.I32)
    with pytest.raises(FormatError, match=r"a\.qzeros"):
        dequantize(config, {"a.qweight": codes})
    parts = {
        "a.qweight": codes,
        "a.qzeros": _lazy(_words((1, 1)), DType.I32),
        "a.scales": _lazy(np.ones((1, 8), np.float16), DType.F16),
        "a.g_idx": _lazy(np.full(64, 1, np.int32), DType.I32, "a.g_idx"),
    }
    with pytest.raises(FormatError, match="names a group"):
        dequantize(config, parts)["a.weight"].load()


def test_a_packed_word_holds_the_lowest_code_first() -> None:
    """Eight codes of four bits, by hand: less 8, times the row's scale."""
    word = np.array([[0x76543210], [-1]], np.int64).astype(np.int32)
    stored = {
        "w_packed": _lazy(word, DType.I32),
        "w_scale": _lazy(np.array([[2.0], [0.5]], np.float32), DType.F32),
    }
    with pytest.raises(UnsupportedError, match="20"):
        pack_quantized({"num_bits": 20}, stored)
    assert pack_quantized({"num_bits": 4}, stored) == stored  # no weight has such a name
    made = pack_quantized({"num_bits": 4}, {f"a.weight{n[1:]}": t for n, t in stored.items()})
    assert made["a.weight"].load().tolist() == [[2.0 * (i - 8) for i in range(8)], [3.5] * 8]


@pytest.mark.parametrize("beside", ["a.weight_zero_point", "a.weight_g_idx"])
def test_packed_weights_with_zero_points_or_an_order_are_refused(beside: str) -> None:
    """They would be read as if these were not there: another model without a word."""
    codes = _lazy(_words((2, 1)), DType.I32, "tensor 'a.weight_packed'")
    with pytest.raises(UnsupportedError, match=r"'a\.weight_packed' has zero points or an order"):
        pack_quantized({"num_bits": 8}, {"a.weight_packed": codes, beside: codes})


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales", "g_idx"])
def test_a_part_of_gptq_of_another_shape_is_refused_before_it_is_read(part: str) -> None:
    """All shapes are told; nothing is loaded for it."""

    def never() -> Any:
        raise AssertionError("read")

    shapes = {"qweight": (1, 8), "qzeros": (2, 1), "scales": (2, 8), "g_idx": (8,)}
    shapes[part] = (3, *shapes[part][1:]) if part != "g_idx" else (9,)
    kinds = {"scales": DType.F16}
    stored = {
        f"a.{name}": Lazy(kinds.get(name, DType.I32), shape, never, f"a.{name}")
        for name, shape in shapes.items()
    }
    with pytest.raises(FormatError, match=r"a\.qweight of .* does not fit its scales") as caught:
        gptq({"bits": 4}, stored)
    assert "quantization_config" in str(caught.value.hint)

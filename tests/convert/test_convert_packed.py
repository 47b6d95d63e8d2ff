"""Weights packed as integers, against the formats' definitions written out one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbuild.convert.read.affine import awq
from mbuild.convert.read.dequantize import dequantize
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.packed import gptq
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
    """Three bits, another format, no groups: named, and told what to do."""
    words = {"a.weight_packed": _lazy(_words((2, 3)), DType.I32)}
    empty = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    for config, said in [
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits"),
        (_compressed("marlin-24"), "marlin-24"),
        ({"quantization_config": empty}, "without config_groups"),
        (_compressed("pack-quantized", num_bits=3), "3 bits"),
    ]:
        with pytest.raises(UnsupportedError, match=said) as caught:
            dequantize(config, words)
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
    four = _compressed("pack-quantized", num_bits=4)
    made = dequantize(four, {f"a.weight{n[1:]}": t for n, t in stored.items()})
    assert made["a.weight"].load().tolist() == [[2.0 * (i - 8) for i in range(8)], [3.5] * 8]


@pytest.mark.parametrize("symmetric", (True, False))
def test_packed_weights_may_have_their_groups_in_an_order_of_their_own(symmetric: bool) -> None:
    """``actorder``: ``weight_g_idx`` names each column's group."""
    rows, groups = 9, 2
    codes, scales = _words((rows, 4)), RANDOM.standard_normal((rows, groups)).astype(np.float32)
    zeros, order = _words((2, groups)), RANDOM.permutation(np.arange(32, dtype=np.int32) // 16)
    stored = {
        "a.weight_packed": _lazy(codes, DType.I32),
        "a.weight_scale": _lazy(scales, DType.F32),
        "a.weight_g_idx": _lazy(order, DType.I32),
    }
    if not symmetric:
        stored["a.weight_zero_point"] = _lazy(zeros, DType.I32)
    values = dequantize(_compressed("pack-quantized", num_bits=4), stored)["a.weight"].load()
    for row in range(rows):
        for column in range(32):
            group = order[column]
            zero = 8 if symmetric else _code(zeros, 4, row, group, 0)
            level = np.float32(_code(codes, 4, row, column, 1) - zero)
            assert values[row, column] == level * scales[row, group]


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


# --- AWQ, MLX, ModelOpt, zero points ---

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def test_awq_is_codes_less_zeros_times_scales() -> None:
    """Eight columns a word, the even ones in its lower half; the result is transposed."""
    rows, columns, groups = 32, 16, 4
    codes, zeros = _words((rows, columns // 8)), _words((groups, columns // 8))
    scales = RANDOM.standard_normal((groups, columns)).astype(np.float16)
    stored = {
        "a.qweight": _lazy(codes, DType.I32),
        "a.qzeros": _lazy(zeros, DType.I32),
        "a.scales": _lazy(scales, DType.F16),
    }
    made = awq({"bits": 4}, stored)
    assert list(
        dequantize({"quantization_config": {"quant_method": "awq", "bits": 4}}, stored)
    ) == [*made]
    values = made["a.weight"].load()
    assert values.shape == made["a.weight"].shape == (columns, rows)

    def code(words: Any, row: int, column: int) -> int:
        word = int(words[row, column // 8]) % (1 << 32)
        return word >> 4 * AWQ_ORDER.index(column % 8) & 15

    for row in range(rows):
        group = row // (rows // groups)
        for column in range(columns):
            less = code(codes, row, column) - code(zeros, group, column)
            assert values[column, row] == np.float32(less) * np.float32(scales[group, column])


@pytest.mark.parametrize("note", ("quantization", "quantization_config"))
@pytest.mark.parametrize("bits", (2, 3, 4, 5, 6, 8))
def test_mlx_is_scales_times_codes_plus_biases(note: str, bits: int) -> None:
    """Groups of a row; a layer may have another group size than the rest. Nothing moves."""
    rows, groups, size = 6, 2, 32
    codes = RANDOM.integers(0, 1 << 32, (rows, groups * size * bits // 32), np.uint64)
    scales = RANDOM.standard_normal((rows, groups)).astype(np.float16)
    biases = RANDOM.standard_normal((rows, groups)).astype(np.float16)
    stored = {
        "x.weight": _lazy(np.ones(3, np.float32), DType.F32),
        "a.weight": _lazy(codes.astype(np.uint32), DType.U32),
        "a.scales": _lazy(scales, DType.F16),
        "a.biases": _lazy(biases, DType.F16),
        "y.weight": _lazy(np.ones(3, np.float32), DType.F32),
    }
    settings = {"group_size": 64, "bits": 4, "a": {"group_size": size, "bits": bits}}
    made = dequantize({note: settings}, stored)
    assert list(made) == ["x.weight", "a.weight", "y.weight"]
    values = made["a.weight"].load()
    for row in range(rows):
        for column in range(groups * size):
            stream = sum(int(word) << 32 * place for place, word in enumerate(codes[row]))
            code = stream >> bits * column & (1 << bits) - 1
            scale, bias = np.float32(scales[row, column // size]), biases[row, column // size]
            assert values[row, column] == scale * np.float32(code) + np.float32(bias)


def test_zero_points_of_compressed_tensors_are_packed_down_the_columns() -> None:
    """Eleven rows need two words of a column; what is behind the last row does not count."""
    rows, groups, size = 11, 2, 8
    codes, zeros = _words((rows, groups * size // 8)), _words((2, groups))
    scales = RANDOM.standard_normal((rows, groups)).astype(np.float16)
    stored = {
        "a.weight_packed": _lazy(codes, DType.I32),
        "a.weight_scale": _lazy(scales, DType.F16),
        "a.weight_zero_point": _lazy(zeros, DType.I32),
        "a.weight_shape": _lazy(np.array([rows, 16]), DType.I64),
    }
    four = _compressed("pack-quantized", num_bits=4, symmetric=False)
    values = dequantize(four, stored)["a.weight"].load()
    for row in range(rows):
        for column in range(groups * size):
            group = column // size
            less = _code(codes, 4, row, column, 1) - _code(zeros, 4, row, group, 0)
            assert values[row, column] == np.float32(less) * np.float32(scales[row, group])


def test_modelopts_fp8_has_one_scale_a_tensor() -> None:
    """As llama.cpp multiplies it; what belongs to activations goes."""
    settings = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    eight = np.array([[0x38, 0x40]], np.uint8)  # 1 and 2 in E4M3
    stored = {
        "a.weight": _lazy(eight, DType.F8_E4M3),
        "a.weight_scale": _lazy(np.array(0.5, np.float32), DType.F32),
        "a.input_scale": _lazy(np.array(0.5, np.float32), DType.F32),
    }
    made = dequantize(settings, stored)
    assert made["a.weight"].load().tolist() == [[0.5, 1.0]] and list(made) == ["a.weight"]


@pytest.mark.parametrize(
    ("settings", "error"),
    (
        ({"quant_method": "awq", "bits": 3}, "3 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "gemv"),
        ({"group_size": 64, "bits": 4, "mode": "mxfp8"}, "mxfp8"),
    ),
)
def test_other_layouts_of_integers_are_refused(settings: dict[str, Any], error: str) -> None:
    """The same names, other numbers: nothing is guessed."""
    stored = {"a.scales": _lazy(np.ones((2, 2), np.float16), DType.F16)}
    with pytest.raises(UnsupportedError, match=error):
        dequantize({"quantization_config": settings}, stored)


def test_parts_of_packed_weights_that_do_not_fit_are_refused() -> None:
    """Shapes that contradict each other, a part that is missing, and bits that fill no word."""
    words, half = _lazy(_words((8, 2)), DType.I32), DType.F16
    four = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    with pytest.raises(FormatError, match=r"qzeros.*AWQ"):
        dequantize(four, {"a.qweight": words})
    wrong = _lazy(np.ones((3, 16), np.float16), half)
    with pytest.raises(FormatError, match="does not fit"):
        parts = {"a.qweight": words, "a.qzeros": _lazy(_words((3, 2)), DType.I32)}
        dequantize(four, {**parts, "a.scales": wrong})
    apple = {"quantization": {"group_size": 32, "bits": 4}}
    ones = _lazy(np.ones((8, 1), np.float16), half)
    with pytest.raises(UnsupportedError, match="to 7 bits is not supported"):
        seven = {"a.weight": _lazy(_words((8, 7)), DType.I32), "a.scales": ones, "a.biases": ones}
        dequantize(apple, seven)
    with pytest.raises(FormatError, match=r"'a\.biases' of a weight that MLX quantized is missing"):
        dequantize(apple, {"a.weight": words, "a.scales": ones})
    with pytest.raises(UnsupportedError, match="in the mode 'mxfp8'"):
        other = {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp8"}}
        dequantize(other, {"a.weight": words, "a.scales": ones})
    with pytest.raises(FormatError, match="does not fit the weight of") as caught:
        fp8 = {"quantization_config": {"quant_method": "fp8"}}
        codes = _lazy(np.zeros((8, 16), np.uint8), DType.F8_E4M3)
        three = _lazy(np.ones(3, np.float32), DType.F32)
        dequantize(fp8, {"a.weight": codes, "a.weight_scale": three})
    assert "a different block size" in caught.value.hint
    with pytest.raises(FormatError, match="does not fit"):
        dequantize(apple, {"a.weight": words, "a.scales": wrong, "a.biases": wrong})

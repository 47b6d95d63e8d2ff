"""Quantized weights against their formats' definitions, value by value; and those that are kept."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as ggml_values

from mbuild.convert.encoded import encoded, shape_of
from mbuild.convert.read import affine, packed
from mbuild.convert.read.bitsandbytes import bitsandbytes
from mbuild.convert.read.codes import unpacked, unpacked_down
from mbuild.convert.read.dequantize import dequantize, eight_bit_names, kept_first, plain
from mbuild.convert.read.dtypes import OutType, encode
from mbuild.convert.read.fp4 import E2M1, mxfp4, nvfp4
from mbuild.convert.read.integers import as_blocks, lost
from mbuild.convert.read.joining import stack
from mbuild.convert.read.kept import CannotKeep, Factors, KeptWeight, can_stay, kept_types
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.methods import READERS
from mbuild.convert.read.modelopt import activations, with_quant_file
from mbuild.convert.read.rowwise import by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.scaled import scaled
from mbuild.convert.rows.rules import rotary
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import replace
from mbuild.gguf.types import GGMLType

RANDOM = np.random.default_rng(5)


def stored(values: Any, dtype: DType, name: str = "x") -> Lazy:
    """A tensor as a file has it: any part of it can be read."""
    flat = values.reshape(-1)
    return Lazy(
        dtype, values.shape, values.copy, name, part=lambda start, stop: flat[start:stop].copy()
    )


def raw(*shape: int, most: int = 256) -> Any:
    return RANDOM.integers(0, most, shape, np.int64).astype(np.uint8)


def values_of(item: Lazy) -> Any:
    """What ggml reads from a weight that is kept, by the published package."""
    tensor = encoded("blk.0.ffn_up.weight", item, OutType.F16, ())
    data = np.asarray(tensor.load()).reshape(*shape_of(item)[:-1], -1)
    return ggml_values(data, gguf.GGMLQuantizationType(int(tensor.type)))


def e4m3(code: int) -> float:
    exponent, fraction = code >> 3 & 15, code & 7
    size = fraction / 8 * 2**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return -size if code & 128 else size


# --- floats of four bits ---


def test_nvfp4_is_kept_and_means_the_same() -> None:
    """In ggml's blocks and dequantized: codes times the scale of 16 values (times the factor)."""
    codes, scales = raw(3, 64), raw(3, 8, most=0x7F)
    made = nvfp4(stored(codes, DType.U8), stored(scales, DType.F8_E4M3), 0.25, 3.0)
    assert isinstance(made, KeptWeight) and shape_of(made) == (3, 128)
    assert made.factors.tensors() == [("scale", (0.25,)), ("input_scale", (3.0,))]
    means, floats = values_of(made), made.plain().load()
    for row in range(3):
        for column in range(128):
            code = int(codes[row, column // 2]) >> 4 * (column % 2) & 15
            value = E2M1[code] * e4m3(int(scales[row, column // 16]))
            assert means[row, column] == value
            assert floats[row, column] == np.float32(value * 0.25)


def test_mxfp4_is_kept_and_means_the_same() -> None:
    """With a power of two for 32 values, as bytes or as F8_E8M0."""
    codes, scales = raw(2, 32), raw(2, 2, most=10) + np.uint8(120)
    for dtype in (DType.U8, DType.F8_E8M0):
        made = mxfp4(stored(codes, DType.U8), stored(scales, dtype))
        means, floats = values_of(made), made.plain().load()
        for row in range(2):
            for column in range(64):
                code = int(codes[row, column // 2]) >> 4 * (column % 2) & 15
                value = E2M1[code] * 2.0 ** (int(scales[row, column // 32]) - 127)
                assert means[row, column] == floats[row, column] == value


@pytest.mark.parametrize("first", (0, 7, 100))
def test_any_part_of_a_weight_can_be_asked_for(first: int) -> None:
    """Without the rest in memory; in runs where it is kept, in values where it is not."""
    made = mxfp4(stored(raw(4, 32), DType.U8), stored(raw(4, 2, most=9), DType.U8))
    assert isinstance(made, KeptWeight) and made.part is not None
    assert (made.part(2, 5) == made.load().reshape(-1)[2:5]).all()
    values = made.plain()
    assert values.part is not None
    assert (values.part(first, 200) == values.load().reshape(-1)[first:200]).all()


def test_a_scale_that_is_no_size_is_refused() -> None:
    """NaN in either format, and a negative one, for which ggml has no place."""
    codes = stored(raw(1, 32), DType.U8)
    for bad, what in ((0x7F, "NaN"), (0xFF, "NaN"), (0x81, "a negative scale")):
        scales = np.array([[8, 8, bad, 8]], np.uint8)
        with pytest.raises(FormatError, match=rf"{what} \(value 2\)"):
            values_of(nvfp4(codes, stored(scales, DType.F8_E4M3), 1.0, 1.0))
    with pytest.raises(FormatError, match=r"NaN \(value 1\)"):
        values_of(mxfp4(codes, stored(np.array([[0, 255]], np.uint8), DType.U8)))
    with pytest.raises(FormatError, match="does not fit"):
        mxfp4(codes, stored(raw(1, 3), DType.U8))


def test_rows_that_are_no_whole_blocks_are_dequantized() -> None:
    """Of 48 values, three quarters of a block."""
    made = nvfp4(stored(raw(2, 24), DType.U8), stored(raw(2, 3, most=99), DType.F8_E4M3), 1.0, 1.0)
    assert not isinstance(made, KeptWeight) and made.load().shape == (2, 48)


def nvfp4_of(rows: int, width: int, factor: float = 1.0) -> Lazy:
    codes, scales = raw(rows, width // 2), raw(rows, width // 16, most=0x7F)
    return nvfp4(stored(codes, DType.U8), stored(scales, DType.F8_E4M3), factor, 1.0)


def test_rows_of_a_kept_weight_move_like_values() -> None:
    """The permutation for RoPE, a part of the rows, a stack of experts: the same values."""
    weight = nvfp4_of(16, 64)
    turned, cut = rotary(weight, 2), weight.slice(0, 4, 12)
    floats = weight.plain()
    assert (values_of(turned) == rotary(floats, 2).load()).all()
    assert (values_of(cut) == floats.load()[4:12]).all()
    experts = [nvfp4_of(2, 64, factor) for factor in (1.0, 0.5, 1.0)]
    whole = stack(experts)
    assert isinstance(whole, KeptWeight) and whole.factors.scale == (1.0, 0.5, 1.0)
    for number, expert in enumerate(experts):
        assert (values_of(whole)[number] == values_of(expert)).all()
    mixed = stack([experts[0], experts[1].plain(), experts[2]])
    assert mixed.dtype is DType.F32 and mixed.shape == (3, 2, 64)


def test_a_large_stack_is_written_in_pieces() -> None:
    """One after another they are the whole."""
    whole = stack([nvfp4_of(64, 128) for _ in range(3)])
    tensor = encoded("blk.0.ffn_up_exps.weight", whole, OutType.F16, ())
    pieces = list(tensor.load.pieces(2000, 72))  # type: ignore[attr-defined]
    assert len(pieces) > 6 and all(piece.count % 72 == 0 for piece in pieces)
    joined = b"".join(bytes(piece()) for piece in pieces)
    assert joined == bytes(tensor.load()) and len(joined) == tensor.nbytes


@pytest.mark.parametrize(
    "change",
    (
        lambda weight: weight.transpose(1, 0),
        lambda weight: weight.slice(1, 0, 2),
        lambda weight: weight.compute(lambda values: values + 1),
        lambda weight: weight.move((4, 8), lambda runs: runs[:, ::-1]),
        lambda weight: weight.move((4, 8), lambda runs: runs.T.reshape(4, 8)),
        lambda weight: weight.reshape(3, 5),
    ),
)
def test_what_would_tear_runs_apart_is_not_done_to_bits(change: Any) -> None:
    """The weight is dequantized instead."""
    with pytest.raises(CannotKeep):
        change(nvfp4_of(4, 128))


def test_where_llama_cpp_looks_for_no_factor_there_must_be_none() -> None:
    """A latent's matrix has no ``.scale``: with a factor it is dequantized."""
    assert can_stay("blk.0.attn_kv_a_mqa.weight", nvfp4_of(2, 64))
    assert not can_stay("blk.0.attn_kv_a_mqa.weight", nvfp4_of(2, 64, 0.5))
    assert can_stay("blk.3.attn_v.weight", nvfp4_of(2, 64, 0.5))
    assert Factors((1.0, 1.0)).tensors() == []
    assert kept_types([nvfp4_of(2, 64), 3]) == {GGMLType.NVFP4}


# --- ModelOpt ---


def test_modelopt_mixes_nvfp4_and_fp8() -> None:
    """Each weight by its own parts; kept ones come first."""
    tensors = {
        "a.weight": stored(raw(2, 4), DType.F8_E4M3),
        "a.weight_scale": stored(np.array(2, np.float32), DType.F32),
        "b.weight": stored(raw(2, 32), DType.U8),
        "b.weight_scale": stored(raw(2, 4, most=99), DType.F8_E4M3),
        "b.weight_scale_2": stored(np.array(0.5, np.float32), DType.F32),
        "b.input_scale": stored(np.array([4], np.float32), DType.F32),
    }
    made = dequantize({"quantization_config": {"quant_method": "modelopt"}}, tensors)
    assert [name for name, _ in kept_first(made)] == ["b.weight", "a.weight"]
    weight = made["b.weight"]
    assert isinstance(weight, KeptWeight) and weight.factors == Factors((0.5,), (4.0,))
    assert eight_bit_names(tensors, made) == {"a.weight"}
    assert not isinstance(plain(made)["b.weight"], KeptWeight)
    tensors["b.weight_scale_2"] = stored(np.ones(3, np.float32), DType.F32)
    with pytest.raises(FormatError, match="is not one number"):
        dequantize({"quantization_config": {"quant_method": "modelopt"}}, tensors)


class Files(dict[str, Any]):
    """A checkpoint's small files."""

    def json_object(self, name: str) -> Any:
        return self.get(name)


def test_modelopts_own_file_says_what_config_json_does_not() -> None:
    """Older exports have nothing in config.json; newer ones say all of it there."""
    own = {"producer": {"name": "ModelOpt"}, "quantization": {"quant_algo": "NVFP4"}}
    files: Any = Files({"hf_quant_config.json": own})
    found = with_quant_file({"hidden_size": 1}, files)
    assert found["quantization_config"] == {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    said = {"quantization_config": {"quant_algo": "FP8", "quantized_layers": {"a": {}}}}
    assert with_quant_file(said, files) is said
    empty: Any = Files()
    assert with_quant_file(said, empty) is said


def test_layers_with_activations_of_16_bits_are_named() -> None:
    """The innermost module that the settings name counts; names are sorted."""
    layers = {"model.layers.0.mlp": {"quant_algo": "W4A16_NVFP4"}, "model.layers.1.mlp": {}}
    config = {"quantization_config": {"quant_algo": "NVFP4", "quantized_layers": layers}}
    weights = [
        (f"model.layers.{n}.mlp.{x}_proj.weight", f"blk.{n}.ffn_{x}.weight")
        for n in (0, 1, 2)
        for x in ("up", "down")
    ]
    names, flags = activations(config, weights)
    assert names.value == ["blk.0.ffn_down.weight", "blk.0.ffn_up.weight"]
    assert (names.key, flags.key) == ("general.tensor_extra.name", "general.tensor_extra.prec_a4")
    assert flags.value == [False, False]
    assert not list(activations({}, weights))


# --- compressed-tensors ---


def compressed(form: str, *groups: dict[str, Any]) -> dict[str, Any]:
    listed = {f"group_{n}": {"weights": weights} for n, weights in enumerate(groups)}
    settings = {"quant_method": "compressed-tensors", "format": form, "config_groups": listed}
    return {"quantization_config": settings}


def test_compressed_nvfp4_has_reciprocal_factors() -> None:
    """``weight_global_scale`` and ``input_global_scale`` are what is divided by."""
    tensors = {
        "a.weight_packed": stored(raw(2, 32), DType.U8),
        "a.weight_scale": stored(raw(2, 4, most=99), DType.F8_E4M3),
        "a.weight_global_scale": stored(np.array([4], np.float32), DType.F32),
        "a.input_global_scale": stored(np.array([8], np.float32), DType.F32),
    }
    made = dequantize(compressed("nvfp4-pack-quantized", {"num_bits": 4}), tensors)
    weight = made["a.weight"]
    assert isinstance(weight, KeptWeight) and weight.factors == Factors((0.25,), (0.125,))
    tensors["a.weight_global_scale"] = stored(np.array([0], np.float32), DType.F32)
    with pytest.raises(FormatError, match="holds inf"):
        dequantize(compressed("nvfp4-pack-quantized", {"num_bits": 4}), tensors)


def test_formats_of_compressed_tensors_may_be_mixed() -> None:
    """Two groups of different bits, and MXFP4 beside them: each weight by its own shapes."""
    words = RANDOM.integers(-(1 << 31), 1 << 31, (2, 8), np.int64).astype(np.int32)
    scale = stored(np.ones((2, 1), np.float32), DType.F32)
    tensors: dict[str, Lazy] = {}
    for name, width in (("four", 64), ("eight", 32)):
        tensors |= {
            f"{name}.weight_packed": stored(words, DType.I32),
            f"{name}.weight_scale": scale,
            f"{name}.weight_shape": stored(np.array([2, width]), DType.I64),
        }
    tensors |= {
        "m.weight_packed": stored(raw(2, 16), DType.U8),
        "m.weight_scale": stored(raw(2, 1, most=99), DType.U8),
        "i.weight": stored(raw(2, 4).view(np.int8), DType.I8),
        "i.weight_scale": scale,
        "i.weight_zero_point": stored(np.array([[3], [-1]], np.int8), DType.I8),
    }
    groups = ({"num_bits": 4}, {"num_bits": 8})
    made = dequantize(compressed("mixed-precision", *groups), tensors)
    shapes = {name: shape_of(lazy) for name, lazy in made.items()}
    assert shapes == {
        "i.weight": (2, 4), "four.weight": (2, 64), "eight.weight": (2, 32), "m.weight": (2, 32)
    }  # fmt: skip
    assert isinstance(made["m.weight"], KeptWeight)
    integers = tensors["i.weight"].load().astype(np.float32)
    assert (made["i.weight"].load() == integers - np.array([[3], [-1]])).all()
    assert (made["four.weight"].load() == unpacked(words, 4) - 8).all()
    assert (made["eight.weight"].load() == unpacked(words, 8) - 128).all()


@pytest.mark.parametrize(("bits", "type_"), ((4, GGMLType.Q4_0), (8, GGMLType.Q8_0)))
@pytest.mark.parametrize("groups", (1, 2))
def test_integers_are_kept_where_no_value_changes(bits: int, type_: GGMLType, groups: int) -> None:
    """The scale is a half and a group whole blocks; else the weight is dequantized."""
    words = RANDOM.integers(-(1 << 31), 1 << 31, (3, 64 * bits // 32), np.int64).astype(np.int32)
    halves = RANDOM.standard_normal((3, groups)).astype(np.float16).astype(np.float32)
    config = compressed("pack-quantized", {"num_bits": bits})

    def made(scales: Any) -> tuple[dict[str, Lazy], Lazy]:
        tensors = {
            "a.weight_packed": stored(words, DType.I32),
            "a.weight_scale": stored(scales, DType.F32),
        }
        return tensors, dequantize(config, tensors, keep=True)["a.weight"]

    before, weight = made(halves)
    assert isinstance(weight, KeptWeight) and weight.format.type is type_
    assert (values_of(weight) == weight.plain().load()).all()
    assert lost(before, {"a.weight": weight}) == []
    before, other = made(halves + np.float32(1e-6))
    assert not isinstance(other, KeptWeight)
    assert lost(before, {"a.weight": other}) == ["a.weight"]


def test_signed_integers_of_rows_are_q8_0() -> None:
    """W8A8: one scale a row, the integers as they are."""
    codes = stored(raw(3, 64).view(np.int8), DType.I8)
    scale = stored(np.array([[0.5], [2], [0.25]], np.float32), DType.F32)
    kept = as_blocks(8, scaled(codes, scale, None), codes, scale)
    assert isinstance(kept, KeptWeight)
    assert (values_of(kept) == codes.load() * scale.load()).all()


@pytest.mark.parametrize("shape", ((), (1,), (6,), (6, 1), (1, 1), (3, 1), (3, 2)))
def test_scales_of_every_shape(shape: tuple[int, ...]) -> None:
    """For all values, for rows, for blocks; also of a few rows alone."""
    codes = RANDOM.integers(-128, 128, (6, 8)).astype(np.int8)
    factors = RANDOM.standard_normal(shape).astype(np.float32)
    block = (2, 8 // shape[1]) if len(shape) == 2 and shape[0] == 3 else None
    made = scaled(stored(codes, DType.I8), stored(factors, DType.F32), block)
    whole = factors.reshape(*shape, *[1] * (2 - len(shape)))
    if block:
        whole = whole.repeat(block[0], 0).repeat(block[1], 1)
    want = codes.astype(np.float32) * whole
    assert (made.load() == want).all()
    assert made.part is not None and (made.part(11, 30) == want.reshape(-1)[11:30]).all()


def test_stacked_experts_have_blocks_of_their_own() -> None:
    """Three axes: (experts, rows, width), with the last row and column of a block cut."""
    codes = RANDOM.integers(-128, 128, (2, 5, 7)).astype(np.int8)
    factors = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)
    made = scaled(stored(codes, DType.I8), stored(factors, DType.F32), (2, 2))
    want = codes * factors.repeat(2, 1).repeat(2, 2)[:, :5, :7]
    assert (made.load() == want).all()
    each = RANDOM.standard_normal((2, 1, 1)).astype(np.float32)
    one = scaled(stored(codes, DType.I8), stored(each, DType.F32), None)
    assert (one.load() == codes * each).all()


# --- bitsandbytes ---

NF4 = np.linspace(-1, 1, 16, dtype=np.float32)


def four_bits(nested: bool, shape: tuple[int, int] = (4, 48), block: int = 64) -> dict[str, Lazy]:
    """A weight as transformers saves it, and its state."""
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": [*shape]}
    parts = {
        "a.weight": stored(raw(count // 2, 1), DType.U8, "a.weight"),
        "a.weight.quant_map": stored(NF4, DType.F32),
    }
    if nested:
        state |= {"nested_blocksize": 2, "nested_dtype": "float32", "nested_offset": 0.125}
        table = RANDOM.standard_normal(256).astype(np.float32)
        outer = RANDOM.standard_normal(-(-blocks // 2)).astype(np.float32)
        parts |= {
            "a.weight.absmax": stored(raw(blocks), DType.U8),
            "a.weight.nested_quant_map": stored(table, DType.F32),
            "a.weight.nested_absmax": stored(outer, DType.F32),
        }
    else:
        absmax = RANDOM.standard_normal(blocks).astype(np.float32)
        parts["a.weight.absmax"] = stored(absmax, DType.F32)
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return parts | {"a.weight.quant_state.bitsandbytes__nf4": stored(text, DType.U8, "state")}


@pytest.mark.parametrize("nested", (False, True))
def test_nf4_is_the_tables_value_times_the_blocks_magnitude(nested: bool) -> None:
    """The upper half of a byte comes first; magnitudes may have a table and blocks of their own."""
    parts = four_bits(nested)
    config = {"quantization_config": {"quant_method": "bitsandbytes"}}
    made = dequantize(config, {"x.weight": stored(NF4, DType.F32), **parts})
    assert [*made] == ["x.weight", "a.weight"]
    values = made["a.weight"].load()
    assert values.shape == (4, 48)
    codes, absmax = parts["a.weight"].load().reshape(-1), parts["a.weight.absmax"].load()
    for place in range(values.size):
        byte = int(codes[place // 2])
        code = byte & 15 if place % 2 else byte >> 4
        size = absmax[place // 64]
        if nested:
            table, outer = (parts[f"a.weight.nested_{n}"].load() for n in ("quant_map", "absmax"))
            size = table[size] * outer[place // 64 // 2] + np.float32(0.125)
        assert values.reshape(-1)[place] == NF4[code] * size
    part = made["a.weight"].part
    assert part is not None and (part(50, 150) == values.reshape(-1)[50:150]).all()


def test_int8_is_the_row_times_its_magnitude_by_127() -> None:
    """``SCB``; weights that are not stored by rows are refused."""
    codes = raw(3, 8).view(np.int8)
    rows = np.array([1, 2.5, 0.5], np.float32)
    parts = {
        "a.weight": stored(codes, DType.I8),
        "a.SCB": stored(rows, DType.F32),
        "a.weight_format": stored(np.array(0, np.uint8), DType.U8),
    }
    values = bitsandbytes(parts)["a.weight"].load()
    want = codes.astype(np.float32) * rows[:, None] * np.float32(7.874015718698502e-3)
    assert (values == want).all()
    parts["a.weight_format"] = stored(np.array(1, np.uint8), DType.U8)
    with pytest.raises(UnsupportedError, match="not stored by rows"):
        bitsandbytes(parts)


@pytest.mark.parametrize(
    ("part", "change", "error"),
    (
        ("a.weight.absmax", None, "is missing"),
        ("a.weight.quant_map", stored(NF4[:8], DType.F32), "does not fit"),
        ("a.weight.absmax", stored(np.ones(9, np.float32), DType.F32), "does not fit"),
        ("a.weight.quant_state.bitsandbytes__nf4", stored(raw(4), DType.U8), "is not the state"),
    ),
)
def test_damaged_parts_of_nf4_are_named(part: str, change: Lazy | None, error: str) -> None:
    """A missing part, other sizes, no JSON."""
    parts = four_bits(False)
    if change is None:
        del parts[part]
    else:
        parts[part] = change
    with pytest.raises(FormatError, match=error):
        bitsandbytes(parts)


@pytest.mark.parametrize(
    "wrong",
    ({"shape": [0]}, {"shape": "x"}, {"blocksize": 0}, {"quant_type": "af4"}, {"shape": [4, 47]}),
)
def test_a_state_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Sizes come from a stranger."""
    parts = four_bits(False)
    name = "a.weight.quant_state.bitsandbytes__nf4"
    text = json.dumps({**json.loads(parts[name].load().tobytes()), **wrong}).encode()
    with pytest.raises(FormatError):
        bitsandbytes({**parts, name: stored(np.frombuffer(text, np.uint8), DType.U8)})


# --- BitNet, bits ---


def test_bitnets_four_values_lie_a_quarter_of_the_rows_apart() -> None:
    """Code less one, divided by the scale; any rows alone."""
    codes = raw(3, 8, most=171)
    tensors = {
        "a.weight": stored(codes, DType.U8),
        "a.weight_scale": stored(np.array([1.75], np.float32), DType.F32),
    }
    made = dequantize({"quantization_config": {"quant_method": "bitnet"}}, tensors)["a.weight"]
    values = made.load()
    for row in range(12):
        for column in range(8):
            code = int(codes[row % 3, column]) >> 2 * (row // 3) & 3
            assert values[row, column] == np.float32(code - 1) / np.float32(1.75)
    assert made.part is not None and (made.part(13, 77) == values.reshape(-1)[13:77]).all()


@pytest.mark.parametrize("bits", (2, 3, 4, 5, 6, 8))
def test_codes_are_a_stream_of_bits(bits: int) -> None:
    """From the lowest bit of the first byte on; down the columns the same."""
    words = RANDOM.integers(0, 1 << 32, (2, bits), np.uint64).astype(np.uint32)
    found = unpacked(words, bits)
    for row in range(2):
        stream = int.from_bytes(struct.pack(f"<{bits}I", *map(int, words[row])), "little")
        assert found[row].tolist() == [stream >> bits * i & (1 << bits) - 1 for i in range(32)]
    if 32 % bits == 0:
        assert (found == unpacked_down(words.T, bits).T).all()


def test_what_is_computed_comes_a_few_values_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is made of is read once; the values are those of the part, and so are its bytes."""
    monkeypatch.setattr("mbuild.convert.read.rowwise.PIECE", 128)
    opened: list[tuple[int, int]] = []

    def rows(first: int, last: int) -> Any:
        opened.append((first, last))
        return lambda low, high: np.arange((first + low) * 64, (first + high) * 64, dtype="<f4")

    lazy = by_rows((9, 64), rows, "x")
    assert lazy.steps is not None
    assert [len(each) for each in lazy.steps(70, 500)] == [122, 128, 128, 52]
    assert np.concatenate([*lazy.steps(70, 500)]).tolist() == [*range(70, 500)]
    assert opened == [(1, 8), (1, 8)]
    moved = lazy.reshape(3, 3 * 64)
    for item in (lazy, moved, replace(lazy, steps=None)):
        made = encoded("blk.0.ffn_up.weight", item, OutType.Q8_0, ()).load()
        assert bytes(made) == bytes(encode(lazy.load(), DType.F32, GGMLType.Q8_0))


def test_rows_are_made_when_they_are_asked_for() -> None:
    """Some rows, as many as a part needs; of a tensor without parts the whole is read."""
    asked: list[tuple[int, int]] = []

    def opened(first: int, last: int) -> Any:
        asked.append((first, last))
        values = np.arange(first * 4, last * 4, dtype=np.float32).reshape(-1, 4)
        return lambda low, high: values[low:high]

    lazy = by_rows((2, 3, 4), opened, "x")
    assert lazy.part is not None and lazy.part(6, 11).tolist() == [6, 7, 8, 9, 10]
    assert asked == [(1, 3)] and lazy.load().shape == (2, 3, 4)
    plain_one = Lazy(DType.F32, (6, 4), lambda: np.arange(24.0), "y")
    assert rows_of(plain_one, 2, 3).tolist() == [[8, 9, 10, 11]]


# --- bytes are read once ---


class Noting:
    """Tensors as files have them, and how often each of their elements was read."""

    def __init__(self) -> None:
        self.counts: dict[str, Any] = {}

    def tensor(self, values: Any, dtype: DType, name: str) -> Lazy:
        """A tensor that notes what is read of it."""
        flat = values.reshape(-1)
        counts = self.counts[name] = np.zeros(flat.size, np.int32)

        def part(start: int, stop: int) -> Any:
            counts[start:stop] += 1
            return flat[start:stop].copy()

        return Lazy(
            dtype, values.shape, lambda: part(0, flat.size).reshape(values.shape), name, part=part
        )


def words(*shape: int) -> Any:
    return raw(*shape[:-1], 4 * shape[-1]).view("<i4")


def halves(*shape: int) -> Any:
    return RANDOM.random(shape).astype("<f2")


def floats(*shape: int) -> Any:
    return RANDOM.random(shape).astype("<f4")


STATE = {"quant_type": "nf4", "shape": [48, 64], "blocksize": 64}
NESTED = {**STATE, "nested_blocksize": 16, "nested_offset": 0.5}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
PACKED["config_groups"] = {"group_0": {"weights": {"num_bits": 4}}}  # type: ignore[assignment]

SOURCES: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, DType]]]] = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4},
        {
            "m.qweight": (words(8, 48), DType.I32),
            "m.qzeros": (words(2, 6), DType.I32),
            "m.scales": (halves(2, 48), DType.F16),
            "m.g_idx": ((np.arange(64) % 2).astype("<i4"), DType.I32),
        },
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4},
        {
            "m.qweight": (words(64, 6), DType.I32),
            "m.qzeros": (words(2, 6), DType.I32),
            "m.scales": (halves(2, 48), DType.F16),
        },
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes"},
        {
            "m.weight": (raw(1536, 1), DType.U8),
            "m.weight.absmax": (floats(48), DType.F32),
            "m.weight.quant_map": (floats(16), DType.F32),
            "m.weight.quant_state.bitsandbytes__nf4": (
                np.frombuffer(json.dumps(STATE).encode(), np.uint8),
                DType.U8,
            ),
        },
    ),
    "bitsandbytes, nested": (
        {"quant_method": "bitsandbytes"},
        {
            "m.weight": (raw(1536, 1), DType.U8),
            "m.weight.absmax": (raw(48), DType.U8),
            "m.weight.quant_map": (floats(16), DType.F32),
            "m.weight.nested_absmax": (floats(3), DType.F32),
            "m.weight.nested_quant_map": (floats(256), DType.F32),
            "m.weight.quant_state.bitsandbytes__nf4": (
                np.frombuffer(json.dumps(NESTED).encode(), np.uint8),
                DType.U8,
            ),
        },
    ),
    "bitsandbytes, 8 bits": (
        {"quant_method": "bitsandbytes"},
        {"m.weight": (raw(48, 64).view("i1"), DType.I8), "m.SCB": (floats(48), DType.F32)},
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [16, 16]},
        {
            "m.weight": (raw(48, 64, most=0x70), DType.F8_E4M3),
            "m.weight_scale_inv": (floats(3, 4), DType.F32),
        },
    ),
    "packed": (
        PACKED,
        {
            "m.weight_packed": (words(48, 8), DType.I32),
            "m.weight_scale": (halves(48, 2), DType.F16),
            "m.weight_zero_point": (words(6, 2), DType.I32),
            "m.weight_g_idx": ((np.arange(64) % 2).astype("<i4"), DType.I32),
        },
    ),
    "packed, kept": (
        PACKED,
        {
            "m.weight_packed": (words(48, 8), DType.I32),
            "m.weight_scale": (halves(48, 2), DType.F16),
        },
    ),
    "mlx": (
        {"quant_method": "mlx", "group_size": 32},
        {
            "m.weight": (words(48, 8), DType.I32),
            "m.scales": (halves(48, 2), DType.F16),
            "m.biases": (halves(48, 2), DType.F16),
        },
    ),
}
"""One weight of 48 rows of 64 values in each format."""


@pytest.mark.parametrize("kind", SOURCES)
def test_a_weight_in_parts_reads_every_byte_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of scales, of groups and of codes too, however many parts are made of them; and the
    parts are the whole."""
    for module in (packed, affine):
        monkeypatch.setattr(module, "_TOGETHER", 5 * 64)
    settings, tensors = SOURCES[kind]
    noting = Noting()
    stored_ = {n: noting.tensor(values, dtype, n) for n, (values, dtype) in tensors.items()}
    config = {"quantization_config": settings}
    (weight,) = dequantize(config, stored_, keep="kept" in kind).values()
    assert weight.part is not None and isinstance(weight, KeptWeight) == ("kept" in kind)
    step = weight.grain if weight.grain < weight.size else weight.size // 4
    starts = range(0, weight.size, step)
    assert len(starts) > 3
    made = np.concatenate([weight.part(at, min(at + step, weight.size)) for at in starts])
    assert {name: int(counts.max()) for name, counts in noting.counts.items()} == dict.fromkeys(
        tensors, 1
    )
    assert made.tobytes() == np.ascontiguousarray(weight.load()).tobytes()


ONE_LOADS_NONE = """
import sys
from mbuild.convert.read.dequantize import dequantize
tensors = {"x": None}
assert dequantize({}, tensors) is tensors
assert "mbuild.convert.read.methods" not in sys.modules
"""


def test_what_is_not_quantized_loads_no_reader() -> None:
    """The tensors come back as they are, and a first build is not kept waiting."""
    done = subprocess.run([sys.executable, "-c", ONE_LOADS_NONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", READERS)
def test_a_reader_lets_pass_what_has_no_parts(method: str) -> None:
    """Layers that were left out of a quantization stay as they are stored."""
    tensors = {"model.norm.weight": stored(np.ones(4, np.float32), DType.F32)}
    config = {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    made = dequantize(config, tensors)
    assert {name: item.load().tolist() for name, item in made.items()} == {
        "model.norm.weight": [1.0] * 4
    }

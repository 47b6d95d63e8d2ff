"""Machine code for quantized checkpoints: what numpy computes step by step, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbuild.convert.read.dtypes import encode, to_f32
from mbuild.convert.read.fp4 import E2M1
from mbuild.convert.read.safetensors import DType
from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled import decoding, repacking, written
from mbuild.quant.compiled.decode_text import LANES
from mbuild.quant.compiled.decoding import Codes, decode, ready

pytest.importorskip("llvmlite", reason="texts are compiled by llvmlite")

Array = np.ndarray[Any, Any]

VIEWS = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.BF16: "<u2"}


def drawn(kind: str, rows: int, width: int) -> Array:
    """Codes of a kind, (rows, bytes), none of which is NaN."""
    codes = np.random.default_rng(rows).integers(
        0, 256, (rows, width // (2 if kind == "u4" else 1)), np.uint8
    )
    return np.where(codes & 0x7F == 0x7F, 0, codes) if kind == "e4m3" else codes


def numbers(kind: str, codes: Array) -> Array:
    """The codes as float32."""
    if kind == "e4m3":
        return to_f32(codes, DType.F8_E4M3)
    if kind == "u4":
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
    return (codes.view(np.int8) if kind == "i8" else codes).astype(np.float32)


@pytest.mark.parametrize("form", decoding.FORMS, ids=lambda form: "-".join(map(str, form)))
@pytest.mark.parametrize(("width", "group"), [(64, 32), (256, 128), (160, 64), (96, 96), (32, 500)])
def test_values_are_those_of_single_steps(form: Codes, width: int, group: int) -> None:
    """A difference and a product in F32, each rounded, then the type: also of small halves."""
    rows, groups = 7, -(-width // group)
    random = np.random.default_rng(width)
    codes = drawn(form.kind, rows, width)
    factors = random.choice([1e-4, 3e-2, 1e-9, -0.3], (rows, groups)).astype(np.float32)
    factors *= random.uniform(0.9, 1, factors.shape).astype(np.float32)
    points = random.integers(0, 16, factors.shape).astype(np.float32) if form.points else None
    out = np.empty((rows, width), VIEWS[form.made])
    assert decode(codes, form.kind, factors, points, group, out)
    wanted = numbers(form.kind, codes)
    if points is not None:
        wanted = wanted - points.repeat(group, axis=1)[:, :width]
    wanted = wanted * factors.repeat(group, axis=1)[:, :width]
    assert out.tobytes() == encode(wanted, DType.F32, form.made).tobytes()


@pytest.mark.parametrize("made", VIEWS, ids=str)
def test_every_float_of_eight_bits(made: GGMLType) -> None:
    """All 254 that are numbers, denormals and both zeros too."""
    every = np.arange(256, dtype=np.uint8)
    codes = every[every & 0x7F != 0x7F]
    codes = np.concatenate([codes, codes[:2]]).reshape(1, 256)
    out = np.empty((1, 256), VIEWS[made])
    assert decode(codes, "e4m3", np.ones((1, 1), np.float32), None, 256, out)
    assert out.tobytes() == encode(to_f32(codes, DType.F8_E4M3), DType.F32, made).tobytes()


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_code_that_is_no_number_is_left_to_who_names_it(code: int) -> None:
    """Wherever it stands among the lanes."""
    for place in (0, LANES - 1, 2 * LANES + 5):
        codes = np.zeros((1, 4 * LANES), np.uint8)
        codes[0, place] = code
        out = np.empty(codes.shape, "<u2")
        assert not decode(codes, "e4m3", np.ones((1, 1), np.float32), None, 4 * LANES, out)


@pytest.mark.parametrize(
    ("made", "factor"),
    [(GGMLType.F16, 65520 / 127), (GGMLType.BF16, 3.4e38 / 127), (GGMLType.F32, np.inf)],
    ids=str,
)
def test_what_the_type_cannot_hold_is_left_to_who_names_it(made: GGMLType, factor: float) -> None:
    """One value of many; somewhat less is held."""
    codes = np.ones((2, LANES), np.int8)
    codes[1, 3] = -127
    out = np.empty(codes.shape, VIEWS[made])
    factors = np.full((2, 1), factor, np.float32)
    assert not decode(codes, "i8", factors, None, LANES, out)
    if made is not GGMLType.F32:
        assert decode(codes, "i8", factors * np.float32(0.99), None, LANES, out)


@pytest.mark.parametrize(("width", "group"), [(48, 48), (64, 16), (128, 40), (0, 32)])
def test_groups_that_are_no_whole_lanes_are_not_for_machine_code(width: int, group: int) -> None:
    """Nor are forms that no conversion asks for."""
    assert not ready(Codes("i8", False, GGMLType.BF16), width, group)
    assert not ready(Codes("e4m3", True, GGMLType.BF16), 64, 32)


def test_without_machine_code_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told, and computes otherwise."""
    monkeypatch.setattr(written, "found", lambda *arguments: None)
    for function in (decoding._function, repacking._function):
        function.cache_clear()
    try:
        out = np.empty((1, LANES), "<u2")
        zeros, ones = np.zeros((1, LANES), np.uint8), np.ones((1, 1), np.float32)
        assert not decode(zeros, "i8", ones, None, LANES, out)
        assert not repacking.ready(GGMLType.NVFP4)
    finally:
        for function in (decoding._function, repacking._function):
            function.cache_clear()


@pytest.mark.parametrize("type_", repacking.FORMS, ids=str)
def test_blocks_hold_the_same_numbers(type_: GGMLType) -> None:
    """As the gguf package decodes them: each code times its scale."""
    import gguf

    random = np.random.default_rng(1)
    scales, half = repacking.FORMS[type_]
    low, high = (1, 0x7E) if scales == 4 else (118, 130)
    codes = random.integers(0, 256, (6 * scales, half), np.uint8)
    bytes_ = random.integers(low, high, (6 * scales,), np.uint8)
    out = np.empty((6, scales + scales * half), np.uint8)
    repacking.repack(type_, codes, bytes_, out)
    pairs = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1, 2 * half)
    dtype = DType.F8_E4M3 if scales == 4 else DType.F8_E8M0
    wanted = np.array(E2M1, np.float32)[pairs] * to_f32(bytes_, dtype)[:, None]
    made = gguf.quants.dequantize(out, gguf.GGMLQuantizationType(int(type_)))
    assert np.array_equal(made.reshape(-1), wanted.reshape(-1))

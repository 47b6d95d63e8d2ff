"""The engines: equal bytes whatever runs them, refusals, and what is kept on disk."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quant_data import ALL, ONLY_WEIGHTED, SEARCHED, WEIGHTED, kinds, to_bf16

from mbuild.core.errors import CancelledError, FormatError, UnsupportedError, UsageError
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.decode import decoded
from mbuild.quant.quantize import (
    CHUNK,
    NotFiniteError,
    engine,
    fallback,
    prepare,
    quantize,
)
from mbuild.quant.table import TYPES, supports

G = GGMLType
numba = pytest.importorskip("numba")


def _weights(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(count) * 0.05).astype(np.float32)


def _undefined(code: bytes) -> set[str]:
    """Names that an ELF object file (64 bits, little-endian) takes from elsewhere."""
    start, size, count = *struct.unpack_from("<Q", code, 40), *struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, start + i * size) for i in range(count)]
    (table,) = (section for section in sections if section[1] == 2)
    names = sections[table[6]][4]
    found = set()
    for at in range(table[4], table[4] + table[5], 24):
        name, _, _, section = struct.unpack_from("<IBBH", code, at)
        if name and section == 0:
            found.add(code[names + name : code.index(b"\0", names + name)].decode())
    return found


def test_every_row_of_the_table_is_tested() -> None:
    """The tests of bytes run over lists of types; no row of the table is missing in them."""
    assert set(TYPES) == {*ALL, *ONLY_WEIGHTED, G.F32}
    assert {type_ for type_, parts in TYPES.items() if parts.weighted} == set(WEIGHTED)


def test_every_type_has_a_kernel_that_needs_no_numba() -> None:
    """No type silently runs on numpy: each kernel compiles, and calls nothing but the C library."""
    from mbuild.quant import table
    from mbuild.quant.compiled import cache

    assert engine().name == "compiled"
    used: set[str] = set()
    for weighted, types in ((False, ALL), (True, WEIGHTED)):
        for type_ in types:
            engine().prepare(type_, weighted)
            kernel = table.kernel(type_, weighted, engine().lanes)
            code = cache.read(kernel.name)
            assert code is not None
            if code.startswith(b"\x7fELF\x02\x01"):
                used |= _undefined(code)
    assert used <= {"log2", "memcpy", "memset", "memmove"}


@pytest.mark.parametrize("type_", ALL, ids=lambda t: t.name)
def test_numpy_gives_the_same_bytes(type_: GGMLType) -> None:
    """The two engines agree on every kind of weights, refused or not, and on a last tile."""
    x = np.concatenate([values for _, values in kinds(256 * 11, seed=5)])
    made = []
    for using in (engine(), fallback()):
        out = np.zeros(x.size // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
        assert using.blocks(type_, x.view(np.uint8), G.F32, out)
        made.append(out)
    assert made[0].any()
    assert np.array_equal(*made)


@pytest.mark.parametrize("type_", WEIGHTED, ids=lambda t: t.name)
def test_numpy_gives_the_same_bytes_with_importances(type_: GGMLType) -> None:
    """The two engines agree with an importance matrix, one per expert."""
    q = np.random.default_rng(1).random((3, 512)).astype(np.float32)
    x = _weights(512 * 15)
    made = [
        quantize(type_, G.F32, x, 512, imatrix=q, using=using).tobytes()
        for using in (engine(), fallback())
    ]
    assert made[0] == made[1]
    if type_ not in ONLY_WEIGHTED:
        assert made[0] != quantize(type_, G.F32, x, 512).tobytes()
    # Each expert's rows are quantized with its own importances.
    alone = [
        quantize(type_, G.F32, x[i * 2560 : (i + 1) * 2560], 512, imatrix=q[i]).tobytes()
        for i in range(3)
    ]
    assert b"".join(alone) == made[0]


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_bytes_do_not_depend_on_the_width(lanes: int) -> None:
    """Kernels of 8, 16 and 32 lanes give the same bytes, in one process."""
    from mbuild.quant.compiled.engine import CompiledEngine

    narrow = CompiledEngine(lanes)
    x = np.concatenate([values for name, values in kinds(256 * 7) if "huge" not in name])
    x = x[np.abs(x) < 1e4].copy()
    x = x[: x.size - x.size % 256]
    for type_ in (G.Q4_K, G.Q6_K, G.IQ4_NL, G.IQ2_S):
        made = quantize(type_, G.F32, x, 256, using=narrow)
        assert np.array_equal(made, quantize(type_, G.F32, x, 256, using=fallback()))


def test_bytes_do_not_depend_on_threads_or_pieces() -> None:
    """One, two or five threads, all rows or a few: the same bytes."""
    row, x = 4352, _weights(4352 * 300)
    q = np.random.default_rng(3).random(row).astype(np.float32)
    for type_, weights in ((G.Q4_K, None), (G.Q8_0, None), (G.F16, None), (G.Q4_0, q)):
        made = [
            quantize(type_, G.F32, x, row, imatrix=weights, threads=threads).tobytes()
            for threads in (1, 2, 5)
        ]
        assert made[0] == made[1] == made[2]
        parts = [
            quantize(type_, G.F32, x[at * row : (at + 7) * row], row, imatrix=weights).tobytes()
            for at in range(0, 300, 7)
        ]
        assert b"".join(parts) == made[0]


@pytest.mark.parametrize(
    ("type_", "weighted"),
    [
        (type_, weighted)
        for type_ in TYPES
        for weighted in (False, True)
        if supports(type_, weighted)
    ],
    ids=lambda value: value.name if isinstance(value, G) else "weighted" if value else "plain",
)
def test_every_type_is_the_same_on_any_number_of_threads(type_: GGMLType, weighted: bool) -> None:
    """1, 2, 3 and 7: three experts with importances of their own, of 231 rows each."""
    row, rows = 768, 3 * 231
    x = _weights(row * rows, 7)
    q = np.random.default_rng(8).random((3, row)).astype(np.float32) + 0.1 if weighted else None
    made = {
        quantize(type_, G.F32, x, row, imatrix=q, threads=threads).tobytes()
        for threads in (1, 2, 3, 7)
    }
    assert len(made) == 1


@pytest.mark.parametrize("type_", [G.Q4_K, G.Q3_K, G.Q8_0, G.Q5_1, G.TQ1_0, G.MXFP4])
def test_sources_of_16_bits(type_: GGMLType) -> None:
    """F16 and BF16 weights give what the same values in F32 give, wherever they lie."""
    half = (_weights(256 * 50) * 1e-3).astype(np.float16)
    half[:256] = np.arange(256).astype(np.uint16).view(np.float16)
    assert np.array_equal(
        quantize(type_, G.F16, half, 256), quantize(type_, G.F32, half.astype(np.float32), 256)
    )
    brain = to_bf16(_weights(256 * 50))
    wide = (brain.astype(np.uint32) << 16).view(np.float32)
    odd = memoryview(b"x" + brain.tobytes())[1:]
    assert np.array_equal(quantize(type_, G.BF16, odd, 256), quantize(type_, G.F32, wide, 256))


def test_casts_between_unquantized_types() -> None:
    """F16 and BF16 round to nearest even, F32 is exact, the type itself is a copy."""
    x = _weights(1000 * 3)
    assert quantize(G.F16, G.F32, x, 1000).tobytes() == x.astype(np.float16).tobytes()
    half = x.astype(np.float16)
    assert quantize(G.F32, G.F16, half, 1000).tobytes() == half.astype(np.float32).tobytes()
    assert quantize(G.F16, G.F16, half, 1000).tobytes() == half.tobytes()
    back = quantize(G.BF16, G.F32, quantize(G.F32, G.BF16, to_bf16(x), 1000), 1000)
    assert back.tobytes() == to_bf16(x).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type_", [G.Q4_K, G.Q8_0, G.F16, G.MXFP4, G.IQ4_XS])
@pytest.mark.parametrize("source", [G.F32, G.F16, G.BF16])
def test_what_is_not_finite_is_refused(bad: float, type_: GGMLType, source: GGMLType) -> None:
    """NaN and infinity are refused with row and column, on both engines, in any tile."""
    if type_ is source:
        return
    for index in (0, 256 * 70 + 3, 256 * 99 + 255):
        x = _weights(256 * 100)
        x[index] = bad
        data: Any = {G.F32: x, G.F16: x.astype(np.float16), G.BF16: to_bf16(x)}[source]
        for using in (engine(), fallback()):
            with pytest.raises(NotFiniteError) as error:
                quantize(type_, source, data, 256, using=using)
            assert error.value.index == index
            assert f"row {index // 256}, column {index % 256}" in error.value.message


def test_the_first_bad_value_is_named_by_any_number_of_threads() -> None:
    """Of several bad values in several pieces the first is reported."""
    x = _weights(4096 * 1000)
    x[[700_000, 3_900_000]] = np.nan
    for threads in (1, 2, 4):
        with pytest.raises(NotFiniteError) as error:
            quantize(G.Q8_0, G.F32, x, 4096, threads=threads)
        assert error.value.index == 700_000


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tensor_can_be_stopped_in_the_middle(threads: int) -> None:
    """``check`` is called before each piece of work, and what it raises ends the rest."""
    data = np.ones(CHUNK * 6, np.float32)
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) >= 3:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        quantize(GGMLType.Q8_0, GGMLType.F32, data, 1024, threads=threads, check=check)
    assert 3 <= len(calls) <= 3 + threads


def test_scales_beyond_float16_are_refused() -> None:
    """A block whose scale float16 cannot hold is refused, as llama-quantize refuses it."""
    for type_ in (*SEARCHED, *ONLY_WEIGHTED, G.Q4_0, G.Q4_1, G.Q8_0, G.TQ2_0, G.F16):
        x = _weights(512)
        x[300] = 1e10
        q = np.ones(256, np.float32) if type_ in ONLY_WEIGHTED else None
        with pytest.raises(NotFiniteError, match="too large") as error:
            quantize(type_, G.F32, x, 256, imatrix=q)
        assert 256 <= error.value.index <= 300


def test_sizes_and_types_are_checked() -> None:
    """Rows that do not divide, odd lengths and unknown types are errors of their own."""
    x = _weights(1024)
    with pytest.raises(FormatError, match="row of 128 values is not a multiple of 256"):
        quantize(G.Q4_K, G.F32, x, 128)
    with pytest.raises(FormatError, match="not whole rows"):
        quantize(G.Q4_0, G.F32, x, 768)
    with pytest.raises(FormatError):
        quantize(G.Q4_0, G.F32, x, 0)
    with pytest.raises(UnsupportedError, match="only supported for F16, BF16 and F32"):
        quantize(G.Q4_0, G.Q8_0, x, 256)
    with pytest.raises(UnsupportedError, match="cannot quantize to Q8_K"):
        quantize(G.Q8_K, G.F32, x, 256)
    with pytest.raises(UnsupportedError, match="IQ1_S needs an importance matrix") as error:
        quantize(G.IQ1_S, G.F32, x, 256)
    assert error.value.hint == "give one with --imatrix FILE"
    with pytest.raises(UsageError, match="does not fit"):
        quantize(G.Q4_K, G.F32, x, 256, imatrix=np.ones(255, np.float32))
    assert quantize(G.Q4_K, G.F32, x[:0], 256).size == 0
    assert supports(G.IQ1_S, weighted=True)
    assert not supports(G.IQ1_S, weighted=False)


RMS = {
    G.Q2_K: 0.35, G.Q3_K: 0.18, G.Q4_K: 0.085, G.Q5_K: 0.045, G.Q6_K: 0.025,
    G.Q4_0: 0.12, G.Q4_1: 0.11, G.Q5_0: 0.06, G.Q5_1: 0.055, G.Q8_0: 0.008,
    G.IQ4_NL: 0.1, G.IQ4_XS: 0.1, G.IQ3_S: 0.2, G.MXFP4: 0.16, G.TQ1_0: 0.95, G.TQ2_0: 0.95,
    G.IQ1_S: 0.6, G.IQ1_M: 0.6, G.IQ2_XXS: 0.5, G.IQ2_XS: 0.45, G.IQ2_S: 0.4, G.IQ3_XXS: 0.3,
}  # fmt: skip
"""Root mean square error of normal weights, in units of their deviation."""


@pytest.mark.parametrize("type_", RMS, ids=lambda t: t.name)
def test_what_is_quantized_can_be_read_again(type_: GGMLType) -> None:
    """The published dequantizers give the weights back within the type's error."""
    gguf = pytest.importorskip("gguf")
    x = _weights(256 * 256)
    q = np.ones(256, np.float32) if type_ in ONLY_WEIGHTED else None
    made = quantize(type_, G.F32, x, 256, imatrix=q).reshape(256, -1)
    back = gguf.quants.dequantize(made, gguf.GGMLQuantizationType(int(type_)))
    assert np.array_equal(decoded(made.reshape(-1), type_), back.reshape(-1))
    error = np.sqrt(np.mean((back.reshape(-1) - x) ** 2)) / 0.05
    assert RMS[type_] / 2 < error < RMS[type_]


def test_nothing_is_contracted() -> None:
    """The machine code of a search has vector arithmetic and no fused multiply-add."""
    from llvmlite import binding

    from mbuild.quant import table
    from mbuild.quant.compiled import compiler

    if not binding.get_host_cpu_features().get("fma", False):
        pytest.skip("this CPU has no fused multiply-add to be found")
    kernel = table.kernel(G.Q2_K, False, 8)
    assembly = compiler.library(kernel).get_asm_str()
    assert "vmulps" in assembly
    assert "vfmadd" not in assembly
    assert "vfmsub" not in assembly
    assert "vfnmadd" not in assembly


PROGRAM = """
import sys
{before}
import numpy as np
from mbuild.gguf.types import GGMLType as G
from mbuild.quant import quantize as q
import hashlib
assert "numba" not in sys.modules or sys.modules["numba"] is None
x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
made = q.quantize(G.{type}, G.F32, x, 256)
print(q.engine().name, hashlib.sha256(made.tobytes()).hexdigest())
"""


def _run(before: str = "", type_: GGMLType = G.Q5_0, **env: str) -> list[str]:
    program = PROGRAM.format(before=before, type=type_.name)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": root, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.split()


def _expected(type_: GGMLType = G.Q5_0) -> str:
    made = quantize(type_, G.F32, _weights(256 * 40), 256)
    return hashlib.sha256(made.tobytes()).hexdigest()


@pytest.mark.parametrize("missing", [("numba",), ("numba", "llvmlite")], ids=str)
def test_without_numba(missing: tuple[str, ...]) -> None:
    """Where numba, or all of it, is missing the same bytes come from numpy, and nothing fails."""
    before = "; ".join(f"sys.modules[{name!r}] = None" for name in missing)
    assert _run(before) == ["numpy", _expected()]


def test_planning_loads_neither_numpy_nor_numba() -> None:
    """Recipes and names come without the heavy modules."""
    program = (
        "import sys; from mbuild.quant.choose import metadata, recipes, types;"
        "assert not {'numpy', 'numba'} & sys.modules.keys()"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": root}, check=True
    )


def test_preparing_reports_each_type() -> None:
    """Before compiling, the type's name is told."""
    told: list[str] = []
    prepare([G.Q8_0, G.Q4_0], report=told.append)
    assert told == ["Q8_0", "Q4_0"]

"""The engines' own parts: the numpy engine by hand-made blocks, and what numba needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quant_data import to_bf16

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.arrays.engine import MAKERS, NumpyEngine
from mbuild.quant.arrays.values import widen
from mbuild.quant.compiled import needs
from mbuild.quant.compiled.isolation import import_numba
from mbuild.quant.engine import BlocksOutcome, Unavailable, Weights
from mbuild.quant.table import TYPES

G = GGMLType


def _blocks(type_: GGMLType, values: Any) -> bytes:
    out = np.zeros(len(values) // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
    made = NumpyEngine().blocks(type_, values.view(np.uint8), G.F32, out)
    assert made is BlocksOutcome.SUSPECT
    return out.tobytes()


def test_bytes_of_all_source_types_are_the_same_values() -> None:
    """F32, F16 and BF16 bytes become float32 without a loss, infinities and signs included."""
    values = np.array([1.0, -0.5, 0.0, -0.0, np.inf, 65280.0], np.float32)
    sources: dict[GGMLType, Any] = {
        G.F32: values,
        G.F16: values.astype(np.float16),
        G.BF16: to_bf16(values),
    }
    for type_, held in sources.items():
        made = widen(held.view(np.uint8), type_)
        assert made.dtype == np.float32
        assert made.tobytes() == values.tobytes(), type_


def test_a_block_of_q8_0_is_a_scale_and_its_levels() -> None:
    """127 quarters: the scale is a quarter, and halves round away from zero."""
    values = np.zeros(32, np.float32)
    values[:4] = [31.75, -31.75, 0.125, -0.375]
    levels = np.array([127, -127, 1, -2, *[0] * 28], np.int8)
    assert _blocks(G.Q8_0, values) == np.float16(0.25).tobytes() + levels.tobytes()


def test_a_block_of_q4_0_puts_the_extreme_value_at_level_0() -> None:
    """Value i and value i + 16 share a byte; zero is level 8."""
    values = np.zeros(32, np.float32)
    values[[0, 16, 1]] = [-8.0, 7.0, 1.0]
    made = _blocks(G.Q4_0, values)
    assert made[:2] == np.float16(1).tobytes()
    assert made[2:] == bytes([0xF0, 0x89, *[0x88] * 14])


def test_values_that_are_not_finite_are_told_and_nothing_is_written() -> None:
    """A NaN in the last block of many is found before any block is made."""
    values = np.ones(96, np.float32)
    values[-1] = np.nan
    out = np.full(102, 7, np.uint8)
    made = NumpyEngine().blocks(G.Q8_0, values.view(np.uint8), G.F32, out)
    assert made is BlocksOutcome.NOT_FINITE
    assert set(out.tolist()) == {7}


def test_importances_of_a_type_that_takes_none_change_nothing() -> None:
    """Q8_0 has one method; Q4_0 with importances for one value alone keeps that one."""
    values = np.linspace(-1, 1, 32, dtype=np.float32)
    weights = Weights(np.zeros(32, np.float32), np.ones(1, np.float32))
    weights.importances[20] = 1
    out = np.zeros(34, np.uint8)
    NumpyEngine().blocks(G.Q8_0, values.view(np.uint8), G.F32, out, weights)
    assert out.tobytes() == _blocks(G.Q8_0, values)
    out = np.zeros(18, np.uint8)
    NumpyEngine().blocks(G.Q4_0, values.view(np.uint8), G.F32, out, weights)
    scale = float(out[:2].view(np.float16)[0])
    level = int(out[2 + 20 - 16] >> 4)
    assert abs(scale * (level - 8) - values[20]) < 1e-3
    assert out.tobytes() != _blocks(G.Q4_0, values)


def test_numpy_has_a_maker_of_every_method() -> None:
    """A kind of method without one would fail only where numba is missing."""
    methods = [m for parts in TYPES.values() for m in (parts.plain, parts.weighted) if m]
    assert {type(method) for method in methods} == MAKERS.keys()


# --- numba and llvmlite ---


SHOWN = "\nfrom numba import config; print(config.DISABLE_JIT)"


def test_settings_in_the_working_directory_are_not_read(tmp_path: Path) -> None:
    """A downloaded model's folder has no say in how kernels are compiled; the path stays as it was.

    The same file does count for a program that imports numba itself.
    """
    pytest.importorskip("numba")
    pytest.importorskip("yaml")
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\n")
    ours = """
import sys
from mbuild.quant.compiled.isolation import import_numba
before = [*sys.meta_path]
import_numba()
assert sys.meta_path == before
"""
    made = []
    for program in (ours, ""):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program + SHOWN,
            ],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        made.append(done.stdout.strip())
    assert made == ["0", "1"]


def test_a_numba_that_is_there_already_stops_reading_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are taken anew from the environment alone, now and whenever it compiles."""
    config = pytest.importorskip("numba").core.config
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        import_numba()
        assert config.DISABLE_JIT == 0
        config.reload_config()
        assert config.DISABLE_JIT == 0


def test_a_package_that_is_missing_is_told_from_one_that_is_broken() -> None:
    """The one is to be installed, the other to be installed again; the error's words are kept."""
    missing = needs.unusable("numba", ModuleNotFoundError("No module", name="numba"))
    assert (missing.reason, missing.remedy) == ("numba is not installed", "pip install numba")
    part = needs.unusable("numba", ModuleNotFoundError("No module", name="numba.core"))
    broken = needs.unusable("llvmlite", OSError("libllvm.so:\n  gone"))
    assert "cannot be imported (OSError: libllvm.so: gone)" in broken.reason
    for made in (part, broken):
        assert "--force-reinstall" in made.remedy
    assert len(needs.unusable("numba", ValueError("x" * 5000)).reason) < 300


@pytest.mark.parametrize("error", [RuntimeError("no memory"), OSError("no memory")], ids=repr)
def test_what_llvm_refuses_has_a_remedy(error: Exception) -> None:
    """A system that forbids running what was written leads to the numpy engine, with the reason."""
    with pytest.raises(Unavailable) as caught, needs.machine_code():
        raise error
    assert "no memory" in caught.value.reason
    assert "execmem" in caught.value.remedy
    assert caught.value.__cause__ is error


def test_a_fault_inside_of_llvms_part_is_not_hidden() -> None:
    """An error of mbuild's own is raised as it is."""
    with pytest.raises(KeyError), needs.machine_code():
        raise KeyError("a fault")


def test_needs_are_met_here() -> None:
    """With numba installed nothing is refused, and its compiler's module is loaded."""
    pytest.importorskip("numba")
    needs.need_llvmlite()
    needs.need_numba()
    assert {"numba", "llvmlite.binding", "mbuild.quant.compiled.compiler"} <= sys.modules.keys()

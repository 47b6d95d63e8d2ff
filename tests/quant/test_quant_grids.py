"""IQ2 and IQ3 where a search could go wrong unseen: ties, borders between levels, odd weights.

A compiled search looks at the ends of runs of scales, and at lists of neighbours that are
shortened (:mod:`mbuild.quant.kernels.lane_runs`). Here values are few and repeat, so that
neighbours cost the same but for rounding, or lie just between two levels.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quant_data import X86_REFERENCE, Reference

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.quantize import engine, fallback, quantize

G = GGMLType
PLAIN = [G.IQ2_S, G.IQ3_XXS, G.IQ3_S]
TYPES = [*PLAIN, G.IQ2_XXS, G.IQ2_XS]
ROW = 512
ROWS = 10


def weights(seed: int) -> Iterator[tuple[str, Any]]:
    """(name, float32 (ROWS, ROW)): weights that make ties and near-ties of neighbours."""
    r = np.random.default_rng(seed)
    shape = (ROWS, ROW)
    signs = r.integers(0, 2, shape) * 2 - 1
    few = r.integers(0, 4, shape) * 0.37
    near = 1 + r.integers(-3, 4, shape) * 2.0**-23
    top = np.zeros(shape)
    top[:, ::16] = 1
    made = {
        "one value": np.full(shape, 0.31),
        "two values": r.choice([0.1, 0.7], shape),
        "few values": few,
        "few values and signs": few * signs,
        "between two levels": np.maximum(top, r.integers(0, 17, shape) / 16),
        "just beside": np.maximum(top, r.integers(0, 16, shape) / 15 * near),
        "borders of the first step": np.maximum(top, r.integers(0, 14, shape) / 13.2 * near),
        "between three levels": np.maximum(top, r.choice([0, 0.2, 0.4, 0.8], shape) * near),
        "one per group": np.where(np.arange(ROW) % 8 == 3, r.standard_normal(shape), 0),
        "mostly zeros": np.where(r.random(shape) < 0.95, 0, signs),
        "zeros of both signs": np.where(r.random(shape) < 0.5, signs * 0.0, r.random(shape)),
        "denormal": r.integers(-9, 10, shape) * 1.4e-45,
        "denormal scales": r.standard_normal(shape) * 3e-38,
        "squares underflow": r.standard_normal(shape) * 1e-22,
        "small": r.standard_normal(shape) * 1e-12,
        "one outlier": np.where(top * (np.arange(ROW) % 64 == 0) > 0, 1e4, r.random(shape)),
        "steep": r.standard_normal(shape) * 10.0 ** r.integers(-6, 4, shape),
    }
    for name, values in made.items():
        yield name, np.ascontiguousarray(values, np.float32)


def importances(seed: int) -> dict[str, Any]:
    """float32 (ROW,) each; a row of zeros gives every point the same cost."""
    r = np.random.default_rng(seed)
    made = {
        "even": np.ones(ROW),
        "drawn": r.random(ROW),
        "mostly zeros": r.random(ROW) * (r.random(ROW) < 0.1),
        "tiny": r.random(ROW) * 1e-30,
        "denormal": r.integers(0, 5, ROW) * 1.4e-45,
        "large": r.random(ROW) * 1e15,
        "steep": 10.0 ** r.integers(-12, 6, ROW),
    }
    return {name: values.astype(np.float32) for name, values in made.items()}


def _differing(a: Any, b: Any, type_: GGMLType) -> int:
    size = BLOCKS[type_].size
    return int((a.reshape(-1, size) != b.reshape(-1, size)).any(axis=1).sum())


@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.name)
def test_numpy_finds_the_same_points(type_: GGMLType) -> None:
    """numpy looks at every scale and every neighbour: the compiled search misses none."""
    pytest.importorskip("numba")
    assert engine().name == "compiled"
    x = np.concatenate([values for _, values in weights(1)])
    given: list[Any] = [*importances(2).values(), np.zeros(ROW, np.float32)]
    if type_ in PLAIN:
        given.append(None)
    for q in given:
        made = [
            quantize(type_, G.F32, x, ROW, imatrix=q, using=using)
            for using in (engine(), fallback())
        ]
        assert _differing(*made, type_) == 0


class TestReference:
    """The same against ggml."""

    pytestmark = X86_REFERENCE

    @pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.name)
    def test_ggml_finds_the_same_points(self, type_: GGMLType) -> None:
        """No block differs, with importances of every kind and without."""
        reference = Reference()
        given: list[tuple[str, Any]] = [*importances(3).items()]
        if type_ in PLAIN:
            given.append(("none", None))
        found = {}
        for name, x in weights(4):
            for kind, q in given:
                ours = quantize(type_, G.F32, x, ROW, imatrix=q)
                theirs = reference(type_, x.reshape(-1), ROW, q)
                found[name, kind] = _differing(ours, theirs, type_)
        assert len(found) >= 17 * 7
        assert not any(found.values()), {k: v for k, v in found.items() if v}


def digests(using: Any) -> list[str]:
    """The digests of some weights in two types, as an engine makes them."""
    x = np.concatenate([values for _, values in weights(5)][::3])
    q = importances(6)["drawn"]
    made = (quantize(type_, G.F32, x, ROW, imatrix=q, using=using) for type_ in (G.IQ2_XS, G.IQ3_S))
    return [hashlib.sha256(blocks.tobytes()).hexdigest() for blocks in made]


PROGRAM = """
import sys
sys.path[:0] = ["tests", "tests/quant"]
from test_quant_grids import digests
from mbuild.quant.kernels import target
from mbuild.quant.quantize import engine
assert not "+avx512f" in target.features()
print(*digests(engine()), engine().name, engine().lanes)
"""


@pytest.fixture(scope="module")
def of_numpy() -> list[str]:
    """The digests as numpy makes them, on any processor."""
    return digests(fallback())


@pytest.mark.parametrize("cpu", ["avx2", "generic"])
def test_other_instructions_give_the_same_bytes(cpu: str, of_numpy: list[str]) -> None:
    """Costs are picked by other instructions without AVX-512, and by selections without AVX.

    These kernels are kept like all others: they take half a minute to compile.
    """
    pytest.importorskip("numba")
    from llvmlite import binding

    features = dict(binding.get_host_cpu_features())
    if cpu == "avx2" and not features.get("avx2"):
        pytest.skip("this processor has no AVX2")
    narrowed = {name: has and not name.startswith("avx512") for name, has in features.items()}
    signs = ",".join(f"{'+' if has else '-'}{name}" for name, has in narrowed.items())
    env = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": signs if cpu == "avx2" else ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*of_numpy, "compiled", "16"]


KEPT = """
import sys
import numpy as np
from mbuild.gguf.types import GGMLType as G
from mbuild.quant.quantize import quantize
quantize(G.IQ3_S, G.F32, np.linspace(-1, 1, 8192, dtype=np.float32), 256)
print("gguf" in sys.modules, "numba" in sys.modules)
"""


def test_a_kept_kernel_has_its_table() -> None:
    """A process that finds the kernel on disk makes no table: it loads no points, and no numba."""
    pytest.importorskip("numba")
    engine().prepare(G.IQ3_S, False)
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

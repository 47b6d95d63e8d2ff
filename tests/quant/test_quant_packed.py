"""Kernels that come with mbuild: run without numba, checked, and the same whoever makes them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mbuild.gguf.types import GGMLType
from mbuild.quant.engine import Unavailable
from mbuild.quant.quantize import fallback, quantize
from mbuild.quant.table import TYPES, supports, takes_importances

pytest.importorskip("numba")

from mbuild.quant.compiled import cache, chunks, decoding, merges, packed
from mbuild.quant.compiled.engine import CompiledEngine
from mbuild.quant.kernels import target

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "release" / "kernels.py"
V3, V4 = target.LEVELS

pytestmark = pytest.mark.skipif(not target.level(), reason="kernels come for Linux on x86-64-v3")


def make(folder: Path, *arguments: str, **settings: str) -> Path:
    """A folder of kernels, made by the script in a process of its own."""
    command = [sys.executable, SCRIPT, folder, *arguments]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **settings})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of two types for all levels."""
    return make(tmp_path_factory.mktemp("made") / "objects", "--types", "F16,Q6_K")


@pytest.fixture
def came(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of them that came with mbuild, and may be damaged."""
    folder = shutil.copytree(made, tmp_path / "objects")
    monkeypatch.setattr(packed, "FOLDER", folder)
    packed._index.cache_clear()
    yield folder
    packed._index.cache_clear()


def narrowed(level: str) -> str:
    """The features of this processor, as numba is told them, up to a level."""
    return ",".join(target.features_of(level))


PROGRAM = """
import os, sys
from pathlib import Path
sys.modules["numba"] = sys.modules["llvmlite"] = None
from mbuild.quant.compiled import packed
packed.FOLDER = Path(sys.argv[1])
import numpy as np
from mbuild.gguf.types import GGMLType as G
from mbuild.quant import quantize as q
import hashlib
x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
made = q.quantize(G.Q6_K, G.F32, x, 256)
from mbuild.quant.compiled import chunks
assert chunks.why_unavailable() is None
assert "gguf" not in sys.modules and not os.listdir(os.environ["XDG_CACHE_HOME"])
print(q.engine().name, packed.level(), hashlib.sha256(made.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("level", target.LEVELS)
def test_they_run_without_numba_and_llvmlite(level: str, made: Path, tmp_path: Path) -> None:
    """With numpy's bytes, at each level that this processor has; the cache stays empty."""
    if list(target.LEVELS).index(level) > list(target.LEVELS).index(target.level()):
        pytest.skip(f"this processor is no {level}")
    (tmp_path / "cache").mkdir()
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NUMBA_CPU_FEATURES": narrowed(level),
    }
    command = [sys.executable, "-c", PROGRAM, made]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    x = (np.random.default_rng(0).standard_normal(256 * 40) * 0.05).astype(np.float32)
    expected = quantize(GGMLType.Q6_K, GGMLType.F32, x, 256, using=fallback())
    digest = hashlib.sha256(expected.tobytes()).hexdigest()
    assert done.stdout.split() == ["compiled", level, digest]


def test_the_index_says_what_made_them(came: Path) -> None:
    """Versions, the digest of mbuild's texts, and of each object file its SHA-256."""
    index = json.loads((came / packed.INDEX).read_text())
    assert index["made_with"].keys() == {"python", "numba", "llvmlite", "gguf", "zlib"}
    assert index["made_with"]["numba"] == version("numba")
    assert index["sources"] == cache.sources_digest().hex()
    assert list(index["levels"]) == [V3, V4]
    both = {"plain_F16_32", *(name for name, _ in script().texts())}
    assert {chunks.kernel_name(), *map(merges.kernel_name, merges.PAIRS)} < both
    assert {decoding.kernel_name(form) for form in decoding.FORMS} < both
    assert index["levels"][V3].keys() == both | {"plain_Q6_K_16", "weighted_Q6_K_16"}
    assert index["levels"][V4].keys() == both | {"plain_Q6_K_32", "weighted_Q6_K_32"}
    for name, digest in index["levels"][target.level()].items():
        code = packed.read(name)
        assert code is not None
        assert code.startswith(b"\x7fELF")
        assert hashlib.sha256(code).hexdigest() == digest
    assert packed.read("plain_Q4_K_32") is None


def test_the_same_bytes_come_out_again(made: Path, tmp_path: Path) -> None:
    """In another order, one at a time, with other hashes of strings and other numba settings."""
    again = make(
        tmp_path / "again",
        *("--types", "Q6_K,F16", "--levels", V3),
        PYTHONHASHSEED="7",
        MBUILD_THREADS="1",
        NUMBA_OPT="1",
    )
    files = {path.name: path.read_bytes() for path in (again / V3).iterdir()}
    assert len(files) == 3 + len(list(script().texts()))
    assert files == {path.name: path.read_bytes() for path in (made / V3).iterdir()}


def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("release_kernels", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("level", target.LEVELS)
def test_no_kernel_is_left_out(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel has a kernel for whatever the engine can be asked for, on that level."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {one.name for one in script().kernels(level, list(TYPES))}
    lanes = {V3: 16, V4: 32}[level]
    asked = {
        (type_, weighted and takes_importances(type_))
        for type_ in TYPES
        for weighted in (False, True)
        if supports(type_, weighted)
    }
    assert len(names) == len(asked)
    assert f"plain_Q4_K_{lanes}" in names and "plain_Q8_0_32" in names


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a changed byte": lambda file: file.write_bytes(file.read_bytes()[:-9] + b"x" * 9),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "gone": lambda file: file.unlink(),
    "another kernel": lambda file: shutil.copy(file.with_name("plain_F16_32.o.z"), file),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_kernel_is_not_loaded(kind: str, came: Path) -> None:
    """It counts as none: it is compiled where numba is there, and else the reason names it."""
    name = f"plain_Q6_K_{packed.lanes()}"
    assert packed.read(name) is not None
    assert packed.lack() == ""
    DAMAGES[kind](came / target.level() / f"{name}.o.z")
    assert packed.read(name) is None
    assert packed.read("plain_F16_32") is not None
    assert packed.lack(name) == f"the kernel {name} in {came} is damaged or missing"


INDEXES: dict[str, Callable[[dict[str, Any]], object]] = {
    "of other texts": lambda index: {**index, "sources": "00"},
    "without levels": lambda index: {"sources": index["sources"]},
    "a list": lambda index: [index],
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_that_is_not_mbuilds_own_counts_as_damaged(
    kind: str, came: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of another version of mbuild are not run, nor any without a sound index."""
    place = came / packed.INDEX
    place.write_text(json.dumps(INDEXES[kind](json.loads(place.read_text()))))
    assert packed.level() == ""
    assert packed.read("plain_F16_32") is None
    assert packed.lack() == f"the kernels in {came} are damaged or belong to another version"
    place.write_text("{")
    packed._index.cache_clear()
    assert packed.lack() == f"the kernels in {came} are damaged or belong to another version"


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numba be missing."""

    def version_of(package: str) -> str:
        if package == "numba":
            raise ModuleNotFoundError("numba is not installed", name="numba")
        return "1"

    monkeypatch.setattr(target, "version_of", version_of)


def test_an_older_processor_is_named(came: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says that mbuild's kernels are for newer ones, and that numba is missing."""
    without_numba(monkeypatch)
    assert CompiledEngine().lanes == packed.lanes()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse4.2,+avx")
    with pytest.raises(Unavailable) as caught:
        CompiledEngine()
    assert caught.value.reason == (
        "mbuild came with kernels for x86-64-v3 and newer, which this processor is not, "
        "and numba is not installed"
    )
    assert caught.value.remedy == "pip install numba"


def test_a_damaged_one_without_numba_is_named(came: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other types still run on what came."""
    without_numba(monkeypatch)
    engine = CompiledEngine()
    name = f"plain_Q6_K_{engine.lanes}"
    (came / packed.level() / f"{name}.o.z").write_bytes(b"")
    engine.prepare(GGMLType.F16, False)
    with pytest.raises(Unavailable, match=f"the kernel {name} in .* is damaged or missing, and nu"):
        engine.prepare(GGMLType.Q6_K, False)


X86, OTHER = "x86_64-unknown-linux-gnu", "x86_64-apple-darwin23"


@pytest.mark.parametrize(
    ("triple", "features", "level"),
    [
        (X86, "+sse4.2,+avx", ""),
        (X86, narrowed(V3), V3),
        (X86, narrowed(V3).replace("+bmi2", "-bmi2"), ""),
        (X86, narrowed(V3) + ",+avx512f", V3),
        (X86, narrowed(V4), V4),
        ("x86_64-alpine-linux-musl", narrowed(V4), V4),
        (OTHER, narrowed(V4), ""),
        ("aarch64-unknown-linux-gnu", "+neon", ""),
    ],
)
def test_the_level_of_a_processor(
    triple: str, features: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest whose features are all there, and only on Linux, whose object files they are."""
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(target, "_host", lambda: (triple, "any", features))
    assert target.level() == level

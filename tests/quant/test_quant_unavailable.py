"""Where compiled kernels cannot be used: the same bytes, and one warning that says why."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import write_chat

from mbuild.gguf.types import GGMLType
from mbuild.quant import quantize as module
from mbuild.quant.engine import Unavailable
from mbuild.quant.quantize import fallback, prepare

pytest.importorskip("numba")

from mbuild.quant.compiled import compiler, loader
from mbuild.quant.compiled import engine as compiled
from mbuild.quant.table import Kernel

BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "numba of another numpy": (
        {
            "numba/__init__.py": "raise AttributeError('numpy has no attribute row_stack')",
            "numba/_version.py": "",
        },
        "numba cannot be imported (AttributeError: numpy has no attribute row_stack)",
    ),
    "numba without its parts": (
        {"numba/__init__.py": "", "numba/_version.py": ""},
        "numba cannot be imported (ModuleNotFoundError: No module named 'numba.core')",
    ),
    "numba that lacks its version": (
        {"numba/__init__.py": ""},
        "numba cannot be imported (FileNotFoundError: ",
    ),
    "llvmlite whose library is gone": (
        {
            "llvmlite/__init__.py": "",
            "llvmlite/_version.py": "",
            "llvmlite/binding.py": "raise OSError('libllvmlite.so: gone')",
        },
        "llvmlite cannot be imported (OSError: libllvmlite.so: gone)",
    ),
    "no llvmlite": (
        {"sitecustomize.py": "import sys; sys.modules['llvmlite'] = None"},
        "llvmlite is not installed",
    ),
    "no numba": (
        {"sitecustomize.py": "import sys; sys.modules['numba'] = None"},
        "numba is not installed",
    ),
}
"""What lies before the real packages, and what the warning says of it."""


def _weights(folder: Path, tag: str) -> str:
    """The digest of a variant's weights."""
    place = folder / "store/manifests/registry.ollama.ai/library/m" / tag
    layers = json.loads(place.read_text())["layers"]
    return next(str(one["digest"]) for one in layers if one["mediaType"].endswith(".model"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_build_says_so_once_and_has_the_same_bytes(
    kind: str, mbuild: Run, tmp_path: Path
) -> None:
    """Two variants, one warning with the reason and the remedy, the bytes of compiled kernels."""
    files, said = BROKEN[kind]
    for name, text in files.items():
        path = tmp_path / "path" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    types = ["-q", "Q8_0", "-q", "Q4_0"]
    store = str(tmp_path / "store")
    whole = {**os.environ, "OLLAMA_MODELS": store, "NO_COLOR": "1"}
    # An empty cache: a kernel that is kept needs no numba.
    broken = {**whole, "PYTHONPATH": str(tmp_path / "path"), "XDG_CACHE_HOME": str(tmp_path)}
    made = []
    for environment in (broken, whole):
        done = mbuild("--no-cache", *types, "-t", "m", env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if "warning" in line]
        if environment is broken:
            (warning,) = warnings
            assert f"the compiled quantizers cannot be used, because {said}" in warning
            assert "times as long; pip install" in warning
        else:
            assert warnings == []
        made.append([_weights(tmp_path, tag) for tag in ("Q8_0", "Q4_0")])
    assert made[0] == made[1]


def _new(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An engine that has nothing in memory or on disk, chosen by a build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = compiled.CompiledEngine()
    monkeypatch.setattr(module, "_compiled", lambda: made)
    module._ready.cache_clear()
    return made


F16 = Kernel(GGMLType.F16, 32)


def test_what_the_system_refuses_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Memory that must not be run leaves the type to numpy, with the reason."""

    def refuse(code: bytes, name: str) -> int:
        raise OSError("cannot allocate executable memory")

    _new(F16, monkeypatch, tmp_path)
    monkeypatch.setattr(loader, "_address", refuse)
    try:
        reason = prepare([GGMLType.F16])
        assert isinstance(reason, Unavailable)
        assert "cannot allocate executable memory" in reason.reason
        assert "execmem" in reason.remedy
        assert module._ready(GGMLType.F16, False)[0] is fallback()
    finally:
        module._ready.cache_clear()


@pytest.mark.parametrize("error", [TypeError("a fault"), compiler.KernelError("calls f")], ids=repr)
def test_a_fault_of_a_kernel_is_not_swallowed(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An error of mbuild's own text is raised, and does not make a build slow in silence."""

    def fail(kernel: Kernel) -> Any:
        raise error

    _new(F16, monkeypatch, tmp_path)
    monkeypatch.setattr(compiler, "library", fail)
    try:
        with pytest.raises(type(error)):
            prepare([GGMLType.F16])
    finally:
        module._ready.cache_clear()

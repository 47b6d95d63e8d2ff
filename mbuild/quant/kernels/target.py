"""What kernels are compiled for: this CPU, as numba sees it, found without numba.

Importing this module imports llvmlite.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
from llvmlite import binding

LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v3": ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
"""The levels of the x86-64 psABI that kernels are compiled for ahead, the lowest first, each with
LLVM's names of what it adds to the one before. LLVM knows CPUs of these names."""


@cache
def compilers() -> str:
    """The versions of what decides the code: Python, LLVM, numba.

    Raises ModuleNotFoundError where numba is not installed.
    """
    numba = find_spec("numba")
    if numba is None or numba.origin is None:
        raise ModuleNotFoundError("numba is not installed", name="numba")
    # This file is numba's own source of its version; the metadata take ten times as long.
    version = Path(numba.origin).with_name("_version.py").read_text(encoding="utf-8")
    return repr((platform.python_version(), llvmlite.__version__, version))


@cache
def _host() -> tuple[str, str, str]:
    """LLVM's (triple, name of the CPU, its features, as ``+avx2,-avx512f...``)."""
    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:
        features = ""
    return binding.get_process_triple(), binding.get_host_cpu_name(), features


def description() -> str:
    """All that decides what numba makes of a text: versions, CPU, numba's settings.

    Which CPU numba compiles for follows from the real one and the settings (in
    ``numba/core/config.py`` and ``codegen.py``), so that these stand for it; some others
    change the optimization.
    """
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    return repr((compilers(), _host(), settings))


def features() -> str:
    """The features of the CPU that numba compiles for, which the environment may narrow."""
    narrowed = os.environ.get("NUMBA_CPU_FEATURES")
    if narrowed is not None:
        return narrowed
    if os.environ.get("NUMBA_CPU_NAME", "").lower() == "generic":
        return ""
    found = _host()[2]
    if os.environ.get("NUMBA_ENABLE_AVX", "1").strip() == "0":
        return ",".join(name for name in found.split(",") if not name.startswith("+avx"))
    return found


def lanes_of(features: Iterable[str]) -> int:
    """The width of the searches on a CPU with these features: 32 lanes with AVX-512, else 16."""
    return 32 if "+avx512f" in features else 16


def native_lanes() -> int:
    """The width of the searches on this CPU."""
    return lanes_of(features().split(","))


def features_of(level: str) -> tuple[str, ...]:
    """All that a level of :data:`LEVELS` asks of a CPU beyond x86-64-v2, as ``+avx2``."""
    levels = list(LEVELS)
    below = levels[: levels.index(level) + 1]
    return tuple(f"+{name}" for each in below for name in LEVELS[each])


def level() -> str:
    """The highest of :data:`LEVELS` that this CPU has, "" where it has none or this is not Linux.

    The environment may narrow it, as in :func:`features`.
    """
    triple, there = _host()[0], set(features().split(","))
    if not triple.startswith("x86_64-") or "linux" not in triple:
        return ""
    has = [each for each in LEVELS if there.issuperset(features_of(each))]
    return has[-1] if has else ""

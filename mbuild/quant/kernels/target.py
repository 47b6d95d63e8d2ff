"""What kernels are compiled for: this CPU, as numba sees it, found without numba.

Importing this module imports llvmlite.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
from llvmlite import binding


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


def native_lanes() -> int:
    """The width of the searches on this CPU: 32 lanes with AVX-512, else 16."""
    return 32 if "+avx512f" in features().split(",") else 16

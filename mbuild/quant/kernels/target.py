"""What kernels are compiled for: this CPU, as numba sees it, found without numba.

On Linux on x86-64 the kernel tells of the CPU; elsewhere LLVM does, so that llvmlite is imported
when it is asked for.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v3": ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
"""The levels of the x86-64 psABI that kernels are compiled for ahead, the lowest first, each with
LLVM's names of what it adds to the one before. LLVM knows CPUs of these names."""


LINUX_NAMES = {"bmi": "bmi1", "lzcnt": "abm"}
"""Where Linux has another name than LLVM for a feature of :data:`LEVELS`."""

_CPUINFO = Path("/proc/cpuinfo")
_WHICH = ("vendor_id", "cpu family", "model", "stepping")


def version_of(package: str) -> str:
    """The version of llvmlite or numba, neither of which is imported.

    Raises ModuleNotFoundError where it is not installed.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    # This file is their own source of their version; the metadata take ten times as long.
    return Path(found.origin).with_name("_version.py").read_text(encoding="utf-8")


@cache
def compilers() -> str:
    """The versions of what decides the code: Python, LLVM, numba.

    Raises ModuleNotFoundError where one of them is not installed.
    """
    return repr((platform.python_version(), version_of("llvmlite"), version_of("numba")))


@cache
def _own() -> dict[str, str]:
    """What Linux says of the first x86-64 processor; nothing elsewhere."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return {}
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as file:
            # Each processor has the same lines; the kernel makes them when they are read.
            text = file.read(1 << 13).partition("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    return found if "flags" in found else {}


def is_known() -> bool:
    """Whether this is Linux on x86-64, where LLVM is asked nothing."""
    return bool(_own())


@cache
def _host() -> tuple[str, str, str]:
    """(triple, name of the CPU, its features, as ``+avx2,+avx512f...``).

    Where Linux tells, the features are those of :data:`LEVELS`, and the name is all that
    LLVM chooses its name by.
    """
    own = _own()
    if own:
        flags = set(own["flags"].split())
        known = [name for names in LEVELS.values() for name in names]
        has = [f"+{name}" for name in known if LINUX_NAMES.get(name, name) in flags]
        which = [own.get(name, "") for name in _WHICH]
        return "x86_64-linux", repr((*which, sorted(flags))), ",".join(has)
    from llvmlite import binding

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


def has(*names: str) -> bool:
    """Whether the CPU that numba compiles for has these features, as ``+avx2``."""
    return set(names) <= set(features().split(","))


def register_lanes() -> int:
    """How many float32 a register of that CPU holds, at least 8."""
    return 16 if has("+avx512f") else 8


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

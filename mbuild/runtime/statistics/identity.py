"""What computes: the engine and the processor, found without loading the engine.

Both change the last digits of what is measured, so they are in the keys of measures and of
importance matrices. A build with nothing to do asks for them, and loading the engine takes
longer than all the rest of such a build.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mbuild.runtime.failure import NoEngineError

_CPUINFO = "/proc/cpuinfo"
_FEATURES = frozenset(
    {
        *("sse3", "pni", "ssse3", "avx", "avx2", "avx_vnni", "f16c", "fma", "bmi2"),
        *("avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16"),
        *("amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
    }
)
"""What llama.cpp's code for processors is divided by (``ggml-cpu.cpp``, ``ggml_cpu_has_*``), by
Linux's names."""


@cache
def engine_identity() -> str:
    """The engine's version, the kind of machine, and what of its processor the engine may use.

    Raises :class:`NoEngineError` where there is no engine.
    """
    found = find_spec("xllamacpp")
    if found is None or found.origin is None:
        raise NoEngineError
    places = sorted(Path(found.origin).parents[1].glob("xllamacpp-*.dist-info"))
    version = places[-1].stem.partition("-")[2] if places else "of unknown version"
    return " ".join(["xllamacpp", version, sys.platform, _machine(), *_features()])


def _machine() -> str:
    """The kind of machine; Windows tells of it elsewhere."""
    if sys.platform == "win32":
        import platform

        return platform.machine()
    return os.uname().machine


def _features() -> list[str]:
    """The features of the first processor, sorted, as far as the system tells of them."""
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return sorted(_FEATURES.intersection(value.split()))
    except OSError:
        pass
    return []

"""What kind of machine this is, as far as that could matter to a result: no name, no user."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_MOST = 1 << 14
"""Bytes of it that describe the first processor, and more."""

_COUNTS = frozenset(
    """
ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi1 bmi2 abm popcnt sha_ni avx_vnni avx512f avx512bw
avx512cd avx512dq avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_int8 amx_tile
asimd asimddp asimdhp fphp bf16 i8mm sve sve2 sme sha2
""".split()  # noqa: SIM905
)
"""Linux' names of the features that programs choose their arithmetic by, on x86 and on ARM."""


def machine_class() -> dict[str, Any]:
    """The system, the kind of processor, and its features that arithmetic is chosen by."""
    return {"os": sys.platform, "arch": _architecture(), "cpu": cpu_features()}


def _architecture() -> str:
    if sys.platform != "win32":
        return os.uname().machine
    import platform  # which on other systems costs a first build 4 ms for the same answer

    return platform.machine()


def cpu_features() -> list[str]:
    """The features of the first processor, sorted, where Linux tells."""
    text = ""
    with suppress(OSError):
        fd = os.open(_CPUINFO, os.O_RDONLY)
        try:
            text = os.read(fd, _MOST).decode("utf-8", "replace")
        finally:
            os.close(fd)
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(_COUNTS & set(value.split()))
    return []

"""Functions whose LLVM text mbuild writes: their code came with it, is kept, or is made now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mbuild.quant.compiled import cache, loader, needs, packed
from mbuild.quant.engine import Unavailable


def name_of(prefix: str, *modules: str) -> str:
    """What machine code is kept under: it changes with the text of the modules that write it."""
    text = b"".join(Path(__file__).with_name(module).read_bytes() for module in modules)
    return f"{prefix}-{hashlib.sha256(text).hexdigest()[:16]}"


def found(name: str, function: str, text: Callable[[], str]) -> Callable[..., int] | None:
    """As :func:`load`; None where there is no machine code."""
    try:
        return load(name, function, text)
    except Unavailable:
        return None


def load(name: str, function: str, text: Callable[[], str]) -> Callable[..., int]:
    """The function of that name in LLVM's sense, as something to call.

    ``name`` is what its machine code is kept under, ``text`` writes it. Raises
    :class:`mbuild.quant.engine.Unavailable` where none can be had.
    """
    code = packed.read(name)
    if code is None:
        with suppress(ModuleNotFoundError):  # where numba is missing nothing is kept
            code = cache.read(name)
    if code is None:
        needs.need_llvmlite()
        from mbuild.quant.compiled import llvm

        with needs.machine_code():
            code = llvm.compiled(text())
        with suppress(ModuleNotFoundError):
            cache.write(name, code)
    with needs.machine_code():
        return loader.load(code, function)

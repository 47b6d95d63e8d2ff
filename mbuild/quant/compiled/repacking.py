"""Codes of four bits moved into ggml's blocks, with machine code that LLVM makes.

The text is :mod:`mbuild.quant.compiled.repack_text`'s.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled import written

NAME = "repack"

FORMS = {GGMLType.NVFP4: (4, 8), GGMLType.MXFP4: (1, 16)}
"""Of each type a block's bytes of scales, which are its runs, and a run's bytes of codes."""

Array = np.ndarray[Any, np.dtype[Any]]


def kernel_name(type_: GGMLType) -> str:
    """The name under which the machine code is kept, which changes with its text."""
    prefix = f"{NAME}-{type_.name}".lower()
    return written.name_of(prefix, "repack_text.py", "row_text.py")


@cache
def _function(type_: GGMLType) -> Any:
    """The machine code; None where it cannot be had."""

    def text() -> str:
        from mbuild.quant.compiled.repack_text import RepackText

        return RepackText(NAME, *FORMS[type_]).write()

    return written.found(kernel_name(type_), NAME, text)


def ready(type_: GGMLType) -> bool:
    """Whether there is machine code for a type's blocks."""
    return type_ in FORMS and _function(type_) is not None


def repack(type_: GGMLType, codes: Array, scales: Array, out: Array) -> None:
    """Put codes and scales, one byte a run, into ``out``; all contiguous bytes of whole blocks.

    It has to be :func:`ready`.
    """
    if scales.size:
        blocks = scales.size // FORMS[type_][0]
        _function(type_)(codes.reshape(-1), scales.reshape(-1), out.reshape(-1), blocks)

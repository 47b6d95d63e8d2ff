"""Numbers of quantized checkpoints made of their codes, with machine code that LLVM makes.

The text is :mod:`mbuild.quant.compiled.decode_text`'s; the code came with mbuild, is kept or is
made now, like that of :mod:`mbuild.quant.compiled.chunks`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled import written

NAME = "decode"
LANES = 32
""":data:`decode_text.LANES`; a group has a multiple of so many values."""

F32, F16, BF16 = GGMLType.F32, GGMLType.F16, GGMLType.BF16


class Codes(NamedTuple):
    """What codes become: their kind, as :mod:`decode_text` has it, whether they have zero points,
    and the type of the values."""

    kind: str
    points: bool
    made: GGMLType


CODES = (("e4m3", False), ("i8", False), ("i8", True), ("u8", True), ("u4", True))
FORMS = tuple(Codes(*codes, made) for codes in CODES for made in (F32, F16, BF16))
"""Those that a conversion can ask for."""

_TOO_LARGE = {F32: 0x7F800000, F16: 0x477FF000, BF16: 0x7F7F8000}
"""Bits of the least F32 that each type rounds to infinity."""

Array = np.ndarray[Any, np.dtype[Any]]


def kernel_name(form: Codes) -> str:
    """The name under which the machine code is kept, which changes with its text."""
    kind = f"{form.kind}-points" if form.points else form.kind
    prefix = f"{NAME}-{kind}-{form.made.name}".lower()
    return written.name_of(prefix, "decode_text.py", "row_text.py")


@cache
def _function(form: Codes) -> Callable[..., int] | None:
    """The machine code; None where it cannot be had."""

    def text() -> str:
        from mbuild.quant.compiled.decode_text import DecodeText

        return DecodeText(NAME, *form).write()

    return written.found(kernel_name(form), NAME, text)


def ready(form: Codes, width: int, group: int) -> bool:
    """Whether :func:`decode` can make rows of ``width`` values: there is machine code, and groups
    and rows are multiples of :data:`LANES`."""
    whole = width > 0 and width % LANES == 0 and (group % LANES == 0 or group >= width)
    return whole and form in FORMS and _function(form) is not None


def decode(
    codes: Array, kind: str, factors: Array, points: Array | None, group: int, out: Array
) -> bool:
    """Rows of codes, less their zero points, times their factors, into ``out``.

    ``codes`` is contiguous, (rows, bytes) of any kind of bytes; ``factors`` and ``points`` are
    (rows, groups) of float32, for ``group`` values of a row each, the last for fewer; ``out`` is
    contiguous, (rows, width), of float32, float16, or uint16 for BF16. Returns False, and ``out``
    holds nothing, where it is not :func:`ready`, and where a value is one that the type cannot
    hold.
    """
    made = {"<f4": F32, "<f2": F16, "<u2": BF16}[out.dtype.str]
    form, (rows, width) = Codes(kind, points is not None, made), out.shape
    call = _function(form) if rows and ready(form, width, group) else None
    if call is None:
        return False
    arrays = (None if each is None else _flat(each) for each in (factors, points))
    top = call(codes.reshape(-1), *arrays, out.reshape(-1), rows, width, group)
    return top < _TOO_LARGE[made]


def _flat(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers, np.float32).reshape(-1)

"""Rules that name tensors by regular expressions, as ``--tensor-type`` takes them."""

from __future__ import annotations

import re
import warnings

from mbuild.core.errors import UsageError
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.types import tensor_type

_CLASSES = {
    **{"alnum": "a-z0-9", "alpha": "a-z", "digit": "0-9", "lower": "a-z", "space": r"\s"},
    **{"upper": "A-Z", "xdigit": "0-9a-f", "d": "0-9", "s": r"\s", "w": "a-z0-9_"},
}
"""Named classes of characters, which the reference's expressions have and Python's have not."""


def compile_pattern(text: str) -> re.Pattern[str]:
    """A regular expression as ``std::regex`` reads it, as far as Python reads it otherwise.

    Raises :class:`UsageError`.
    """
    known = re.sub(r"\[:(\w+):\]", lambda found: _CLASSES.get(found[1], found[0]), text)
    try:
        with warnings.catch_warnings():  # of what a later Python may read otherwise
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(known)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{text[:64]!r} is not a regular expression: {error}") from error


def parse_tensor_type(text: str) -> tuple[str, GGMLType]:
    """``NAME=TYPE`` as ``--tensor-type`` takes it: a regular expression and a type.

    The expression is lowered, as llama-quantize lowers it. Raises :class:`UsageError`.
    """
    name, equals, type_ = text.partition("=")
    if not equals or not name or not type_:
        raise UsageError(f"malformed tensor type {text[:64]!r}", hint="for example attn_v=q8_0")
    pattern = name.lower()
    compile_pattern(pattern)
    return pattern, tensor_type(type_)

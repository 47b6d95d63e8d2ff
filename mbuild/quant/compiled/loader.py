"""Machine code from an object file, put into memory and called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from mbuild.quant.compiled import elf
from mbuild.quant.kernels import target


def load(code: bytes, name: str) -> Callable[..., int]:
    """The function ``name`` of an object file, which takes integers and numpy arrays.

    None stands for an empty array. They become the words that
    :mod:`mbuild.quant.compiled.compiler` describes; nothing is checked.
    Arrays have to be flat, contiguous and of the right kind. The GIL is released during
    a call. Only what the compiler made may be given. Raises RuntimeError where the
    function is not in it.
    """
    function = ctypes.CFUNCTYPE(ctypes.c_int64)(_address(code, name))

    def call(*arguments: Any) -> int:
        words: list[Any] = []
        for argument in arguments:
            _append(words, argument)
        return int(function(*words))

    return call


def _address(code: bytes, name: str) -> int:
    if target.is_known():
        # A later LLVM may write files that only it knows how to load.
        with suppress(elf.ForeignError):
            return elf.address(code, name)
    from mbuild.quant.compiled import llvm

    return llvm.address(code, name)


_EMPTY = (ctypes.c_void_p(None), ctypes.c_int64(0))
"""The words of an array without elements: made once, for the same reason."""


def _append(words: list[Any], argument: Any) -> None:
    """Add the C arguments of a Python value."""
    if argument is None:
        words.extend(_EMPTY)
    elif isinstance(argument, np.ndarray):
        # ``ctypes.data`` takes twice as long, which is felt: a call is some 0.2 ms of work.
        words.append(ctypes.c_void_p(argument.__array_interface__["data"][0]))
        words.append(ctypes.c_int64(argument.size))
    else:
        words.append(ctypes.c_int64(argument))

"""Machine code from an object file, loaded by LLVM alone and called through ctypes.

Importing this module imports llvmlite, and no numba.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding


@cache
def _machine() -> Any:
    """LLVM's target for this process; raises OSError where memory cannot be made executable."""
    binding.check_jit_execution()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(binding.get_process_triple())


def compiled(text: str) -> bytes:
    """An object file of LLVM's own text, for this CPU; raises RuntimeError for a wrong text."""
    module = binding.parse_assembly(text)
    module.verify()
    features = binding.get_host_cpu_features().flatten()
    name = binding.get_host_cpu_name()
    machine = _machine().create_target_machine(cpu=name, features=features, opt=3)
    return bytes(machine.emit_object(module))


def load(code: bytes, name: str) -> Callable[..., int]:
    """The function ``name`` of an object file, which takes integers and numpy arrays.

    None stands for an empty array. They become the words that
    :mod:`mbuild.quant.compiled.compiler` describes; nothing is checked.
    Arrays have to be flat, contiguous and of the right kind. The GIL is released during
    a call. Only what the compiler made may be given: LLVM ends the process where a file is
    no object file or calls what the process does not have. Raises RuntimeError where the
    function is not in it.
    """
    # An engine of its own for each file, so that functions of the same name do not meet.
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), _machine().create_target_machine(jit=True)
    )
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    # The code stays in memory to the process's end; threads may run in it even then.
    engine.detach()
    if not address:
        raise RuntimeError(f"no function {name} in the object file")
    function = ctypes.CFUNCTYPE(ctypes.c_int64)(address)

    def call(*arguments: Any) -> int:
        words: list[Any] = []
        for argument in arguments:
            _append(words, argument)
        return int(function(*words))

    return call


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

"""Kernels as object code: numba makes a C function of a kernel's text, for this CPU.

Importing this module imports numba; that is to happen only where a kernel is not in the
cache. Nothing compiled here is run from here: :mod:`mbuild.quant.compiled.loader` loads it, in
this process as in later ones.

The C function of a kernel returns int64. Its parameters are the kernel's, without the
widths: an integer is an int64, an array an address and an int64, the number of its
elements.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.codegen import AOTCodeLibrary, JITCPUCodegen
from numba.core.compiler import Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from mbuild.quant.kernels import tiles
from mbuild.quant.kernels.lane_arrays import array_at
from mbuild.quant.kernels.lanes import WidthType
from mbuild.quant.table import ROW, Kernel

_BYTES = types.Array(types.uint8, 1, "C")
_SOURCE = types.Array(types.uint8, 1, "C", readonly=True)
_REALS = types.Array(types.float32, 1, "C", readonly=True)
_CALL = (_SOURCE, types.int64, _REALS, _REALS, _BYTES)
"""A kernel's arguments: :class:`mbuild.quant.layouts.rooms.KernelCall`."""
_WORD = ir.IntType(64)


class KernelError(Exception):
    """A kernel's text makes code that would not run alone: a fault of the text."""


class _Codegen(JITCPUCodegen):
    """numba's generator of code for this CPU, of whose libraries only the code is taken."""

    _library_class: Any = AOTCodeLibrary

    def _add_module(self, module: Any) -> None:
        """Nothing is run."""


@cache
def _context() -> Any:
    """numba's target, its code kept and not run."""
    return cpu_target.target_context.subtarget(_internal_codegen=_Codegen("mbuild"))


def library(kernel: Kernel) -> Any:
    """numba's library in which the C function ``kernel.name`` is defined, for this platform.

    Raises whatever numba does where a text does not compile, and :class:`KernelError` where
    the code would need more than a process has.
    """
    text, arguments = tiles.text(kernel), (WidthType(kernel.lanes), WidthType(ROW), *_CALL)
    flags: Any = Flags()
    cpu_target.options.parse_as_flags(flags, tiles.OPTIONS)
    # The C function is to be compiled with the text, so that waits for it.
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    context = _context()
    with global_compiler_lock:
        made = compile_extra(
            cpu_target.typing_context,
            context,
            text,
            arguments,
            types.int64,
            flags,
            {},
        )
        made.library.add_ir_module(_c_function(context, made.fndesc, kernel.name))
        made.library.finalize()
    _check(made.library, kernel.name)
    return made.library


def _c_function(context: Any, description: Any, name: str) -> Any:
    """LLVM's module of a C function that calls the compiled text."""
    module = context.create_module(name)
    called = context.call_conv.get_function_type(description.restype, description.argtypes)
    text = ir.Function(module, called, description.llvm_func_name)
    kinds = [kind for argument in description.argtypes for kind in _words(argument)]
    function = ir.Function(module, ir.FunctionType(_WORD, kinds), name)
    builder = ir.IRBuilder(function.append_basic_block())
    words = iter(function.args)
    arguments = [_from_words(context, builder, kind, words) for kind in description.argtypes]
    # The status is not looked at: _check has seen that a kernel cannot raise.
    _, result = context.call_conv.call_function(
        builder, text, description.restype, description.argtypes, arguments, attrs=("noinline",)
    )
    builder.ret(result)
    return module


def _words(kind: Any) -> list[Any]:
    """The C parameters of an argument."""
    if isinstance(kind, WidthType):
        return []
    if isinstance(kind, types.Array):
        return [ir.IntType(8).as_pointer(), _WORD]
    return [_WORD]


def _from_words(context: Any, builder: Any, kind: Any, words: Iterator[Any]) -> Any:
    """numba's value of an argument, from the C function's next arguments."""
    if isinstance(kind, WidthType):
        return context.get_dummy_value()
    if isinstance(kind, types.Array):
        place, count = next(words), next(words)
        return array_at(context, builder, kind, place, [count])
    return next(words)


def _check(made: Any, name: str) -> None:
    """Refuse code that would not run alone.

    It must not raise (the reasons lie pickled in the module), refer to addresses of this
    process, or call what only numba's run-time library defines.
    """
    text = made.get_llvm_str()
    if made.has_dynamic_globals or ".const.picklebuf" in text:
        raise KernelError(f"{name}: the code refers to objects of this process")
    process = ctypes.CDLL(None)
    for function in made._final_module.functions:
        known = function.name.startswith("llvm.") or hasattr(process, function.name)
        if function.is_declaration and not known:
            raise KernelError(f"{name}: the code calls {function.name}")

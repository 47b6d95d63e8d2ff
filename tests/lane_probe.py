"""What numba makes of one operation on lanes: its LLVM code alone, run on arrays.

No kernel is compiled, nor any text by numba: a function of LLVM's with one operation takes
milliseconds.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.core.registry import cpu_target

from mbuild.quant.kernels import lanes
from mbuild.quant.layouts.instructions import Width

I8, I64 = ir.IntType(8), ir.IntType(64)
KINDS = {"f": lanes.Real, "i": lanes.Whole, "b": lanes.Mask}


def _type_of(value: Any) -> Any:
    if isinstance(value, Width):
        return lanes.WidthType(value.lanes)
    if isinstance(value, np.ndarray):
        return KINDS[value.dtype.kind](value.size)
    return types.literal(value) if isinstance(value, int) else types.float64


def _argument(context: Any, builder: Any, value: Any, kind: Any, place: Any) -> Any:
    """The value as LLVM has it: a vector from memory, else a constant."""
    if isinstance(value, Width):
        return context.get_dummy_value()
    if not isinstance(value, np.ndarray):
        return ir.Constant(I64 if isinstance(value, int) else ir.DoubleType(), value)
    if value.dtype.kind != "b":
        return builder.load(builder.bitcast(place, kind.llvm.as_pointer()), align=1)
    octets = ir.VectorType(I8, value.size)
    return builder.trunc(
        builder.load(builder.bitcast(place, octets.as_pointer()), align=1), kind.llvm
    )


def machine() -> Any:
    """LLVM's target for this processor with all its features."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    features = binding.get_host_cpu_features().flatten()
    found = binding.Target.from_default_triple()
    return found.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=2)


def compiled(module: Any, arguments: int) -> tuple[Any, Any]:
    """The function ``probe`` of a module, of that many pointers, and what keeps it in memory."""
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine())
    engine.finalize_object()
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    return kind(engine.get_function_address("probe")), engine


def _keep(context: Any, builder: Any, kind: Any, made: Any, target: Any) -> None:
    """Store a result as numpy has it: truth values in bytes."""
    if isinstance(kind, lanes.Mask):
        made = builder.zext(made, ir.VectorType(I8, kind.lanes))
    elif made.type == ir.IntType(1):
        made = builder.zext(made, I8)
    builder.store(made, builder.bitcast(target, made.type.as_pointer()), align=1)


def call(function: Any, arguments: tuple[Any, ...], out: Any, keep: Any = _keep) -> None:
    """What numba makes of ``function(*arguments)``, stored to ``out`` by ``keep``."""
    typing, context = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    context.refresh()
    kinds = tuple(map(_type_of, arguments))
    known = typing.resolve_value_type(function)
    sig = known.get_call_type(typing, kinds, {})
    assert sig is not None, f"numba has no meaning of {function.__name__}{kinds}"
    module, count = ir.Module("probe"), len(arguments) + 1
    signature = ir.FunctionType(ir.VoidType(), [I8.as_pointer()] * count)
    probe = ir.Function(module, signature, "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    places = zip(arguments, kinds, probe.args[1:], strict=True)
    values = [_argument(context, builder, value, kind, place) for value, kind, place in places]
    with context.push_code_library(context.codegen().create_library("probe")):
        made = context.get_function(known, sig)(builder, values)
    keep(context, builder, sig.return_type, made, probe.args[0])
    builder.ret_void()
    run, _engine = compiled(module, count)
    held = [value if isinstance(value, np.ndarray) else None for value in arguments]
    run(out.ctypes.data, *(None if value is None else value.ctypes.data for value in held))


def lowered(function: Any, *arguments: Any, dtype: Any, size: int = 16) -> Any:
    """The result of an operation as numba has it, as an array (a scalar is an array of one)."""
    out = np.zeros(size, dtype)
    call(function, arguments, out)
    return out

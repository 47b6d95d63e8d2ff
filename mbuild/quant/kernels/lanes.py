"""numba's meaning of :mod:`mbuild.quant.search.ops`: vectors of lanes as LLVM vectors.

A numba type is modelled as ``<N x float>``, ``<N x i32>`` or ``<N x i1>`` and the
operations become single LLVM instructions, so that a search written for one lane
compiles to code that runs N of them in SIMD registers. No fast-math flag is set
and nothing is contracted: each lane has the bits of the scalar program.

Importing this module imports numba and registers the types with it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_constant
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, lower_builtin, typeof_impl, unbox

from mbuild.quant.kernels import target
from mbuild.quant.kernels.vectors import I32, call, constant, joined, splat, split
from mbuild.quant.layouts.instructions import Width
from mbuild.quant.search import ops

I1, I8, I16 = (ir.IntType(size) for size in (1, 8, 16))
F32 = ir.FloatType()
PICKS = {
    (4, 8): "llvm.x86.avx.vpermilvar.ps.256",
    (4, 16): "llvm.x86.avx512.vpermilvar.ps.512",
    (8, 8): "llvm.x86.avx2.permps",
    (8, 16): "llvm.x86.avx512.permvar.sf.512",
}
"""LLVM's names of what picks from blocks of so many lanes of a register of so many."""

ELEMENT = {"real": F32, "whole": I32, "mask": I1}


class WidthType(types.Type):
    """numba's type of a :class:`Width`: the number of lanes is part of every signature."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Width({lanes})")


class Lanes(types.Type):
    """A vector of ``lanes`` elements; the subclass says of which kind."""

    kind = ""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"{type(self).__name__}({lanes})")

    @property
    def llvm(self) -> Any:
        """The LLVM vector type."""
        return ir.VectorType(ELEMENT[self.kind], self.lanes)


class Real(Lanes):
    """float32 lanes."""

    kind = "real"


class Whole(Lanes):
    """int32 lanes."""

    kind = "whole"


class Mask(Lanes):
    """Truth values."""

    kind = "mask"


class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


register_default(WidthType)(models.OpaqueModel)
for _kind in (Real, Whole, Mask):
    register_default(_kind)(_LanesModel)


@typeof_impl.register(Width)
def _typeof_width(val: Width, c: Any) -> WidthType:
    return WidthType(val.lanes)


@lower_constant(WidthType)
def _constant_width(context: Any, builder: Any, typ: Any, value: Any) -> Any:
    return context.get_dummy_value()


@unbox(WidthType)
def _unbox_width(typ: Any, obj: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def register(function: Any, arguments: tuple[Any, ...], result: Any, build: Any) -> None:
    """Give ``function`` of such arguments a result type and LLVM code.

    ``arguments`` are classes of numba types; ``result`` makes the result's type
    from the arguments' types; ``build(builder, args, signature, context)`` gives
    its value.
    """

    def generic(self: Any, args: Any, kws: Any) -> Any:
        fits = len(args) == len(arguments) and all(map(isinstance, args, arguments))
        return signature(result(*args), *args) if fits else None

    infer_global(function)(
        type(f"{function.__name__}_typing", (AbstractTemplate,), {"generic": generic})
    )

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return build(builder, args, sig, context)

    lower_builtin(function, *arguments)(lower)


def _same(*args: Any) -> Any:
    return args[0]


def _mask_of(*args: Any) -> Any:
    return Mask(args[0].lanes)


def nothing(*args: Any) -> Any:
    """The result's type of an operation that only stores."""
    return types.none


def _intrinsic(name: str) -> Callable[..., Any]:
    """Code that calls an LLVM intrinsic overloaded on the first argument's vector type."""

    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        vector = sig.args[0]
        suffix = f"v{vector.lanes}{'f32' if vector.kind == 'real' else 'i32'}"
        return call(builder, f"llvm.{name}.{suffix}", args[0].type, list(args))

    return build


def _plain(method: str, *fixed: Any) -> Callable[..., Any]:
    """Code that is one instruction of the builder on the arguments."""

    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        return getattr(builder, method)(*fixed, *args)

    return build


def _with_scalar(method: str) -> Callable[..., Any]:
    """Code for a whole vector and one integer for all lanes."""

    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        scalar = context.cast(builder, args[1], sig.args[1], types.int32)
        return getattr(builder, method)(args[0], splat(builder, scalar, sig.args[0].lanes))

    return build


def _fill(kind: Any) -> Callable[..., Any]:
    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        scalar = context.cast(builder, args[1], sig.args[1], kind)
        return splat(builder, scalar, sig.args[0].lanes)

    return build


def _nearest(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    rounder = ir.Constant(args[0].type, [ops.ROUNDER] * lanes)
    pattern = builder.bitcast(builder.fadd(args[0], rounder), constant(lanes, 0).type)
    mantissa = builder.and_(pattern, constant(lanes, 0x7FFFFF))
    return builder.sub(mantissa, constant(lanes, 0x400000))


def _rounded(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    rounder = ir.Constant(args[0].type, [ops.ROUNDER] * sig.args[0].lanes)
    return builder.fsub(builder.fadd(args[0], rounder), rounder)


def _odd(length: int) -> Callable[..., Any]:
    """Code of ``2 * (value & (length - 1)) + 1`` as reals: a pick where the processor has one."""

    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        lanes, wide = args[0].type.count, target.register_lanes()
        if not target.has("+avx2") or lanes % wide:
            twice = builder.shl(args[0], constant(lanes, 1))
            odd = builder.or_(
                builder.and_(twice, constant(lanes, 2 * length - 2)), constant(lanes, 1)
            )
            return builder.sitofp(odd, ir.VectorType(F32, lanes))
        kind = ir.VectorType(F32, wide)
        table = ir.Constant(kind, [2.0 * (lane % length) + 1 for lane in range(wide)])
        parts = split(builder, args[0], wide)
        picked = [call(builder, PICKS[length, wide], kind, [table, part]) for part in parts]
        return joined(builder, picked)

    return build


def _chosen(builder: Any, sign: str, value: Any, limit: Any) -> Any:
    """Per lane the value where it is above (or below) the limit, else the limit.

    On x86-64 that is one instruction, NaN and zeros included, which LLVM does not find where
    the limit is 0.
    """
    name, lanes = {">": "max", "<": "min"}[sign], value.type.count
    if lanes == 16 and target.has("+avx512f"):
        given = [value, limit, I32(4)]  # rounded as the processor is set
        return call(builder, f"llvm.x86.avx512.{name}.ps.512", value.type, given)
    if lanes == 8 and target.has("+avx"):
        return call(builder, f"llvm.x86.avx.{name}.ps.256", value.type, [value, limit])
    return builder.select(builder.fcmp_ordered(sign, value, limit), value, limit)


def _confine(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    parts = split(builder, args[0], target.register_lanes())
    for number, sign in ((1, ">"), (2, "<")):
        scalar = context.cast(builder, args[number], sig.args[number], types.float32)
        limit = splat(builder, scalar, parts[0].type.count)
        parts = [_chosen(builder, sign, part, limit) for part in parts]
    return joined(builder, parts)


def _limit(builder: Any, context: Any, value: Any, name: str, scalar: Any, kind: Any) -> Any:
    """``value`` and one integer for all lanes through ``llvm.smin`` or ``llvm.smax``."""
    lanes = value.type.count
    limit = splat(builder, context.cast(builder, scalar, kind, types.int32), lanes)
    return call(builder, f"llvm.{name}.v{lanes}i32", value.type, [value, limit])


def _at_most(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return _limit(builder, context, args[0], "smin", args[1], sig.args[1])


def _clamp(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    value = _limit(builder, context, args[0], "smax", args[1], sig.args[1])
    return _limit(builder, context, value, "smin", args[2], sig.args[2])


def _away(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    almost = ir.Constant(args[0].type, [ops.ALMOST_HALF] * lanes)
    signed = call(builder, f"llvm.copysign.v{lanes}f32", args[0].type, [almost, args[0]])
    return builder.fptosi(builder.fadd(args[0], signed), constant(lanes, 0).type)


def _cast(method: str, element: Any) -> Callable[..., Any]:
    def build(builder: Any, args: Any, sig: Any, context: Any) -> Any:
        return getattr(builder, method)(args[0], ir.VectorType(element, sig.args[0].lanes))

    return build


def _any_lane(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    packed = builder.bitcast(args[0], ir.IntType(sig.args[0].lanes))
    return builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))


def data(builder: Any, context: Any, kind: Any, value: Any) -> Any:
    """The address of an array's first element."""
    return context.make_array(kind)(context, builder, value).data


def _row_pointer(builder: Any, args: Any, sig: Any, context: Any) -> tuple[Any, int]:
    """Where row ``args[2]`` of the columns ``args[1]`` starts, and the bytes it is aligned to."""
    lanes = sig.args[0].lanes
    base = data(builder, context, sig.args[1], args[1])
    row = context.cast(builder, args[2], sig.args[2], types.intp)
    place = builder.gep(base, [builder.mul(row, ir.Constant(row.type, lanes))])
    return place, 4


def _load(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    place, align = _row_pointer(builder, args, sig, context)
    vector = sig.return_type.llvm
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=align)


def _store(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    place, align = _row_pointer(builder, args, sig, context)
    value = args[3]
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)
    return context.get_dummy_value()


def _lookup(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    base = data(builder, context, sig.args[1], args[1])
    result = ir.Constant(ir.VectorType(F32, lanes), ir.Undefined)
    for lane in range(lanes):
        index = builder.sext(builder.extract_element(args[2], I32(lane)), ir.IntType(64))
        value = builder.load(builder.gep(base, [index]))
        if value.type != F32:
            value = builder.uitofp(value, F32)
        result = builder.insert_element(result, value, I32(lane))
    return result


def _loaded(width: Any, columns: Any, row: Any) -> Any:
    return (Real if columns.dtype == types.float32 else Whole)(width.lanes)


INSTRUCTIONS: tuple[tuple[Any, tuple[Any, ...], Any, Any], ...] = (
    (operator.add, (Real, Real), _same, _plain("fadd")),
    (operator.sub, (Real, Real), _same, _plain("fsub")),
    (operator.mul, (Real, Real), _same, _plain("fmul")),
    (operator.truediv, (Real, Real), _same, _plain("fdiv")),
    (operator.neg, (Real,), _same, _plain("fneg")),
    (operator.lt, (Real, Real), _mask_of, _plain("fcmp_ordered", "<")),
    (operator.gt, (Real, Real), _mask_of, _plain("fcmp_ordered", ">")),
    (operator.le, (Real, Real), _mask_of, _plain("fcmp_ordered", "<=")),
    (operator.ge, (Real, Real), _mask_of, _plain("fcmp_ordered", ">=")),
    (operator.eq, (Real, Real), _mask_of, _plain("fcmp_ordered", "==")),
    (operator.ne, (Real, Real), _mask_of, _plain("fcmp_unordered", "!=")),
    (operator.add, (Whole, Whole), _same, _plain("add")),
    (operator.sub, (Whole, Whole), _same, _plain("sub")),
    (operator.and_, (Whole, Whole), _same, _plain("and_")),
    (operator.or_, (Whole, Whole), _same, _plain("or_")),
    (operator.add, (Whole, types.Integer), _same, _with_scalar("add")),
    (operator.sub, (Whole, types.Integer), _same, _with_scalar("sub")),
    (operator.and_, (Whole, types.Integer), _same, _with_scalar("and_")),
    (operator.lshift, (Whole, types.Integer), _same, _with_scalar("shl")),
    (operator.rshift, (Whole, types.Integer), _same, _with_scalar("ashr")),
    (operator.gt, (Whole, Whole), _mask_of, _plain("icmp_signed", ">")),
    (operator.ne, (Whole, Whole), _mask_of, _plain("icmp_signed", "!=")),
    (operator.eq, (Whole, Whole), _mask_of, _plain("icmp_signed", "==")),
    (operator.and_, (Mask, Mask), _same, _plain("and_")),
    (operator.or_, (Mask, Mask), _same, _plain("or_")),
    (operator.invert, (Mask,), _same, _plain("not_")),
    (ops.select, (Mask, Real, Real), lambda m, a, b: a, _plain("select")),
    (ops.select, (Mask, Whole, Whole), lambda m, a, b: a, _plain("select")),
    (ops.absolute, (Real,), _same, _intrinsic("fabs")),
    (ops.root, (Real,), _same, _intrinsic("sqrt")),
    (ops.floor, (Real,), _same, _intrinsic("floor")),
    (ops.truncate, (Real,), lambda v: Whole(v.lanes), _cast("fptosi", I32)),
    (ops.bits, (Real,), lambda v: Whole(v.lanes), _cast("bitcast", I32)),
    (ops.unbits, (Whole,), lambda v: Real(v.lanes), _cast("bitcast", F32)),
    (ops.real, (Whole,), lambda v: Real(v.lanes), _cast("sitofp", F32)),
    (ops.odd4, (Whole,), lambda v: Real(v.lanes), _odd(4)),
    (ops.odd8, (Whole,), lambda v: Real(v.lanes), _odd(8)),
    (ops.nearest, (Real,), lambda v: Whole(v.lanes), _nearest),
    (ops.rounded, (Real,), _same, _rounded),
    (ops.confine, (Real, types.Number, types.Number), lambda v, a, b: v, _confine),
    (ops.at_most, (Whole, types.Integer), lambda v, a: v, _at_most),
    (ops.clamp, (Whole, types.Integer, types.Integer), lambda v, a, b: v, _clamp),
    (ops.any_lane, (Mask,), lambda m: types.boolean, _any_lane),
    (ops.fill, (WidthType, types.Number), lambda w, v: Real(w.lanes), _fill(types.float32)),
    (ops.whole, (WidthType, types.Integer), lambda w, v: Whole(w.lanes), _fill(types.int32)),
    (ops.load, (WidthType, types.Array, types.Integer), _loaded, _load),
    (ops.store, (WidthType, types.Array, types.Integer, Lanes), nothing, _store),
    (ops.away, (Real,), lambda v: Whole(v.lanes), _away),
    (ops.lookup, (WidthType, types.Array, Whole), lambda w, t, i: Real(w.lanes), _lookup),
)
for _row in INSTRUCTIONS:
    register(*_row)

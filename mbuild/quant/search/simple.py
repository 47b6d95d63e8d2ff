"""Types whose scale follows from a block's extremes alone, without a search.

As in the searches, what is computed per block is written once for both
engines, the lanes being blocks. A *scale* function reads the block's extremes from
the real columns ``st`` (rows TOP and VALUE, see
:class:`mbuild.quant.search.methods.Measure`), stores the float16
patterns into the whole columns ``it`` and leaves in ``st`` what levels follow from:

    level = trunc((x - LOW) * INVERSE + SHIFT), limited to 0 ... nmax, or
    level = round_half_away(x * INVERSE) where the type rounds.

A scale so small that its inverse is infinite gives the reference infinities and
NaN; on x86-64 their conversion to a byte is 0. Here such blocks get INVERSE and
SHIFT that lead to the same levels with ordinary numbers.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.search.ops import absolute, fill, load, select, store

TOP, VALUE, INVERSE, LOW, SHIFT = range(5)
ROWS = 5
LANES = 32
"""Lanes of the kernels of types without a search: a block of 32 values, or 32 blocks' scales."""
INFINITE = 2.0**127 * 2


def finite(w: Any, value: Any) -> Any:
    """The lanes whose value is neither infinite nor a NaN."""
    return absolute(value) < fill(w, INFINITE)


def invert(w: Any, st: Any, d: Any, shift: Any, bare: Any) -> None:
    """INVERSE = 1 / d (0 for d = 0) and SHIFT, ``bare`` where the inverse is infinite."""
    zero = fill(w, 0.0)
    inverse = select(d != zero, fill(w, 1.0) / d, zero)
    usual = finite(w, inverse)
    store(w, st, INVERSE, select(usual, inverse, zero))
    store(w, st, SHIFT, select(usual, fill(w, shift), fill(w, bare)))


def extreme(w: Any, st: Any) -> Any:
    """VALUE, but 0 and not -0 in a block of nothing but zeros."""
    zero = fill(w, 0.0)
    return select(load(w, st, TOP) > zero, load(w, st, VALUE), zero)

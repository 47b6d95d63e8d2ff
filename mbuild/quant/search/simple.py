"""Types whose scale follows from a block's extremes alone, without a search.

As in :mod:`mbuild.quant.search.fits`, what is computed per block is written once for both
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

from mbuild.quant.search.columns import DMIN, D
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.ops import absolute, fill, load, select, store

TOP, VALUE, INVERSE, LOW, SHIFT = range(5)
ROWS = 5
LANES = 32
"""Lanes of the kernels of types without a search: a block of 32 values, or 32 blocks' scales."""
INFINITE = 2.0**127 * 2


def _finite(w: Any, value: Any) -> Any:
    return absolute(value) < fill(w, INFINITE)


def _invert(w: Any, st: Any, d: Any, shift: Any, bare: Any) -> None:
    """INVERSE = 1 / d (0 for d = 0) and SHIFT, ``bare`` where the inverse is infinite."""
    zero = fill(w, 0.0)
    inverse = select(d != zero, fill(w, 1.0) / d, zero)
    usual = _finite(w, inverse)
    store(w, st, INVERSE, select(usual, inverse, zero))
    store(w, st, SHIFT, select(usual, fill(w, shift), fill(w, bare)))


def _extreme(w: Any, st: Any) -> Any:
    """VALUE, but 0 and not -0 in a block of nothing but zeros."""
    zero = fill(w, 0.0)
    return select(load(w, st, TOP) > zero, load(w, st, VALUE), zero)


def scale_q8_0(w: Any, st: Any, it: Any) -> None:
    """d = largest magnitude / 127."""
    d = load(w, st, TOP) / fill(w, 127.0)
    store(w, it, D, half_bits(w, d))
    _invert(w, st, d, 0.0, 0.0)


def scale_ternary(w: Any, st: Any, it: Any) -> None:
    """d = largest magnitude."""
    d = load(w, st, TOP)
    store(w, it, D, half_bits(w, d))
    _invert(w, st, d, 0.0, 0.0)


def scale_q4_0(w: Any, st: Any, it: Any) -> None:
    """d = extreme / -8, so that the extreme value itself gets level 0."""
    d = _extreme(w, st) / fill(w, -8.0)
    store(w, it, D, half_bits(w, d))
    store(w, st, LOW, fill(w, 0.0))
    _invert(w, st, d, 8.5, 0.0)


def scale_q5_0(w: Any, st: Any, it: Any) -> None:
    """d = extreme / -16."""
    d = _extreme(w, st) / fill(w, -16.0)
    store(w, it, D, half_bits(w, d))
    store(w, st, LOW, fill(w, 0.0))
    _invert(w, st, d, 16.5, 0.0)


def _scale_range(w: Any, st: Any, it: Any, nmax: Any) -> None:
    low = load(w, st, VALUE)
    top = load(w, st, TOP)
    # Where both are zeros their signs are not to be seen in the difference.
    d = select(top == low, fill(w, 0.0), (top - low) / fill(w, nmax))
    store(w, it, D, half_bits(w, d))
    store(w, it, DMIN, half_bits(w, low))
    store(w, st, LOW, select(_finite(w, d), low, fill(w, 0.0)))
    _invert(w, st, d, 0.5, 0.5)


def scale_q4_1(w: Any, st: Any, it: Any) -> None:
    """d = (greatest - least) / 15, m = least."""
    _scale_range(w, st, it, 15)


def scale_q5_1(w: Any, st: Any, it: Any) -> None:
    """d = (greatest - least) / 31, m = least."""
    _scale_range(w, st, it, 31)

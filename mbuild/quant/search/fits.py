"""Per type: what a sub-block's search is, and what it leaves to settle a block's scales by.

Like the searches this text runs in both engines (:mod:`mbuild.quant.search.ops`); the
lanes are blocks. A block has ``subs`` sub-blocks of ``n`` values. For sub-block
``g`` a *fit* puts its findings into rows ``SCALE * subs + g`` and so on of
``found``; after the last one the *settle* function
(:mod:`mbuild.quant.search.settling`) computes the block's float16
scales and the sub-blocks' scales and minima (``whole``), and what a level finally
stands for (rows STEP and BASE): the levels are chosen anew for value = STEP * level
- BASE.

A fit takes (w, columns, g, sigma2): the sub-block's number, and the mean square that
the importances are combined with; those without an importance matrix ignore it and
the importances. A settle function takes (w, columns). Constants are those of
``ggml-quants.c``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from mbuild.quant.search.columns import Columns, Sub
from mbuild.quant.search.fitting import (
    fit_affine,
    fit_descent,
    fit_symmetric,
    fit_table,
    importance_weights,
    sum_of_squares,
)
from mbuild.quant.search.ops import (
    absolute,
    clamp,
    fill,
    load,
    nearest,
    real,
    root,
    store,
)

MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the 16 levels of MXFP4 stand for (kvalues_mxfp4)."""
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 levels of IQ4_NL and IQ4_XS stand for (kvalues_iq4nl)."""
# Level i is nearest from the midpoint with its lower neighbour on. Twice a midpoint is an
# integer, so that floor(2 * value) decides; entry k stands for floor(2 * value) = k - 256.
IQ4_INDEX = np.searchsorted(
    [a + b for a, b in pairwise(IQ4_VALUES)], np.arange(-256, 256), side="right"
).astype(np.uint8)
IQ4_TABLE = np.array(IQ4_VALUES, np.float32)[IQ4_INDEX]

SCALE, LOW, INVERSE, OFFSET, STEP, BASE, WEIGHT = range(7)
"""Rows of what is found, each counted in sub-blocks: scale and minimum found, the
inverse scale and offset (or shift) that the search's own levels follow from, the final
step and base, the sum of weights."""
REAL_ROWS = 7


def _keep(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store an affine search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, LOW * subs + g, made[1])
    store(w, st, INVERSE * subs + g, made[2])
    store(w, st, OFFSET * subs + g, made[3])


def _keep_symmetric(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store a symmetric search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, INVERSE * subs + g, made[1])
    store(w, st, OFFSET * subs + g, made[2])


def _square_weights(w: Any, xs: Any, ws: Any, n: Any) -> None:
    for i in range(n):
        x = load(w, xs, i)
        store(w, ws, i, x * x)


def _rms_weights(w: Any, xs: Any, ws: Any) -> None:
    """Root mean square of the 32 values plus the value's magnitude."""
    mean = root(sum_of_squares(w, xs, 32, fill(w, 0.0)) / fill(w, 32.0))
    for i in range(32):
        store(w, ws, i, mean + absolute(load(w, xs, i)))


def q2_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Weights are the magnitudes; absolute errors."""
    for i in range(16):
        store(w, c.weights, i, absolute(load(w, c.values, i)))
    _keep(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.5, 0.1, 15), True),
    )


def q4_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """16 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-1.0, 0.1, 20), False),
    )


def q5_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """32 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.5, 0.1, 15), False),
    )


def q3_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """8 levels by coordinate descent; the levels stay in the scratch."""
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    store(w, c.found, SCALE * 16 + g, fit_descent(w, s))


def q6_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """64 levels around zero, weights x*x."""
    _square_weights(w, c.values, c.weights, 16)
    _keep_symmetric(
        w, c.found, 16, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 16, 32), True)
    )


def iq4(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS: 16 non-linear levels, weights x*x."""
    _square_weights(w, c.values, c.weights, 32)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )


def q2_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q2_K with an importance matrix: squared errors, 37 trials."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    _keep(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.9, 0.05, 36), False),
    )


def q4_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def q5_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def q3_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q3_K with an importance matrix: no descent, and levels kept likewise."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    scale, inverse, shift = fit_symmetric(w, s, True)
    store(w, c.found, SCALE * 16 + g, scale)
    for i in range(16):
        level = real(clamp(nearest(inverse * load(w, c.values, i)), -4, 3))
        store(w, c.scratch, g * 16 + i, level + shift)


def q6_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q6_K with an importance matrix: the importances are the weights."""
    s = Sub(c.values, c.importances, c.scratch, 16, 32)
    _keep_symmetric(w, c.found, 16, g, fit_symmetric(w, s, True))


def q1_0(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """The sum of magnitudes, in the block's order."""
    total = fill(w, 0.0)
    if g > 0:
        total = load(w, c.found, 0)
    for i in range(32):
        total = total + absolute(load(w, c.values, i))
    store(w, c.found, 0, total)


def q4_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_0 with an importance matrix: the search's levels are final."""
    importance_weights(w, c, 32, sigma2)
    _keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 8), True)
    )


def q5_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_0 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 16), True)
    )


def q4_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def q5_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def iq4_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )

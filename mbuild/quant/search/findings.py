"""What a searched sub-block's fit leaves to settle a block's scales by.

A block has ``subs`` sub-blocks of ``n`` values. For sub-block ``g`` a *fit* puts its findings into
rows ``SCALE * subs + g`` and so on of ``found``; after the last one a *settle* function computes
the block's float16 scales and the sub-blocks' scales and minima (``whole``), and what a level
finally stands for (rows STEP and BASE): the levels are chosen anew for value = STEP * level - BASE.

A fit takes (w, columns, g, sigma2): the sub-block's number, and the mean square that the
importances are combined with; those without an importance matrix ignore it and the importances. A
settle function takes (w, columns). Both run in both engines (:mod:`mbuild.quant.search.ops`), the
lanes being blocks.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.search.ops import absolute, fill, load, select, store

SCALE, LOW, INVERSE, OFFSET, STEP, BASE, WEIGHT = range(7)
"""Rows of what is found, each counted in sub-blocks: scale and minimum found, the
inverse scale and offset (or shift) that the search's own levels follow from, the final
step and base, the sum of weights."""
REAL_ROWS = 7


def keep_affine(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store an affine search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, LOW * subs + g, made[1])
    store(w, st, INVERSE * subs + g, made[2])
    store(w, st, OFFSET * subs + g, made[3])


def keep_symmetric(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store a symmetric search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, INVERSE * subs + g, made[1])
    store(w, st, OFFSET * subs + g, made[2])


def square_weights(w: Any, xs: Any, ws: Any, n: Any) -> None:
    """Weights x*x."""
    for i in range(n):
        x = load(w, xs, i)
        store(w, ws, i, x * x)


def largest_magnitude(w: Any, st: Any, row: Any, count: Any) -> Any:
    """(largest magnitude, the first value of that magnitude) of ``count`` rows."""
    magnitude = fill(w, 0.0)
    extreme = fill(w, 0.0)
    for g in range(count):
        value = load(w, st, row + g)
        larger = absolute(value) > magnitude
        magnitude = select(larger, absolute(value), magnitude)
        extreme = select(larger, value, extreme)
    return magnitude, extreme

"""What encoders of sound that are conformers have in common."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import Lazy
from mbuild.convert.rows.projector import TowerRule, each
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mbuild.convert.rows.projector import Change
    from mbuild.convert.rows.towers import Towers

_EPSILON = 1e-5
"""Of batch norms (torch's default)."""

_BATCH = ("weight", "bias", "running_mean", "running_var")
_STORED = (*_BATCH, "num_batches_tracked")


def squeezed(axis: int) -> Change:
    """Without an axis, which has one place."""

    def change(towers: Towers, lazy: Lazy) -> Lazy:
        shape = lazy.shape
        if len(shape) != 3 or shape[axis] != 1:
            raise FormatError(
                f"{lazy.origin} has the shape {list(shape)}; axis {axis} of three has one place"
            )
        return lazy.reshape(*(size for place, size in enumerate(shape) if place != axis))

    return change


depthwise, pointwise = squeezed(1), squeezed(2)


def scalar_bounds(towers: Towers, lazy: Lazy) -> Lazy:
    """A single number as a vector of one."""
    return lazy if lazy.shape else lazy.reshape(1)


def folded(pattern: str) -> TowerRule:
    """Batch norms, whose running mean and variance go into weight and bias.

    The two come where the last of its tensors stands: weight over the root of the
    variance, and the bias without the mean. Each step is rounded as torch rounds it.
    """

    def action(towers: Towers, name: str, lazy: Lazy) -> Iterable[tuple[str, Lazy]]:
        stem = name.rpartition(".")[0]
        missing = [each for each in _BATCH if f"{stem}.{each}" not in towers.tensors]
        if missing:
            raise FormatError(f"{lazy.origin}: {stem}.{missing[0]} is missing")
        if name != towers.last(f"{stem}.{each}" for each in _STORED):
            return []
        scale, bias, mean, variance = (towers.tensors[f"{stem}.{each}"] for each in _BATCH)
        factor = _scale(scale, variance)
        return [(f"{stem}.weight", factor), (f"{stem}.bias", _shift(bias, mean, factor))]

    return TowerRule(re.compile(pattern), action)


def _wide(lazy: Lazy) -> Lazy:
    return lazy.compute(lambda values: values)


def _scale(scale: Lazy, variance: Lazy) -> Lazy:
    """weight / sqrt(variance + epsilon)."""
    _alike(scale, variance)
    scale, variance = _wide(scale), _wide(variance)

    def load() -> Any:
        import numpy as np

        values = variance.load()
        wide = (values.astype(np.float32) + np.float32(_EPSILON)).astype(values.dtype)
        return scale.load() / np.sqrt(wide)

    return Lazy(scale.dtype, scale.shape, load, scale.origin)


def _shift(bias: Lazy, mean: Lazy, factor: Lazy) -> Lazy:
    """bias - mean * factor."""
    _alike(bias, mean)
    bias, mean = _wide(bias), _wide(mean)
    return Lazy(
        bias.dtype, bias.shape, lambda: bias.load() - mean.load() * factor.load(), bias.origin
    )


def _alike(first: Lazy, second: Lazy) -> None:
    if first.shape != second.shape or first.dtype is not second.dtype:
        raise FormatError(f"{first.origin} and {second.origin} are not of one shape and type")


CONFORMER_RULES: tuple[TowerRule, ...] = (
    folded(r"conformer\.layers\.\d+\.conv\.batch_norm\."),
    each(
        r"^conformer\.pre_encode\.conv\..*\.bias$",
        lambda towers, lazy: lazy.reshape(*lazy.shape, 1, 1),
    ),
    each(r"conv\.depthwise_conv.*\.weight$", depthwise),
    each(r"conv\.pointwise_conv.*\.weight$", pointwise),
)

"""Weights of a checkpoint that turn out to hold nothing but zeros; see :mod:`mbuild.gguf.zeros`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.encoded import Encoded
from mbuild.core.values import replace
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.zeros import may_not_be_zero, nothing_but_zeros

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_SAMPLE = 64
"""Values that are looked at first: one that is not zero says that the others need no look."""


class ZeroWatch:
    """Sees values while they are converted, on any number of threads."""

    def __init__(self) -> None:
        # By tensor: the elements of each run of zeros, by the source and the run's first place.
        self._runs: dict[str, dict[tuple[str, int], int]] = {}

    def saw(self, name: str, origin: str, start: int, values: Array) -> None:
        """Note values of the tensor ``name``, which stand from ``start`` on in ``origin``."""
        if values.size and not values.flat[:_SAMPLE].any() and not values.any():
            self._runs.setdefault(name, {})[origin, start] = values.size

    def watching(self, model: Model) -> Model:
        """The model, whose weights are seen when they are loaded."""
        return replace(model, tensors=tuple(self._watched(tensor) for tensor in model.tensors))

    def _watched(self, tensor: Tensor) -> Tensor:
        load = tensor.load
        if may_not_be_zero(tensor.name) and isinstance(load, Encoded):
            return replace(tensor, load=replace(load, watch=self.saw))
        return tensor

    def warnings(self, tensors: Sequence[Tensor]) -> list[str]:
        """What to say of the weights all of whose values were seen and are zero."""
        return nothing_but_zeros(
            [
                tensor.name
                for tensor in tensors
                if sum(self._runs.get(tensor.name, {}).values()) == _elements(tensor)
            ]
        )


def _elements(tensor: Tensor) -> int:
    return tensor.load.item.size if isinstance(tensor.load, Encoded) else -1

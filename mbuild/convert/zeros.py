"""Matrices that hold nothing but zeros, as a download leaves them that was cut.

A program that reserves a file's room before it fetches the bytes, and is stopped, leaves a file
whose header and size are right: nothing but the values tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mbuild.convert.encoded import Encoded
from mbuild.gguf.model import Model, Tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_ZERO_ON_PURPOSE = ("token_types.weight",)
"""RoBERTa has no kinds of tokens, and the checkpoints of its family hold zeros for them."""


class ZeroWatch:
    """Sees values while they are converted, on any number of threads."""

    def __init__(self) -> None:
        # By tensor: the elements of each run of zeros, by the source and the run's first place.
        self._runs: dict[str, dict[tuple[str, int], int]] = {}

    def saw(self, name: str, origin: str, start: int, values: Array) -> None:
        """Note values of the tensor ``name``, which stand from ``start`` on in ``origin``."""
        if values.size and not values.any():
            self._runs.setdefault(name, {})[origin, start] = values.size

    def watching(self, model: Model) -> Model:
        """The model, whose weights are seen when they are loaded."""
        return replace(model, tensors=tuple(self._watched(tensor) for tensor in model.tensors))

    def _watched(self, tensor: Tensor) -> Tensor:
        load = tensor.load
        named = tensor.name.endswith(".weight") and tensor.name not in _ZERO_ON_PURPOSE
        if named and isinstance(load, Encoded):
            return replace(tensor, load=replace(load, watch=self.saw))
        return tensor

    def warnings(self, tensors: Sequence[Tensor]) -> list[str]:
        """What to say of the weights all of whose values were seen and are zero."""
        empty = [
            tensor.name
            for tensor in tensors
            if sum(self._runs.get(tensor.name, {}).values()) == _elements(tensor)
        ]
        if not empty:
            return []
        more = f", like {len(empty) - 1} more" if len(empty) > 1 else ""
        return [
            f"{empty[0]} holds nothing but zeros{more}: a download that was cut leaves such files;"
            " compare their SHA-256, or download them again"
        ]


def _elements(tensor: Tensor) -> int:
    return tensor.load.item.size if isinstance(tensor.load, Encoded) else -1

"""The keys of Apertus' activation function, which its checkpoints keep as tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.read.dtypes import to_f32
from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

_PARAMETERS = ("alpha_n", "alpha_p", "beta", "eps")
_PARAMETER = re.compile(r"\.layers\.(\d+)\.mlp\.act_fn\.(alpha_n|alpha_p|beta|eps)$")


def xielu_keys(hp: Hyper, tensors: Mapping[str, Lazy]) -> Iterator[KV]:
    """``xielu.*``: four arrays of float32 with one number a layer, read here and now.

    Raises :class:`FormatError` if a layer has none or more than one number.
    """
    complete: dict[str, list[tuple[int, Lazy]]] = {name: [] for name in _PARAMETERS}
    for name, lazy in tensors.items():
        match = _PARAMETER.search(name)
        if match is not None:  # to the end: llama.cpp writes a key when its last layer was seen
            layers = complete.pop(match[2])
            complete[match[2]] = [*layers, (int(match[1]), lazy)]
    for parameter, layers in complete.items():
        if not layers:
            continue
        numbers = [layer for layer, _ in layers]
        if sorted(numbers) != list(range(hp.blocks)) or any(t.size != 1 for _, t in layers):
            raise FormatError(
                f"act_fn.{parameter} is not one number for each of {hp.blocks} layers"
            )
        values = [
            float(to_f32(lazy.load(), lazy.dtype).reshape(-1)[0])
            for _, lazy in sorted(layers, key=lambda item: item[0])
        ]
        yield KV(f"xielu.{parameter}", ValueType.ARRAY, values, ValueType.FLOAT32)

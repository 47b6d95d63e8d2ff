"""The keys of Apertus' activation function, which its checkpoints keep as tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.dtypes import to_f32
from mbuild.errors import FormatError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.hyper import Hyper
    from mbuild.convert.lazy import Lazy

_PARAMETERS = ("alpha_n", "alpha_p", "beta", "eps")


def xielu_keys(hp: Hyper, tensors: Mapping[str, Lazy]) -> Iterator[KV]:
    """``xielu.*``: four arrays of float32 with one number a layer, read here and now.

    Raises :class:`FormatError` if a layer has none or more than one number.
    """
    for parameter in _PARAMETERS:
        pattern = re.compile(rf"\.layers\.(\d+)\.mlp\.act_fn\.{parameter}$")
        found = {int(m[1]): lazy for name, lazy in tensors.items() if (m := pattern.search(name))}
        if not found:
            continue
        if sorted(found) != list(range(hp.blocks)) or any(t.size != 1 for t in found.values()):
            raise FormatError(
                f"act_fn.{parameter} is not one number for each of {hp.blocks} layers"
            )
        values = [
            float(to_f32(lazy.load(), lazy.dtype).reshape(-1)[0])
            for _, lazy in sorted(found.items())
        ]
        yield KV(f"xielu.{parameter}", ValueType.ARRAY, values, ValueType.FLOAT32)

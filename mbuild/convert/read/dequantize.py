"""Quantized checkpoints: weights in their stored bits where ggml has the type, else as float32.

What reads each method is in :mod:`mbuild.convert.read.methods`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.kept import KeptWeight
from mbuild.convert.read.leftovers import quantization
from mbuild.convert.read.safetensors import DType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy

EIGHT_BITS = (DType.F8_E4M3, DType.F8_E5M2)


def dequantize(
    config: Mapping[str, Any], tensors: Mapping[str, Lazy], *, keep: bool = False
) -> Mapping[str, Lazy]:
    """The tensors with every quantized weight in the place of its parts, as float32 or
    :class:`~mbuild.convert.read.kept.KeptWeight`; ``keep``: integers too, where no value changes.

    Raises :class:`UnsupportedError` for formats that are not read, and
    :class:`FormatError` for scales that do not fit their weight.
    """
    method, settings = quantization(config)
    if method is None:
        return tensors
    from mbuild.convert.read.methods import READERS, compressed  # and a dozen modules more
    from mbuild.convert.read.packed import PACKER

    if method == PACKER:
        return compressed(settings, tensors, keep=keep)
    read = READERS.get(method)
    return tensors if read is None else read(settings, tensors)


def eight_bit_names(before: Mapping[str, Lazy], after: Mapping[str, Lazy]) -> frozenset[str]:
    """The names of weights that were floats of 8 bits and are multiplied by their scales now."""
    return frozenset(
        name
        for name, lazy in after.items()
        if name in before and before[name].dtype in EIGHT_BITS and lazy is not before[name]
    )


def plain(tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
    """The tensors with no weight in its bits."""
    return {name: lazy.plain() for name, lazy in tensors.items()}


def kept_first(tensors: Mapping[str, Lazy]) -> Iterator[tuple[str, Lazy]]:
    """Weights whose bits are kept before all others, as llama.cpp's converter writes them."""
    yield from ((name, lazy) for name, lazy in tensors.items() if isinstance(lazy, KeptWeight))
    yield from ((name, lazy) for name, lazy in tensors.items() if not isinstance(lazy, KeptWeight))

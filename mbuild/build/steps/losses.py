"""What a tensor loses in each type: some of its rows are quantized, and decoded again.

That is remembered by the rows' bytes and importances, so another size, another model with the
same tensor, and the next build find it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from mbuild.build.graph import StepContext
from mbuild.build.steps.making import readable_values
from mbuild.build.steps.ranges import Array, Range, cut, importances_of, row_bytes
from mbuild.core.digest import canonical_json
from mbuild.core.values import NamedTuple
from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.imatrix import Imatrix
from mbuild.quant.decode import decoded
from mbuild.quant.distance import Squares, squares
from mbuild.quant.quantize import VERSION, quantize
from mbuild.store.records import TYPE_ERROR
from mbuild.work.spread import Part

LOSSES_VERSION = 1
"""Counts up when the same rows and type would come out as other numbers."""

SAMPLES = 16
SAMPLED = 1 << 14
"""Of a tensor so many pieces of about so many values are quantized, evenly spread."""


class TensorSample(NamedTuple):
    """Some rows of a tensor as bytes of ``type``, the first one's number, and their importances."""

    type: GGMLType
    data: Array
    first_row: int
    importances: Array | None


def losses(
    tensor: Tensor,
    types: Sequence[GGMLType],
    imatrix: Imatrix | None,
    context: StepContext,
    part: Part,
) -> dict[GGMLType, Squares]:
    """The squares of each type's errors: known, or measured now."""
    samples = [_loaded(each, imatrix) for each in samples_of(tensor)]
    known, cache = _digest_of(samples), context.store.cache
    keys = {type_: _key([known, tensor.dims[0], type_.name]) for type_ in types}
    found = cache.get_many(TYPE_ERROR, list(keys.values())) if context.use_cache else {}
    result = {}
    for type_, key in keys.items():
        if key in found:
            off, whole = found[key]
            result[type_] = Squares(float(off), float(whole))
        else:
            result[type_] = _measured(type_, tensor.dims[0], samples)
            cache.put(TYPE_ERROR, key, list(result[type_]))
        part.add(1)
    return result


def samples_of(tensor: Tensor) -> list[Range]:
    """At most :data:`SAMPLES` pieces of a tensor, evenly spread over its rows and matrices."""
    values = prod(tensor.dims)
    size = max(SAMPLED * tensor.nbytes // max(values, 1), row_bytes(tensor))
    parts = list(cut(0, tensor, size))
    if len(parts) <= SAMPLES:
        return parts
    return [parts[number * len(parts) // SAMPLES] for number in range(SAMPLES)]


def _loaded(part: Range, imatrix: Imatrix | None) -> TensorSample:
    data = np.frombuffer(memoryview(part.load()).cast("B"), np.uint8)
    type_, values = readable_values(part.tensor, data)
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return TensorSample(type_, flat, part.rows[0], importances_of(part, imatrix))


def _digest_of(samples: Sequence[TensorSample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.type.name} {sample.first_row} {sample.data.size} ".encode())
        digest.update(sample.data.data)
        if sample.importances is not None:
            digest.update(np.ascontiguousarray(sample.importances).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _key(value: Any) -> str:
    text = canonical_json([value, VERSION, LOSSES_VERSION])
    return hashlib.sha256(text.encode()).hexdigest()


def _measured(type_: GGMLType, columns: int, samples: Sequence[TensorSample]) -> Squares:
    """Quantize samples to a type and decode them again."""
    found = Squares()
    for sample in samples:
        if type_ is sample.type:
            continue  # it stays as it is: nothing is lost, and nothing is divided by
        made = quantize(
            type_,
            sample.type,
            sample.data,
            columns,
            imatrix=sample.importances,
            first_row=sample.first_row,
        )
        before = decoded(sample.data, sample.type)
        after = decoded(np.asarray(made).reshape(-1), type_)
        found = found.plus(squares(before, after, sample.importances, columns))
    return found

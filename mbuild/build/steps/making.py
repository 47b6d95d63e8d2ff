"""The one function over ranges: a range of a source becomes that of each variant.

An ordinary build calls it on its threads, a worker wherever it runs, ``--part`` for its share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mbuild.build.steps.ranges import (
    RANGE,
    Array,
    MadeRange,
    Range,
    RangeCache,
    bytes_of_row,
    digest_of,
    importances_of,
)
from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType
from mbuild.quant.quantize import SOURCES, NotFiniteError, quantize

if TYPE_CHECKING:
    from mbuild.build.sources.values import SourceFile
    from mbuild.build.steps.flight import Flight
    from mbuild.build.steps.origins import Origin
    from mbuild.gguf.model import Tensor
    from mbuild.quant.choose.imatrix import Imatrix, MatrixUse


class UsedMatrix(NamedTuple):
    """The file of an importance matrix, and what of it is used."""

    file: SourceFile
    use: MatrixUse


class WorkSource(NamedTuple):
    """What workers are told of what ranges are made of: the origin, each variant's matrix."""

    origin: Origin
    imatrices: tuple[UsedMatrix | None, ...]

    @property
    def is_foreign(self) -> bool:
        """Whether the user's own converter makes the model, which only this machine can run."""
        origin: Any = self.origin
        while hasattr(origin, "base"):
            origin = origin.base
        options = getattr(origin, "options", None)
        return options is not None and options.converter is not None


class RangeMaker:
    """Makes ranges for variants at once, each with its importance matrix or none.

    ``cache`` is asked before anything is quantized. ``check`` is called between pieces of
    work, and stops it by raising. At most ``threads`` are spread over a range.
    """

    def __init__(
        self,
        imatrices: Sequence[Imatrix | None],
        cache: RangeCache,
        threads: int,
        check: Callable[[], None],
    ) -> None:
        self._imatrices = imatrices
        self._cache = cache
        self._threads = threads
        self._check = check
        self.flight: Flight | None = None
        """Who knows of other jobs that make the same ranges."""

    def make(
        self, part: Range, types: Sequence[GGMLType], source: LoadedRange | None = None
    ) -> tuple[MadeRange, ...]:
        """A range for every variant: as it is, as found, or quantized now, once for all."""
        source = source or LoadedRange(part)
        made: list[MadeRange] = []
        known: dict[str, MadeRange] = {}
        for imatrix, new in zip(self._imatrices, types, strict=True):
            if new is part.tensor.type:
                made.append(MadeRange(source.load()))
            else:
                made.append(self._changed(part, new, imatrix, source, known))
        return tuple(made)

    def _changed(
        self,
        part: Range,
        new: GGMLType,
        imatrix: Imatrix | None,
        source: LoadedRange,
        known: dict[str, MadeRange],
    ) -> MadeRange:
        """The range in another type; ``known`` is what variants before came to, by its key."""
        importances = importances_of(part, imatrix)
        key = self._cache.key(self._cache.source_digest(part, source.load), part, new, importances)
        size = part.rows[1] * bytes_of_row(part.tensor, new)
        found = known.get(key) or self._cache.find(key, size)
        if found is None:

            def make() -> MadeRange:
                data, started = source.load(), time.perf_counter()
                made = self._quantized(part, new, importances, data)
                self._cache.made(made.nbytes, time.perf_counter() - started)
                return MadeRange(made, key, digest_of(made))

            flight = self.flight
            found = make() if flight is None else flight.make(key, size, self._check, make)
        known[key] = found
        return found

    def _quantized(
        self, part: Range, new: GGMLType, importances: Array | None, data: Array
    ) -> Array:
        """Quantize a range; a build that is stopped stops in the middle of it.

        A tensor that cannot be cut is one range, however large: then it is spread.
        """
        type_, values = readable_values(part.tensor, data)
        try:
            return quantize(
                new,
                type_,
                values,
                part.tensor.dims[0],
                imatrix=importances,
                threads=max(1, min(self._threads, part.size // (2 * RANGE))),
                first_row=part.rows[0],
                check=self._check,
            )
        except NotFiniteError as error:
            raise _not_finite(part.tensor.name, error) from error


class LoadedRange:
    """A range's bytes, loaded when they are first asked for."""

    def __init__(self, part: Range) -> None:
        self._part = part
        self._data: Array | None = None

    def load(self) -> Array:
        """The bytes, flat."""
        if self._data is None:
            self._data = np.frombuffer(memoryview(self._part.load()).cast("B"), np.uint8)
        return self._data


def readable_values(tensor: Tensor, data: Array) -> tuple[GGMLType, Array]:
    """A tensor's values in a type that can be quantized: what is quantized already is decoded."""
    if tensor.type in SOURCES:
        return tensor.type, data
    from mbuild.quant.decode import decoded

    return GGMLType.F32, decoded(data, tensor.type)


def _not_finite(tensor: str, error: FormatError) -> FormatError:
    """A refusal of a tensor's values, with the tensor's name."""
    return FormatError(f"{tensor}: {error.message}", hint=error.hint)

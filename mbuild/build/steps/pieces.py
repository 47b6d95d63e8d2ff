"""Pieces of a converted model that other machines have: read where they would be converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.build.steps.ranges import Range, converted_key, ranges_of
from mbuild.core.values import replace

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mbuild.build.graph import StepContext
    from mbuild.gguf.model import InPieces, Model
    from mbuild.store.records import RangePlace
    from mbuild.store.shared import SharedCache


def with_pieces(model: Model, origin: Mapping[str, Any] | None, context: StepContext) -> Model:
    """The model, its tensors' ranges read from a shared cache where that has them.

    ``origin`` are the fields of what it is converted from, None while they are not known. All
    ranges are asked for together; the model is the same where nobody has any.
    """
    shared = context.store.shared
    if shared is None or origin is None or not context.use_cache or not shared.reads:
        return model
    parts = [list(ranges_of(number, tensor)) for number, tensor in enumerate(model.tensors)]
    keys = {
        (part.number, part.first): converted_key(origin, part.tensor.name, part.first, part.size)
        for each in parts
        for part in each
    }
    places = shared.places(list(keys.values()))
    if not places:
        return model
    tensors = []
    for tensor, own in zip(model.tensors, parts, strict=True):
        found = [places.get(keys[part.number, part.first]) for part in own]
        if any(place is not None for place in found):
            tensor = replace(tensor, load=_SharedLoad(shared, own, found))
        tensors.append(tensor)
    return replace(model, tensors=tuple(tensors))


class _SharedLoad:
    """Loads some ranges of a tensor, each from where it lies or as it would be made here."""

    def __init__(
        self,
        shared: SharedCache,
        parts: Sequence[Range],
        places: Sequence[RangePlace | None],
    ) -> None:
        self._shared = shared
        self._parts = parts
        self._places = places

    @property
    def count(self) -> int:
        """Bytes that calling it gives."""
        return sum(part.size for part in self._parts)

    def __call__(self) -> Buffer:
        """All the bytes."""
        found = [self._load(*each) for each in zip(self._parts, self._places, strict=True)]
        if len(found) == 1:
            return found[0]
        return b"".join(memoryview(data).cast("B") for data in found)

    def _load(self, part: Range, place: RangePlace | None) -> Buffer:
        if place is not None and place.size == part.size:
            data = self._shared.read_piece(place)
            if data is not None:
                return data
        load: Callable[[], Buffer] = part.load
        return load()

    def pieces(self, size: int, row: int = 1) -> Iterator[InPieces]:
        """One range after the other, whatever ``size`` is: that is how they lie."""
        for part, place in zip(self._parts, self._places, strict=True):
            yield _SharedLoad(self._shared, [part], [place])

"""Small layers: template, system, license and messages as given, parameters merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mbuild.build.graph import BaseStep, Result, Step, StepContext, variant_label
from mbuild.build.sources.values import Material
from mbuild.core import gojson
from mbuild.store import Layer
from mbuild.store.media import MEDIA_TYPES, PARAMS


def put_layer(context: StepContext, media_type: str, data: bytes) -> Result:
    """Store bytes as a layer of that type."""
    blob = context.store.blobs.put(data)
    layer = Layer(media_type, blob.digest, blob.size)
    return Result((layer,), existed=frozenset((blob.digest,)) if blob.existed else frozenset())


@dataclass(frozen=True, eq=False)
class PutLayer(BaseStep):
    """A text becomes a layer, byte for byte.

    ``text`` is stored as UTF-8; a lone surrogate cannot come from a file and is
    an error of the caller.
    """

    media_type: str
    text: str

    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()

    @property
    def kind(self) -> str:
        """The media type's short name."""
        return MEDIA_TYPES[self.media_type].name

    @property
    def label(self) -> str:
        """As the instruction is called."""
        return self.kind

    def key_fields(self) -> Mapping[str, Any]:
        """The text."""
        return {"text": self.text}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Store the text."""
        return put_layer(context, self.media_type, self.text.encode())


@dataclass(frozen=True, eq=False)
class MergeParameters(BaseStep):
    """PARAMETER values laid over those of the base model or of a detected template, key by key.

    An input's ``facts["parameters"]`` are such values. Nothing to say, no layer.
    ``values`` hold ints, floats, bools, strings and lists of strings, as
    :mod:`mbuild.language.parameters` makes them.
    """

    values: Mapping[str, Any]
    base: Layer | None
    inputs: tuple[Step, ...] = ()
    target: str = ""

    kind: ClassVar[str] = "params"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1

    @property
    def label(self) -> str:
        """What is made, and for which of several variants."""
        return variant_label("params", self.target)

    @property
    def materials(self) -> tuple[Material, ...]:
        """The base model."""
        return (Material(self.base.origin, "", 0),) if self.base and self.base.origin else ()

    def key_fields(self) -> Mapping[str, Any]:
        """The values and the base's parameters."""
        base = str(self.base.digest) if self.base else None
        return {"values": dict(self.values), "base": base}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Merge and store; numbers of the base come out as Go writes them."""
        from mbuild.store.contents import Numbers, read_object

        merged: dict[str, Any] = {}
        if self.base is not None:
            merged.update(read_object(context.store.blobs, self.base, Numbers.AS_IN_GO))
        for result in inputs:
            merged.update(result.facts.get("parameters", {}))
        merged.update(self.values)
        if not merged:
            return Result()
        return put_layer(context, PARAMS, gojson.dumps(merged, sort_keys=True))

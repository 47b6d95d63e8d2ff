"""Small layers: template, system, license and messages as given, parameters merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import Material
from mbuild.core import gojson
from mbuild.core.values import aside
from mbuild.store import Layer
from mbuild.store.media import MEDIA_TYPES, PARAMS

if TYPE_CHECKING:
    from mbuild.build.costs import Cost
    from mbuild.store.ports import BuildStore


def put_layer(
    context: StepContext, media_type: str, data: bytes, facts: Mapping[str, Any] = {}
) -> Made:
    """Store bytes as a layer of that type."""
    return Made.of([context.store.blobs.put(data)], media_type, facts)


class PutLayer(BaseStep):
    """A text becomes a layer, byte for byte.

    ``text`` is stored as UTF-8; a lone surrogate cannot come from a file and is
    an error of the caller.
    """

    media_type: str
    text: str

    trivial: ClassVar[bool] = True
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {("text",): "text"}

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

    def cost(self, store: BuildStore) -> Cost:
        """The text is written."""
        from mbuild.build.costs import Cost

        return Cost(writes=len(self.text.encode()))

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Store the text."""
        return put_layer(context, self.media_type, self.text.encode())


class MergeParameters(BaseStep):
    """PARAMETER values laid over those of the base model or of a detected template, key by key.

    An input's ``facts["parameters"]`` are such values. Nothing to say, no layer.
    ``without`` are names of parameters that are not inherited. ``values`` hold ints,
    floats, bools, strings and lists of strings, as
    :mod:`mbuild.language.parameters` makes them.
    """

    values: Mapping[str, Any]
    base: Layer | None
    inputs: tuple[Step, ...] = ()
    without: tuple[str, ...] = ()
    needs: tuple[Step, ...] = aside(default=())

    kind: ClassVar[str] = "params"
    trivial: ClassVar[bool] = True
    label: ClassVar[str] = "params"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("values",): "parameter",
        ("base",): "base params",
        ("without",): "what UNSET leaves out",
    }

    @property
    def materials(self) -> tuple[Material, ...]:
        """The base model."""
        return (Material(self.base.origin, "", 0),) if self.base and self.base.origin else ()

    def key_fields(self) -> Mapping[str, Any]:
        """The values and the base's parameters."""
        base = str(self.base.digest) if self.base else None
        without = {"without": list(self.without)} if self.without else {}
        return {"values": dict(self.values), "base": base, **without}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Merge and store; numbers of the base come out as Go writes them."""
        from mbuild.store.contents import Numbers, read_object

        merged: dict[str, Any] = {}
        if self.base is not None:
            merged.update(read_object(context.store.blobs, self.base, Numbers.AS_IN_GO))
        for result in inputs:
            merged.update(result.facts.get("parameters", {}))
        merged = {name: value for name, value in merged.items() if name not in self.without}
        merged.update(self.values)
        if not merged:
            return Made(Result())
        return put_layer(context, PARAMS, gojson.dumps(merged, sort_keys=True))

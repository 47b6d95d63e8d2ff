"""The last step: config and layers become the bytes of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext, variant_label
from mbuild.build.sources.values import Material
from mbuild.core.digest import Digest
from mbuild.core.values import NamedTuple, aside
from mbuild.store import Layer, Manifest


class AssembleManifest(BaseStep):
    """The manifest of a model, in memory: ``facts["manifest"]`` is its text.

    ``entries`` are the layers in order, inherited ones as they are, the others
    as the steps that make them. Giving it a name is the builder's work.
    """

    config: Step
    entries: tuple[Layer | Step, ...]
    target: str = aside(default="")
    needs: tuple[Step, ...] = aside(default=())

    holds: ClassVar[bool] = True
    trivial: ClassVar[bool] = True
    kind: ClassVar[str] = "manifest"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("entries",): "layer of the base model:"
    }

    @property
    def label(self) -> str:
        """What is made, and for which of several variants."""
        return variant_label("manifest", self.target)

    @property
    def inputs(self) -> tuple[Step, ...]:
        """The config's step, then the layers' steps in order."""
        return (self.config, *(e for e in self.entries if not isinstance(e, Layer)))

    @property
    def materials(self) -> tuple[Material, ...]:
        """The models whose layers it inherits."""
        sizes: dict[str, int] = {}
        for entry in self.entries:
            if isinstance(entry, Layer) and entry.origin:
                sizes[entry.origin] = sizes.get(entry.origin, 0) + entry.size
        return tuple(Material(name, "", size) for name, size in sizes.items())

    def key_fields(self) -> Mapping[str, Any]:
        """The inherited layers at their places; None stands for a step's layers."""
        places = [e.to_json() if isinstance(e, Layer) else None for e in self.entries]
        return {"entries": places}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Put config and layers together."""
        made = iter(inputs)
        (config,) = next(made).layers
        layers: list[Layer] = []
        for entry in self.entries:
            layers += (entry,) if isinstance(entry, Layer) else next(made).layers
        text = Manifest(config, tuple(layers)).encode().decode()
        return Made(Result(facts={"manifest": text}))


class Assembled(NamedTuple):
    """A new manifest: the file's bytes, and what they say."""

    data: bytes
    manifest: Manifest

    @property
    def id(self) -> Digest:
        """The model's id."""
        return Digest.of(self.data)

    @classmethod
    def of(cls, result: Result) -> Assembled:
        """What :class:`AssembleManifest` came out as; raises KeyError for another result."""
        data = result.facts["manifest"].encode()
        return cls(data, Manifest.decode(data, "the new manifest"))

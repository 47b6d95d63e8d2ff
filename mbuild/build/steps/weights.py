"""Weights that have to be converted: what their steps have in common, and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import README, CheckpointSource, Material, SourceFile
from mbuild.build.steps.gguf import Role, downloads
from mbuild.build.steps.models import made_of, open_layers, write_model
from mbuild.build.steps.opened import OpenFiles
from mbuild.convert.conversion import CONVERSION_NAMES
from mbuild.core.events import Code
from mbuild.core.values import aside
from mbuild.store import Layer
from mbuild.store.media import ADAPTER

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.converter import ConvertOptions
    from mbuild.convert.lora.base import Base
    from mbuild.core.digest import Digest
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model

CONVERTER_VERSION = 4
"""Counts up when the same checkpoint would come out as other bytes."""


CHECKPOINT_NAMES: dict[tuple[str, ...], str] = {
    ("name",): "folder's name",
    ("files",): "",
    ("card",): README,
    ("pre",): "--pre",
    ("outtype",): "--outtype",
    **CONVERSION_NAMES,
    ("converter",): "--converter",
}
"""What :func:`checkpoint_fields` and the converter's options are called in explanations."""


class ConvertAdapter(BaseStep):
    """A PEFT adapter becomes a GGUF adapter layer for a base model.

    ``base`` are the base's layers, one or those of its shards, where they are in the store
    already. Else the one input makes them, or has read what an adapter's conversion has to
    know (:class:`ReadHeader`).
    """

    source: CheckpointSource
    base: tuple[Layer, ...] = ()
    inputs: tuple[Step, ...] = ()
    base_needs: tuple[Step, ...] = aside(default=())

    role: ClassVar[str] = Role.ADAPTER
    kind: ClassVar[str] = "convert-adapter"
    version: ClassVar[int] = CONVERTER_VERSION
    input_name: ClassVar[str] = "adapter"
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        **CHECKPOINT_NAMES,
        ("base",): "base model",
    }

    @property
    def subject(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def label(self) -> str:
        """What is converted."""
        return f"convert adapter {self.source.name}"

    @property
    def reads(self) -> int:
        """The files' sizes."""
        return sum(file.stamp.size for file in self.source.files.values())

    @property
    def materials(self) -> tuple[Material, ...]:
        """The folder."""
        return (self.source.material,)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine, of the base, too."""
        return (*downloads(self.source.files.values()), *self.base_needs)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The adapter's files; the base comes by digest or with the inputs."""
        digests = [str(layer.digest) for layer in self.base]
        base = digests if len(digests) > 1 else next(iter(digests), None)
        return checkpoint_fields(self.source, None, base=base)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Convert and check against the base."""
        from mbuild.convert.lora.adapter import convert_adapter, open_adapter

        context.status(Code.CONVERTING_ADAPTER, {})
        source = self.source
        with ExitStack() as stack:
            base = self._base(context, inputs)
            files = OpenFiles(source.files, stack)
            adapter = open_adapter(source.name, files.paths, context.warn, files.seen)
            model = convert_adapter(adapter, base)
            blobs = write_model(context, model, files)
            digests = files.digests(context)
        return made_of(context, blobs, ADAPTER, source.name, digests, origin=source.name)

    def _base(self, context: StepContext, inputs: Sequence[Result]) -> Base:
        """What to know about the base, from the headers of its layers or as it was read."""
        from mbuild.convert.lora.base import base_from_facts, base_of_model

        layers = self.base or inputs[0].layers
        if not layers:
            return base_from_facts(inputs[0].facts)
        with ExitStack() as stack:
            return base_of_model(open_layers(context.store, layers, "the base model", stack))

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(source=self.source.learned(files))


def converted(
    source: CheckpointSource,
    options: ConvertOptions,
    paths: Mapping[str, Path],
    context: StepContext,
    stack: ExitStack,
    seen: Mapping[str, Seen] | None = None,
) -> Model:
    """The model that a checkpoint is, its tensors converted when they are loaded.

    ``seen`` has, for some files, who is shown what is read of their tensors; ``stack`` keeps
    what the model is loaded from.
    """
    if options.converter is not None:
        from mbuild.build.steps.external import foreign_model

        return foreign_model(source.name, options.converter, options, paths, context, stack)
    from mbuild.convert.checkpoint import open_checkpoint
    from mbuild.convert.convert import convert
    from mbuild.convert.read.dtypes import OutType
    from mbuild.convert.read.once import waiting_in
    from mbuild.convert.zeros import ZeroWatch

    outtype, pre, further, _ = options
    checkpoint = open_checkpoint(source.name, paths, seen, further.like)
    alone = not source.encoders  # else a step beside this one has them, or the user wants none
    with waiting_in(context.store.blobs.scratch):
        model = convert(
            checkpoint,
            OutType(outtype),
            pre=pre,
            options=further,
            warn=context.warn,
            alone=alone,
            vocabulary=not context.weights_only,
        )
    zeros = ZeroWatch()
    model = zeros.watching(model)
    stack.callback(lambda: [context.warn(text) for text in zeros.warnings(model.tensors)])
    return model


def checkpoint_fields(
    source: CheckpointSource, files: Mapping[str, SourceFile] | None, **options: Any
) -> Mapping[str, Any] | None:
    """The key fields of a step over a checkpoint; None while a digest is not known.

    ``files`` are those that decide: as a rule the text model's.
    """
    deciding = source.deciding if files is None else files
    if any(file.digest is None for file in deciding.values()):
        return None
    digests = {name: str(file.digest) for name, file in sorted(deciding.items())}
    card = {"card": str(source.card)} if source.card else {}
    return {"name": source.name, "files": digests, **card, **options}

"""Weights that have to be made: converted from a checkpoint, streamed tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import README, CheckpointSource, Material
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.models import as_json, read_facts, write_model
from mbuild.build.steps.opened import OpenFiles, open_all
from mbuild.core.events import Code
from mbuild.store import Layer
from mbuild.store.media import ADAPTER

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.costs import Cost
    from mbuild.convert.lora.base import Base
    from mbuild.core.digest import Digest
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore

CONVERTER_VERSION = 3
"""Counts up when the same checkpoint would come out as other bytes."""


CHECKPOINT_NAMES: dict[tuple[str, ...], str] = {
    ("name",): "folder's name",
    ("files",): "",
    ("card",): README,
    ("pre",): "--pre",
    ("outtype",): "--outtype",
}
"""What :func:`checkpoint_fields` and the converter's options are called in explanations."""


@dataclass(frozen=True, eq=False)
class ConvertCheckpoint(BaseStep):
    """A Hugging Face checkpoint becomes a GGUF layer, as llama.cpp's converter makes it.

    ``outtype`` is ``auto``, ``f32``, ``f16``, ``bf16`` or ``q8_0``; ``pre``
    names the pre-tokenizer where it cannot be recognized. The folder's name is
    part of the key, because ``general.name`` is made from it. ``role`` says
    whether it is the model or its draft.
    """

    source: CheckpointSource
    outtype: str
    pre: str | None
    role: Role = Role.MODEL

    kind: ClassVar[str] = "convert"
    version: ClassVar[int] = CONVERTER_VERSION
    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = CHECKPOINT_NAMES

    @property
    def subject(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def label(self) -> str:
        """What is converted."""
        return f"convert {self.role.prefix}{self.source.name}"

    @property
    def reads(self) -> int:
        """The files' sizes."""
        return sum(file.stamp.size for file in self.source.files.values())

    @property
    def materials(self) -> tuple[Material, ...]:
        """The folder."""
        return (self.source.material,)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The files that matter by digest, the folder's name and the options."""
        options = {"outtype": self.outtype, "pre": self.pre, **self.role.fields()}
        return checkpoint_fields(self.source, **options)

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Convert in one pass; files without a digest get it from the same reading."""
        context.status(Code.CONVERTING_MODEL, {})
        source = self.source
        with ExitStack() as stack:
            files = OpenFiles(source.files, stack)  # hashing begins while modules are loaded
            model = converted(source, self.outtype, self.pre, files.paths, context, files.seen)
            blob = write_model(context, model, files)
            digests = files.digests(context)
        facts = read_facts(context.store.blobs.local_path(blob.digest), source.name)
        return Made.of(blob, self.role.media_type, as_json(facts), digests)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return replace(self, source=self.source.learned(files))

    def cost(self, store: BuildStore) -> Cost:
        """The unquantized file, written while all cores convert tensors."""
        from mbuild.build.costs import Cost, memory_for
        from mbuild.gguf.writer import largest_load, layout
        from mbuild.work.cores import cores

        source, silent = self.source, StepContext.silent(store)
        with ExitStack() as stack:
            paths = open_all(source.files, stack)
            model = converted(source, self.outtype, self.pre, paths, silent)
            laid_out = layout(model)
            largest = largest_load(model, laid_out)
        memory = memory_for(self.reads + laid_out.size, largest, cores())
        return Cost(laid_out.size, memory, every_core=True)


@dataclass(frozen=True, eq=False)
class ConvertAdapter(BaseStep):
    """A PEFT adapter becomes a GGUF adapter layer for a base model.

    ``base`` is the base's layer where it is in the store already. Else the one input makes
    that layer, or has read what an adapter's conversion has to know (:class:`ReadHeader`).
    """

    source: CheckpointSource
    base: Layer | None
    inputs: tuple[Step, ...] = ()

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

    def key_fields(self) -> Mapping[str, Any] | None:
        """The adapter's files; the base comes by digest or with the inputs."""
        base = str(self.base.digest) if self.base else None
        return checkpoint_fields(self.source, base=base)

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
            blob = write_model(context, model, files)
            digests = files.digests(context)
        facts = read_facts(context.store.blobs.local_path(blob.digest), source.name)
        return Made.of(blob, ADAPTER, as_json(facts), digests, origin=source.name)

    def _base(self, context: StepContext, inputs: Sequence[Result]) -> Base:
        """What to know about the base, from the header of its layer or as it was read."""
        from mbuild.convert.lora.base import base_from_facts, base_of_model
        from mbuild.gguf.reader import open_gguf

        layers = (self.base,) if self.base else inputs[0].layers
        if not layers:
            return base_from_facts(inputs[0].facts)
        with open_gguf(
            context.store.blobs.local_path(layers[0].digest), name="the base model"
        ) as file:
            return base_of_model(file.model())

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return replace(self, source=self.source.learned(files))


def converted(
    source: CheckpointSource,
    outtype: str,
    pre: str | None,
    paths: Mapping[str, Path],
    context: StepContext,
    seen: Mapping[str, Seen] | None = None,
) -> Model:
    """The model that a checkpoint is, its tensors converted when they are loaded.

    ``seen`` has, for some files, who is shown what is read of their tensors.
    """
    from mbuild.convert.checkpoint import open_checkpoint
    from mbuild.convert.convert import convert
    from mbuild.convert.read.dtypes import OutType

    checkpoint = open_checkpoint(source.name, paths, seen)
    return convert(checkpoint, OutType(outtype), pre=pre, warn=context.warn)


def checkpoint_fields(source: CheckpointSource, **options: Any) -> Mapping[str, Any] | None:
    """The key fields of a step over a checkpoint; None while a digest is not known."""
    deciding = source.deciding
    if any(file.digest is None for file in deciding.values()):
        return None
    digests = {name: str(file.digest) for name, file in sorted(deciding.items())}
    card = {"card": str(source.card)} if source.card else {}
    return {"name": source.name, "files": digests, **card, **options}

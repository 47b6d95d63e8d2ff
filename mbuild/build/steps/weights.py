"""Weights that have to be made: converted from a checkpoint, streamed tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mbuild.build.graph import BaseStep, Result, Step, StepContext, variant_label
from mbuild.build.sources.values import CheckpointSource, Material
from mbuild.build.steps.files import OpenFiles
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.models import as_json, read_facts, write_layer
from mbuild.core.events import Code
from mbuild.store import Layer
from mbuild.store.media import ADAPTER

CONVERTER_VERSION = 3
"""Counts up when the same checkpoint would come out as other bytes."""


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

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Convert in one pass; files whose digest is not known are hashed beside it."""
        context.status(Code.CONVERTING_MODEL, {})
        source = self.source
        with ExitStack() as stack:
            files = OpenFiles(source.files, stack)  # hashing begins while modules are loaded
            from mbuild.convert.checkpoint import open_checkpoint
            from mbuild.convert.convert import convert
            from mbuild.convert.read.dtypes import OutType

            checkpoint = open_checkpoint(source.name, files.paths)
            outtype = OutType(self.outtype)
            model = convert(checkpoint, outtype, pre=self.pre, warn=context.warn)
            layer, existed = write_layer(context, model, self.role.media_type, files)
            digests = files.digests(context)
        facts = read_facts(context.store.blobs.local_path(layer.digest), source.name)
        return Result((layer,), as_json(facts), existed, digests)

    def learned(self, result: Result) -> Step:
        """The step with the digests that reading the files gave."""
        return replace(self, source=with_digests(self.source, result))


@dataclass(frozen=True, eq=False)
class ConvertAdapter(BaseStep):
    """A PEFT adapter becomes a GGUF adapter layer for the model that the input step makes.

    ``base`` is the layer of the base where it is in the store already.
    """

    source: CheckpointSource
    base: Layer | None
    inputs: tuple[Step, ...]
    target: str = ""

    role: ClassVar[str] = Role.ADAPTER
    kind: ClassVar[str] = "convert-adapter"
    version: ClassVar[int] = CONVERTER_VERSION

    @property
    def subject(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def label(self) -> str:
        """What is converted, and for which of several variants."""
        return variant_label(f"convert adapter {self.source.name}", self.target)

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

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Result:
        """Convert and check against the base."""
        from mbuild.convert.lora.adapter import convert_adapter, open_adapter
        from mbuild.convert.lora.base import base_of_model
        from mbuild.gguf.reader import open_gguf

        context.status(Code.CONVERTING_ADAPTER, {})
        base = self.base or next(iter(inputs)).layers[0]
        source = self.source
        with ExitStack() as stack:
            path = context.store.blobs.local_path(base.digest)
            header = stack.enter_context(open_gguf(path, name="the base model"))
            files = OpenFiles(source.files, stack)
            adapter = open_adapter(source.name, files.paths, context.warn)
            model = convert_adapter(adapter, base_of_model(header.model()))
            layer, existed = write_layer(context, model, ADAPTER, files)
            digests = files.digests(context)
        facts = read_facts(context.store.blobs.local_path(layer.digest), source.name)
        named = layer._replace(origin=source.name)
        return Result((named,), as_json(facts), existed, digests)

    def learned(self, result: Result) -> Step:
        """The step with the digests that reading the files gave."""
        return replace(self, source=with_digests(self.source, result))


def checkpoint_fields(source: CheckpointSource, **options: Any) -> Mapping[str, Any] | None:
    """The key fields of a step over a checkpoint; None while a digest is not known."""
    deciding = source.deciding
    if any(file.digest is None for file in deciding.values()):
        return None
    digests = {name: str(file.digest) for name, file in sorted(deciding.items())}
    card = {"card": str(source.card)} if source.card else {}
    return {"name": source.name, "files": digests, **card, **options}


def with_digests(source: CheckpointSource, result: Result) -> CheckpointSource:
    """A checkpoint with the digests that a step found."""
    files = {
        name: file.known_by(file.digest or result.files[name])
        for name, file in source.files.items()
    }
    return source._replace(files=files)

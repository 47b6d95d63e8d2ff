"""Weights that have to be made: converted from a checkpoint, streamed tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import README, CheckpointSource, Material
from mbuild.build.splitting import SPLITTING_NAMES, Splitting, split_fields
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.models import made_of, open_layers, shards_of, write_model
from mbuild.build.steps.opened import OpenFiles, open_all
from mbuild.convert.conversion import CONVERSION_NAMES
from mbuild.core.events import Code
from mbuild.store import Layer
from mbuild.store.media import ADAPTER

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.converter import ConvertOptions
    from mbuild.build.costs import Cost
    from mbuild.convert.lora.base import Base
    from mbuild.core.digest import Digest
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore

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


class ConvertCheckpoint(BaseStep):
    """A Hugging Face checkpoint becomes a GGUF layer, as llama.cpp's converter makes it.

    ``options`` say how. The folder's name is
    part of the key, because ``general.name`` is made from it. ``role`` says
    whether it is the model or its draft, ``splitting`` whether it becomes several layers.
    """

    source: CheckpointSource
    options: ConvertOptions
    role: Role = Role.MODEL
    splitting: Splitting | None = None

    kind: ClassVar[str] = "convert"
    version: ClassVar[int] = CONVERTER_VERSION
    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = CHECKPOINT_NAMES | SPLITTING_NAMES

    @property
    def subject(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def several_layers(self) -> bool:
        """Where it is split."""
        return self.splitting is not None

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
        options = {**self.options.fields(), **self.role.fields()}
        return checkpoint_fields(self.source, **options, **split_fields(self.splitting))

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Convert in one pass; files without a digest get it from the same reading."""
        context.status(Code.CONVERTING_MODEL, {})
        source = self.source
        with ExitStack() as stack:
            files = OpenFiles(source.files, stack)  # hashing begins while modules are loaded
            model = converted(source, self.options, files.paths, context, stack, files.seen)
            blobs = write_model(context, model, files, self.splitting)
            digests = files.digests(context)
        return made_of(context, blobs, self.role.media_type, source.name, digests)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(source=self.source.learned(files))

    def cost(self, store: BuildStore) -> Cost:
        """The unquantized file, written while all cores convert tensors."""
        from mbuild.build.costs import Cost, memory_for
        from mbuild.gguf.writer import largest_load, layout
        from mbuild.work.cores import cores

        source, silent = self.source, StepContext.silent(store)
        if self.options.converter is not None:  # nobody knows before it ran
            return Cost(2 * self.reads, memory_for(2 * self.reads, 0, cores()), every_core=True)
        with ExitStack() as stack:
            paths = open_all(source.files, stack)
            model = converted(source, self.options, paths, silent, stack)
            shards = shards_of(model, self.splitting, silent)
            plans = [layout(shard) for shard in shards]
            largest = max(map(largest_load, shards, plans), default=0)
        size = sum(plan.size for plan in plans)
        eight = _eight_bits(model) if size > _MUCH_LARGER * self.reads else None
        memory = memory_for(self.reads + size, largest, cores())
        return Cost(size, memory, every_core=True, eight_bits=eight)


_MUCH_LARGER = 1.25
"""A model that is so much larger than its files was quantized in them."""


def _eight_bits(model: Model) -> int:
    """The bytes of a model's tensors with every matrix that can be Q8_0 in it."""
    from mbuild.gguf.types import GGMLType, tensor_nbytes

    wide = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
    return sum(
        tensor_nbytes(GGMLType.Q8_0, tensor.dims)
        if tensor.type in wide and len(tensor.dims) > 1 and tensor.dims[0] % 32 == 0
        else tensor.nbytes
        for tensor in model.tensors
    )


class ConvertAdapter(BaseStep):
    """A PEFT adapter becomes a GGUF adapter layer for a base model.

    ``base`` are the base's layers, one or those of its shards, where they are in the store
    already. Else the one input makes them, or has read what an adapter's conversion has to
    know (:class:`ReadHeader`).
    """

    source: CheckpointSource
    base: tuple[Layer, ...] = ()
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
        digests = [str(layer.digest) for layer in self.base]
        base = digests if len(digests) > 1 else next(iter(digests), None)
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

    outtype, pre, further, _ = options
    checkpoint = open_checkpoint(source.name, paths, seen, further.like)
    return convert(checkpoint, OutType(outtype), pre=pre, options=further, warn=context.warn)


def checkpoint_fields(source: CheckpointSource, **options: Any) -> Mapping[str, Any] | None:
    """The key fields of a step over a checkpoint; None while a digest is not known."""
    deciding = source.deciding
    if any(file.digest is None for file in deciding.values()):
        return None
    digests = {name: str(file.digest) for name, file in sorted(deciding.items())}
    card = {"card": str(source.card)} if source.card else {}
    return {"name": source.name, "files": digests, **card, **options}

"""A checkpoint becomes layers: its text model, and the projector of its encoders."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.converter import ConvertOptions, ForeignConverter
from mbuild.build.graph import Made, Result, Step, StepContext
from mbuild.build.sources.values import README, CheckpointSource, Material, SourceFile
from mbuild.build.splitting import SPLITTING_NAMES, Splitting, split_fields
from mbuild.build.steps.as_it_is import write_as_it_is
from mbuild.build.steps.gguf import Role
from mbuild.build.steps.models import made_of, shards_of, sizes_written, write_model
from mbuild.build.steps.opened import OpenFiles, open_all
from mbuild.build.steps.origins import CheckpointOrigin
from mbuild.build.steps.together import Together
from mbuild.build.steps.weights import (
    CHECKPOINT_NAMES,
    CONVERTER_VERSION,
    checkpoint_fields,
    converted,
)
from mbuild.convert.conversion import AS_IT_IS, Conversion
from mbuild.core.errors import LackingError
from mbuild.store.media import PROJECTOR

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.costs import Cost
    from mbuild.core.digest import Digest
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore

PROJECTOR_VERSION = 1
"""Counts up when the same encoders would come out as other bytes."""


class ConvertCheckpoint(Together):
    """A Hugging Face checkpoint becomes a GGUF layer, as llama.cpp's converter makes it.

    ``options`` say how. The folder's name is part of the key, because ``general.name`` is made
    from it. ``role`` says whether it is the model or its draft, ``splitting`` whether it becomes
    several layers.
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
    def origin(self) -> CheckpointOrigin:
        """The checkpoint with the options of its conversion."""
        return CheckpointOrigin(self.source, self.options)

    @property
    def group(self) -> Hashable | None:
        """It runs together with the projector's step, where there may be one."""
        return super().group if self.source.encoders else None

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Its own."""
        return ((self.kind, self.version),)

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
        return checkpoint_fields(self.source, None, **options, **split_fields(self.splitting))

    @classmethod
    def make(
        cls,
        steps: Sequence[ConvertCheckpoint],
        model: Model,
        files: OpenFiles,
        context: StepContext,
    ) -> list[Made]:
        """Convert in one pass; files without a digest get it from the same reading."""
        from mbuild.build.steps.pieces import with_pieces

        made = []
        model = with_pieces(model, steps[0].origin.fields(), context)
        for step in steps:
            blobs = write_as_it_is(context, model, files, step.splitting, step.origin)
            made.append(made_of(context, blobs, step.role.media_type, step.source.name))
        return made

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(source=self.source.learned(files))

    def cost(self, store: BuildStore) -> Cost:
        """The unquantized file, written while all cores convert tensors."""
        from mbuild.build.costs import Cost, memory_for
        from mbuild.work.cores import cores

        source, silent = self.source, StepContext.silent(store)
        if self.options.converter is not None:  # nobody knows before it ran
            return Cost(2 * self.reads, memory_for(2 * self.reads, 0, cores()), every_core=True)
        with ExitStack() as stack:
            paths = open_all(source.files, stack)
            model = converted(source, self.options, paths, silent, stack)
            cost = _cost(shards_of(model, self.splitting, silent), self.reads)
        larger = (cost.writes or 0) > _MUCH_LARGER * self.reads
        eight = _eight_bits(model) if larger else None
        return cost._replace(eight_bits=eight)


class ConvertProjector(Together):
    """The encoders of a multimodal checkpoint become a projector layer.

    Only what decides them is in the key: their shards, config.json, the processors' files. So
    an edited tokenizer or template, and a quantization, leave it as it is. ``beside`` is the
    conversion of the text model, with which it runs and shares the reading for digests.
    ``naming`` and ``converter`` are those of the model.
    """

    source: CheckpointSource
    outtype: str
    beside: CheckpointOrigin | None = None
    naming: Conversion = AS_IT_IS
    converter: ForeignConverter | None = None

    role: ClassVar[str] = "projector"
    kind: ClassVar[str] = "convert-projector"
    version: ClassVar[int] = PROJECTOR_VERSION
    inputs: ClassVar[tuple[Step, ...]] = ()
    needs_model: ClassVar[bool] = False
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        **CHECKPOINT_NAMES,
        ("outtype",): "--mmproj-outtype",
        ("alone",): "--mmproj",
    }

    @property
    def origin(self) -> CheckpointOrigin:
        """The text model's, or the checkpoint by itself."""
        return self.beside or CheckpointOrigin(self.source, ConvertOptions(self.outtype, None))

    @property
    def group(self) -> Hashable | None:
        """It runs together with the text model's step, where there is one."""
        return Together.group_of(self.beside, Role.MODEL) if self.beside else None

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Its own."""
        return ((self.kind, self.version),)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files that decide it, and the model card."""
        return tuple(self._read.values())

    @property
    def _options(self) -> ConvertOptions:
        """How a converter of the user's is asked for it."""
        return ConvertOptions(self.outtype, None, self.naming, self.converter)

    @property
    def _read(self) -> Mapping[str, SourceFile]:
        if self.converter is not None:
            return self.source.files
        card = self.source.files.get(README)
        return {**self.source.seeing, **({README: card} if card else {})}

    @property
    def subject(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def label(self) -> str:
        """What is converted."""
        return f"convert the encoders of {self.source.name}"

    @property
    def reads(self) -> int:
        """The files' sizes, where nobody else reads them."""
        return 0 if self.beside else sum(file.stamp.size for file in self.files)

    @property
    def materials(self) -> tuple[Material, ...]:
        """The folder."""
        return (self.source.material,)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The files that decide the encoders, the folder's name and the type.

        Encoders that are not described are left out beside a text model and refused alone.
        """
        alone = {} if self.beside is not None else {"alone": True}
        given = {**alone, **self._options.conversion.fields()}
        if self.converter is not None:  # it reads what it likes
            given |= self.converter.fields
            return checkpoint_fields(self.source, self.source.whole, outtype=self.outtype, **given)
        return checkpoint_fields(self.source, self.source.seeing, outtype=self.outtype, **given)

    @classmethod
    def make(
        cls,
        steps: Sequence[ConvertProjector],
        model: Model | None,
        files: OpenFiles,
        context: StepContext,
    ) -> list[Made]:
        """Convert; nothing comes of encoders that have no tensors."""
        return [step._layer(files, context) for step in steps]

    def _layer(self, files: OpenFiles, context: StepContext) -> Made:
        with ExitStack() as stack:
            return self._written(files, context, stack)

    def _written(self, files: OpenFiles, context: StepContext, stack: ExitStack) -> Made:
        lacking = "there are no tensors of them"
        try:
            model = self._converted(self._paths(files), context, stack, self._seen(files))
        except LackingError as error:
            if self.beside is None:
                raise
            model, lacking = None, error.message
        if model is None:
            context.warn(
                f"config.json of {self.source.name} describes encoders, but {lacking}: the model"
                " reads text only"
            )
            files.finish(context)
            return Made(Result())
        blobs = write_model(context, model, files)
        return made_of(context, blobs, PROJECTOR, self.source.name)

    @classmethod
    def check(
        cls, steps: Sequence[ConvertProjector], files: OpenFiles, context: StepContext
    ) -> None:
        """Refuse encoders that cannot be converted before the text model is."""
        for step in steps:
            if step.converter is not None:
                continue
            with suppress(LackingError) if step.beside is not None else nullcontext():
                silent = StepContext.silent(context.store)
                step._converted(step._paths(files), silent, None, step._seen(files))

    def _paths(self, files: OpenFiles) -> Mapping[str, Path]:
        return {name: files.paths[str(file.path)] for name, file in self._read.items()}

    def _seen(self, files: OpenFiles) -> Mapping[str, Seen]:
        places = {name: str(file.path) for name, file in self._read.items()}
        return {name: files.seen[place] for name, place in places.items() if place in files.seen}

    def _converted(
        self,
        paths: Mapping[str, Path],
        context: StepContext,
        stack: ExitStack | None,
        seen: Mapping[str, Seen] | None = None,
    ) -> Model | None:
        if self.converter is not None and stack is not None:
            from mbuild.build.steps.external import foreign_model

            name = self.source.name
            return foreign_model(
                name, self.converter, self._options, paths, context, stack, projector=True
            )
        from mbuild.convert.projector import convert_projector, open_towers
        from mbuild.convert.read.dtypes import OutType

        towers = open_towers(self.source.name, paths, seen)
        if towers is None:
            return None
        outtype = OutType(self.outtype)
        return convert_projector(towers, outtype, naming=self.naming, warn=context.warn)

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digests that reading the files gave."""
        return self.changed(source=self.source.learned(files))

    def cost(self, store: BuildStore) -> Cost:
        """The file of the encoders alone."""
        if self.converter is not None:
            from mbuild.build.costs import Cost, memory_for
            from mbuild.work.cores import cores

            return Cost(self.reads, memory_for(self.reads, 0, cores()), every_core=True)
        with ExitStack() as stack:
            paths = open_all(self._read, stack)
            model = None
            with suppress(LackingError) if self.beside is not None else nullcontext():
                model = self._converted(paths, StepContext.silent(store), None)
            return _cost((model,) if model else (), self.reads)


def _cost(models: Sequence[Model], reads: int) -> Cost:
    """What it takes to write models, all cores converting tensors."""
    from mbuild.build.costs import Cost, memory_for
    from mbuild.work.cores import cores

    size, largest = sizes_written(models)
    return Cost(size, memory_for(reads + size, largest, cores()), every_core=True)


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

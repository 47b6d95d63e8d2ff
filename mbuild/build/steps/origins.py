"""Where weights that are to be quantized come from: a checkpoint, GGUF files, a stored layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mbuild.build.graph import Step, StepContext
from mbuild.build.sources.values import README, CheckpointSource, Material, SourceFile
from mbuild.build.steps.gguf import downloads, gguf_digests
from mbuild.build.steps.models import open_layers
from mbuild.build.steps.opened import open_all
from mbuild.build.steps.weights import CONVERTER_VERSION, checkpoint_fields, converted
from mbuild.convert.conversion import CONVERSION_NAMES
from mbuild.core.digest import Digest
from mbuild.core.events import Code
from mbuild.core.system import allow_open_files
from mbuild.core.values import NamedTuple
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.build.converter import ConvertOptions
    from mbuild.core.digest import Digest
    from mbuild.gguf.files import Seen
    from mbuild.gguf.model import Model
    from mbuild.store.ports import BuildStore


class Readable(NamedTuple):
    """An origin's files by their names: what to open, and who is shown what is read of weights."""

    paths: Mapping[str, Path]
    seen: Mapping[str, Seen]


class CheckpointOrigin(NamedTuple):
    """A checkpoint, converted on the way: nothing unquantized is written anywhere."""

    source: CheckpointSource
    options: ConvertOptions

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name; here every file has BLAKE3."""
        return False

    @property
    def is_split(self) -> bool:
        """Whether its weights are a split GGUF: not those of a checkpoint."""
        return False

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def shown(self) -> str:
        """The name."""
        return self.name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open."""
        return self.source.files

    @property
    def materials(self) -> tuple[Material, ...]:
        """The folder."""
        return (self.source.material,)

    def fields(self) -> Mapping[str, Any] | None:
        """What decides the unquantized model: the description of its conversion."""
        options = {"converter": CONVERTER_VERSION, **self.options.fields()}
        return checkpoint_fields(self.source, None, **options)

    def open(self, context: StepContext, files: Readable, stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        context.status(Code.CONVERTING_MODEL, {})
        return converted(self.source, self.options, files.paths, context, stack, files.seen)

    def learned(self, files: Mapping[str, Digest]) -> CheckpointOrigin:
        """With the digests that a step found."""
        return self._replace(source=self.source.learned(files))

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine."""
        return downloads(self.source.files.values())

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The conversion's, which is no step of its own here."""
        return (("convert", CONVERTER_VERSION),)


class GGUFOrigin(NamedTuple):
    """A GGUF file, or all shards of a split one in order."""

    sources: tuple[SourceFile, ...]

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name, unread."""
        return True

    @property
    def is_split(self) -> bool:
        """Whether it is the shards of a split GGUF."""
        return len(self.sources) > 1

    @property
    def name(self) -> str:
        """The first file's name."""
        return self.sources[0].name

    @property
    def shown(self) -> str:
        """The name."""
        return self.name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open."""
        return {file.name: file for file in self.sources}

    @property
    def materials(self) -> tuple[Material, ...]:
        """The file, or the shards under the name of the first."""
        size = sum(file.stamp.size for file in self.sources)
        return (self.sources[0].material._replace(size=size),)

    def fields(self) -> Mapping[str, Any] | None:
        """The files' digests."""
        digests = gguf_digests(self.sources)
        return None if digests is None else {"gguf": digests}

    def open(self, context: StepContext, files: Readable, stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        from mbuild.gguf.reader import open_gguf
        from mbuild.gguf.shards import merge

        context.status(Code.PARSING_GGUF, {})
        allow_open_files(len(files.paths))
        opened = [
            stack.enter_context(open_gguf(path, name=name, seen=files.seen.get(name)))
            for name, path in files.paths.items()
        ]
        return merge(opened) if len(opened) > 1 else opened[0].model()

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine."""
        return downloads(self.sources)

    def learned(self, files: Mapping[str, Digest]) -> GGUFOrigin:
        """With the digests that a step found."""
        return GGUFOrigin(tuple(file.learned(files) for file in self.sources))

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Nothing but the step over it."""
        return ()


class LayerOrigin(NamedTuple):
    """The weights of a model in the store: one layer, or all shards in order.

    ``blake3`` are their other digests, where those are known, ``needs`` the step that fetches
    them, if a registry has them.
    """

    layers: tuple[Layer, ...]
    blake3: Mapping[Digest, Digest] = {}
    needs: tuple[Step, ...] = ()

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name, unread."""
        return True

    @property
    def is_split(self) -> bool:
        """Whether it is the shards of a split GGUF."""
        return len(self.layers) > 1

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.layers[0].origin or self.layers[0].digest.short

    @property
    def shown(self) -> str:
        """The name."""
        return self.name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """No file of the user's."""
        return {}

    @property
    def materials(self) -> tuple[Material, ...]:
        """The model that the layers belong to."""
        return (Material(self.name, "", sum(layer.size for layer in self.layers)),)

    def fields(self) -> Mapping[str, Any]:
        """The layers' digests: the same as of the files that they were imported from.

        A layer that nobody has read since it came into the store is known by its name there.
        """
        digests = [layer.digest for layer in self.layers]
        return {"gguf": [str(self.blake3.get(digest, digest)) for digest in digests]}

    def open(self, context: StepContext, files: Readable, stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        return open_layers(context.store, self.layers, self.name, stack)

    def learned(self, files: Mapping[str, Digest]) -> LayerOrigin:
        """The origin itself: its digests are its layers' names."""
        return self

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """Nothing but the step over it."""
        return ()


class Origin(Protocol):
    """Where weights come from; changes of them on the way are an origin too."""

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name, unread."""

    @property
    def is_split(self) -> bool:
        """Whether it is the shards of a split GGUF."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def shown(self) -> str:
        """The name, and what tells it from other origins of that name, for labels."""

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open."""

    @property
    def materials(self) -> tuple[Material, ...]:
        """What it is made from; the first is the model."""

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """The kinds of work in it and their versions."""

    @property
    def needs(self) -> tuple[Step, ...]:
        """The downloads of what is on other machines."""

    def fields(self) -> Mapping[str, Any] | None:
        """What decides the unquantized model; None while a digest is not known."""

    def open(self, context: StepContext, files: Readable, stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""

    def learned(self, files: Mapping[str, Digest]) -> Origin:
        """With the digests that a step found."""


ORIGIN_NAMES: dict[tuple[str, ...], str] = {
    ("origin", "files"): "",
    ("origin", "card"): README,
    ("origin", "gguf"): "weights",
    ("origin", "name"): "folder's name",
    ("origin", "pre"): "--pre",
    ("origin", "outtype"): "--outtype",
    ("origin", "converter"): "the converter",
    **{("origin", *place): name for place, name in CONVERSION_NAMES.items()},
    ("origin", "changes"): "change of the weights",
}
"""What the fields of origins are called in explanations."""


def open_quietly(origin: Origin, store: BuildStore, stack: ExitStack) -> Model:
    """The model of an origin, without a word and without hashing files."""
    files = Readable(open_all(origin.files, stack), {})
    return origin.open(StepContext.silent(store), files, stack)

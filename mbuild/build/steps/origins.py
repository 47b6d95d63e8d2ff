"""Where weights that are to be quantized come from: a checkpoint, GGUF files, a stored layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild.build.graph import Result, StepContext
from mbuild.build.sources.values import CheckpointSource, Material, SourceFile
from mbuild.build.steps.gguf import gguf_digests
from mbuild.build.steps.weights import CONVERTER_VERSION, checkpoint_fields, with_digests
from mbuild.core.digest import Digest
from mbuild.core.events import Code
from mbuild.store import Layer

if TYPE_CHECKING:
    from mbuild.gguf.model import Model


class CheckpointOrigin(NamedTuple):
    """A checkpoint, converted on the way: nothing unquantized is written anywhere."""

    source: CheckpointSource
    outtype: str
    pre: str | None

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name; here every file has BLAKE3."""
        return False

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.source.name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open."""
        return self.source.files

    @property
    def material(self) -> Material:
        """The folder."""
        return self.source.material

    def fields(self) -> Mapping[str, Any] | None:
        """What decides the unquantized model: the description of its conversion."""
        options = {"outtype": self.outtype, "pre": self.pre, "converter": CONVERTER_VERSION}
        return checkpoint_fields(self.source, **options)

    def open(self, context: StepContext, paths: Mapping[str, Path], stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        from mbuild.convert.checkpoint import open_checkpoint
        from mbuild.convert.convert import convert
        from mbuild.convert.read.dtypes import OutType

        context.status(Code.CONVERTING_MODEL, {})
        checkpoint = open_checkpoint(self.source.name, paths)
        return convert(checkpoint, OutType(self.outtype), pre=self.pre, warn=context.warn)

    def learned(self, result: Result) -> CheckpointOrigin:
        """With the digests that a step found."""
        return self._replace(source=with_digests(self.source, result))


class GGUFOrigin(NamedTuple):
    """A GGUF file, or all shards of a split one in order."""

    sources: tuple[SourceFile, ...]

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name, unread."""
        return True

    @property
    def name(self) -> str:
        """The first file's name."""
        return self.sources[0].name

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """The files to open."""
        return {file.name: file for file in self.sources}

    @property
    def material(self) -> Material:
        """The file, or the shards under the name of the first."""
        size = sum(file.stamp.size for file in self.sources)
        return self.sources[0].material._replace(size=size)

    def fields(self) -> Mapping[str, Any] | None:
        """The files' digests."""
        digests = gguf_digests(self.sources)
        return None if digests is None else {"gguf": digests}

    def open(self, context: StepContext, paths: Mapping[str, Path], stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        from mbuild.gguf.reader import open_gguf
        from mbuild.gguf.shards import merge

        context.status(Code.PARSING_GGUF, {})
        files = [stack.enter_context(open_gguf(path, name=n)) for n, path in paths.items()]
        return merge(files) if len(files) > 1 else files[0].model()

    def learned(self, result: Result) -> GGUFOrigin:
        """With the digests that a step found."""
        return GGUFOrigin(tuple(f.known_by(f.digest or result.files[f.name]) for f in self.sources))


class LayerOrigin(NamedTuple):
    """The model layer of a model in the store; ``blake3`` is its other digest, if known."""

    layer: Layer
    blake3: Digest | None = None

    @property
    def by_name(self) -> bool:
        """Whether a key may know a blob of the store by its name, unread."""
        return True

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.layer.origin or self.layer.digest.short

    @property
    def files(self) -> Mapping[str, SourceFile]:
        """No file of the user's."""
        return {}

    @property
    def material(self) -> Material:
        """The model that the layer belongs to."""
        return Material(self.name, "", self.layer.size)

    def fields(self) -> Mapping[str, Any]:
        """The layer's digest: the same as of the file that it was imported from.

        A layer that nobody has read since it came into the store is known by its name there.
        """
        return {"gguf": [str(self.blake3 or self.layer.digest)]}

    def open(self, context: StepContext, paths: Mapping[str, Path], stack: ExitStack) -> Model:
        """The unquantized model, its tensors loaded on demand."""
        from mbuild.gguf.reader import open_gguf

        path = context.store.blobs.local_path(self.layer.digest)
        return stack.enter_context(open_gguf(path, name=self.name)).model()

    def learned(self, result: Result) -> LayerOrigin:
        """The origin itself: it knew everything."""
        return self


Origin = CheckpointOrigin | GGUFOrigin | LayerOrigin

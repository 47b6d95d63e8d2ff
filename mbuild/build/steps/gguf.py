"""GGUF files become layers: imported as they are, or merged from their shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import Material, SourceFile
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.core.events import Code
from mbuild.core.values import aside
from mbuild.store.media import ADAPTER, DRAFT, MODEL, PROJECTOR

if TYPE_CHECKING:
    from mbuild.gguf.facts import ModelFacts
    from mbuild.store.copying import OpenFile
    from mbuild.store.manifest import Blob


class Role(StrEnum):
    """What an instruction wants a GGUF file to be."""

    MODEL = "model"
    ADAPTER = "adapter"
    DRAFT = "draft"

    @property
    def media_type(self) -> str:
        """The type of the layer that weights of that role are."""
        return LAYER_TYPES[(self, "adapter" if self is Role.ADAPTER else "model")]

    @property
    def prefix(self) -> str:
        """What tells a draft from the model in the label of a step."""
        return "draft " if self is Role.DRAFT else ""

    def fields(self) -> dict[str, str]:
        """The role as part of a step's key; a model's weights are what steps usually make."""
        return {} if self is Role.MODEL else {"role": self.value}


_WORDS = {Role.MODEL: "FROM", Role.ADAPTER: "ADAPTER", Role.DRAFT: "DRAFT"}

LAYER_TYPES: Mapping[tuple[str, str], str] = {
    (Role.MODEL, "model"): MODEL,
    (Role.MODEL, "projector"): PROJECTOR,
    (Role.ADAPTER, "adapter"): ADAPTER,
    (Role.DRAFT, "model"): DRAFT,
    ("projector", "projector"): PROJECTOR,  # a checkpoint's encoders, which no word names
}
"""Which layer a file of each kind gives; what is not listed is an error."""

_HINTS = {
    "adapter": "use ADAPTER for it",
    "model": "use FROM for it",
    "projector": "use FROM for it, beside the FROM of its model",
}


def downloads(files: Iterable[SourceFile]) -> tuple[Step, ...]:
    """The steps that fetch those of some files that are on another machine; mostly none."""
    remote = [file for file in files if file.remote is not None]
    if not remote:
        return ()
    from mbuild.build.steps.pull import pulls

    return pulls(remote)


class ImportGGUF(BaseStep):
    """One GGUF file becomes a layer with the same bytes.

    ``link``: hard-link the file instead of copying it (not part of the key:
    the bytes are the same).
    """

    file: SourceFile
    role: Role
    link: bool = aside(default=False)

    kind: ClassVar[str] = "import"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("source",): "file",
        ("name",): "file's name",
    }

    @property
    def subject(self) -> str:
        """The file's name."""
        return self.file.name

    @property
    def label(self) -> str:
        """What is imported."""
        return f"import {self.role.prefix}{self.file.name}"

    @property
    def reads(self) -> int:
        """The file's size."""
        return self.file.stamp.size

    @property
    def materials(self) -> tuple[Material, ...]:
        """The file."""
        return (self.file.material,)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of a file that is on another machine."""
        return downloads([self.file])

    def key_fields(self) -> Mapping[str, Any] | None:
        """The file's digest, its role, and its name, which an adapter's layer carries."""
        if self.file.content is None:
            return None
        name = self.file.name if self.role is Role.ADAPTER else None
        return {"source": str(self.file.content), "role": self.role.value, "name": name}

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Check the file, bring it into the store, and read what it is from there."""
        from mbuild.build.steps.opened import MUCH, open_source

        context.status(Code.PARSING_GGUF, {})
        with open_source(self.file) as opened:
            if opened.size < MUCH:
                media_type = self._check(context, opened)
                blob = bring_in(context, opened, context.report, link=self.link)
            else:
                blob, media_type = self._check_beside(context, opened)
        from mbuild.build.steps.models import made_of

        origin = self.file.name if media_type == ADAPTER else ""
        files = {str(self.file.path): blob.blake3 or blob.digest}
        return made_of(context, [blob], media_type, self.file.name, files, origin=origin)

    def _check(self, context: StepContext, opened: OpenFile) -> str:
        """The type of the layer that the file becomes; raises for what no program loads."""
        from mbuild.build.steps.models import check_loadable, facts_of
        from mbuild.gguf.reader import open_gguf

        with open_gguf(opened.reading_path, name=self.file.name) as file:
            media_type = layer_type(self.role, facts_of([file], self.file.name), self.file.name)
            check_loadable(file, context)
        return media_type

    def _check_beside(self, context: StepContext, opened: OpenFile) -> tuple[Blob, str]:
        """Check a large file while it is copied; what fails ends that, and nothing is published.

        The check begins after the first bytes: what it loads would hold the copying up.
        """
        from mbuild.work.beside import Beside

        checking = Beside(lambda cancel: self._check(context, opened), "mbuild-check")

        def report(done: int, total: int) -> None:
            checking.start()
            checking.look()
            if done >= total:
                checking.wait()
            context.report(done, total)

        try:
            blob = bring_in(context, opened, report, link=self.link)
            checking.start()
            return blob, checking.wait()
        finally:
            checking.stop()

    def learned(self, files: Mapping[str, Digest]) -> Step:
        """The step with the digest that reading the file gave."""
        return self.changed(file=self.file.learned(files))


class OverShards(BaseStep):
    """What steps over the shards of a split GGUF have in common."""

    files: tuple[SourceFile, ...]
    role: Role

    inputs: ClassVar[tuple[Step, ...]] = ()
    makes_weights: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {("sources",): "shard"}

    @property
    def needs(self) -> tuple[Step, ...]:
        """The download of what is on another machine."""
        return downloads(self.files)

    @property
    def subject(self) -> str:
        """The name of the first shard."""
        return self.files[0].name

    @property
    def reads(self) -> int:
        """The shards' sizes."""
        return sum(file.stamp.size for file in self.files)

    @property
    def materials(self) -> tuple[Material, ...]:
        """The shards, under the name of the first."""
        return (self.files[0].material._replace(size=self.reads),)

    def key_fields(self) -> Mapping[str, Any] | None:
        """The shards' digests in order, and the role."""
        digests = gguf_digests(self.files)
        return None if digests is None else {"sources": digests, "role": self.role.value}

    def learned(self, files: Mapping[str, Digest]) -> Any:
        """The step with the digests that reading the shards gave."""
        return self.changed(files=tuple(file.learned(files) for file in self.files))


class MergeGGUF(OverShards):
    """The shards of a split GGUF become one layer with all their tensors."""

    kind: ClassVar[str] = "merge"
    version: ClassVar[int] = 1

    @property
    def label(self) -> str:
        """What is merged."""
        return f"merge {self.role.prefix}{self.files[0].name} and {len(self.files) - 1} more"

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Merge; shards without a digest get it from the same reading."""
        from mbuild.build.steps.models import made_of, write_model
        from mbuild.build.steps.opened import OpenFiles
        from mbuild.gguf.facts import describe
        from mbuild.gguf.hyperparameters import check_hyperparameters
        from mbuild.gguf.reader import open_gguf
        from mbuild.gguf.shards import merge

        context.status(Code.PARSING_GGUF, {})
        name = self.files[0].name
        with ExitStack() as stack:
            files = OpenFiles({file.name: file for file in self.files}, stack, by_name=True)
            shards = [
                stack.enter_context(open_gguf(path, name=shard, seen=files.seen.get(shard)))
                for shard, path in files.paths.items()
            ]
            model = merge(shards)
            check_hyperparameters(model.metadata, name)
            media_type = layer_type(self.role, describe(model), name)
            blobs = write_model(context, model, files)
            digests = files.digests(context)
        return made_of(context, blobs, media_type, name, digests)


def gguf_digests(files: Sequence[SourceFile]) -> list[str] | None:
    """By which digests a key knows GGUF files, in order; None while one has none."""
    digests = [str(file.content) for file in files if file.content is not None]
    return digests if len(digests) == len(files) else None


def bring_in(
    context: StepContext, opened: OpenFile, report: Callable[[int, int], None], *, link: bool
) -> Blob:
    """Bring a file into the store, reading it once, and remember its digest."""
    from mbuild.store.manifest import Blob

    store = context.store
    own = store.blobs.named(opened.path, opened.info)
    if own is not None:
        return Blob(own, opened.size, existed=True)
    started = opened.start_of_hashing()
    blob = store.blobs.ingest(opened, link=link, progress=report)
    assert blob.blake3 is not None
    store.files.remember_alias(blob.digest, blob.blake3)
    if blob.linked:
        now = os.fstat(opened.fd)
        store.files.remember_linked(opened.info, now, blob.blake3, started)
    else:
        store.files.remember_file(opened.info, blob.blake3, started)
    return blob


def check_role(role: Role, facts: ModelFacts, name: str) -> None:
    """Raise :class:`SourceError` unless a GGUF is weights of that role, and no projector."""
    if layer_type(role, facts, name) != role.media_type:
        raise SourceError(
            f"{_WORDS[role]} {name}: it is a projector",
            hint="name the model in the first FROM, the projector in a second one",
        )


def layer_type(role: Role, facts: ModelFacts, name: str) -> str:
    """Which layer weights become; raises :class:`SourceError` for what the role cannot be."""
    media_type = LAYER_TYPES.get((role, facts.kind))
    if media_type is None:
        what = {"adapter": "a LoRA adapter", "model": "a model"}.get(facts.kind, "a projector")
        raise SourceError(f"{_WORDS[role]} {name}: it is {what}", hint=_HINTS[facts.kind])
    return media_type

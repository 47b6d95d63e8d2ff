"""What a build starts from and is on another machine comes into the store by a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import FileStamp, Material, SourceFile, StoredModel
from mbuild.core.digest import Digest
from mbuild.store import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mbuild.build.costs import Cost
    from mbuild.store import Store
    from mbuild.store.manifest import Blob
    from mbuild.store.ports import BuildStore

_FILE = "application/octet-stream"
"""The media type of a file that is no layer of a model: that of the distribution protocol."""


class Pull(BaseStep):
    """Files whose digests are known become blobs of the store, which the cache keeps.

    ``source`` is the whole that they belong to. No key of a step that reads them has this one
    in it: it runs when such a step runs and the files are not here. Of a ``model`` of a
    registry they are blobs, and it gets its name once the store has all of them.
    """

    source: str
    files: tuple[SourceFile, ...]
    model: StoredModel | None = None

    inputs: ClassVar[tuple[Step, ...]] = ()
    kind: ClassVar[str] = "pull"
    role: ClassVar[str] = ""
    version: ClassVar[int] = 1
    fetches: ClassVar[bool] = True
    field_names: ClassVar[Mapping[tuple[str, ...], str]] = {("source",): "source", ("files",): ""}

    @property
    def subject(self) -> str:
        """Where from."""
        return self.source

    @property
    def label(self) -> str:
        """Where from."""
        return f"pull {self.source.partition('@')[0]}"

    @property
    def materials(self) -> tuple[Material, ...]:
        """All the files together."""
        return (Material(self.source, self.source, sum(self.sizes.values())),)

    @property
    def versions(self) -> tuple[tuple[str, int], ...]:
        """None: its digests say what it brings, and it is planned only where that is missing.

        A lock would tell of the store, not of the project, and hold in no other.
        """
        return ()

    @property
    def sizes(self) -> Mapping[Digest, int]:
        """What is fetched, once each, with its size in bytes."""
        return {file.sha256: file.stamp.size for file in self.files if file.sha256}

    def key_fields(self) -> Mapping[str, Any]:
        """The files by name: what explains that something is fetched again."""
        digests = {f"{n} {file.name}": str(file.sha256) for n, file in enumerate(self.files)}
        if self.model is None:
            digests = {file.name: str(file.sha256) for file in self.files}
        return {"source": self.source, "files": digests}

    def is_there(self, store: BuildStore, *, bring: bool) -> bool:
        """Whether every file is in the store, or kept by the cache, and a whole model named."""
        if bring:
            here = all(store.blobs.bring(*row) for row in self.sizes.items())
        else:
            here = not store.blobs.missing(self.sizes)
        return here and not (self.model and self._can_be_named(self.model, cast("Store", store)))

    def _can_be_named(self, model: StoredModel, store: Store) -> bool:
        """Whether the model is whole, and its name means another or none."""
        sizes = {layer.digest: layer.size for layer in model.manifest.blobs()}
        named = store.manifests.read_bytes(store.manifests.resolve(model.name)) == model.data
        return bool(model.data) and not named and not store.blobs.missing(sizes)

    def cost(self, store: BuildStore) -> Cost:
        """What is missing is written."""
        from mbuild.build.costs import Cost

        missing = store.blobs.missing(self.sizes)
        return Cost(writes=sum(self.sizes[digest] for digest in missing))

    def run(self, context: StepContext, inputs: Sequence[Result]) -> Made:
        """Fetch what is missing, in ranges, hashed while they come."""
        from mbuild.build.steps.pulling import fetch

        sizes, store = self.sizes, cast("Store", context.store)
        missing = {d: size for d, size in sizes.items() if not store.blobs.bring(d, size)}
        found: list[Blob] = []
        fetch(self.files, missing, context, found.append)
        stored = [blob for blob in found if store.blobs.has(blob.digest, blob.size)]
        new = tuple(Layer(_FILE, blob.digest, blob.size) for blob in stored)
        for blob in found:
            if blob.blake3 is not None:
                store.files.remember_alias(blob.digest, blob.blake3)
                store.files.remember_content(blob.size, blob.blake3)
        if self.model is not None and self._can_be_named(self.model, store):
            sizes = {layer.digest: layer.size for layer in self.model.manifest.blobs()}
            if all(store.blobs.bring(*row) for row in sizes.items()):
                store.replace(store.manifests.resolve(self.model.name), self.model.data)
        elif self.model is None or not self.model.data:
            thrown_away = {f.sha256 for f in self.files if f.remote and not f.remote.keep}
            for blob in stored:
                if blob.digest not in thrown_away:
                    store.blobs.keep(blob.digest)
            store.discard(blob.digest for blob in stored)  # no model names it: the cache keeps it
        learned = {}
        for file in self.files:
            if file.sha256 and (digest := store.files.alias(file.sha256)):
                learned[str(file.path)] = digest
        return Made(Result(), new, learned)


def pull_of(model: StoredModel, layers: Iterable[Layer]) -> tuple[Pull, ...]:
    """The step that fetches some layers of a model of a registry; none for one that is here."""
    if model.remote is None:
        return ()
    files = (
        SourceFile(
            layer.kind,
            Path(),
            FileStamp(0, 0, layer.size, 0, None),
            model.aliases.get(layer.digest),
            layer.digest,
            model.remote,
        )
        for layer in dict.fromkeys(layers)
    )
    return (Pull(model.remote.source, tuple(files), model),)


def pulls(files: Iterable[SourceFile]) -> tuple[Pull, ...]:
    """The steps that fetch those of some files that are on another machine and not read in place.

    The files of one repository are fetched together.
    """
    groups: dict[str, list[SourceFile]] = {}
    for file in files:
        if file.remote is not None and file.stamp.ctime_ns is None and file.sha256 is not None:
            groups.setdefault(file.remote.source, []).append(file)
    return tuple(Pull(source, tuple(group)) for source, group in groups.items())

"""What a build starts from and is on another machine comes into the store by a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mbuild.build.graph import BaseStep, Made, Result, Step, StepContext
from mbuild.build.sources.values import Material, SourceFile
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


@dataclass(frozen=True, eq=False)
class Pull(BaseStep):
    """Files whose digests are known become blobs of the store, which the cache keeps.

    ``source`` is the whole that they belong to. No key of a step that reads them has this one
    in it: it runs when such a step runs and the files are not here.
    """

    source: str
    files: tuple[SourceFile, ...]
    inputs: tuple[Step, ...] = field(default=(), compare=False)

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
    def sizes(self) -> Mapping[Digest, int]:
        """What is fetched, once each, with its size in bytes."""
        return {file.sha256: file.stamp.size for file in self.files if file.sha256}

    def key_fields(self) -> Mapping[str, Any]:
        """The files by name: what explains that something is fetched again."""
        digests = {file.name: str(file.sha256) for file in self.files}
        return {"source": self.source, "files": digests}

    def is_there(self, store: BuildStore, *, bring: bool) -> bool:
        """Whether every file is in the store, or kept by the cache."""
        if bring:
            return all(store.blobs.bring(*row) for row in self.sizes.items())
        return not store.blobs.missing(self.sizes)

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
        learned, new = {}, []
        for blob in found:
            assert blob.blake3 is not None
            store.blobs.keep(blob.digest)
            store.files.remember_alias(blob.digest, blob.blake3)
            store.files.remember_content(blob.size, blob.blake3)
            new.append(Layer(_FILE, blob.digest, blob.size))
        store.discard(blob.digest for blob in found)  # no model names it: the cache keeps it
        for file in self.files:
            if file.sha256 and (digest := store.files.alias(file.sha256)):
                learned[str(file.path)] = digest
        return Made(Result(), tuple(new), learned)


def pulls(files: Iterable[SourceFile]) -> tuple[Pull, ...]:
    """The steps that fetch those of some files that are on another machine and not read in place.

    The files of one repository are fetched together.
    """
    groups: dict[str, list[SourceFile]] = {}
    for file in files:
        if file.remote is not None and file.stamp.ctime_ns is None and file.sha256 is not None:
            groups.setdefault(file.remote.source, []).append(file)
    return tuple(Pull(source, tuple(group)) for source, group in groups.items())

"""The files of a repository of the Hub: still there, in the Hub's cache, or in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mbuild.build.sources.local import local_file, stored_blob
from mbuild.build.sources.places import PICKLES, is_part_of_checkpoint
from mbuild.build.sources.values import FileStamp, RemotePlace, SourceFile
from mbuild.core.errors import SourceError
from mbuild.registry.hub.reference import endpoint
from mbuild.store.records import GIT_CONTENT

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.core.digest import Digest
    from mbuild.registry.client.access import Access
    from mbuild.registry.hub.listing import Listing
    from mbuild.registry.hub.reference import HubReference
    from mbuild.store import Store

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def needed_names(listing: Listing) -> list[str]:
    """Of a repository's files those that a build can need, sorted.

    Of weights in several forms one is enough: the shards of the index, else the file that
    transformers would load, else all safetensors; GGUF files or pickles only without those.
    """
    plain = [name for name in listing.files if "/" not in name]
    tensors = {name for name in plain if name.endswith(".safetensors")}
    chosen = set(listing.shards) or ({_SINGLE} & tensors) or tensors
    names = {name for name in listing.files if is_part_of_checkpoint(name)} - tensors | chosen
    if not tensors:
        names |= {name for name in plain if name.lower().endswith(".gguf")}
    if not any(name.lower().endswith((".safetensors", ".gguf")) for name in names):
        names |= {name for name in plain if name.endswith(PICKLES)}
    return sorted(names)


class HubFiles:
    """A commit's files, as :class:`mbuild.build.sources.files.Files`.

    ``snapshot`` is the folder of the Hub's own cache that has some or all of them. Without
    ``keep`` what is fetched is removed after the build.
    """

    def __init__(
        self,
        reference: HubReference,
        listing: Listing,
        access: Access,
        store: Store,
        snapshot: Path | None = None,
        *,
        keep: bool = True,
    ) -> None:
        self._reference = reference
        self._listing = listing
        self._access = access
        self._store = store
        self._snapshot = snapshot
        self._keep = keep
        self._names = needed_names(listing)
        self._base = f"{endpoint()}/{listing.repository}/resolve/{listing.commit}/"

    @property
    def name(self) -> str:
        """The repository's own name, after which the model is called."""
        return self._listing.repository.rpartition("/")[2]

    @property
    def value(self) -> str:
        """The repository as messages call it."""
        return str(self._reference)

    @property
    def source(self) -> str:
        """The repository with the commit: what a lock and a download name."""
        return f"hf.co/{self._listing.repository}@{self._listing.commit}"

    def names(self) -> Sequence[str]:
        """The files that a build can need, sorted."""
        return self._names

    def has(self, name: str) -> bool:
        """Whether the commit has such a file."""
        return name in self._listing.files

    def sha256(self, name: str) -> Digest | None:
        """A file's SHA-256, where the Hub tells it or the file was fetched before."""
        file = self._listing.files[name]
        if file.sha256 is not None or not file.oid:
            return file.sha256
        return self._store.cache.get(GIT_CONTENT, file.oid)

    def in_place(self, name: str) -> Path | None:
        """Where a file lies in the Hub's own cache, if that has it with its size."""
        if self._snapshot is None:
            return None
        path = self._snapshot / name
        try:
            same = path.stat().st_size == self._listing.files[name].size
        except OSError:
            return None
        return path if same else None

    def file(self, name: str) -> SourceFile:
        """A file: in the store, in the Hub's cache, or still to be fetched.

        Raises :class:`SourceError` for one that nobody has and of which no digest is known.
        """
        from urllib.parse import quote

        if name not in self._listing.files:
            raise SourceError(f"{self.value}: the commit has no file {name}")
        remote = RemotePlace(self.source, self._base + quote(name), self._access, self._keep)
        size, sha256 = self._listing.files[name].size, self.sha256(name)
        blobs = self._store.blobs
        if sha256 is not None and blobs.has(sha256, size):
            return stored_blob(blobs.path(sha256), name, sha256, self._store)._replace(
                remote=remote
            )
        if (path := self.in_place(name)) is not None:
            return local_file(path, name, self._store)._replace(remote=remote)
        if sha256 is None:
            raise SourceError(
                f"{self.value}: {name} is not here", hint="build again with --pull missing"
            )
        return absent(name, sha256, size, remote, self._store)


def absent(name: str, sha256: Digest, size: int, remote: RemotePlace, store: Store) -> SourceFile:
    """A file that is to be fetched: what is known of it, and where it will lie."""
    stamp = FileStamp(0, 0, size, 0, None)
    path = store.blobs.path(sha256)
    return SourceFile(name, path, stamp, store.files.alias(sha256), sha256, remote)

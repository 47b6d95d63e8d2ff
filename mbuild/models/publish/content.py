"""Which files a model is in a repository of the Hub, and which of them are there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.splitting import Splitting
from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, UnsupportedError
from mbuild.core.values import NamedTuple
from mbuild.models.artifacts.exporting import export, texts_of
from mbuild.models.artifacts.jobs import ExportForm, ExportOptions
from mbuild.models.artifacts.places import places_of
from mbuild.registry.hub.listing import git_oid
from mbuild.store.contents import read_contents
from mbuild.store.media import MODEL

if TYPE_CHECKING:
    from mbuild.registry.hub.listing import HubFile, Listing
    from mbuild.store import Store, StoredManifest

    Progress = Callable[[int, int], None]

LARGEST = 50_000_000_000
"""Bytes of the largest file that the Hub takes."""

_SHARD = 45_000_000_000
"""Bytes of a shard where a file would be larger: below that limit with its metadata."""

_ENDING = "-GGUF"


class Published(NamedTuple):
    """A file that a repository is to have: from ``path``, or with the bytes ``data``."""

    name: str
    size: int
    sha256: Digest
    path: Path | None = None
    data: bytes | None = None

    def is_there(self, remote: HubFile | None) -> bool:
        """Whether the repository has it with this very content."""
        if remote is None or remote.size != self.size:
            return False
        if remote.sha256 is not None:
            return remote.sha256 == self.sha256
        return self.data is not None and remote.oid == git_oid(self.data)


def stem_of(repository: str, quantization: str) -> str:
    """What a variant's files begin with: ``chat-Q4_K_M`` in ``org/chat-GGUF``."""
    name = repository.rpartition("/")[2]
    if name.lower().endswith(_ENDING.lower()) and len(name) > len(_ENDING):
        name = name[: -len(_ENDING)]
    return f"{name}-{quantization}" if quantization else name


def weights_of(
    store: Store,
    stored: StoredManifest,
    repository: str,
    folder: Path,
    progress: Progress,
    most: int = LARGEST,
) -> list[Published]:
    """A model's GGUF files as the repository names them; the blobs themselves, where they fit.

    A file of more than ``most`` bytes is written in shards to ``folder``, which the caller
    removes. Raises :class:`UnsupportedError` for a model without GGUF weights, and
    :class:`DamagedError` for a blob that is not what its digest says.
    """
    if not stored.manifest.of_kind(MODEL):
        raise UnsupportedError(f"{stored.name} has no GGUF weights, which is what the Hub takes")
    contents = read_contents(store.blobs, stored)
    stem = stem_of(repository, str(contents.config.get("file_type", "")))
    places = list(places_of(store, stored, folder, stem))
    if any(layer.size > most for place in places for layer in place.layers):
        splitting = Splitting(size=min(_SHARD, most))
        options = ExportOptions(ExportForm.GGUF, raw=True, splitting=splitting)
        written = export(store, stored, folder / f"{stem}.gguf", options, None, progress)
        return [_written(file.path) for file in written]
    total = sum(layer.size for place in places for layer in place.layers)
    found, done = [], 0
    for place in places:
        for layer, path in zip(place.layers, place.paths, strict=True):
            before = done

            def tell(at: int, size: int, before: int = before) -> None:
                progress(before + at, total)

            _check(store, layer.digest, f"{stored.name} ({layer.kind})", tell)
            done += layer.size
            local = store.blobs.local_path(layer.digest)
            found.append(Published(path.name, layer.size, layer.digest, local))
    return found


def _check(store: Store, digest: Digest, what: str, progress: Progress) -> None:
    """Raise :class:`DamagedError` for a blob that is not what its digest says."""
    from mbuild.store.copying import OpenFile, hash_file

    with OpenFile.open(store.blobs.local_path(digest), what) as file:
        if hash_file(file.fd, file.size, progress) != digest:
            raise DamagedError(
                f"{what}: blob {digest} is damaged", hint="build or pull the model again"
            )


def _written(path: Path) -> Published:
    from mbuild.store.copying import OpenFile, hash_file

    with OpenFile.open(path, path.name) as file:
        digest = hash_file(file.fd, file.size, lambda done, total: None)
        return Published(path.name, file.size, digest, path)


def texts(store: Store, stored: StoredManifest, further: Mapping[str, str]) -> list[Published]:
    """The small files: ``template``, ``system``, ``params``, licenses, and what else is given.

    ``ollama run hf.co/...`` reads the first three (Hugging Face's page about Ollama).
    """
    found = {**texts_of(read_contents(store.blobs, stored)), **further}
    return [text(name, value) for name, value in sorted(found.items()) if value]


def text(name: str, value: str) -> Published:
    """A small file."""
    data = value.encode()
    return Published(name, len(data), Digest.of(data), data=data)


def missing(files: Sequence[Published], listing: Listing | None) -> list[Published]:
    """Those of the files that the repository does not have as they are."""
    remote: Mapping[str, HubFile] = {} if listing is None else listing.files
    return [file for file in files if not file.is_there(remote.get(file.name))]


def ggufs(files: Collection[Published], listing: Listing | None) -> dict[str, int]:
    """All GGUF files that the repository will have, with their sizes in bytes, sorted."""
    there = {} if listing is None else {n: f.size for n, f in listing.files.items()}
    sizes = {**there, **{file.name: file.size for file in files}}
    return {name: sizes[name] for name in sorted(sizes) if name.lower().endswith(".gguf")}

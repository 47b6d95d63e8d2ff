"""``import``: models from an OCI image layout in a tar archive.

Only headers are read before it is clear what the archive holds; then exactly
the blobs that a manifest names and the store lacks, each checked against its
digest before it gets its name. A manifest is written when all its blobs are
durable. No path of the archive is ever opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import FormatError, RegistryError, UsageError
from mbuild.core.names import ModelName
from mbuild.core.values import NamedTuple
from mbuild.models.artifacts.oci import (
    INDEX_FILE,
    LAYOUT_FILE,
    MAX_INDEX,
    IndexEntry,
    blob_name,
    check_layout,
    decode_index,
    decode_model,
    parse_name,
)
from mbuild.models.artifacts.sharing import ExportTarget
from mbuild.models.artifacts.tar import Member, scan
from mbuild.registry.transfer.pull import finished
from mbuild.store import Layer
from mbuild.store.copying import OpenFile, hash_file
from mbuild.store.files import store_errors
from mbuild.store.manifest import MAX_MANIFEST_BYTES
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from mbuild.registry.dialects.values import LocalManifest, Reading
    from mbuild.store import Store

    Progress = Callable[[int, int], None]

_THREADS = "mbuild-import"
_INCOMPLETE = "the archive is incomplete; export the model again"
_DAMAGED = "the archive is damaged; copy or download it again"


class Imported(NamedTuple):
    """A model that came in; ``written`` bytes were new, ``shared`` of them not copied.

    ``left_out`` are files of another tool's package that a model has no place for.
    """

    name: ModelName
    id: Digest
    written: int
    shared: int
    left_out: tuple[str, ...] = ()


class _Model(NamedTuple):
    name: ModelName
    found: Reading


def import_tar(
    path: Path,
    store: Store,
    name: ModelName | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Imported]:
    """Bring all models of an archive into the store, under their own names or ``name``.

    Models of these names are replaced, as a build does. Raises
    :class:`FormatError` and :class:`UnsupportedError` for an archive that is
    not what it should be (nothing is named then), :class:`UsageError` for one
    name and several models. ``progress`` gets bytes done and bytes in all.
    """
    with OpenFile.open(path, path.name or str(path)) as file:
        archive = _Archive(file)
        try:
            models = _models(archive, name)
            todo = {layer.digest: layer for model in models for layer in model.found.layers}
            with store.using():
                missing = _missing(archive, store, todo)
                counts = _bring_in(archive, store, missing, progress)
                file.check_unchanged()
                made = [(model, finished(model.found, store)) for model in models]
                return [_named(store, *each, counts) for each in made]
        except RegistryError as error:  # of a package that another tool wrote
            raise FormatError(error.message, hint=error.hint) from None


def _named(
    store: Store, model: _Model, made: LocalManifest, counts: dict[Digest, tuple[int, int]]
) -> Imported:
    """Give a model its name; of blobs that several models have the first counts the bytes."""
    digests = {layer.digest for layer in model.found.layers}
    written = [counts.pop(digest) for digest in digests if digest in counts]
    store.replace(store.manifests.resolve(model.name), made.data)
    new, shared = (sum(column) for column in zip((0, 0), *written, strict=True))
    left_out = (*model.found.left_out, *made.left_out)
    return Imported(model.name, Digest.of(made.data), new, shared, left_out)


class _Archive:
    """A scanned archive."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.members: Mapping[str, Member] = scan(file)

    def where(self, name: str) -> str:
        """A file of the archive, for messages."""
        return f"{self.file.name}: {name}"

    def read(self, name: str, limit: int) -> bytes:
        """A small file of the archive."""
        member = self.members.get(name)
        if member is None and name.startswith("blobs/"):
            raise FormatError(f"{self.where(name)} is missing (a manifest)", hint=_INCOMPLETE)
        if member is None and any(os.pread(self.file.fd, 512, max(0, self.file.size - 512))):
            raise FormatError(
                f"{self.file.name}: cut short: no {name} in it, and no end of an archive",
                hint="copy or download it again",
            )
        if member is None:
            raise FormatError(
                f"{self.file.name}: no {name} in it, so it is not an OCI image layout",
                hint="make one with mbuild export NAME -o FILE.tar",
            )
        if member.size > limit:
            raise FormatError(f"{self.where(name)} is larger than {limit} bytes")
        return os.pread(self.file.fd, member.size, member.start)

    def small(self, layer: Layer, limit: int) -> bytes:
        """A small blob, checked against its digest."""
        self.blob(layer)
        data = self.read(blob_name(layer.digest), limit)
        if Digest.of(data) != layer.digest:
            where = self.where(blob_name(layer.digest))
            raise FormatError(f"{where}: its content does not match its digest", hint=_DAMAGED)
        return data

    def blob(self, layer: Layer) -> Member | None:
        """Where a blob lies; raises when its size is not what the manifest says."""
        member = self.members.get(blob_name(layer.digest))
        if member is not None and member.size != layer.size:
            raise FormatError(
                f"{self.where(blob_name(layer.digest))} has {member.size} bytes,"
                f" the manifest says {layer.size}",
                hint=_DAMAGED,
            )
        return member


def _models(archive: _Archive, name: ModelName | None) -> list[_Model]:
    check_layout(archive.read(LAYOUT_FILE, MAX_INDEX), archive.where(LAYOUT_FILE))
    entries = decode_index(archive.read(INDEX_FILE, MAX_INDEX), archive.where(INDEX_FILE))
    if name is not None and len(entries) > 1:
        raise UsageError(
            f"{archive.file.name} holds {len(entries)} models", hint="import them without -t"
        )
    return [_model(archive, entry, name) for entry in entries]


def _model(archive: _Archive, entry: IndexEntry, name: ModelName | None) -> _Model:
    place = blob_name(entry.digest)
    data = archive.read(place, MAX_MANIFEST_BYTES)
    if len(data) != entry.size or Digest.of(data) != entry.digest:
        raise FormatError(
            f"{archive.where(place)}: its content does not match its digest", hint=_DAMAGED
        )
    found = decode_model(data, archive.where(place), archive.small)
    name = name or parse_name(entry.name, archive.where(INDEX_FILE))
    return _Model(name, found)


def _missing(
    archive: _Archive, store: Store, layers: Mapping[Digest, Layer]
) -> list[tuple[Layer, Member]]:
    """The blobs that the store lacks, or has damaged, with their places in the archive."""
    missing = []
    members = [archive.blob(layer) for layer in layers.values()]
    every = list(layers.values())
    good = spread(partial(_is_good, store), every, 0, lambda done, total: None, name=_THREADS)
    for layer, member, is_there in zip(every, members, good, strict=True):
        if is_there:
            continue
        if member is None:
            raise FormatError(
                f"{archive.where(blob_name(layer.digest))} is missing ({layer.kind})",
                hint=_INCOMPLETE,
            )
        missing.append((layer, member))
    return missing


def _is_good(store: Store, layer: Layer, part: Part) -> bool:
    """Whether the store has a blob whose bytes are those of its digest."""
    if not store.blobs.has(layer.digest, layer.size):
        return False
    with OpenFile.open(store.blobs.local_path(layer.digest), str(layer.digest)) as file:
        return hash_file(file.fd, file.size, part.at) == layer.digest


def _bring_in(
    archive: _Archive, store: Store, missing: list[tuple[Layer, Member]], progress: Progress
) -> dict[Digest, tuple[int, int]]:
    """Store the blobs, several at once; the bytes of each, and how many of them share extents."""

    def bring(item: tuple[Layer, Member], part: Part) -> tuple[int, int]:
        layer, member = item
        with store_errors(f"importing {archive.file.name}"), store.blobs.temporary() as temporary:
            target = ExportTarget(temporary)
            target.append(archive.file, member.start, member.size, part.add)
            copied = part.done
            digest = hash_file(target.fd, target.size, lambda done, _: part.at(copied + done))
            if digest != layer.digest:
                raise FormatError(
                    f"{archive.where(blob_name(layer.digest))}: its content does not match"
                    " its digest",
                    hint=_DAMAGED,
                )
            # Not Blobs.publish, which takes a damaged blob of the right size for good.
            temporary.publish(store.blobs.path(layer.digest))
            return layer.size, target.shared

    total = 2 * sum(layer.size for layer, _ in missing)  # copied, then hashed
    counts = spread(bring, missing, total, progress, name=_THREADS)
    return {layer.digest: count for (layer, _), count in zip(missing, counts, strict=True)}
